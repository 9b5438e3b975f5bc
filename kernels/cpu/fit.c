#include "kernels/cpu/grid.h"

#include <float.h>
#include <math.h>
#include <omp.h>

#include "kernels/cpu/cpu.h"
#include "qjob/base/err.h"

/* Ranges of a lane group, and the constants of its grid. */
struct range {
	float lo[LANES], hi[LANES];
	bool empty[LANES];       /* all zero */
	const struct lane_group *k;
	const struct grid *g;
	float top, mid;          /* 2^bits - 1, 2^(bits-1) */
};

/* Which shrunk ranges a search tries: p = 1 - i / 100 for i = 0, step, .. below end. */
struct shrink {
	int step, end;
};

static const struct shrink shrinks[] = {
	[SEARCH_MINMAX]   = {1, 1},
	[SEARCH_MSE]      = {1, 80},
	[SEARCH_WEIGHTED] = {2, 70},
};

/* False when a lane that counts holds what is not finite; *lane says which. */
WIDE static bool
find_range(struct range *r, int *lane)
{
	float lo[LANES] = {0}, hi[LANES] = {0}, sum[LANES] = {0};
	const struct lane_group *k = r->k;

	for (int64_t j = 0; j < k->cols; j++) {
		const float *w = k->w + j * k->ld;
		SIMD
		for (int l = 0; l < LANES; l++) {
			lo[l] = w[l] < lo[l] ? w[l] : lo[l];
			hi[l] = w[l] > hi[l] ? w[l] : hi[l];
			sum[l] += w[l] - w[l];      /* 0 while all is finite, not a number ever after */
		}
	}
	for (int l = 0; l < LANES; l++) {
		r->lo[l] = lo[l];
		r->hi[l] = hi[l];
	}
	for (*lane = 0; *lane < k->rows; ++*lane)
		if (sum[*lane] != 0)
			return false;
	return true;
}

static void
widen_range(struct range *r)
{
	for (int l = 0; l < LANES; l++) {
		float amax = r->hi[l] > -r->lo[l] ? r->hi[l] : -r->lo[l];

		r->empty[l] = amax == 0;
		if (r->empty[l]) {
			r->lo[l] = -1;
			r->hi[l] = 1;
		} else if (r->g->sym) {
			/* GPTQModel keeps the lower end at 0 where no weight is negative. */
			r->lo[l] = r->g->rounding == ROUND_FP32 && r->lo[l] == 0 ? 0 : -amax;
			r->hi[l] = amax;
		}
	}
}

/* Least scale that is used: dividing by it, and by it rounded to the stored type, stays finite. */
static float
least_scale(const struct grid *g)
{
	return g->rounding != ROUND_FP32 && g->stored == F16 ? 0x1p-24f : FLT_MIN;
}

/* llm-compressor's rule: each operation rounded to the weights' own type. */
static void
place_stepwise(struct lane_grid *out, const struct range *r, float p)
{
	static const float eps[DTYPES] = {[F32] = FLT_EPSILON, [F16] = 0x1p-10f, [BF16] = 0x1p-7f};
	enum dtype t = r->k->type;

	for (int l = 0; l < LANES; l++) {
		float s, span = r->g->sym ? r->hi[l] : round_to(r->hi[l] - r->lo[l], t), z = 0;

		if (p < 1)
			span = round_to(span * p, t);
		s = round_to(span / (r->g->sym ? r->top / 2 : r->top), t);
		s = round_to(s, r->g->stored);
		if (r->empty[l] || s == 0)
			s = eps[t];
		if (!r->g->sym && !r->empty[l]) {
			z = round_to(-r->mid - round_to(round_to(r->lo[l] * p, t) / s, t), t);
			z = nearest(clamp(z, -r->mid, r->top - r->mid));
		}
		out->scale[l] = s;
		out->zero[l] = clamp(z + r->mid, (float)r->g->zero_min, r->top);
	}
}

/* Scales as they will be used. */
static inline void
settle_scales(float *restrict s, const struct grid *g)
{
	float least = least_scale(g);

	if (g->rounding == ROUND_STORED && g->stored == F16)
		SIMD
		for (int l = 0; l < LANES; l++)
			s[l] = round_to(s[l], F16);
	else if (g->rounding == ROUND_STORED && g->stored == BF16)
		SIMD
		for (int l = 0; l < LANES; l++)
			s[l] = round_to(s[l], BF16);
	SIMD
	for (int l = 0; l < LANES; l++)
		s[l] = s[l] > least ? s[l] : least;
}

