/* Chunks: long ranges of bytes, digested by several threads.
 *
 *     struct chunks c = {0};
 *
 *     chunks_add(&c, p, n);                                  range 0; the next call adds range 1, and so on
 *     rc = chunks_digest(&c, pool_threads(), NULL, NULL);
 *     chunks_list(&c, 0, &text);                             a line for each chunk of range 0
 *     chunks_release(&c);
 *
 * A range is cut from its first byte on into chunks of CHUNK_BYTES, of which the last may be shorter; a range of no bytes has none,
 * and none reaches from one range into the next.  Each chunk has a SHA-256 of its own.  So the list of a range depends on its bytes
 * alone: not on the number of threads, nor on what else is digested with it.  It does not say what the bytes are: whoever takes
 * the digest of a text with such a list writes type, shape and name before it.
 *
 * Chunks start in the order in which they were added, all in one pool: threads are busy to the end however uneven the ranges are.
 * The bytes are the caller's, and must stay as they are until chunks_digest has returned. */
#ifndef QJOB_BASE_CHUNKS_H
#define QJOB_BASE_CHUNKS_H

#include <stddef.h>

#include "qjob/base/buf.h"

enum { CHUNK_BYTES = 4 << 20 };     /* part of what digests mean: another size makes others */

struct chunk;

struct chunks {
	struct chunk *v;
	size_t n, cap;
	size_t *ends;             /* of each range: the number of the chunk after its last */
	size_t ranges;
	size_t bytes;             /* of all ranges */
};

void chunks_add(struct chunks *c, const void *p, size_t n);
/* watch: as pool_watch calls it, but with the bytes that are done; NULL: nobody does, and 0 is returned. */
int chunks_digest(struct chunks *c, int threads, int (*watch)(void *own, size_t bytes), void *own);
/* Appends the digests of a range's chunks in order, a line of 64 hexadecimal digits each; after chunks_digest has returned 0. */
void chunks_list(const struct chunks *c, size_t range, struct buf *out);
void chunks_release(struct chunks *c);

#endif
