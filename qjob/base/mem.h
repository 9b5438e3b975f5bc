/* Small allocations: they abort on exhaustion, so nobody checks them.  What grows with a model
 * (tensors, activations) is taken from a device or mapped, and reports failure. */
#ifndef QJOB_BASE_MEM_H
#define QJOB_BASE_MEM_H

#include <stddef.h>

void *mem_new(size_t n, size_t size);              /* zeroed; n * size is checked */
void *mem_grow(void *p, size_t n, size_t size);    /* realloc; n * size is checked */
char *mem_text(const char *s);                     /* strdup; NULL stays NULL */
char *mem_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