/* Zeros below the least one allowed: the whole range must fit above it. */
static void
lift_zeros(struct lane_grid *out, const struct range *r, float p)
{
	float least = (float)r->g->zero_min, s[LANES];

	for (int l = 0; l < LANES; l++)
		s[l] = r->hi[l] * p / (r->top - least);
	settle_scales(s, r->g);
	for (int l = 0; l < LANES; l++)
		if (out->zero[l] < least) {
			out->zero[l] = least;
			out->scale[l] = s[l];
		}
}

/* Scale and zero of the range shrunk to p. */
WIDE static void
place(struct lane_grid *restrict out, const struct range *r, float p)
{
	if (r->g->rounding == ROUND_STEPWISE) {
		place_stepwise(out, r, p);
		return;
	}
	SIMD
	for (int l = 0; l < LANES; l++)
		out->scale[l] = (r->hi[l] - r->lo[l]) * p / r->top;
	settle_scales(out->scale, r->g);
	SIMD
	for (int l = 0; l < LANES; l++)
		out->zero[l] = r->g->sym ? r->mid : nearest(clamp(-r->lo[l] * p / out->scale[l], 0, r->top));
	if (!r->g->sym && r->g->zero_min > 0)
		lift_zeros(out, r, p);
}

/* e = sum over columns of weight (q - w)^2. */
WIDE static void
square_error(float *restrict e, const struct lane_grid *c, const struct lane_group *k, float top)
{
	float err[LANES] = {0}, per[LANES], lo[LANES], hi[LANES], s[LANES];

	for (int l = 0; l < LANES; l++) {
		s[l] = c->scale[l];
		per[l] = 1 / s[l];
		lo[l] = -c->zero[l];
		hi[l] = top - c->zero[l];
	}
	for (int64_t j = 0; j < k->cols; j++) {
		const float *w = k->w + j * k->ld, v = k->weight[j];
		SIMD
		for (int l = 0; l < LANES; l++) {
			float d = nearest(clamp(w[l] * per[l], lo[l], hi[l])) * s[l] - w[l];

			err[l] += d * d * v;
		}
	}
	for (int l = 0; l < LANES; l++)
		e[l] = err[l];
}

/* x^(-1/5) to about 1e-6, for x > 0: Newton's method needs no division. */
static inline float
inverse_fifth_root(float x)
{
	uint32_t u;
	float y, y2;

	memcpy(&u, &x, sizeof(u));
	u = 0x4c2f8a3eu - u / 5;
	memcpy(&y, &u, sizeof(y));
	for (int i = 0; i < 3; i++) {
		y2 = y * y;
		y = y * (1.2f - 0.2f * (x * y2 * y2 * y));
	}
	return y;
}

/* e = sum over columns of |q - w|^2.4, which is t t t^(-4/5) with t = |q - w|^2 */
WIDE static void
power_error(float *restrict e, const struct lane_grid *c, const struct lane_group *k, float top)
{
	float err[LANES] = {0}, per[LANES], lo[LANES], hi[LANES], s[LANES];

	for (int l = 0; l < LANES; l++) {
		s[l] = c->scale[l];
		per[l] = 1 / s[l];
		lo[l] = -c->zero[l];
		hi[l] = top - c->zero[l];
	}
	for (int64_t j = 0; j < k->cols; j++) {
		const float *w = k->w + j * k->ld;
		SIMD
		for (int l = 0; l < LANES; l++) {
			float d = nearest(clamp(w[l] * per[l], lo[l], hi[l])) * s[l] - w[l];
			float t = d * d > 0x1p-100f ? d * d : 0x1p-100f, y = inverse_fifth_root(t);

			err[l] += t * t * (y * y * y * y);
		}
	}
	for (int l = 0; l < LANES; l++)
		e[l] = err[l];
}

/* Takes candidate c where its error is less than the best so far. */
static void
keep_best(struct lane_grid *out, float *best, const struct lane_grid *c, const struct range *r)
{
	float e[LANES];

	if (r->g->search == SEARCH_MSE)
		power_error(e, c, r->k, r->top);
	else
		square_error(e, c, r->k, r->top);
	for (int l = 0; l < LANES; l++)
		if (e[l] < best[l]) {
			best[l] = e[l];
			out->scale[l] = c->scale[l];
			out->zero[l] = c->zero[l];
		}
}

/* With two bits the ideal zero lies far from an integer: its other neighbour is tried too. */
static void
other_zero(struct lane_grid *c, const struct range *r, float p)
{
	for (int l = 0; l < LANES; l++) {
		float ideal = -r->lo[l] * p / c->scale[l];

		c->zero[l] = clamp(c->zero[l] + (ideal > c->zero[l] ? 1 : -1), (float)r->g->zero_min, r->top);
	}
}

