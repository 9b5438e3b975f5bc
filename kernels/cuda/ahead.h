/* Bytes of the host that will be put soon.  A thread copies them into pinned memory while the card computes, reading files that are
 * mapped on the way, so that putting them takes the copy engine alone.  Two buffers by turns: one may still be on its way
 * to the card while the other fills.  Where no thread or no pinned memory can be had nothing is lost but time. */
#ifndef QJOB_KERNELS_CUDA_AHEAD_H
#define QJOB_KERNELS_CUDA_AHEAD_H

#include <stddef.h>

#include "kernels/dev.h"

struct ahead;

struct ahead *ahead_open(void);                 /* NULL: out of memory */
void ahead_close(struct ahead *a);              /* once the card is idle; NULL is fine */

/* These will be put, and must stay mapped and unchanged until they are or the next list comes, which replaces them. */
void ahead_announce(struct ahead *a, const struct span *v, size_t n);
/* The pinned copy of what begins at p and has n bytes, waiting for it to be made; NULL: it was not announced.  It stays until the
 * list after the next one, by when the caller's copies from it must have ended. */
const void *ahead_find(struct ahead *a, const void *p, size_t n);

#endif
