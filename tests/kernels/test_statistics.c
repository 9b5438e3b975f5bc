#include "tests/kernels/data.h"

static const enum dtype activation_types[] = {F32, F16, BF16};

/* ---- token weights ---- */

static void
tokens_are_scaled_to_unit_energy(void **state)
{
	static const int64_t widths[] = {1, 7, 576, 1025, 2100};
	struct dev *d = device(2, MATH_F32);
	int i, k;

	(void)state;
	for (i = 0; i < 5; i++) {
		for (k = 0; k < 3; k++) {
			enum dtype type = activation_types[k];
			struct host x = host_new(9, widths[i], type, 1);
			struct mat xm, a = dev_mat(d, F32, 1, 9);
			int64_t t, c;
			double *got;

			memset(x.bytes + 4 * widths[i] * (int64_t)dtype_size(type), 0, (size_t)widths[i] * dtype_size(type));
			xm = upload(d, &x);
			op_token_weight(d, &a, &xm);
			got = download(d, &a);
			for (t = 0; t < 9; t++) {
				double square = 0, want;

				for (c = 0; c < widths[i]; c++)
					square += x.v[t * widths[i] + c] * x.v[t * widths[i] + c] / (double)widths[i];
				want = t == 4 ? 0 : 1 / sqrt(square);
				assert_close("token_weight", t, got[t], want, 1e-7 * want);
			}
			test_free(got);
			host_free(&x);
		}
	}
	dev_close(d);
}

/* ---- second moments ---- */

struct moment_case {
	int64_t tokens, width;
	enum dtype type;
	enum math math;
	bool weighted, cross;
};

/* The operand that a product sees for a value: scaled in fp32, then rounded. */
static double
operand(double v, double by, bool weighted, enum math math)
{
	float f = weighted ? (float)v * (float)by : (float)v;

	return round_to((double)f, operand_of(math));
}

static void
check_moments(struct dev *d, const struct moment_case *c)
{
	struct host x = host_new(c->tokens, c->width, c->type, 1), f = host_new(c->tokens, c->width, c->type, 2);
	struct host a = host_new(1, c->tokens, F32, 3), h = host_new(c->width, c->width, F32, 4);
	struct mat xm = upload(d, &x), fm = upload(d, &f), am = upload(d, &a), hm = upload(d, &h);
	int64_t i, j, t, step = c->width > 100 ? 37 : 1;
	double *got;

	dev_math(d, c->math);
	if (c->cross)
		op_cross(d, &hm, &fm, &xm, c->weighted ? &am : NULL);
	else
		op_gram(d, &hm, &xm, c->weighted ? &am : NULL);
	got = download(d, &hm);
	for (i = 0; i < c->width; i += step) {
		for (j = 0; j < (c->cross ? c->width : i + 1); j++) {
			double sum = h.v[i * c->width + j], size = fabs(sum);

			for (t = 0; t < c->tokens; t++) {
				double l = x.v[t * c->width + i], p;

				if (c->cross)
					l = (double)((float)f.v[t * c->width + i] - (float)l);
				p = operand(l, a.v[t], c->weighted, c->math) * operand(x.v[t * c->width + j], a.v[t],
				                                                       c->weighted, c->math);
				sum += p;
				size += fabs(p);
			}
			assert_close(c->cross ? "cross" : "gram", i * c->width + j, got[i * c->width + j], sum,
			             4e-6 * size);
		}
	}
	test_free(got);
	host_free(&x);
	host_free(&f);
	host_free(&a);
	host_free(&h);
	dev_release(d, 0);
}

static void
moments_of_odd_shapes(void **state)
{
	static const int64_t shape[][2] = {{1, 1}, {1, 19}, {5, 257}, {300, 3}, {2049, 70}, {130, 300}};
	static const enum math maths[] = {MATH_F32, MATH_BF16, MATH_F16};
	struct dev *d = device(2, MATH_F32);
	int s, k;

	(void)state;
	for (s = 0; s < 6; s++) {
		for (k = 0; k < 36; k++) {
			struct moment_case c = {shape[s][0], shape[s][1], activation_types[k % 3], maths[k / 3 % 3],
			                        k / 9 & 1, k / 18};

			check_moments(d, &c);
		}
	}
	dev_close(d);
}

