/* What the tests of quantization share: problems, the device's answers, and references in double that share no idea with
 * kernels/: elimination with an explicit inverse, and the textbook's loop over the factor of the inverse. */
#ifndef TESTS_KERNELS_QUANT_H
#define TESTS_KERNELS_QUANT_H

#include "tests/kernels/data.h"

#include "qjob/base/mem.h"

/* Weights w [O,n] and statistics h [n,n], both halves. */
struct problem {
	int64_t O, n;
	float *w, *h;
};

/* tokens random inputs of very different energy; fewer than n make h singular. */
static inline struct problem
problem_new(int64_t rows, int64_t n, int64_t tokens, uint64_t seed)
{
	struct problem p = {rows, n, mem_new((size_t)(rows * n), sizeof(float)), mem_new((size_t)(n * n), sizeof(float))};
	double *x = mem_new((size_t)(tokens * n), sizeof(*x));

	for (int64_t k = 0; k < rows * n; k++)
		p.w[k] = (float)(number(&seed) / 8);
	for (int64_t i = 0; i < n; i++) {
		double scale = exp(fmax(-2, fmin(2, 2 * number(&seed))));

		for (int64_t t = 0; t < tokens; t++)
			x[t * n + i] = scale * number(&seed) + (i ? 0.4 * x[t * n + i - 1] : 0);
	}
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j <= i; j++) {
			double sum = 0;

			for (int64_t t = 0; t < tokens; t++)
				sum += x[t * n + i] * x[t * n + j];
			p.h[i * n + j] = p.h[j * n + i] = (float)sum;
		}
	free(x);
	return p;
}

static inline void
problem_free(struct problem *p)
{
	free(p->w);
	free(p->h);
}

static inline double
mean_diag(const struct problem *p)
{
	double sum = 0;

	for (int64_t i = 0; i < p->n; i++)
		sum += p->h[i * p->n + i] == 0 ? 1 : (double)p->h[i * p->n + i];
	return sum / (double)p->n;
}

/* A quantized matrix on the host. */
struct answer {
	int64_t O, n, groups;
	uint8_t *code, *zero;
	float *scale;
	int32_t *group_of, *order;
	double *loss;
};

static inline struct answer
answer_new(int64_t rows, int64_t n, int64_t group)
{
	int64_t groups = (n + group - 1) / group;

	return (struct answer){
		rows, n, groups, mem_new((size_t)(rows * n), 1), mem_new((size_t)(rows * groups), 1),
		mem_new((size_t)(rows * groups), sizeof(float)), mem_new((size_t)n, sizeof(int32_t)), mem_new((size_t)n, sizeof(int32_t)),
		mem_new((size_t)rows, sizeof(double)),
	};
}

static inline void
answer_free(struct answer *a)
{
	free(a->code);
	free(a->zero);
	free(a->scale);
	free(a->group_of);
	free(a->order);
	free(a->loss);
}

static inline double
value_of(const struct answer *a, int64_t o, int64_t i)
{
	int64_t g = o * a->groups + a->group_of[i];

	return (double)(a->code[o * a->n + i] - a->zero[g]) * (double)a->scale[g];
}

/* tr(dW H dW^T) of row o, for weights w. */
static inline double
row_loss(const struct problem *p, const float *w, const struct answer *a, int64_t o)
{
	double *e = mem_new((size_t)p->n, sizeof(*e)), sum = 0;

	for (int64_t i = 0; i < p->n; i++)
		e[i] = (double)w[o * p->n + i] - value_of(a, o, i);
	for (int64_t i = 0; i < p->n; i++)
		for (int64_t j = 0; j < p->n; j++)
			sum += e[i] * (double)p->h[i * p->n + j] * e[j];
	free(e);
	return sum;
}

static inline double
total_loss(const struct problem *p, const struct answer *a)
{
	double sum = 0;

	for (int64_t o = 0; o < p->O; o++)
		sum += row_loss(p, p->w, a, o);
	return sum;
}

/* ---- the device ---- */

static inline struct qmat
qmat_new(struct dev *d, const struct answer *a)
{
	struct qmat q = {
		dev_mat(d, U8, a->O, a->n), dev_mat(d, F32, a->O, a->groups), dev_mat(d, U8, a->O, a->groups), dev_mat(d, I32, 1, a->n),
	};

	dev_put(d, &q.code, a->code);
	dev_put(d, &q.scale, a->scale);
	dev_put(d, &q.zero, a->zero);
	dev_put(d, &q.group_of, a->group_of);
	return q;
}

static inline void
qmat_get(struct dev *d, struct answer *a, const struct qmat *q)
{
	dev_get(d, a->code, &q->code);
	dev_get(d, a->scale, &q->scale);
	dev_get(d, a->zero, &q->zero);
	dev_get(d, a->group_of, &q->group_of);
}

