/* Bytes of the host that will be put soon.  A thread copies them into pinned memory while the card computes, reading files that are
 * mapped on the way, so that putting them takes the copy engine alone.  The memory is the thread's too: it takes what the largest list
 * needs, once, and fills it again when the card has read what the list before left there.  Where no thread or no pinned
 * memory can be had nothing is lost but time.
 *
 * One thread at a time announces, finds and puts what it found: what was found must be in the stream before the next list is
 * announced, for an event at that place in the stream is all that keeps the memory from being filled too early. */
#ifndef QJOB_KERNELS_CUDA_AHEAD_H
#define QJOB_KERNELS_CUDA_AHEAD_H

#include <stddef.h>

#include <cuda_runtime.h>

#include "kernels/dev.h"

struct ahead;

/* For this card, which must be the caller's current one; NULL: out of memory. */
struct ahead *ahead_open(int ordinal);
void ahead_close(struct ahead *a);              /* once the stream is idle; NULL is fine */

/* These will be put, by copies in stream, and must stay mapped and unchanged until they are or the next list comes, which replaces
 * them whether they were put or not; an empty list leaves none.  Returns soon, and nothing is read then of the list before. */
void ahead_announce(struct ahead *a, const struct span *v, size_t n, cudaStream_t stream);
/* The pinned copy of what begins at p and has n bytes, waiting for it to be made; NULL: there is none and will be none.  It
 * is the card's to read by what the caller puts into the stream before the next list. */
const void *ahead_find(struct ahead *a, const void *p, size_t n);

#endif
