#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/num.h"

/* ---- rows of any alignment ---- */

WIDE static void
load_bf16(float *to, const char *from, int64_t n)
{
	uint16_t h;
	int64_t i;

	for (i = 0; i < n; i++) {
		memcpy(&h, from + 2 * i, sizeof(h));
		to[i] = from_bf16(h);
	}
}

WIDE static void
load_f16(float *to, const char *from, int64_t n)
{
	uint16_t h;
	int64_t i;

	for (i = 0; i < n; i++) {
		memcpy(&h, from + 2 * i, sizeof(h));
		to[i] = from_f16(h);
	}
}

/* Rounded towards the odd neighbour, so that rounding once more to a shorter type is as good as rounding once. */
static float
odd_float(double v)
{
	float f = (float)v;
	uint32_t u = bits_of(f);

	if (isnan(v) || (double)f == v)
		return f;
	if (isinf(f) || fabs((double)f) > fabs(v))
		f = float_of(u - 1);
	return float_of(bits_of(f) | 1);
}

static void
load_f64(float *to, const char *from, int64_t n, bool odd)
{
	double v;
	int64_t i;

	for (i = 0; i < n; i++) {
		memcpy(&v, from + 8 * i, sizeof(v));
		to[i] = odd ? odd_float(v) : (float)v;
	}
}

void
cpu_load(float *to, const void *from, enum dtype type, int64_t n)
{
	switch (type) {
	case F32: memcpy(to, from, (size_t)n * sizeof(*to)); break;
	case BF16: load_bf16(to, from, n); break;
	case F16: load_f16(to, from, n); break;
	default: load_f64(to, from, n, false); break;
	}
}

WIDE static void
store_bf16(char *to, const float *from, int64_t n)
{
	uint16_t h;
	int64_t i;

	for (i = 0; i < n; i++) {
		h = to_bf16(from[i]);
		memcpy(to + 2 * i, &h, sizeof(h));
	}
}

WIDE static void
store_f16(char *to, const float *from, int64_t n)
{
	uint16_t h;
	int64_t i;

	for (i = 0; i < n; i++) {
		h = to_f16(from[i]);
		memcpy(to + 2 * i, &h, sizeof(h));
	}
}

static void
store_f64(char *to, const float *from, int64_t n)
{
	double v;
	int64_t i;

	for (i = 0; i < n; i++) {
		v = from[i];
		memcpy(to + 8 * i, &v, sizeof(v));
	}
}

void
cpu_store(void *to, enum dtype type, const float *from, int64_t n)
{
	switch (type) {
	case F32: memcpy(to, from, (size_t)n * sizeof(*from)); break;
	case BF16: store_bf16(to, from, n); break;
	case F16: store_f16(to, from, n); break;
	default: store_f64(to, from, n); break;
	}
}

/* ---- matrices ---- */

enum { PIECE = 1024 };    /* numbers converted at a time, on the stack */

static void
convert_row(char *to, enum dtype y, const char *from, enum dtype x, int64_t n)
{
	size_t ys = y == F64 ? 8 : y == F32 ? 4 : 2, xs = x == F64 ? 8 : x == F32 ? 4 : 2;
	float piece[PIECE];
	int64_t i, m;

	if (x == y) {
		memcpy(to, from, (size_t)n * xs);
		return;
	}
	for (i = 0; i < n; i += PIECE) {
		m = n - i < PIECE ? n - i : PIECE;
		if (x == F64)
			load_f64(piece, from + i * (int64_t)xs, m, y != F32);
		else
			cpu_load(piece, from + i * (int64_t)xs, x, m);
		cpu_store(to + i * (int64_t)ys, y, piece, m);
	}
}

void
cpu_convert(struct dev *d, struct mat *y, const struct mat *x)
{
	int64_t r;

	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (r = 0; r < x->rows; r++)
		convert_row(cpu_row(y, r), y->type, cpu_row(x, r), x->type, x->cols);
}

/* ---- operands of products ---- */

enum dtype
operand_type(struct dev *d)
{
	return d->math == MATH_BF16 && gemm_has_bf16(cpu_gemms(d)) ? BF16 : F32;
}

WIDE static void
round_bf16(float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		x[i] = from_bf16(to_bf16(x[i]));
}

WIDE static void
round_f16(float *x, int64_t n)
{
	int64_t i;

	for (i = 0; i < n; i++)
		x[i] = from_f16(to_f16(x[i]));
}

void
operand_row(struct dev *d, void *to, const void *x, enum dtype type, int64_t n)
{
	enum dtype t = operand_type(d), rounded = math_operand(d->math);

	convert_row(to, t, x, type, n);
	if (t == rounded || type == rounded)
		return;
	if (rounded == F16)
		round_f16(to, n);
	else
		round_bf16(to, n);
}

struct mat
cpu_operand(struct dev *d, const struct mat *m)
{
	enum dtype t = operand_type(d);
	bool exact = m->type == t && t == math_operand(d->math);
	struct mat copy;
	int64_t r;

	if (exact && (uintptr_t)m->p % cpu_size(t) == 0)
		return *m;
	copy = cpu_mat(d, t, m->rows, m->cols);
	if (!copy.p)
		return copy;
	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (r = 0; r < m->rows; r++)
		operand_row(d, cpu_row(&copy, r), cpu_row(m, r), m->type, m->cols);
	return copy;
}
