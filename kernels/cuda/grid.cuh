/* How a weight becomes a code, and how the scale and zero of a group are found: what fit.cu, round.cu and babai.cu share.
 *
 * The arithmetic is that of kernels/cpu/fit.c and grid.h, operation by operation: equal weights give the CPU's scales, zeros and
 * codes bit for bit.  So products that feed a sum are rounded on their own (times), never fused, and a candidate's error is
 * added up in the order of the columns by one thread.  Everything here compiles for the host too, where it can be compared. */
#ifndef QJOB_KERNELS_CUDA_GRID_CUH
#define QJOB_KERNELS_CUDA_GRID_CUH

#include <float.h>
#include <math.h>
#include <string.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

#define BOTH __host__ __device__ static inline

/* A grid and its constants. */
struct rule {
	struct grid g;
	enum dtype type;         /* ROUND_STEPWISE: what every operation is rounded to */
	float top, mid, least;   /* 2^bits - 1, 2^(bits-1), least scale */
	int end, step;           /* a search tries p = 1 - i / 100 for i = 0, step, .. below end */
	int tries;               /* candidates of a search, other zeros included */
};

/* Range of a group. */
struct range {
	float lo, hi;
	bool empty;              /* all zero */
};

struct cell {
	float scale, zero;
};

/* A cell ready to be tried. */
struct trial {
	float scale, per, lo, hi;
};

enum grid_fault { GRID_FINE, GRID_NOT_FINITE, GRID_OVERFLOW };

BOTH float
times(float a, float b)
{
#ifdef __CUDA_ARCH__
	return __fmul_rn(a, b);
#else
	return a * b;
#endif
}

BOTH double
times(double a, double b)
{
#ifdef __CUDA_ARCH__
	return __dmul_rn(a, b);
#else
	return a * b;
#endif
}

/* Nearest integer, ties to even, for |x| < 2^22. */
BOTH float
nearest(float x)
{
	return (x + 12582912.f) - 12582912.f;
}

BOTH double
nearest(double x)
{
	return (x + 6755399441055744.) - 6755399441055744.;
}

/* Not a number becomes lo. */
BOTH float
clamp(float x, float lo, float hi)
{
	return fminf(fmaxf(x, lo), hi);
}

BOTH double
clamp(double x, double lo, double hi)
{
	return fmin(fmax(x, lo), hi);
}

BOTH float
round_bf16(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof(u));
	u = (u & 0x7fffffff) > 0x7f800000 ? u | 0x400000 : u + 0x7fff + (u >> 16 & 1);
	u &= 0xffff0000;
	memcpy(&x, &u, sizeof(u));
	return x;
}

/* The nearest value that an F16, BF16 or F32 holds. */
BOTH float
round_to(float x, enum dtype type)
{
	return type == F16 ? __half2float(__float2half_rn(x)) : type == BF16 ? round_bf16(x) : x;
}

/* Element i of numbers of a float type. */
BOTH float
number_at(const void *p, enum dtype type, int64_t i)
{
	switch (type) {
	case F16:
		return __half2float(((const __half *)p)[i]);
	case BF16:
		return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
	case F64:
		return (float)((const double *)p)[i];
	default:
		return ((const float *)p)[i];
	}
}

static inline struct rule
rule_of(const struct grid *g, enum dtype type)
{
	struct rule r;

	r.g = *g;
	r.type = type;
	r.top = (float)((1 << g->bits) - 1);
	r.mid = (float)(1 << (g->bits - 1));
	/* Dividing by it, and by it rounded to the stored type, stays finite. */
	r.least = g->rounding != ROUND_FP32 && g->stored == F16 ? ldexpf(1, -24) : FLT_MIN;
	r.step = g->search == SEARCH_WEIGHTED ? 2 : 1;
	r.end = g->search == SEARCH_WEIGHTED ? 70 : g->search == SEARCH_MSE ? 80 : 1;
	r.tries = r.end / r.step * (g->bits == 2 && !g->sym && g->search != SEARCH_MINMAX ? 2 : 1);
	return r;
}

/* ---- ranges and cells ---- */

BOTH struct range
widen(float lo, float hi, const struct rule *r)
{
	float amax = hi > -lo ? hi : -lo;
	struct range out = {lo, hi, amax == 0};

	if (out.empty) {
		out.lo = -1;
		out.hi = 1;
	} else if (r->g.sym) {
		/* GPTQModel keeps the lower end at 0 where no weight is negative. */
		out.lo = r->g.rounding == ROUND_FP32 && lo == 0 ? 0 : -amax;
		out.hi = amax;
	}
	return out;
}

/* llm-compressor's rule: each operation rounded to the weights' own type. */
BOTH struct cell
place_stepwise(const struct range *a, const struct rule *r, float p)
{
	enum dtype t = r->type;
	float eps = t == F16 ? 0.0009765625f : t == BF16 ? 0.0078125f : FLT_EPSILON;
	float s, z = 0, span = r->g.sym ? a->hi : round_to(a->hi - a->lo, t);
	struct cell c;

	if (p < 1)
		span = round_to(times(span, p), t);
	s = round_to(span / (r->g.sym ? r->top / 2 : r->top), t);
	s = round_to(s, r->g.stored);
	if (a->empty || s == 0)
		s = eps;
	if (!r->g.sym && !a->empty) {
		z = round_to(-r->mid - round_to(round_to(times(a->lo, p), t) / s, t), t);
		z = nearest(clamp(z, -r->mid, r->top - r->mid));
	}
	c.scale = s;
	c.zero = clamp(z + r->mid, (float)r->g.zero_min, r->top);
	return c;
}

