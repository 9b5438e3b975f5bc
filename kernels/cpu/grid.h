/* How a weight becomes a code: what fit.c, round.c and babai.c share.
 *
 * Work goes in lanes of 16 rows: element j of a lane group lies at w[j * ld + lane].  Lanes never mix, and each
 * adds in the order of j, so that no bit depends on the vector length that the compiler or the CPU picks. */
#ifndef QJOB_KERNELS_CPU_GRID_H
#define QJOB_KERNELS_CPU_GRID_H

#include "kernels/cpu/num.h"
#include "kernels/ops.h"

/* In front of a loop over lanes: it is to become wide.  Clang has a warning for each wish it does not grant, as under sanitizers. */
#ifdef __clang__
# define SIMD
#else
# define SIMD _Pragma("omp simd")
#endif

/* One group of 16 rows: a scale and a zero a row. */
struct lane_grid {
	float scale[LANES], zero[LANES];
};

/* One group of 16 rows whose grid is wanted. */
struct lane_group {
	const float *w;          /* [cols][ld] */
	int64_t ld, cols;
	const float *weight;     /* [cols]; NULL unless SEARCH_WEIGHTED */
	enum dtype type;         /* ROUND_STEPWISE: what every operation is rounded to */
	int rows;                /* lanes that count; the others are computed and forgotten */
};

enum lane_fault { LANE_FINE, LANE_NOT_FINITE, LANE_OVERFLOW };

/* Fits g's grid.  A fault: *lane is the first row that has it. */
enum lane_fault grid_fit(struct lane_grid *out, const struct lane_group *k, const struct grid *g, int *lane);
/* Marks the device failed for row `row`. */
void grid_fault(struct dev *d, enum lane_fault fault, int64_t row, const struct grid *g);

/* The nearest value that an F16, BF16 or F32 holds. */
static inline float
round_to(float x, enum dtype type)
{
	return type == F16 ? from_f16(to_f16(x)) : type == BF16 ? from_bf16(to_bf16(x)) : x;
}

/* Nearest integer, ties to even, for |x| < 2^22; unlike rintf it becomes two additions on every CPU. */
static inline float
nearest(float x)
{
	return (x + 0x1.8p23f) - 0x1.8p23f;
}

static inline float
clamp(float x, float lo, float hi)
{
	x = x > lo ? x : lo;      /* not a number becomes lo */
	return x < hi ? x : hi;
}

#endif
