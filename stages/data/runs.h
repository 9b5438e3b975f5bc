/* Small numbers as Parquet packs them: runs of one value and groups of eight packed by bits, and deltas in blocks.
 *
 * Source: apache/parquet-format, Encodings.md.  After anything that is not right, `bad` is set and all that follows is 0. */
#ifndef QJOB_STAGES_DATA_RUNS_H
#define QJOB_STAGES_DATA_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Run length and bit packing, hybrid: levels, and indices of a dictionary. */
struct runs {
	const uint8_t *p, *end;
	int width;                   /* bits of a value, at most 32 */
	uint64_t left;               /* of the present run */
	const uint8_t *packed;       /* the run's bits; NULL: it is one value */
	uint64_t at;                 /* of bits */
	uint32_t value;
	bool bad;
};

uint32_t runs_next(struct runs *r);

/* Lengths packed as deltas (DELTA_BINARY_PACKED): to[n]; *p goes behind them.  False: they are not n, or damaged. */
bool deltas_read(int64_t *to, size_t n, const uint8_t **p, const uint8_t *end);

#endif
