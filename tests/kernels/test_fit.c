#include "tests/kernels/quant.h"

enum { O = 21, N = 75 };

/* One matrix in one type, and what the device makes of it. */
static struct answer
quantize(struct dev *d, const struct host *w, const struct grid *g, const float *weight)
{
	size_t mark = dev_mark(d);
	struct answer a = answer_new(w->rows, w->cols, g->group);
	struct mat m = upload(d, w), v = weight ? put(d, F32, 1, w->cols, weight) : (struct mat){0};
	struct qmat q = qmat_new(d, &a);

	op_fit(d, &q, &m, weight ? &v : NULL, g);
	op_round(d, &q, &m, g);
	qmat_get(d, &a, &q);
	assert_good(d);
	dev_release(d, mark);
	return a;
}

/* The rules as they are written down, one group at a time, for the range shrunk to p. */
static void
by_the_rules(const double *w, int64_t n, const struct grid *g, enum dtype t, double p, double *scale, double *zero)
{
	double lo = 0, hi = 0, top = (1 << g->bits) - 1, mid = 1 << (g->bits - 1), amax;

	for (int64_t i = 0; i < n; i++) {
		lo = fmin(lo, w[i]);
		hi = fmax(hi, w[i]);
	}
	amax = fmax(hi, -lo);
	if (g->rounding == ROUND_STEPWISE) {
		double span = g->sym ? amax : round_to(hi - lo, t);

		*scale = round_to(span / (g->sym ? top / 2 : top), t);
		*zero = mid;
		if (amax == 0)
			*scale = t == BF16 ? 0x1p-7 : t == F16 ? 0x1p-10 : 0x1p-23;
		else if (!g->sym)
			*zero = nearbyint(fmax(-mid, fmin(top - mid, round_to(-mid - round_to(lo / *scale, t), t)))) + mid;
		return;
	}
	if (amax == 0)
		lo = -1, hi = 1;
	else if (g->sym)
		lo = g->rounding == ROUND_FP32 && lo == 0 ? 0 : -amax, hi = amax;
	*scale = (double)((float)(hi - lo) * (float)p / (float)top);
	if (g->rounding == ROUND_STORED)
		*scale = round_to(*scale, g->stored);
	*zero = g->sym ? mid : fmin(top, nearbyint((double)(-(float)lo * (float)p / (float)*scale)));
}

static double
code_by_the_rules(double w, double s, double z, const struct grid *g, enum dtype t)
{
	double top = (1 << g->bits) - 1, mid = 1 << (g->bits - 1), c;

	if (g->rounding == ROUND_STEPWISE)
		c = nearbyint(round_to(round_to(w / s, t) + (z - mid), t)) + mid;
	else
		c = nearbyint((double)((float)w / (float)s)) + z;
	return fmax(0, fmin(top, c));
}

static void
ranges_and_codes_follow_the_rules(void **state)
{
	static const enum dtype types[] = {F32, F16, BF16};
	static const int64_t groups[] = {N, 32, 25, 1};
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (size_t k = 0; k < 3 * 3 * 3 * 2 * 4 * 4; k++) {
		enum dtype type = types[k % 3];
		struct grid g = {
			.stored = types[k / 3 % 3], .rounding = (enum rounding)(k / 9 % 3), .sym = k / 27 % 2, .group = groups[k / 54 % 4],
			.bits = (int[]){2, 3, 4, 8}[k / 216],
		};
		struct host w = host_new(O, N, type, k);
		struct answer a;

		if (g.rounding == ROUND_STEPWISE)
			g.stored = type;
		for (int64_t i = 0; i < N; i++) {
			w.v[i] = 0;                        /* a row of nothing */
			w.v[N + i] = fabs(w.v[N + i]);     /* one without negatives */
		}
		for (size_t i = 0; i < 2 * N; i++)
			write_number(w.bytes + i * dtype_size(type), type, w.v[i]);
		a = quantize(d, &w, &g, NULL);
		for (int64_t o = 0; o < O; o++)
			for (int64_t i = 0; i < N; i++) {
				int64_t from = i / g.group * g.group, n = N - from < g.group ? N - from : g.group;
				int64_t at = o * a.groups + i / g.group;
				double s, z;

				by_the_rules(w.v + o * N + from, n, &g, type, 1, &s, &z);
				assert_int_equal(a.group_of[i], i / g.group);
				assert_true((double)a.scale[at] == s);
				assert_int_equal(a.zero[at], (int)z);
				assert_int_equal(a.code[o * N + i], (int)code_by_the_rules(w.v[o * N + i], s, z, &g, type));
			}
		answer_free(&a);
		host_free(&w);
	}
	dev_close(d);
}