static inline struct mat
put(struct dev *d, enum dtype type, int64_t rows, int64_t cols, const void *from)
{
	struct mat m = dev_mat(d, type, rows, cols);

	dev_put(d, &m, from);
	return m;
}

/* How to solve a problem on the device. */
struct how {
	struct grid g;
	bool by_diag, static_groups, stale, ready;    /* ready: the answer's scales and zeros are given */
	double damp;
	enum dtype type;
	bool undamped;                                /* ridge: loss of the undamped h */
	const float *target;
	float clip;                                   /* static scales are multiplied by it; 0: not */
};

static inline struct mat
diag_of(struct dev *d, const struct problem *p)
{
	float *v = mem_new((size_t)p->n, sizeof(*v));
	struct mat m;

	for (int64_t i = 0; i < p->n; i++)
		v[i] = p->h[i * p->n + i];
	m = put(d, F32, 1, p->n, v);
	free(v);
	return m;
}

/* a must be fresh, or hold scales, zeros and group_of when how says ready. */
static inline void
solve_here(struct dev *d, struct answer *a, const struct problem *p, const struct how *how)
{
	size_t mark = dev_mark(d);
	struct mat w = put(d, F32, p->O, p->n, p->w), h = put(d, F32, p->n, p->n, p->h), u = dev_mat(d, how->type, p->n, p->n);
	struct mat order = dev_mat(d, I32, 1, p->n), loss = dev_mat(d, F64, 1, p->O), weight = diag_of(d, p), target;
	struct babai b = {.static_groups = how->static_groups, .stale = how->stale};
	struct qmat q = qmat_new(d, a);
	int64_t dead;

	op_order(d, &order, &h, how->by_diag);
	if (op_factor(d, &u, &h, &order, how->damp, &dead) != 0)
		fail_msg("%s", err_text());
	if (how->static_groups && !how->ready) {
		op_fit(d, &q, &w, &weight, &how->g);
		if (how->clip > 0) {
			dev_get(d, a->scale, &q.scale);
			for (int64_t k = 0; k < a->O * a->groups; k++)
				a->scale[k] *= how->clip;
			dev_put(d, &q.scale, a->scale);
		}
	}
	if (how->undamped)
		b.ridge = how->damp * mean_diag(p);
	if (how->target) {
		target = put(d, F32, p->O, p->n, how->target);
		b.target = &target;
	}
	op_babai(d, &q, &loss, &w, &u, &order, &weight, &how->g, &b);
	qmat_get(d, a, &q);
	dev_get(d, a->order, &order);
	dev_get(d, a->loss, &loss);
	assert_good(d);
	dev_release(d, mark);
}

static inline void
round_here(struct dev *d, struct answer *a, const struct problem *p, const struct grid *g)
{
	size_t mark = dev_mark(d);
	struct mat w = put(d, F32, p->O, p->n, p->w), weight = diag_of(d, p);
	struct qmat q = qmat_new(d, a);

	op_fit(d, &q, &w, &weight, g);
	op_round(d, &q, &w, g);
	qmat_get(d, a, &q);
	assert_good(d);
	dev_release(d, mark);
}

/* ---- references, in double ---- */

static inline double
rounded(double x, double zero, double top, double *level)
{
	*level = nearbyint(x) + zero;
	*level = *level < 0 ? 0 : *level > top ? top : *level;
	return *level - zero;
}

/* The damped h in processing order. */
static inline double *
ordered(const struct problem *p, const int32_t *order, double damp)
{
	double *h = mem_new((size_t)(p->n * p->n), sizeof(*h)), ridge = damp * mean_diag(p);

	for (int64_t i = 0; i < p->n; i++)
		for (int64_t j = 0; j < p->n; j++) {
			double v = (double)p->h[order[i] * p->n + order[j]];

			h[i * p->n + j] = i == j ? (v == 0 ? 1 : v) + ridge : v;
		}
	return h;
}

/* In place, by Gauss and Jordan; positive definite, so without pivoting. */
static inline void
invert(double *a, int64_t n)
{
	for (int64_t k = 0; k < n; k++) {
		double pivot = 1 / a[k * n + k];

		a[k * n + k] = 1;
		for (int64_t j = 0; j < n; j++)
			a[k * n + j] *= pivot;
		for (int64_t i = 0; i < n; i++) {
			double f = a[i * n + k];

			if (i == k)
				continue;
			a[i * n + k] = 0;
			for (int64_t j = 0; j < n; j++)
				a[i * n + j] -= f * a[k * n + j];
		}
	}
}

