/* Second moments of activations.  Bound by arithmetic: n^2 T products, of which the lower tiles are computed. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/num.h"

/* Tokens of a product, and the side of a tile of h.  Both decide the order of sums: changing one changes results. */
enum { CHUNK = 2048, SIDE = 192 };

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* ---- token weights ---- */

WIDE static double
sum_squares(const float *x, int64_t n)
{
	double lane[LANES] = {0};
	int64_t i;
	int j;

	for (i = 0; i + LANES <= n; i += LANES) {
		for (j = 0; j < LANES; j++)
			lane[j] += (double)x[i + j] * x[i + j];
	}
	for (j = 0; i + j < n; j++)
		lane[j] += (double)x[i + j] * x[i + j];
	return lanes_sum(lane);
}

static double
row_squares(const struct mat *x, int64_t t)
{
	enum { PIECE = 1024 };    /* a multiple of LANES */
	const char *row = cpu_row(x, t);
	float piece[PIECE];
	double s = 0;
	int64_t i, m;

	for (i = 0; i < x->cols; i += PIECE) {
		m = least(PIECE, x->cols - i);
		cpu_load(piece, row + i * (int64_t)cpu_size(x->type), x->type, m);
		s += sum_squares(piece, m);
	}
	return s;
}

void
cpu_token_weight(struct dev *d, struct mat *a, const struct mat *x)
{
	float *weight = a->p;
	int64_t t;

	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (t = 0; t < x->rows; t++) {
		double s = row_squares(x, t);

		weight[t] = s > 0 ? (float)(1 / sqrt(s / (double)x->cols)) : 0.f;
	}
}

/* ---- products ---- */

/* Tokens of a chunk by strips of SIDE inputs, each strip contiguous: [strip][token][SIDE]. */
struct strips {
	char *p;
	int64_t inputs, tokens;
	enum dtype type;
};

static struct strips
strips_take(struct dev *d, int64_t inputs, int64_t tokens)
{
	struct strips s = {.inputs = inputs, .tokens = tokens, .type = operand_type(d)};
	int64_t count = (inputs + SIDE - 1) / SIDE;

	s.p = cpu_take(d, (size_t)(count * SIDE * tokens) * cpu_size(s.type));
	return s;
}

static struct mat
strip(const struct strips *s, int64_t i, int64_t tokens)
{
	int64_t width = least(SIDE, s->inputs - i * SIDE);
	struct mat m = {.rows = tokens, .cols = width, .ld = width, .type = s->type};

	m.p = s->p + i * SIDE * s->tokens * (int64_t)cpu_size(s->type);
	return m;
}

WIDE static void
scale_row(float *x, const float *minus, int64_t n, float by)
{
	int64_t i;

	if (minus) {
		for (i = 0; i < n; i++)
			x[i] = (x[i] - minus[i]) * by;
	} else {
		for (i = 0; i < n; i++)
			x[i] *= by;
	}
}

/* Token t of strip i = by * (x - minus), as an operand. */
static void
fill_row(struct dev *d, const struct mat *to, int64_t t, const struct mat *x, const struct mat *minus, int64_t i,
         float by)
{
	float a[SIDE], b[SIDE];

	cpu_load(a, (const char *)cpu_row(x, t) + i * SIDE * (int64_t)cpu_size(x->type), x->type, to->cols);
	if (minus)
		cpu_load(b, (const char *)cpu_row(minus, t) + i * SIDE * (int64_t)cpu_size(minus->type), minus->type,
		         to->cols);
	if (minus || by != 1.f)
		scale_row(a, minus ? b : NULL, to->cols, by);
	operand_row(d, cpu_row(to, t), a, F32, to->cols);
}

/* Rows of x (less those of minus, unless NULL), times weight (NULL: 1). */
static void
fill(struct dev *d, const struct strips *s, const struct mat *x, const struct mat *minus, const float *weight)
{
	int64_t count = (s->inputs + SIDE - 1) / SIDE, t, i;

	#pragma omp parallel for num_threads(d->threads) schedule(static) private(i)
	for (t = 0; t < x->rows; t++) {
		for (i = 0; i < count; i++) {
			struct mat to = strip(s, i, x->rows);

			fill_row(d, &to, t, x, minus, i, weight ? weight[t] : 1.f);
		}
	}
}

/* h += tile, at tile row i and column j; on the diagonal of a lower triangle only what lies below. */
static void
add_tile(struct mat *h, const float *tile, int64_t m, int64_t n, int64_t i, int64_t j, bool lower)
{
	int64_t r, c, columns;
	float *to;

	for (r = 0; r < m; r++) {
		to = (float *)cpu_row(h, i * SIDE + r) + j * SIDE;
		columns = lower && i == j ? r + 1 : n;
		for (c = 0; c < columns; c++)
			to[c] += tile[r * n + c];
	}
}

static void
tile(struct dev *d, struct mat *h, const struct strips *l, const struct strips *r, int64_t tokens, int64_t i,
     int64_t j, float *room)
{
	struct mat a = strip(l, i, tokens), b = strip(r, j, tokens);
	struct mat c = {.p = room, .rows = a.cols, .cols = b.cols, .ld = b.cols, .type = F32};

	gemm_here(d, &c, &a, &b, GEMM_AT);
	add_tile(h, room, c.rows, c.cols, i, j, l == r);
}

/* h += l^T r; the same strips twice: the lower triangle. */
static void
add_product(struct dev *d, struct mat *h, const struct strips *l, const struct strips *r, int64_t tokens,
            float *rooms)
{
	int64_t count = (h->rows + SIDE - 1) / SIDE, at;

	#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (at = 0; at < count * count; at++) {
		int64_t i = at / count, j = at % count;

		if (l != r || j <= i)
			tile(d, h, l, r, tokens, i, j, rooms + (int64_t)cpu_worker() * SIDE * SIDE);
	}
}

static struct mat
rows_of(const struct mat *m, int64_t from, int64_t n)
{
	return mat_part(m, from, 0, n, m->cols);
}

/* f NULL: the lower triangle of x^T x, else (f - x)^T x. */
static void
moments(struct dev *d, struct mat *h, const struct mat *f, const struct mat *x, const struct mat *a)
{
	size_t mark = d->used;
	int64_t chunk = least(CHUNK, x->rows), from, n;
	struct strips right = strips_take(d, x->cols, chunk), left = right;
	float *rooms = cpu_take(d, (size_t)d->threads * SIDE * SIDE * sizeof(*rooms));

	if (f)
		left = strips_take(d, x->cols, chunk);
	for (from = 0; from < x->rows && d->status == 0; from += n) {
		struct mat xs, fs;
		const float *weight = a ? (const float *)a->p + from : NULL;

		n = least(CHUNK, x->rows - from);
		xs = rows_of(x, from, n);
		fill(d, &right, &xs, NULL, weight);
		if (f) {
			fs = rows_of(f, from, n);
			fill(d, &left, &fs, &xs, weight);
		}
		add_product(d, h, f ? &left : &right, &right, n, rooms);
	}
	d->used = mark;
}

void
cpu_gram(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a)
{
	moments(d, h, NULL, x, a);
}

void
cpu_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a)
{
	moments(d, c, f, x, a);
}