static double
error_of(const double *w, const float *weight, int64_t n, const struct grid *g, double s, double z)
{
	double sum = 0;

	for (int64_t i = 0; i < n; i++) {
		double e = fabs((code_by_the_rules(w[i], s, z, g, F32) - z) * s - w[i]);

		sum += g->search == SEARCH_MSE ? pow(e, 2.4) : e * e * (double)weight[i];
	}
	return sum;
}

/* No candidate is better than the one that a search took. */
static void
searches_take_the_best_range(void **state)
{
	static const struct { enum search search; int step, end; } rows[] = {{SEARCH_MSE, 1, 80}, {SEARCH_WEIGHTED, 2, 70}};
	struct dev *d = device(2, MATH_F32);
	struct host w = host_new(O, N, F32, 1);
	float weight[N];
	int64_t shrunk = 0;

	(void)state;
	for (int64_t i = 0; i < N; i++)
		weight[i] = (float)(1 + i * i % 50);
	for (size_t k = 0; k < 2 * 2 * 3; k++) {
		struct grid g = {
			.bits = (int[]){2, 3, 4}[k / 4], .sym = k / 2 % 2, .group = 30, .stored = BF16, .search = rows[k % 2].search,
		};
		struct answer a = quantize(d, &w, &g, weight);

		for (int64_t at = 0; at < O * a.groups; at++) {
			int64_t from = at % a.groups * 30, n = N - from < 30 ? N - from : 30;
			const double *v = w.v + at / a.groups * N + from;
			double least = INFINITY, mine = error_of(v, weight + from, n, &g, (double)a.scale[at], a.zero[at]), s, z, full;

			by_the_rules(v, n, &g, F32, 1, &full, &z);
			shrunk += (double)a.scale[at] < full;
			for (int i = 0; i < rows[k % 2].end; i += rows[k % 2].step) {
				by_the_rules(v, n, &g, F32, 1 - i / 100., &s, &z);
				least = fmin(least, error_of(v, weight + from, n, &g, s, z));
			}
			assert_true(mine <= least * (1 + 1e-5));
			if (g.bits > 2 || g.sym)      /* with two bits other zeros are tried too */
				assert_true(mine >= least * (1 - 1e-5));
		}
		answer_free(&a);
	}
	assert_true(shrunk > O * 20);
	host_free(&w);
	dev_close(d);
}

static void
a_least_zero_moves_the_range_up(void **state)
{
	struct dev *d = device(1, MATH_F32);
	struct host w = host_new(1, 4, F32, 1);
	struct grid g = {.bits = 4, .group = 4, .stored = F32, .zero_min = 1};
	float values[] = {0, 1, 7, 14};
	struct answer a;

	(void)state;
	memcpy(w.bytes, values, sizeof(values));
	a = quantize(d, &w, &g, NULL);
	assert_true(a.scale[0] == 1);
	assert_int_equal(a.zero[0], 1);
	assert_int_equal(a.code[0], 1);
	assert_int_equal(a.code[3], 15);
	answer_free(&a);
	g.zero_min = 0;
	a = quantize(d, &w, &g, NULL);
	assert_int_equal(a.zero[0], 0);
	assert_int_equal(a.code[3], 15);
	answer_free(&a);
	host_free(&w);
	dev_close(d);
}

