#include "tests/kernels/data.h"

static const enum dtype float_types[] = {F32, F16, BF16};

/* ---- embed ---- */

static void
rows_of_the_table_are_taken(void **state)
{
	struct dev *d = device(2, MATH_F32);
	int32_t id[5] = {6, 0, 6, 3, 1};
	struct mat ids = dev_mat(d, I32, 1, 5);
	int i, t, c;

	(void)state;
	dev_put(d, &ids, id);
	for (i = 0; i < 3; i++) {
		struct host h = host_new(7, 33, float_types[i], 3);
		char *shifted = test_malloc(7 * 33 * 4 + 1);
		struct mat table, y = dev_mat(d, F32, 5, 33);
		double *got;

		memcpy(shifted + 1, h.bytes, 7 * 33 * dtype_size(h.type));
		table = dev_view(d, h.type, 7, 33, shifted + 1);
		op_embed(d, &y, &table, &ids);
		got = download(d, &y);
		for (t = 0; t < 5; t++) {
			for (c = 0; c < 33; c++)
				assert_close("embed", t, got[t * 33 + c], h.v[id[t] * 33 + c], 0);
		}
		test_free(got);
		test_free(shifted);
		host_free(&h);
	}
	dev_close(d);
}

static void
ids_beyond_the_table_are_told(void **state)
{
	struct dev *d = device(1, MATH_F32);
	int32_t id[2] = {0, 7};
	struct mat ids = dev_mat(d, I32, 1, 2), table = dev_zeros(d, F32, 7, 4), y = dev_mat(d, F32, 2, 4);

	(void)state;
	dev_put(d, &ids, id);
	op_embed(d, &y, &table, &ids);
	assert_int_equal(dev_status(d), E_DATA);
	assert_string_equal(err_text(), "embed: token 1 is id 7, and the table has 7 rows");
	dev_close(d);
}

/* ---- norms ---- */

static void
check_norm(struct dev *d, int64_t tokens, int heads, int64_t width, bool layer, bool bias, float w_add,
           enum dtype out)
{
	struct host x = host_new(tokens, heads * width, F32, 1), w = host_new(1, width, F32, 2), b = host_new(1,
	                                                                                                      width, F32, 3);
	struct mat xm = upload(d, &x), y = out == F32 ? xm : dev_mat(d, out, tokens, heads * width);
	struct norm n = {.w = upload(d, &w), .eps = 1e-5f, .layer = layer, .w_add = w_add};
	double *got, mean, square, want;
	int64_t r, i;

	if (bias)
		n.b = upload(d, &b);
	if (heads == 1)
		op_norm(d, &y, &xm, &n);
	else
		op_norm_heads(d, &y, &xm, heads, &n);
	got = download(d, &y);
	for (r = 0; r < tokens * heads; r++) {
		const double *row = x.v + r * width;

		for (i = 0, mean = 0; layer && i < width; i++)
			mean += row[i] / (double)width;
		for (i = 0, square = 0; i < width; i++)
			square += (row[i] - mean) * (row[i] - mean) / (double)width;
		for (i = 0; i < width; i++) {
			want = (row[i] - mean) / sqrt(square + (double)n.eps) * (w.v[i] + (double)w_add) + (bias ? b.v[i] : 0);
			assert_close("norm", i, got[r * width + i], want,
			             (out == F32 ? 4e-7 : step_of(out)) * (fabs(want) + 1e-2) + 3e-7);
		}
	}
	test_free(got);
	host_free(&x);
	host_free(&w);
	host_free(&b);
}

static void
norms_of_all_kinds(void **state)
{
	static const int64_t widths[] = {1, 5, 16, 64, 577, 1100};
	struct dev *d = device(2, MATH_F32);
	int i, kind;

	(void)state;
	for (i = 0; i < 6; i++) {
		for (kind = 0; kind < 24; kind++)
			check_norm(d, kind % 3 + 1, kind & 4 ? 3 : 1, widths[i], kind & 1, kind & 2,
			           kind & 2 ? 1.f : 0.f, float_types[kind / 8]);
		dev_release(d, 0);
	}
	dev_close(d);
}

static void
a_row_of_zeros_stays_zero(void **state)
{
	struct dev *d = device(1, MATH_F32);
	struct mat x = dev_zeros(d, F32, 1, 8);
	struct host w = host_new(1, 8, F32, 2);
	struct norm n = {.w = upload(d, &w), .eps = 1e-6f};
	float got[8];
	int i;

	(void)state;
	op_norm(d, &x, &x, &n);
	dev_get(d, got, &x);
	assert_good(d);
	for (i = 0; i < 8; i++)
		assert_true(got[i] == 0);
	host_free(&w);
	dev_close(d);
}

/* ---- linear ---- */

struct linear_case {
	int64_t tokens, outputs, inputs;
	enum dtype x, w;
	enum math math;
	bool bias, add;
};

