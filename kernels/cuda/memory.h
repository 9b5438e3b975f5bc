/* Memory of a card and the way to it.  For cuda.c.
 *
 * The arena is reserved address space; memory is mapped behind it as it grows, and stays until the device is closed, so what the
 * card's owner sees in use is what was needed.  Bytes from the host go through two pinned buffers that several threads
 * fill, while the copy engine empties the other one. */
#ifndef QJOB_KERNELS_CUDA_MEMORY_H
#define QJOB_KERNELS_CUDA_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/backend.h"

/* Sets d->arena, d->size and gpu->memory.  limit: most bytes of the card to use, 0: what is free.  False after dev_fail. */
bool memory_open(struct dev *d, size_t limit);
void memory_close(struct dev *d);
bool memory_grow(struct dev *d, size_t to);
void memory_put(struct dev *d, struct mat *to, const void *from);
void memory_get(struct dev *d, void *to, const struct mat *from);
void memory_ahead(struct dev *d, const struct span *v, size_t n);
void *memory_room(struct dev *d, size_t bytes);
void memory_park(struct dev *d, void *room, const struct mat *m);
void memory_unpark(struct dev *d, struct mat *m, const void *room);

#endif