static void
tiny_and_large_weights_keep_a_usable_scale(void **state)
{
	static const struct { float w; enum dtype stored; } rows[] = {
		{1e-38f, F16}, {1e-40f, BF16}, {1e-44f, F32}, {65504.f, F16}, {1e38f, BF16},
	};
	struct dev *d = device(1, MATH_F32);

	(void)state;
	for (size_t k = 0; k < 2 * sizeof(rows) / sizeof(rows[0]); k++) {
		struct grid g = {.bits = 8, .group = 2, .sym = k % 2, .stored = rows[k / 2].stored};
		struct host w = host_new(1, 2, F32, 1);
		float values[] = {rows[k / 2].w, 0};
		struct answer a;

		memcpy(w.bytes, values, sizeof(values));
		a = quantize(d, &w, &g, NULL);
		assert_true(a.scale[0] > 0 && isfinite(a.scale[0]) && isfinite(values[0] / a.scale[0]));
		assert_true(round_to((double)a.scale[0], g.stored) == (double)a.scale[0]);
		assert_int_equal(a.code[1], a.zero[0]);
		answer_free(&a);
		host_free(&w);
	}
	dev_close(d);
}

static void
what_cannot_be_fitted_is_named(void **state)
{
	static const struct { float v; enum rounding rounding; enum dtype stored; const char *error; } rows[] = {
		{NAN, ROUND_STORED, F16, "row 17 of the weights holds a value that is not finite"},
		{-INFINITY, ROUND_FP32, F16, "row 17 of the weights holds a value that is not finite"},
		{3e6f, ROUND_STORED, F16, "row 17 of the weights needs a scale beyond the range of F16"},
		{3e6f, ROUND_FP32, F16, "row 17 of the weights needs a scale beyond the range of F16"},
		{3e38f, ROUND_STORED, F32, "row 17 of the weights needs a scale beyond the range of F32"},
	};

	(void)state;
	for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
		struct dev *d = device(2, MATH_F32);
		struct grid g = {.bits = 4, .group = 5, .sym = true, .rounding = rows[k].rounding, .stored = rows[k].stored};
		struct answer a = answer_new(40, 10, 5);
		struct host w = host_new(40, 10, F32, 1);
		struct qmat q = qmat_new(d, &a);
		struct mat m;

		memcpy(w.bytes + 4 * 177, &rows[k].v, 4);
		memcpy(w.bytes + 4 * 399, &rows[k].v, 4);
		m = upload(d, &w);
		op_fit(d, &q, &m, NULL, &g);
		assert_int_equal(dev_status(d), E_NUMERIC);
		assert_string_equal(err_text(), rows[k].error);
		answer_free(&a);
		host_free(&w);
		dev_close(d);
	}
}

/* Ties go to the even level, which is not always the even code. */
static void
ties_are_even(void **state)
{
	static const float values[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 100, -100};
	static const uint8_t codes[] = {7, 9, 9, 7, 5, 5, 15, 0};
	struct dev *d = device(1, MATH_F32);
	struct grid g = {.bits = 4, .group = 8, .stored = F32};
	struct answer a = answer_new(1, 8, 8);
	struct mat w = put(d, F32, 1, 8, values);
	struct qmat q;

	(void)state;
	a.scale[0] = 1;
	a.zero[0] = 7;
	q = qmat_new(d, &a);
	op_round(d, &q, &w, &g);
	qmat_get(d, &a, &q);
	assert_good(d);
	assert_memory_equal(a.code, codes, sizeof(codes));
	answer_free(&a);
	dev_close(d);
}

