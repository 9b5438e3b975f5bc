/* What a decoder does to rows between its matrix products.  All of it is bound by memory. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/num.h"

enum { PIECE = 1024 };    /* numbers taken at a time where a type has to be converted, on the stack */

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* ---- embedding ---- */

void
cpu_embed(struct dev *d, struct mat *y, const struct mat *table, const struct mat *ids)
{
	const int32_t *id = ids->p;
	int64_t t;

	for (t = 0; t < y->rows; t++) {
		if (id[t] < 0 || id[t] >= table->rows) {
			cpu_fail(d, E_DATA, "embed: token %lld is id %d, and the table has %lld rows", (long long)t,
			         (int)id[t],
			         (long long)table->rows);
			return;
		}
	}
	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (t = 0; t < y->rows; t++)
		cpu_load(cpu_row(y, t), cpu_row(table, id[t]), table->type, y->cols);
}

/* ---- norms ---- */

WIDE static double
sum(const float *x, int64_t n)
{
	double lane[LANES] = {0};
	int64_t i;
	int j;

	for (i = 0; i + LANES <= n; i += LANES) {
		for (j = 0; j < LANES; j++)
			lane[j] += x[i + j];
	}
	for (j = 0; i + j < n; j++)
		lane[j] += x[i + j];
	return lanes_sum(lane);
}

WIDE static double
sum_squares(const float *x, int64_t n, double mean)
{
	double lane[LANES] = {0}, v;
	int64_t i;
	int j;

	for (i = 0; i + LANES <= n; i += LANES) {
		for (j = 0; j < LANES; j++) {
			v = x[i + j] - mean;
			lane[j] += v * v;
		}
	}
	for (j = 0; i + j < n; j++) {
		v = x[i + j] - mean;
		lane[j] += v * v;
	}
	return lanes_sum(lane);
}

WIDE static void
scale_piece(float *y, const float *x, const float *w, const float *b, int64_t n, float mean, float inverse,
            float w_add)
{
	int64_t i;

	if (b) {
		for (i = 0; i < n; i++)
			y[i] = (x[i] - mean) * inverse * (w[i] + w_add) + b[i];
	} else {
		for (i = 0; i < n; i++)
			y[i] = (x[i] - mean) * inverse * (w[i] + w_add);
	}
}

static void
norm_row(char *y, enum dtype type, const float *x, int64_t n, const struct norm *p)
{
	const float *w = p->w.p, *b = p->b.p;
	double mean = p->layer ? sum(x, n) / (double)n : 0;
	double inverse = 1 / sqrt(sum_squares(x, n, mean) / (double)n + (double)p->eps);
	float piece[PIECE];
	int64_t i, m;

	for (i = 0; i < n; i += PIECE) {
		m = least(PIECE, n - i);
		scale_piece(piece, x + i, w + i, b ? b + i : NULL, m, (float)mean, (float)inverse, p->w_add);
		cpu_store(y + i * (int64_t)cpu_size(type), type, piece, m);
	}
}

void
cpu_norm(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n)
{
	int64_t width = x->cols / heads, t;
	int h;

	#pragma omp parallel for num_threads(d->threads) schedule(static) private(h)
	for (t = 0; t < x->rows; t++) {
		for (h = 0; h < heads; h++)
			norm_row((char *)cpu_row(y, t) + h * width * (int64_t)cpu_size(y->type), y->type,
			         (const float *)cpu_row(x, t) + h * width, width, n);
	}
}

/* ---- rope ---- */

WIDE static void
rotate_halves(float *x, const float *cosine, const float *sine, int64_t half)
{
	float *y = x + half, a, b;
	int64_t i;

	for (i = 0; i < half; i++) {
		a = x[i];
		b = y[i];
		x[i] = a * cosine[i] - b * sine[i];
		y[i] = b * cosine[i] + a * sine[i];
	}
}

