/* Rows of all tokens, held on the device or beside it.
 *
 * Activations that do not fit on the device lie parked in host memory, and come to it a chunk at a time:
 *
 *     for (int64_t at = 0, n; at < h.rows; at += n) {
 *             size_t mark = dev_mark(d);
 *             struct mat m;
 *
 *             n = held_next(&h, at);
 *             m = held_rows(d, &h, at, n, true);
 *             ...                                  reads and writes m
 *             held_back(d, &h, at, &m);
 *             dev_release(d, mark);
 *     }
 *
 * Where they lie shows in no result.  Failures mark the device, as everywhere. */
#ifndef QJOB_MODEL_HELD_H
#define QJOB_MODEL_HELD_H

#include "kernels/dev.h"

struct held {
	void *p;                 /* their first byte; NULL: not taken */
	int64_t rows, cols;
	enum dtype type;
	bool parked;             /* beside the device */
	int64_t chunk;           /* rows to take at a time */
};

/* Takes memory until the caller's mark, or, parked, a room until dev_close.  h has rows, cols, type, parked and chunk set. */
void held_take(struct dev *d, struct held *h);
/* A matrix of the device as such rows, all one chunk. */
struct held held_of(const struct mat *m);
/* The same memory as rows of fewer columns, close together: for other content. */
struct held held_narrow(const struct held *h, int64_t cols);

int64_t held_next(const struct held *h, int64_t at);     /* rows of the chunk that begins at row `at` */
/* Rows [at, at + n): where they lie, or copied to memory taken from the device (read false: without their content). */
struct mat held_rows(struct dev *d, const struct held *h, int64_t at, int64_t n, bool read);
/* m, which held_rows gave for row `at`, has new content. */
void held_back(struct dev *d, const struct held *h, int64_t at, const struct mat *m);

#endif