static void
search_range(struct lane_grid *out, const struct range *r)
{
	const struct shrink *shrink = &shrinks[r->g->search];
	struct lane_grid c;
	float best[LANES];

	for (int l = 0; l < LANES; l++)
		best[l] = INFINITY;
	place(out, r, 1);
	for (int i = 0; i < shrink->end; i += shrink->step) {
		float p = 1 - (float)i / 100;

		place(&c, r, p);
		keep_best(out, best, &c, r);
		if (r->g->bits == 2 && !r->g->sym) {
			other_zero(&c, r, p);
			keep_best(out, best, &c, r);
		}
	}
}

enum lane_fault
grid_fit(struct lane_grid *out, const struct lane_group *k, const struct grid *g, int *lane)
{
	struct range r = {.k = k, .g = g, .top = (float)((1 << g->bits) - 1), .mid = (float)(1 << (g->bits - 1))};

	if (!find_range(&r, lane))
		return LANE_NOT_FINITE;
	widen_range(&r);
	if (g->search == SEARCH_MINMAX)
		place(out, &r, 1);
	else
		search_range(out, &r);
	for (*lane = 0; *lane < k->rows; ++*lane)
		if (!isfinite(round_to(out->scale[*lane], g->stored)))
			return LANE_OVERFLOW;
	return LANE_FINE;
}

void
grid_fault(struct dev *d, enum lane_fault fault, int64_t row, const struct grid *g)
{
	if (fault == LANE_NOT_FINITE)
		cpu_fail(d, E_NUMERIC, "row %lld of the weights holds a value that is not finite", (long long)row);
	else if (fault == LANE_OVERFLOW)
		cpu_fail(d, E_NUMERIC, "row %lld of the weights needs a scale beyond the range of %s", (long long)row,
		         g->stored == F16 ? "F16" : g->stored == BF16 ? "BF16" : "F32");
}

/* ---- op_fit ---- */

struct fit {
	struct qmat *q;
	const struct mat *w, *weight;
	const struct grid *g;
};

/* 16 rows of w from `row` on, as lanes; rows past the end are zero.  line: room for a row. */
static void
load_lanes(float *panel, float *line, const struct mat *w, int64_t row)
{
	for (int l = 0; l < LANES; l++) {
		if (row + l < w->rows)
			cpu_load(line, cpu_row(w, row + l), w->type, w->cols);
		else
			memset(line, 0, (size_t)w->cols * sizeof(*line));
		for (int64_t j = 0; j < w->cols; j++)
			panel[j * LANES + l] = line[j];
	}
}

static enum lane_fault
fit_rows(const struct fit *f, int64_t row, float *panel, int *lane)
{
	const struct mat *w = f->w;
	int rows = w->rows - row < LANES ? (int)(w->rows - row) : LANES;
	enum lane_fault fault = LANE_FINE;
	struct lane_grid c;

	load_lanes(panel, panel + w->cols * LANES, w, row);
	for (int64_t i = 0, n = 0; i < w->cols && !fault; i += f->g->group, n++) {
		int64_t cols = w->cols - i < f->g->group ? w->cols - i : f->g->group;
		const float *weight = f->weight ? (const float *)f->weight->p + i : NULL;
		struct lane_group k = {panel + i * LANES, LANES, cols, weight, w->type, rows};

		fault = grid_fit(&c, &k, f->g, lane);
		for (int l = 0; l < rows && !fault; l++) {
			((float *)f->q->scale.p)[(row + l) * f->q->scale.ld + n] = c.scale[l];
			((uint8_t *)f->q->zero.p)[(row + l) * f->q->zero.ld + n] = (uint8_t)c.zero[l];
		}
	}
	return fault;
}

void
cpu_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g)
{
	struct fit f = {q, w, g->search == SEARCH_WEIGHTED ? weight : NULL, g};
	size_t used = d->used, each = (size_t)w->cols * (LANES + 1);
	float *room = cpu_take(d, each * (size_t)d->threads * sizeof(*room));
	int64_t tasks = (w->rows + LANES - 1) / LANES, bad = INT64_MAX;

	if (!room)
		return;
	for (int64_t i = 0; i < w->cols; i++)
		((int32_t *)q->group_of.p)[i] = (int32_t)(i / g->group);
	#pragma omp parallel for num_threads(d->threads) schedule(dynamic) reduction(min : bad)
	for (int64_t t = 0; t < tasks; t++) {
		int lane;
		enum lane_fault fault = fit_rows(&f, t * LANES, room + each * (size_t)omp_get_thread_num(), &lane);
		int64_t code = (t * LANES + lane) * 4 + fault;      /* the least row is named, whichever thread met it */

		if (fault && code < bad)
			bad = code;
	}
	if (bad != INT64_MAX)
		grid_fault(d, (enum lane_fault)(bad % 4), bad / 4, g);
	d->used = used;
}
