/* What the tests of kernels share: devices, reproducible numbers, roundings written another way than kernels/ does. */
#ifndef TESTS_KERNELS_DATA_H
#define TESTS_KERNELS_DATA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "qjob/base/err.h"

/* What the tests run on: "cpu", or what QJOB_TEST_DEVICE names ("cuda", as tests/gpu/run.sh does). */
static inline const char *
test_device(void)
{
	const char *set = getenv("QJOB_TEST_DEVICE");

	return set && set[0] ? set : "cpu";
}

/* QJOB_TEST_ISA holds these tests to an instruction set. */
static inline struct dev *
device(int threads, enum math math)
{
	struct dev_options o = {.name = test_device(), .threads = threads, .isa = getenv("QJOB_TEST_ISA")};
	struct dev *d;

	if (dev_open(&d, &o) != 0)
		fail_msg("%s", err_text());
	dev_math(d, math);
	return d;
}

static inline void
assert_good(struct dev *d)
{
	if (dev_status(d) != 0)
		fail_msg("%s", err_text());
}

/* Numbers around zero with a few large ones, the same for the same seed. */
static inline double
number(uint64_t *seed)
{
	uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
	double v;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	z ^= z >> 31;
	v = (double)(z >> 11) * 0x1p-53 * 2 - 1;
	return z % 64 == 0 ? v * 8 : v;
}

/* To nearest even with `bits` bits of mantissa, exponents not below min. */
static inline double
round_bits(double v, int bits, int min)
{
	int e;

	if (v == 0 || !isfinite(v))
		return v;
	frexp(v, &e);
	e = e < min ? min : e;
	return ldexp(nearbyint(ldexp(v, bits - e)), e - bits);
}

static inline double
round_to(double v, enum dtype type)
{
	switch (type) {
	case BF16: return round_bits(v, 8, -125);
	case F16: return round_bits(v, 11, -13);
	case F32: return (double)(float)v;
	default: return v;
	}
}

/* What operands of products are rounded to. */
static inline enum dtype
operand_of(enum math math)
{
	return math == MATH_BF16 ? BF16 : math == MATH_F16 ? F16 : F32;
}

/* The most that rounding moves a number in a narrow type's normal range, relative to it. */
static inline double
step_of(enum dtype type)
{
	return type == BF16 ? 0x1p-8 : 0x1p-11;
}

/* The bytes of v, which type can hold exactly. */
static inline void
write_number(char *to, enum dtype type, double v)
{
	float f = (float)v;
	uint32_t u, sign;
	uint16_t h;
	int e;

	memcpy(&u, &f, sizeof(u));
	sign = u >> 16 & 0x8000;
	switch (type) {
	case F64: memcpy(to, &v, 8); return;
	case F32: memcpy(to, &f, 4); return;
	case BF16: h = (uint16_t)(u >> 16); break;
	default:
		frexp(v, &e);
		if (v == 0)
			h = (uint16_t)sign;
		else if (e < -13)
			h = (uint16_t)(sign | (uint32_t)ldexp(fabs(v), 24));
		else
			h = (uint16_t)(sign | (uint32_t)(e + 14) << 10 | ((uint32_t)ldexp(fabs(v), 11 - e) & 0x3ff));
	}
	memcpy(to, &h, 2);
}

static inline double
read_number(const char *from, enum dtype type)
{
	uint16_t h;
	uint32_t u;
	float f;
	double v;

	switch (type) {
	case F64: memcpy(&v, from, 8); return v;
	case F32: memcpy(&f, from, 4); return (double)f;
	case BF16:
		memcpy(&h, from, 2);
		u = (uint32_t)h << 16;
		memcpy(&f, &u, 4);
		return (double)f;
	default:
		memcpy(&h, from, 2);
		v = h >> 10 & 31 ? ldexp((h & 0x3ff) | 0x400, (h >> 10 & 31) - 25) : ldexp(h & 0x3ff, -24);
		return h & 0x8000 ? -v : v;
	}
}

/* A matrix on the host: values in double, and their bytes as a device takes them. */
struct host {
	int64_t rows, cols;
	enum dtype type;
	double *v;
	char *bytes;
};

static inline struct host
host_new(int64_t rows, int64_t cols, enum dtype type, uint64_t seed)
{
	struct host h = {.rows = rows, .cols = cols, .type = type};
	size_t n = (size_t)(rows * cols), i;

	h.v = test_malloc((n + 1) * sizeof(*h.v));
	h.bytes = test_malloc(n * dtype_size(type) + 1);
	for (i = 0; i < n; i++) {
		h.v[i] = round_to(number(&seed), type == F64 ? F64 : type);
		write_number(h.bytes + i * dtype_size(type), type, h.v[i]);
	}
	return h;
}

static inline void
host_free(struct host *h)
{
	test_free(h->v);
	test_free(h->bytes);
}

static inline struct mat
upload(struct dev *d, const struct host *h)
{
	struct mat m = dev_mat(d, h->type, h->rows, h->cols);

	dev_put(d, &m, h->bytes);
	return m;
}

/* What m holds, as doubles; the caller frees with test_free. */
static inline double *
download(struct dev *d, const struct mat *m)
{
	size_t n = (size_t)(m->rows * m->cols), size = dtype_size(m->type), i;
	char *bytes = test_malloc(n * size + 1);
	double *v = test_malloc(n * sizeof(*v) + 1);

	dev_get(d, bytes, m);
	assert_good(d);
	for (i = 0; i < n; i++)
		v[i] = read_number(bytes + i * size, m->type);
	test_free(bytes);
	return v;
}

static inline void
assert_close(const char *what, int64_t at, double got, double want, double tolerance)
{
	if (!(fabs(got - want) <= tolerance))
		fail_msg("%s: element %lld is %.9g, wanted %.9g within %.3g", what, (long long)at, got, want,
		         tolerance);
}

#endif