static void
dequant_uses_the_scale_as_stored(void **state)
{
	static const enum dtype types[] = {F32, F16, BF16};
	struct dev *d = device(2, MATH_F32);
	struct answer a = answer_new(O, N, 25);

	(void)state;
	for (int64_t k = 0; k < O * N; k++)
		a.code[k] = (uint8_t)(k * 37 % 256);
	for (int64_t k = 0; k < O * a.groups; k++) {
		a.scale[k] = 0.01f + (float)k / 999;
		a.zero[k] = (uint8_t)(k * 11 % 256);
	}
	for (int32_t i = 0; i < N; i++)
		a.group_of[i] = i % 3;
	for (size_t k = 0; k < 9; k++) {
		struct grid g = {.bits = 8, .group = 25, .stored = types[k % 3]};
		struct qmat q = qmat_new(d, &a);
		struct mat w = dev_mat(d, types[k / 3], O, N);
		double *got;

		op_dequant(d, &w, &q, &g);
		got = download(d, &w);
		for (int64_t i = 0; i < O * N; i++) {
			int64_t at = i / N * a.groups + i % N % 3;
			double v = (a.code[i] - a.zero[at]) * round_to((double)a.scale[at], g.stored);

			assert_true(got[i] == round_to((double)(float)v, types[k / 3]));
		}
		test_free(got);
	}
	answer_free(&a);
	dev_close(d);
}

static void
what_is_missed_is_summed_by_row(void **state)
{
	static const enum dtype types[] = {F32, F16, BF16};
	struct dev *d = device(2, MATH_F32);
	struct answer a = answer_new(O, N, 25);

	(void)state;
	for (int64_t k = 0; k < O * N; k++)
		a.code[k] = (uint8_t)(k * 37 % 16);
	for (int64_t k = 0; k < O * a.groups; k++) {
		a.scale[k] = 0.01f + (float)k / 999;
		a.zero[k] = (uint8_t)(k * 11 % 16);
	}
	for (int32_t i = 0; i < N; i++)
		a.group_of[i] = i / 25;
	for (size_t k = 0; k < 3; k++) {
		struct grid g = {.bits = 4, .group = 25, .stored = BF16};
		struct qmat q = qmat_new(d, &a);
		struct host w = host_new(O, N, types[k], k);
		struct mat m = upload(d, &w), loss = dev_mat(d, F64, 1, O);
		double *got;

		op_miss(d, &loss, &m, &q, &g);
		got = download(d, &loss);
		for (int64_t o = 0; o < O; o++) {
			double want = 0;

			for (int64_t i = 0; i < N; i++) {
				int64_t at = o * a.groups + i / 25;
				float v = (float)((a.code[o * N + i] - a.zero[at]) * round_to((double)a.scale[at], BF16));

				want += (w.v[o * N + i] - (double)v) * (w.v[o * N + i] - (double)v);
			}
			assert_close("miss", o, got[o], want, 1e-12 * want);
		}
		test_free(got);
		host_free(&w);
	}
	answer_free(&a);
	dev_close(d);
}

static void
threads_change_no_bit(void **state)
{
	struct host w = host_new(200, 300, F32, 1);
	float weight[300];

	(void)state;
	for (int i = 0; i < 300; i++)
		weight[i] = (float)(i % 7);
	for (enum search search = SEARCH_MINMAX; search <= SEARCH_WEIGHTED; search++) {
		struct grid g = {.bits = 4, .group = 64, .search = search, .stored = F16};
		struct answer first = {0};

		for (int threads = 1; threads <= 3; threads++) {
			struct dev *d = device(threads, MATH_F32);
			struct answer a = quantize(d, &w, &g, weight);

			if (threads > 1) {
				assert_memory_equal(a.code, first.code, 200 * 300);
				assert_memory_equal(a.scale, first.scale, 200 * 5 * sizeof(float));
				answer_free(&first);
			}
			first = a;
			dev_close(d);
		}
		answer_free(&first);
	}
	host_free(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges_and_codes_follow_the_rules),
		cmocka_unit_test(searches_take_the_best_range),
		cmocka_unit_test(a_least_zero_moves_the_range_up),
		cmocka_unit_test(tiny_and_large_weights_keep_a_usable_scale),
		cmocka_unit_test(what_cannot_be_fitted_is_named),
		cmocka_unit_test(ties_are_even),
		cmocka_unit_test(dequant_uses_the_scale_as_stored),
		cmocka_unit_test(what_is_missed_is_summed_by_row),
		cmocka_unit_test(threads_change_no_bit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