/* So wide that devices cut the triangle into panels of their own. */
static void
a_gram_of_several_panels(void **state)
{
	struct dev *d = device(2, MATH_F32);
	static const struct moment_case rows[] = {
		{2, 4100, F32, MATH_F32, true, false}, {3, 4100, BF16, MATH_BF16, false, false}, {3, 4100, F16, MATH_F16, false, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		check_moments(d, &rows[i]);
	dev_close(d);
}

/* The bytes of h and c after T tokens in pieces of `piece`. */
static void
accumulate(float *out, int threads, enum math math, int64_t piece)
{
	enum { T = 4500, N = 130 };
	struct dev *d = device(threads, math);
	struct host x = host_new(T, N, F32, 1), f = host_new(T, N, F32, 2);
	struct mat xm = upload(d, &x), fm = upload(d, &f), a = dev_mat(d, F32, 1, T);
	struct mat h = dev_zeros(d, F32, N, N), c = dev_zeros(d, F32, N, N);
	int64_t from, n;

	op_token_weight(d, &a, &xm);
	for (from = 0; from < T; from += piece) {
		struct mat xp, fp, ap;

		n = T - from < piece ? T - from : piece;
		xp = mat_rows(&xm, from, n);
		fp = mat_rows(&fm, from, n);
		ap = mat_cols(&a, from, n);
		op_gram(d, &h, &xp, &ap);
		op_cross(d, &c, &fp, &xp, &ap);
	}
	dev_get(d, out, &h);
	dev_get(d, out + N * N, &c);
	assert_good(d);
	host_free(&x);
	host_free(&f);
	dev_close(d);
}

static void
neither_threads_nor_cuts_show(void **state)
{
	enum { BYTES = 2 * 130 * 130 * sizeof(float) };
	static const struct {
		int threads;
		int64_t piece;
	} rows[] = {{2, 4500}, {3, 4500}, {1, 2048}, {2, 2048}, {3, 4096}};
	static const enum math maths[] = {MATH_F32, MATH_BF16, MATH_F16};
	float *one = test_malloc(BYTES), *other = test_malloc(BYTES);
	size_t i;
	int k;

	(void)state;
	for (k = 0; k < 3; k++) {
		accumulate(one, 1, maths[k], 4500);
		for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			accumulate(other, rows[i].threads, maths[k], rows[i].piece);
			assert_memory_equal(one, other, BYTES);
		}
	}
	test_free(one);
	test_free(other);
}

/* Beyond 65504 fp16 is infinite, and the diagonal says whose activation it was, scaled or not; that of the cross statistics too where
 * the other stream alone is. */
static void
activations_that_overflow_show_on_the_diagonal(void **state)
{
	enum { T = 5, N = 9, INPUT = 6 };
	struct dev *d = device(2, MATH_F16);
	struct host x = host_new(T, N, F32, 1), large = host_new(T, N, F32, 1);
	struct mat a = dev_mat(d, F32, 1, T), from[2], to[2];
	int unit, crossed, i;

	(void)state;
	large.v[2 * N + INPUT] = 70000;
	write_number(large.bytes + (2 * N + INPUT) * 4, F32, 70000);
	from[0] = upload(d, &x);
	from[1] = upload(d, &large);
	for (i = 0; i < 2; i++) {
		to[i] = dev_mat(d, F16, T, N);
		op_convert(d, &to[i], &from[i]);
	}
	for (unit = 0; unit < 2; unit++) {
		for (crossed = 0; crossed < 2; crossed++) {
			struct mat h = dev_zeros(d, F32, N, N), *seen = crossed ? &to[0] : &to[1];
			double *got;

			op_token_weight(d, &a, seen);
			if (crossed)
				op_cross(d, &h, &to[1], seen, unit ? &a : NULL);
			else
				op_gram(d, &h, seen, unit ? &a : NULL);
			got = download(d, &h);
			for (i = 0; i < N; i++)
				assert_int_equal(isfinite(got[i * N + i]) != 0, i != INPUT);
			test_free(got);
		}
	}
	host_free(&x);
	host_free(&large);
	dev_close(d);
}

/* As a method reads the diagonal of its statistics, and clears inputs of its weights. */
static void
diagonals_and_columns_go_to_and_fro(void **state)
{
	enum { N = 300, M = 77 };
	static const enum dtype types[] = {F64, F32, BF16, U8};
	struct dev *d = device(2, MATH_F32);
	char from[N * M * 8], want[N * 2 * 8], got[N * 2 * 8];

	(void)state;
	for (size_t k = 0; k < sizeof(from); k++)
		from[k] = (char)(k * 37 % 251);
	for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++) {
		size_t size = dtype_size(types[k]);
		struct mat m = dev_mat(d, types[k], N, M), two = mat_cols(&m, 5, 2), diag = mat_cols(&m, 0, 1);

		diag.rows = M;
		diag.ld = m.ld + 1;
		dev_put(d, &m, from);
		dev_get(d, got, &diag);
		for (size_t i = 0; i < M; i++)
			assert_memory_equal(got + i * size, from + i * (M + 1) * size, size);
		for (size_t i = 0; i < N * 2 * size; i++)
			want[i] = (char)(i * 11 % 127);
		dev_put(d, &two, want);
		dev_get(d, got, &two);
		assert_memory_equal(got, want, N * 2 * size);
		two = mat_cols(&m, 7, 1);
		dev_get(d, got, &two);
		for (size_t i = 0; i < N; i++)
			assert_memory_equal(got + i * size, from + (i * M + 7) * size, size);
	}
	assert_good(d);
	dev_close(d);
}

static void
mismatches_are_told(void **state)
{
	static const char *const text[] = {
		"gram: h is F32 [3,5], wanted F32 [5,5]",
		"gram: a is F32 [1,5], wanted F32 [1,3]",
		"cross: f is F32 [5,5], wanted F32|F16|BF16 [3,5]",
		"token_weight: a is F32 [1,5], wanted F32 [1,3]",
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(text) / sizeof(text[0]); i++) {
		struct dev *d = device(1, MATH_F32);
		struct mat x = dev_zeros(d, F32, 3, 5), h = dev_zeros(d, F32, 5, 5), a = dev_zeros(d, F32, 1, 5);

		switch (i) {
		case 0: op_gram(d, &x, &x, NULL); break;
		case 1: op_gram(d, &h, &x, &a); break;
		case 2: op_cross(d, &h, &h, &x, NULL); break;
		default: op_token_weight(d, &a, &x); break;
		}
		assert_int_equal(dev_status(d), E_DATA);
		assert_string_equal(err_text(), text[i]);
		dev_close(d);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tokens_are_scaled_to_unit_energy),
		cmocka_unit_test(moments_of_odd_shapes),
		cmocka_unit_test(a_gram_of_several_panels),
		cmocka_unit_test(neither_threads_nor_cuts_show),
		cmocka_unit_test(activations_that_overflow_show_on_the_diagonal),
		cmocka_unit_test(diagonals_and_columns_go_to_and_fro),
		cmocka_unit_test(mismatches_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