/* a = t^T t, t upper, in place; zero below. */
static inline void
cholesky_upper(double *a, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		for (int64_t j = 0; j < i; j++)
			a[i * n + j] = 0;
		for (int64_t j = i; j < n; j++) {
			double sum = a[i * n + j];

			for (int64_t k = 0; k < i; k++)
				sum -= a[k * n + i] * a[k * n + j];
			a[i * n + j] = j == i ? sqrt(sum) : sum / a[i * n + i];
		}
	}
}

/* Optimal Brain Surgeon: after each column the inverse of h loses its row and column.  ref holds scales, zeros, group_of, order. */
static inline void
eliminate(struct answer *ref, const struct problem *p, const struct grid *g, double damp)
{
	int64_t n = p->n;
	double *inverse = ordered(p, ref->order, damp), *w = mem_new((size_t)n, sizeof(*w)), top = (1 << g->bits) - 1;

	invert(inverse, n);
	for (int64_t o = 0; o < p->O; o++) {
		double *inv = mem_new((size_t)(n * n), sizeof(*inv));

		memcpy(inv, inverse, (size_t)(n * n) * sizeof(*inv));
		for (int64_t i = 0; i < n; i++)
			w[i] = (double)p->w[o * n + ref->order[i]];
		for (int64_t i = 0; i < n; i++) {
			int64_t at = ref->order[i], k = o * ref->groups + ref->group_of[at];
			double s = (double)ref->scale[k], level, q = s * rounded(w[i] / s, ref->zero[k], top, &level);
			double error = (w[i] - q) / inv[i * n + i];

			ref->code[o * n + at] = (uint8_t)level;
			for (int64_t j = i + 1; j < n; j++)
				w[j] -= error * inv[i * n + j];
			for (int64_t a = i + 1; a < n; a++)
				for (int64_t b = i + 1; b < n; b++)
					inv[a * n + b] -= inv[a * n + i] * inv[i * n + b] / inv[i * n + i];
		}
		free(inv);
	}
	free(inverse);
	free(w);
}

/* Min-max range of n fp32 values, F32 scales. */
static inline void
range_of(const double *w, int64_t n, const struct grid *g, float *scale, uint8_t *zero)
{
	float lo = 0, hi = 0, top = (float)((1 << g->bits) - 1);

	for (int64_t i = 0; i < n; i++) {
		lo = fminf(lo, (float)w[i]);
		hi = fmaxf(hi, (float)w[i]);
	}
	if (g->sym) {
		hi = fmaxf(hi, -lo);
		lo = -hi;
	}
	if (hi == lo) {
		hi = 1;
		lo = -1;
	}
	*scale = (hi - lo) / top;
	*zero = (uint8_t)(g->sym ? 1 << (g->bits - 1) : (int)fminf(top, nearbyintf(-lo / *scale)));
}

/* The textbook: t = chol(h^-1) upper; each column's error over t_ii, times t's row, leaves the later columns.  ref holds the
 * order, and scales, zeros, group_of when groups are static; else they are found: min-max, F32. */
static inline void
textbook(struct answer *ref, const struct problem *p, const struct how *how)
{
	int64_t n = p->n, group = how->g.group;
	double *t = ordered(p, ref->order, how->damp), *w = mem_new((size_t)(2 * n), sizeof(*w)), *stale = w + n;
	double top = (1 << how->g.bits) - 1;

	invert(t, n);
	cholesky_upper(t, n);
	for (int64_t o = 0; o < p->O; o++) {
		ref->loss[o] = 0;
		for (int64_t i = 0; i < n; i++)
			w[i] = (double)p->w[o * n + ref->order[i]];
		for (int64_t i = 0; i < n; i++) {
			int64_t at = ref->order[i], k;
			double level, q, e;

			if (i % 128 == 0)
				memcpy(stale, w, (size_t)n * sizeof(*w));
			if (!how->static_groups)
				ref->group_of[at] = (int32_t)(i / group);
			k = o * ref->groups + ref->group_of[at];
			if (!how->static_groups && i % group == 0)
				range_of((how->stale ? stale : w) + i, n - i < group ? n - i : group, &how->g,
				         &ref->scale[k], &ref->zero[k]);
			q = (double)ref->scale[k] * rounded(w[i] / (double)ref->scale[k], ref->zero[k], top, &level);
			ref->code[o * n + at] = (uint8_t)level;
			e = (w[i] - q) / t[i * n + i];
			ref->loss[o] += e * e;
			for (int64_t j = i; j < n; j++)
				w[j] -= e * t[i * n + j];
		}
	}
	free(t);
	free(w);
}

static inline int64_t
codes_that_differ(const struct answer *a, const struct answer *b)
{
	int64_t n = 0;

	for (int64_t k = 0; k < a->O * a->n; k++)
		n += a->code[k] != b->code[k];
	return n;
}

#endif