static void
check_linear(struct dev *d, const struct linear_case *c)
{
	struct host x = host_new(c->tokens, c->inputs, c->x, 1), w = host_new(c->outputs, c->inputs, c->w, 2);
	struct host b = host_new(1, c->outputs, F32, 3), y = host_new(c->tokens, c->outputs, F32, 4);
	size_t size = dtype_size(c->w), bytes = (size_t)(c->outputs * c->inputs) * size;
	char *shifted = test_malloc(bytes + 1);
	struct mat xm = upload(d, &x), ym = upload(d, &y), bm = upload(d, &b), wm;
	enum dtype operand = operand_of(c->math);
	int64_t t, o, i;
	double *got;

	memcpy(shifted + 1, w.bytes, bytes);
	wm = dev_view(d, c->w, c->outputs, c->inputs, shifted + 1);
	dev_math(d, c->math);
	op_linear(d, &ym, &xm, &wm, c->bias ? &bm : NULL, c->add);
	got = download(d, &ym);
	for (t = 0; t < c->tokens; t++) {
		for (o = 0; o < c->outputs; o++) {
			double sum = c->add ? y.v[t * c->outputs + o] : 0, size_of_sum = fabs(sum);

			sum += c->bias ? b.v[o] : 0;
			for (i = 0; i < c->inputs; i++) {
				double p = round_to(x.v[t * c->inputs + i],
				                    operand) * round_to(w.v[o * c->inputs + i], operand);

				sum += p;
				size_of_sum += fabs(p);
			}
			assert_close("linear", t * c->outputs + o, got[t * c->outputs + o], sum,
			             1e-6 * size_of_sum + 1e-6);
		}
	}
	test_free(got);
	test_free(shifted);
	host_free(&x);
	host_free(&w);
	host_free(&b);
	host_free(&y);
	dev_release(d, 0);
}

static void
linears_of_all_types_and_odd_shapes(void **state)
{
	static const int64_t shape[][3] = {
		{1, 1, 1}, {1, 5, 7}, {3, 257, 33}, {5, 1, 64}, {257, 65, 1}, {300, 192, 77}, {33, 513, 130},
	};
	static const enum math maths[] = {MATH_F32, MATH_BF16, MATH_F16};
	struct dev *d = device(2, MATH_F32);
	int s, k, n = 0;

	(void)state;
	for (s = 0; s < 7; s++) {
		for (k = 0; k < 27; k++) {
			struct linear_case c = {shape[s][0], shape[s][1], shape[s][2], float_types[k % 3],
			                        float_types[k / 3 % 3], maths[k / 9],
			                        n % 4 == 0, n % 5 < 2};

			check_linear(d, &c);
			n++;
		}
	}
	dev_close(d);
}

/* Weights that are converted in several panels. */
static void
a_linear_wider_than_a_panel(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct linear_case c = {2, 2100, 8200, F32, BF16, MATH_F32, true, false};

	(void)state;
	check_linear(d, &c);
	dev_close(d);
}

static void
columns_beside_the_result_are_left_alone(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct host x = host_new(3, 10, F32, 1), w = host_new(4, 6, F32, 2), all = host_new(3, 9, F32, 3);
	struct mat xm = upload(d, &x), wm = upload(d, &w), am = upload(d, &all), y = mat_cols(&am, 2,
	                                                                                      4), part = mat_cols(&xm, 3, 6);
	double *got, want;
	int t, c, i;

	(void)state;
	op_linear(d, &y, &part, &wm, NULL, false);
	got = download(d, &am);
	for (t = 0; t < 3; t++) {
		for (c = 0; c < 9; c++) {
			if (c < 2 || c >= 6) {
				assert_close("beside", c, got[t * 9 + c], all.v[t * 9 + c], 0);
				continue;
			}
			for (i = 0, want = 0; i < 6; i++)
				want += x.v[t * 10 + 3 + i] * w.v[(c - 2) * 6 + i];
			assert_close("linear", c, got[t * 9 + c], want, 2e-6);
		}
	}
	test_free(got);
	host_free(&x);
	host_free(&w);
	host_free(&all);
	dev_close(d);
}

/* ---- rope ---- */

static void
check_rope(struct dev *d, bool interleaved, int64_t half, int64_t width, int heads)
{
	int64_t seqlen = 5, tokens = 10, t, h, i;
	struct host x = host_new(tokens, heads * width, F32, 1), c = host_new(7, half, F32, 2), s = host_new(7, half,
	                                                                                                     F32, 3);
	struct rope r = {.cos = upload(d, &c), .sin = upload(d, &s), .interleaved = interleaved};
	struct mat xm = upload(d, &x);
	double *got;

	op_rope(d, &xm, heads, &r, seqlen);
	got = download(d, &xm);
	for (t = 0; t < tokens; t++) {
		for (h = 0; h < heads; h++) {
			const double *cosine = c.v + t % seqlen * half, *sine = s.v + t % seqlen * half;
			double *row = x.v + (t * heads + h) * width;

			for (i = 0; i < half; i++) {
				double *a = row + (interleaved ? 2 * i : i), *b = row + (interleaved ? 2 * i + 1 : i + half), old = *a;

				*a = old * cosine[i] - *b * sine[i];
				*b = *b * cosine[i] + old * sine[i];
			}
		}
	}
	for (i = 0; i < tokens * heads * width; i++)
		assert_close("rope", i, got[i], x.v[i], 4e-6);
	test_free(got);
	host_free(&x);
	host_free(&c);
	host_free(&s);
}