/* A scale as it will be used. */
BOTH float
settle(float s, const struct rule *r)
{
	if (r->g.rounding == ROUND_STORED)
		s = round_to(s, r->g.stored);
	return s > r->least ? s : r->least;
}

/* Scale and zero of the range shrunk to p. */
BOTH struct cell
place(const struct range *a, const struct rule *r, float p)
{
	float least = (float)r->g.zero_min;
	struct cell c;

	if (r->g.rounding == ROUND_STEPWISE)
		return place_stepwise(a, r, p);
	c.scale = settle(times(a->hi - a->lo, p) / r->top, r);
	c.zero = r->g.sym ? r->mid : nearest(clamp(times(-a->lo, p) / c.scale, 0.f, r->top));
	/* Zeros below the least one allowed: the whole range must fit above it. */
	if (!r->g.sym && c.zero < least) {
		c.zero = least;
		c.scale = settle(times(a->hi, p) / (r->top - least), r);
	}
	return c;
}

/* Candidate k of a search, in the order in which the CPU tries them. */
BOTH struct cell
candidate(const struct range *a, const struct rule *r, int k)
{
	bool pairs = r->tries > r->end / r->step;
	float p = 1 - (float)((pairs ? k / 2 : k) * r->step) / 100;
	struct cell c = place(a, r, p);

	/* With two bits the ideal zero lies far from an integer: its other neighbour is tried too. */
	if (pairs && k % 2 == 1) {
		float ideal = times(-a->lo, p) / c.scale;

		c.zero = clamp(c.zero + (ideal > c.zero ? 1.f : -1.f), (float)r->g.zero_min, r->top);
	}
	return c;
}

BOTH enum grid_fault
fault_of(const struct cell *c, const struct rule *r)
{
	return fabsf(round_to(c->scale, r->g.stored)) <= FLT_MAX ? GRID_FINE : GRID_OVERFLOW;
}

/* ---- errors of candidates ---- */

BOTH struct trial
trial_of(const struct cell *c, const struct rule *r)
{
	struct trial t = {c->scale, 1 / c->scale, -c->zero, r->top - c->zero};

	return t;
}

BOTH float
miss(float w, const struct trial *t)
{
	return times(nearest(clamp(times(w, t->per), t->lo, t->hi)), t->scale) - w;
}

/* x^(-1/5) to about 1e-6, for x > 0. */
BOTH float
inverse_fifth_root(float x)
{
	uint32_t u;
	float y;

	memcpy(&u, &x, sizeof(u));
	u = 0x4c2f8a3eu - u / 5;
	memcpy(&y, &u, sizeof(y));
	for (int i = 0; i < 3; i++) {
		float y2 = times(y, y), z = times(times(times(x, y2), y2), y);

		y = times(y, 1.2f - times(0.2f, z));
	}
	return y;
}

/* What a weight adds to the error: v (q - w)^2, or |q - w|^2.4. */
BOTH float
square_term(float w, float v, const struct trial *t)
{
	float d = miss(w, t);

	return times(times(d, d), v);
}

BOTH float
power_term(float w, const struct trial *t)
{
	float d = miss(w, t), x = times(d, d), y;

	x = x > 7.88860905221011805e-31f ? x : 7.88860905221011805e-31f;      /* 2^-100 */
	y = inverse_fifth_root(x);
	return times(times(x, x), times(times(times(y, y), y), y));
}

/* ---- codes ---- */

template <typename REAL> struct choice {
	REAL value;
	float code;
};

/* Code and value of one weight.  The peers divide in fp32, which decides where the quotient is a tie. */
template <typename REAL> BOTH struct choice<REAL>
choose(REAL w, float scale, float zero, const struct rule *r)
{
	struct choice<REAL> c;

	if (r->g.rounding == ROUND_STEPWISE) {
		float z = zero - r->mid, x = (float)w / scale + z;

		x = nearest(clamp(x, -r->mid, r->top - r->mid));
		c.code = x + r->mid;
		c.value = (REAL)round_to(times(x - z, scale), r->g.stored);
	} else {
		REAL z = (REAL)zero, x = r->g.rounding == ROUND_FP32 ? (REAL)((float)w / scale) : w / (REAL)scale;

		x = nearest(clamp(x, -z, (REAL)r->top - z));
		c.code = (float)(x + z);
		c.value = times(x, (REAL)scale);
	}
	return c;
}

#ifdef __CUDACC__
/* The trial of least error among LANES neighbours of a warp, the first of equals; trial 0 where no error is a number.  All get it. */
template <int LANES> __device__ static inline int
least_trial(float least, int best)
{
	for (int k = LANES / 2; k > 0; k /= 2) {
		float other = __shfl_xor_sync(~0u, least, k);
		int which = __shfl_xor_sync(~0u, best, k);

		if (other < least || (other == least && which < best)) {
			least = other;
			best = which;
		}
	}
	return least < INFINITY ? best : 0;
}

/* Notes a fault of a row, as cuda.h says; the least row is named. */
__device__ static inline void
note_fault(unsigned long long *fault, int64_t row, enum grid_fault kind, const struct rule *r)
{
	atomicMin(fault, (unsigned long long)row << 4 | (unsigned long long)r->g.stored << 2 | (unsigned long long)kind);
}
#endif

#undef BOTH

#endif