WIDE static void
rotate_pairs(float *x, const float *cosine, const float *sine, int64_t half)
{
	float a, b;
	int64_t i;

	for (i = 0; i < half; i++) {
		a = x[2 * i];
		b = x[2 * i + 1];
		x[2 * i] = a * cosine[i] - b * sine[i];
		x[2 * i + 1] = b * cosine[i] + a * sine[i];
	}
}

void
cpu_rope(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen)
{
	int64_t width = x->cols / heads, half = r->cos.cols, t;
	int h;

	#pragma omp parallel for num_threads(d->threads) schedule(static) private(h)
	for (t = 0; t < x->rows; t++) {
		const float *cosine = cpu_row(&r->cos, t % seqlen), *sine = cpu_row(&r->sin, t % seqlen);

		for (h = 0; h < heads; h++) {
			if (r->interleaved)
				rotate_pairs((float *)cpu_row(x, t) + h * width, cosine, sine, half);
			else
				rotate_halves((float *)cpu_row(x, t) + h * width, cosine, sine, half);
		}
	}
}

/* ---- activations ---- */

WIDE static void
silu(float *y, const float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		y[i] = x[i] / (1.f + num_exp(-x[i]));
}

WIDE static void
gelu(float *y, const float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		y[i] = 0.5f * x[i] * (1.f + num_erf(x[i] * 0.70710678118654752f));
}

/* 0.5 (1 + tanh u) is 1 / (1 + exp(-2u)). */
WIDE static void
gelu_tanh(float *y, const float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		y[i] = x[i] / (1.f + num_exp(-1.5957691216057308f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

WIDE static void
quick_gelu(float *y, const float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		y[i] = x[i] / (1.f + num_exp(-1.702f * x[i]));
}

WIDE static void
relu(float *y, const float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		y[i] = x[i] < 0.f ? 0.f : x[i];
}

static void
same(float *y, const float *x, int64_t n)
{
	memmove(y, x, (size_t)n * sizeof(*y));
}

typedef void activation(float *y, const float *x, int64_t n);

static activation *const activations[] = {
	[ACT_NONE]       = same,
	[ACT_SILU]       = silu,
	[ACT_GELU]       = gelu,
	[ACT_GELU_TANH]  = gelu_tanh,
	[ACT_QUICK_GELU] = quick_gelu,
	[ACT_RELU]       = relu,
};

WIDE static void
multiply(float *y, const float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		y[i] *= x[i];
}

/* y = act(x), times up unless that is NULL. */
static void
act_row(struct mat *y, const struct mat *x, const struct mat *up, activation *act, int64_t t)
{
	const float *from = cpu_row(x, t), *by = up ? cpu_row(up, t) : NULL;
	char *to = cpu_row(y, t);
	float piece[PIECE];
	int64_t i, m;

	for (i = 0; i < x->cols; i += PIECE) {
		m = least(PIECE, x->cols - i);
		act(piece, from + i, m);
		if (by)
			multiply(piece, by + i, m);
		cpu_store(to + i * (int64_t)cpu_size(y->type), y->type, piece, m);
	}
}

void
cpu_act(struct dev *d, struct mat *y, const struct mat *x, enum act act)
{
	int64_t t;

	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (t = 0; t < x->rows; t++)
		act_row(y, x, NULL, activations[act], t);
}

void
cpu_gated(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up, enum act act)
{
	int64_t t;

	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (t = 0; t < gate->rows; t++)
		act_row(y, gate, up, activations[act], t);
}

/* ---- residuals ---- */

WIDE static void
add_row(float *y, const float *x, int64_t n, float scale)
{
	int64_t i;

	for (i = 0; i < n; i++)
		y[i] += scale * x[i];
}

void
cpu_add(struct dev *d, struct mat *y, const struct mat *x, float scale)
{
	int64_t t;

	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (t = 0; t < y->rows; t++)
		add_row(cpu_row(y, t), cpu_row(x, t), y->cols, scale);
}