static void
ropes_of_both_kinds(void **state)
{
	struct dev *d = device(2, MATH_F32);

	(void)state;
	check_rope(d, false, 32, 64, 3);
	check_rope(d, true, 32, 64, 3);
	check_rope(d, false, 3, 10, 1);
	check_rope(d, true, 1, 3, 2);
	dev_close(d);
}

/* ---- activations ---- */

static double
activation(enum act act, double x)
{
	switch (act) {
	case ACT_SILU: return x / (1 + exp(-x));
	case ACT_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
	case ACT_GELU_TANH: return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
	case ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
	case ACT_RELU: return x < 0 ? 0 : x;
	default: return x;
	}
}

static void
activations_of_all_kinds(void **state)
{
	struct dev *d = device(2, MATH_F32);
	enum { N = 2999 };
	float *v = test_malloc(N * sizeof(*v));
	struct mat x = dev_mat(d, F32, 1, N), y = dev_mat(d, F32, 1, N), gated = dev_mat(d, F32, 1, N);
	struct mat bf16 = dev_mat(d, BF16, 1, N), f16 = dev_mat(d, F16, 1, N);
	int act, i;

	(void)state;
	for (i = 0; i < N; i++)
		v[i] = (float)((i - N / 2) * (i % 3 == 0 ? 0.1 : 0.002));
	dev_put(d, &x, v);
	for (act = ACT_NONE; act <= ACT_RELU; act++) {
		double *a, *b, *h, *c;

		op_act(d, &y, &x, (enum act)act);
		op_act(d, &bf16, &x, (enum act)act);
		op_act(d, &f16, &x, (enum act)act);
		op_gated(d, &gated, &x, &x, (enum act)act);
		a = download(d, &y);
		b = download(d, &bf16);
		h = download(d, &f16);
		c = download(d, &gated);
		for (i = 0; i < N; i++) {
			double want = activation((enum act)act, v[i]);

			/* near -inf both GELUs are differences of two nearly equal numbers, in every fp32 implementation */
			assert_close("act", i, a[i], want, 6e-7 * fabs(want) + 1.2e-7 * fabs((double)v[i]));
			assert_close("act to BF16", i, b[i], round_to(a[i], BF16), 0);
			assert_close("act to F16", i, h[i], round_to(a[i], F16), 0);
			assert_close("gated", i, c[i], want * (double)v[i],
			             7e-7 * fabs(want * (double)v[i]) + 1.3e-7 * (double)(v[i] * v[i]));
		}
		test_free(a);
		test_free(b);
		test_free(h);
		test_free(c);
	}
	op_act(d, &x, &x, ACT_RELU);               /* in place */
	dev_get(d, v, &x);
	for (i = 0; i < N; i++)
		assert_true(v[i] >= 0);
	test_free(v);
	dev_close(d);
}

static void
activations_of_extremes(void **state)
{
	struct dev *d = device(1, MATH_F32);
	float v[6] = {-INFINITY, -1e30f, -100, 100, 1e30f, NAN}, got[6];
	struct mat x = dev_view(d, F32, 1, 6, v), y = dev_mat(d, F32, 1, 6);

	(void)state;
	op_act(d, &y, &x, ACT_SILU);
	dev_get(d, got, &y);
	assert_true(isnan(got[0]) || got[0] == 0);
	assert_true(got[1] == 0);
	assert_true(fabsf(got[2]) < 1e-30f);
	assert_true(got[3] == 100);
	assert_true(got[4] == 1e30f);
	assert_true(isnan(got[5]));
	dev_close(d);
}

static void
sums_are_scaled(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct host x = host_new(5, 33, F32, 1), y = host_new(5, 33, F32, 2);
	struct mat xm = upload(d, &x), ym = upload(d, &y);
	double *got;
	int i;

	(void)state;
	op_add(d, &ym, &xm, -0.5f);
	got = download(d, &ym);
	for (i = 0; i < 5 * 33; i++)
		assert_close("add", i, got[i], y.v[i] - 0.5 * x.v[i], 1e-6);
	test_free(got);
	host_free(&x);
	host_free(&y);
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_of_the_table_are_taken),
		cmocka_unit_test(ids_beyond_the_table_are_told),
		cmocka_unit_test(norms_of_all_kinds),
		cmocka_unit_test(a_row_of_zeros_stays_zero),
		cmocka_unit_test(linears_of_all_types_and_odd_shapes),
		cmocka_unit_test(a_linear_wider_than_a_panel),
		cmocka_unit_test(columns_beside_the_result_are_left_alone),
		cmocka_unit_test(ropes_of_both_kinds),
		cmocka_unit_test(activations_of_all_kinds),
		cmocka_unit_test(activations_of_extremes),
		cmocka_unit_test(sums_are_scaled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
