#include "tests/kernels/data.h"

enum { FLOAT_TYPES = 4 };
static const enum dtype float_types[FLOAT_TYPES] = {F32, F16, BF16, F64};
static const enum dtype weight_types[] = {F32, F16, BF16};

/* ---- convert ---- */

static void
every_conversion_rounds_to_even(void **state)
{
	struct dev *d = device(2, MATH_F32);
	int i, j, k;

	(void)state;
	for (i = 0; i < FLOAT_TYPES; i++) {
		for (j = 0; j < FLOAT_TYPES; j++) {
			struct host h = host_new(3, 1031, float_types[i], 7);
			struct mat x = upload(d, &h), y = dev_mat(d, float_types[j], 3, 1031);
			double *got;

			op_convert(d, &y, &x);
			got = download(d, &y);
			for (k = 0; k < 3 * 1031; k++)
				assert_close("convert", k, got[k], round_to(h.v[k], float_types[j]), 0);
			test_free(got);
			host_free(&h);
		}
	}
	dev_close(d);
}

/* Values at, and just beside, the middle of two neighbours of the shorter type. */
static void
middles_are_rounded_once(void **state)
{
	static const double v[] = {
		1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-8 + 0x1p-40, 1 + 0x1p-8 - 0x1p-40, 1 + 0x1p-11, 1 + 3 * 0x1p-11, 1 + 0x1p-11 + 0x1p-40,
		1 + 3 * 0x1p-11 - 0x1p-40, 65519.99, 65504, 0x1p-24, 0x1p-25, 0x1p-25 + 0x1p-60, 3 * 0x1p-25, 0x1p-14, 0x1p-14 - 0x1p-25,
		0x1.ffcp-15, 0x1.ffep-15, 0x1.fffp-15, -0x1.002p0, -0x1.006p0, 0, -0.0, 0x1p-30, 0x1p-26,
	};
	enum { N = sizeof(v) / sizeof(v[0]) };
	struct dev *d = device(1, MATH_F32);
	struct mat x = dev_mat(d, F64, 1, N), y;
	double *got;
	int i, j;

	(void)state;
	dev_put(d, &x, v);
	for (j = 0; j < FLOAT_TYPES; j++) {
		y = dev_mat(d, float_types[j], 1, N);
		op_convert(d, &y, &x);
		got = download(d, &y);
		for (i = 0; i < N; i++)
			assert_close(dtype_name(float_types[j]), i, got[i], round_to(v[i], float_types[j]), 0);
		test_free(got);
	}
	dev_close(d);
}

static void
all_half_floats_survive(void **state)
{
	struct dev *d = device(1, MATH_F32);
	uint16_t *from = test_malloc(65536 * 2), *to = test_malloc(65536 * 2);
	static const enum dtype half[] = {F16, BF16};
	int i, j;

	(void)state;
	for (i = 0; i < 65536; i++)
		from[i] = (uint16_t)i;
	for (j = 0; j < 2; j++) {
		struct mat x = dev_view(d, half[j], 1, 65536, from), y = dev_mat(d, F32, 1, 65536), z = dev_mat(d, half[j], 1, 65536);
		int exponent = half[j] == F16 ? 0x7c00 : 0x7f80;

		op_convert(d, &y, &x);
		op_convert(d, &z, &y);
		dev_get(d, to, &z);
		assert_good(d);
		for (i = 0; i < 65536; i++) {
			if ((i & 0x7fff) > exponent)
				assert_true((to[i] & 0x7fff) > exponent);      /* NaN stays NaN */
			else
				assert_int_equal(to[i], from[i]);
		}
	}
	test_free(from);
	test_free(to);
	dev_close(d);
}

static void
what_is_too_large_becomes_infinite(void **state)
{
	static const double v[] = {65520, -65520, 1e39, -1e300, INFINITY};
	struct dev *d = device(1, MATH_F32);
	struct mat x = dev_mat(d, F64, 1, 5), h = dev_mat(d, F16, 1, 5), b = dev_mat(d, BF16, 1, 5);
	uint16_t got[5];
	static const uint16_t f16[] = {0x7c00, 0xfc00, 0x7c00, 0xfc00, 0x7c00}, bf16[] = {0x4780, 0xc780, 0x7f80, 0xff80, 0x7f80};

	(void)state;
	dev_put(d, &x, v);
	op_convert(d, &h, &x);
	op_convert(d, &b, &x);
	dev_get(d, got, &h);
	assert_memory_equal(got, f16, sizeof(got));
	dev_get(d, got, &b);
	assert_memory_equal(got, bf16, sizeof(got));
	dev_close(d);
}

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
		struct host h = host_new(7, 33, weight_types[i], 3);
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
check_norm(struct dev *d, int64_t tokens, int heads, int64_t width, bool layer, bool bias, float w_add, enum dtype out)
{
	struct host x = host_new(tokens, heads * width, F32, 1), w = host_new(1, width, F32, 2), b = host_new(1, width, F32, 3);
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
			assert_close("norm", i, got[r * width + i], want, (out == BF16 ? 0x1p-8 : 4e-7) * (fabs(want) + 1e-2) + 3e-7);
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
		for (kind = 0; kind < 16; kind++)
			check_norm(d, kind % 3 + 1, kind & 8 ? 3 : 1, widths[i], kind & 1, kind & 2, kind & 2 ? 1.f : 0.f, kind & 4 ? BF16 : F32);
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
	enum dtype operand = c->math == MATH_BF16 ? BF16 : F32;
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
				double p = round_to(x.v[t * c->inputs + i], operand) * round_to(w.v[o * c->inputs + i], operand);

				sum += p;
				size_of_sum += fabs(p);
			}
			assert_close("linear", t * c->outputs + o, got[t * c->outputs + o], sum, 1e-6 * size_of_sum + 1e-6);
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
	static const enum math maths[] = {MATH_F32, MATH_BF16};
	struct dev *d = device(2, MATH_F32);
	int s, k, n = 0;

	(void)state;
	for (s = 0; s < 7; s++) {
		for (k = 0; k < 12; k++) {
			struct linear_case c = {shape[s][0], shape[s][1], shape[s][2], k & 1 ? BF16 : F32, weight_types[k / 2 % 3], maths[k / 6],
			                        n % 3 == 0, n % 5 < 2};

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
	struct linear_case c = {2, 1100, 8200, F32, BF16, MATH_F32, true, false};

	(void)state;
	check_linear(d, &c);
	dev_close(d);
}

static void
columns_beside_the_result_are_left_alone(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct host x = host_new(3, 10, F32, 1), w = host_new(4, 6, F32, 2), all = host_new(3, 9, F32, 3);
	struct mat xm = upload(d, &x), wm = upload(d, &w), am = upload(d, &all), y = mat_cols(&am, 2, 4), part = mat_cols(&xm, 3, 6);
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
	struct host x = host_new(tokens, heads * width, F32, 1), c = host_new(7, half, F32, 2), s = host_new(7, half, F32, 3);
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

/* ---- attention ---- */

struct attention_case {
	int heads, kv_heads, width;
	int64_t seqlen, sequences, window;
	float softcap;
	enum dtype out;
	enum math math;
};

/* Row t of head h, in double. */
static void
attention_row(double *y, const struct host *q, const struct host *k, const struct host *v, const struct attention *a, int64_t t, int h, enum dtype operand)
{
	int64_t kv = h / (a->heads / a->kv_heads), first = t - t % a->seqlen, s, i;
	double *score = test_malloc((size_t)(t - first + 1) * sizeof(*score)), total = 0, max = -INFINITY;

	if (a->window > 0 && first < t - a->window + 1)
		first = t - a->window + 1;
	for (s = first; s <= t; s++) {
		double *sum = &score[s - first];

		for (i = 0, *sum = 0; i < a->width; i++)
			*sum += round_to(q->v[(t * a->heads + h) * a->width + i], operand) * round_to(k->v[(s * a->kv_heads + kv) * a->width + i], operand);
		*sum *= (double)a->scale;
		if (a->softcap > 0)
			*sum = (double)a->softcap * tanh(*sum / (double)a->softcap);
		max = *sum > max ? *sum : max;
	}
	for (i = 0; i < a->width; i++)
		y[i] = 0;
	for (s = first; s <= t; s++) {
		double p = exp(score[s - first] - max);

		total += p;
		for (i = 0; i < a->width; i++)
			y[i] += p * round_to(v->v[(s * a->kv_heads + kv) * a->width + i], operand);
	}
	for (i = 0; i < a->width; i++)
		y[i] /= total;
	test_free(score);
}

static void
check_attention(struct dev *d, const struct attention_case *c)
{
	int64_t tokens = c->seqlen * c->sequences, t, i;
	struct host q = host_new(tokens, c->heads * c->width, F32, 1), k = host_new(tokens, c->kv_heads * c->width, F32, 2);
	struct host v = host_new(tokens, c->kv_heads * c->width, F32, 3);
	struct attention a = {c->heads, c->kv_heads, c->width, 1.5f / sqrtf((float)c->width), c->softcap, c->window, c->seqlen};
	struct mat qm = upload(d, &q), km = upload(d, &k), vm = upload(d, &v), y = dev_mat(d, c->out, tokens, c->heads * c->width);
	/* Weights of the sum are rounded to bf16 as well. */
	double tolerance = (c->math == MATH_BF16 ? 0x1p-8 : 1e-5) + (c->out == BF16 ? 0x1p-8 : 0);
	double *want = test_malloc((size_t)c->width * sizeof(*want)), *got;
	int h;

	dev_math(d, c->math);
	op_attention(d, &y, &qm, &km, &vm, &a);
	got = download(d, &y);
	for (t = 0; t < tokens; t += tokens > 300 ? 37 : 1) {
		for (h = 0; h < c->heads; h++) {
			attention_row(want, &q, &k, &v, &a, t, h, c->math == MATH_BF16 ? BF16 : F32);
			for (i = 0; i < c->width; i++)
				assert_close("attention", t, got[(t * c->heads + h) * c->width + i], want[i], tolerance * (fabs(want[i]) + 0.5));
		}
	}
	test_free(got);
	test_free(want);
	host_free(&q);
	host_free(&k);
	host_free(&v);
	dev_release(d, 0);
}

static void
attention_of_all_kinds(void **state)
{
	static const struct attention_case rows[] = {
		{1, 1, 1, 1, 1, 0, 0, F32, MATH_F32},
		{1, 1, 64, 1, 3, 0, 0, F32, MATH_F32},
		{2, 1, 5, 17, 2, 0, 0, F32, MATH_F32},
		{9, 3, 64, 129, 1, 0, 0, F32, MATH_F32},
		{4, 2, 32, 128, 2, 0, 0, BF16, MATH_F32},
		{4, 2, 32, 200, 1, 1, 0, F32, MATH_F32},
		{4, 2, 32, 300, 1, 7, 0, F32, MATH_F32},
		{2, 2, 16, 700, 1, 130, 0, F32, MATH_F32},
		{2, 2, 16, 1300, 1, 0, 0, F32, MATH_F32},
		{2, 1, 48, 260, 1, 0, 3, F32, MATH_F32},
		{9, 3, 64, 130, 1, 0, 0, F32, MATH_BF16},
		{2, 2, 17, 600, 1, 40, 2, BF16, MATH_BF16},
	};
	struct dev *d = device(2, MATH_F32);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		check_attention(d, &rows[i]);
	dev_close(d);
}

/* Scores so large that an exponential of their own would overflow. */
static void
attention_of_large_scores(void **state)
{
	struct dev *d = device(1, MATH_F32);
	float q[2] = {200, 200}, k[2] = {10, 12}, v[2] = {1, 3}, y[2];
	struct attention a = {1, 1, 1, 1, 0, 0, 2};
	struct mat qm = dev_view(d, F32, 2, 1, q), km = dev_view(d, F32, 2, 1, k), vm = dev_view(d, F32, 2, 1, v), ym = dev_mat(d, F32, 2, 1);

	(void)state;
	op_attention(d, &ym, &qm, &km, &vm, &a);
	dev_get(d, y, &ym);
	assert_good(d);
	assert_true(y[0] == 1);
	assert_true(y[1] == 3);
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
	struct mat x = dev_mat(d, F32, 1, N), y = dev_mat(d, F32, 1, N), half = dev_mat(d, BF16, 1, N), gated = dev_mat(d, F32, 1, N);
	int act, i;

	(void)state;
	for (i = 0; i < N; i++)
		v[i] = (float)((i - N / 2) * (i % 3 == 0 ? 0.1 : 0.002));
	dev_put(d, &x, v);
	for (act = ACT_NONE; act <= ACT_RELU; act++) {
		double *a, *b, *c;

		op_act(d, &y, &x, (enum act)act);
		op_act(d, &half, &x, (enum act)act);
		op_gated(d, &gated, &x, &x, (enum act)act);
		a = download(d, &y);
		b = download(d, &half);
		c = download(d, &gated);
		for (i = 0; i < N; i++) {
			double want = activation((enum act)act, v[i]);

			/* near -inf both GELUs are differences of two nearly equal numbers, in every fp32 implementation */
			assert_close("act", i, a[i], want, 6e-7 * fabs(want) + 1.2e-7 * fabs((double)v[i]));
			assert_close("act to BF16", i, b[i], round_to(a[i], BF16), 0);
			assert_close("gated", i, c[i], want * (double)v[i], 7e-7 * fabs(want * (double)v[i]) + 1.3e-7 * (double)(v[i] * v[i]));
		}
		test_free(a);
		test_free(b);
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

/* ---- nll ---- */

static void
check_nll(struct dev *d, int64_t seqlen, int64_t sequences, int64_t width, int64_t words, enum dtype head, bool bias, enum math math)
{
	int64_t tokens = seqlen * sequences, t, v, i;
	struct host x = host_new(tokens, width, F32, 1), w = host_new(words, width, head, 2), b = host_new(1, words, F32, 3);
	struct mat xm = upload(d, &x), wm = upload(d, &w), bm = upload(d, &b), ids = dev_mat(d, I32, 1, tokens), nll = dev_mat(d, F32, 1, tokens);
	enum dtype operand = math == MATH_BF16 ? BF16 : F32;
	int32_t *id = test_malloc((size_t)tokens * sizeof(*id));
	double *got;

	for (t = 0; t < tokens; t++)
		id[t] = (int32_t)((t * 7919 + 13) % words);
	dev_put(d, &ids, id);
	dev_math(d, math);
	op_nll(d, &nll, &xm, &wm, bias ? &bm : NULL, &ids, seqlen);
	got = download(d, &nll);
	for (t = 0; t < tokens; t++) {
		double total = 0, target = 0, score;

		for (v = 0; v < words; v++) {
			for (i = 0, score = bias ? b.v[v] : 0; i < width; i++)
				score += round_to(x.v[t * width + i], operand) * round_to(w.v[v * width + i], operand);
			total += exp(score);
			target = t % seqlen < seqlen - 1 && v == id[t + 1] ? score : target;
		}
		assert_close("nll", t, got[t], t % seqlen == seqlen - 1 ? 0 : log(total) - target, 1e-5 + 1e-6 * fabs(log(total)));
	}
	test_free(id);
	test_free(got);
	host_free(&x);
	host_free(&w);
	host_free(&b);
	dev_release(d, 0);
}

static void
losses_of_odd_shapes(void **state)
{
	struct dev *d = device(2, MATH_F32);

	(void)state;
	check_nll(d, 1, 1, 1, 1, F32, false, MATH_F32);
	check_nll(d, 2, 1, 3, 1, F32, true, MATH_F32);
	check_nll(d, 9, 30, 17, 300, BF16, true, MATH_F32);
	check_nll(d, 257, 1, 33, 1029, F16, false, MATH_F32);
	check_nll(d, 20, 2, 64, 777, BF16, false, MATH_BF16);
	check_nll(d, 3, 1, 9000, 600, BF16, false, MATH_F32);   /* a head of several panels */
	dev_close(d);
}

static void
words_beyond_the_head_are_told(void **state)
{
	struct dev *d = device(1, MATH_F32);
	int32_t id[2] = {0, -1};
	struct mat ids = dev_view(d, I32, 1, 2, id), head = dev_zeros(d, F32, 7, 4), x = dev_zeros(d, F32, 2, 4), nll = dev_mat(d, F32, 1, 2);

	(void)state;
	op_nll(d, &nll, &x, &head, NULL, &ids, 2);
	assert_int_equal(dev_status(d), E_DATA);
	assert_string_equal(err_text(), "nll: token 1 is id -1, and the head has 7 rows");
	dev_close(d);
}

/* ---- threads ---- */

/* A little of everything; and how many numbers it left. */
static void
everything(struct dev *d, float *out, size_t *count)
{
	enum { T = 600, D = 192, V = 700, SEQ = 300 };
	struct host x = host_new(T, D, F32, 1), w = host_new(3 * D, D, BF16, 2), v = host_new(1, D, F32, 3), head = host_new(V, D, F16, 4);
	struct host c = host_new(SEQ, 8, F32, 5), s = host_new(SEQ, 8, F32, 6);
	struct mat h = upload(d, &x), wm = upload(d, &w), y = dev_mat(d, F32, T, D), qkv = dev_mat(d, F32, T, 3 * D), hm = upload(d, &head);
	struct mat q = mat_cols(&qkv, 0, D), k = mat_cols(&qkv, D, D), u = mat_cols(&qkv, 2 * D, D), w1 = mat_rows(&wm, 0, D);
	struct mat half = dev_mat(d, BF16, T, D), ids = dev_zeros(d, I32, 1, T), nll = dev_mat(d, F32, 1, T);
	struct norm n = {.w = upload(d, &v), .eps = 1e-5f, .layer = true};
	struct rope r = {.cos = upload(d, &c), .sin = upload(d, &s)};
	struct attention a = {6, 6, 32, 0.2f, 0, 0, SEQ};

	op_norm(d, &y, &h, &n);
	op_linear(d, &qkv, &y, &wm, NULL, false);
	op_rope(d, &q, 6, &r, SEQ);
	op_attention(d, &y, &q, &k, &u, &a);
	op_linear(d, &h, &y, &w1, &n.w, true);
	op_gated(d, &half, &h, &y, ACT_GELU);
	op_linear(d, &h, &half, &w1, NULL, true);
	op_add(d, &h, &y, 0.25f);
	op_nll(d, &nll, &h, &hm, NULL, &ids, SEQ);
	dev_get(d, out, &h);
	dev_get(d, out + T * D, &nll);
	assert_good(d);
	*count = T * D + T;
	host_free(&x);
	host_free(&w);
	host_free(&v);
	host_free(&head);
	host_free(&c);
	host_free(&s);
}

static void
threads_do_not_show(void **state)
{
	static const enum math maths[] = {MATH_F32, MATH_BF16};
	static const int threads[] = {1, 2, 3, 7};
	float *one = test_malloc(600 * 1000 * sizeof(float)), *many = test_malloc(600 * 1000 * sizeof(float));
	struct dev *d;
	size_t n, m;
	int i, k;

	(void)state;
	for (k = 0; k < 2; k++) {
		for (i = 0; i < 4; i++) {
			d = device(threads[i], maths[k]);
			everything(d, i == 0 ? one : many, i == 0 ? &n : &m);
			dev_close(d);
			if (i > 0) {
				assert_int_equal(n, m);
				assert_memory_equal(one, many, n * sizeof(*one));
			}
		}
	}
	test_free(one);
	test_free(many);
}

/* ---- refusals ---- */

static void
mismatches_are_told(void **state)
{
	static const struct {
		int which;
		const char *text;
	} rows[] = {
		{0, "linear: w is F32 [4,6], wanted F32|F16|BF16 [any,5]"},
		{1, "linear: y is F32 [3,5], wanted F32 [3,4]"},
		{2, "linear: x is I32 [3,5], wanted F32|BF16 [any,any]"},
		{3, "linear: bias is F32 [1,5], wanted F32 [1,4]"},
		{4, "linear: w is missing"},
		{5, "norm_heads: the heads do not divide x's columns"},
		{6, "attention: seqlen does not divide the tokens"},
		{7, "attention: the key-value heads do not divide the heads"},
		{8, "rope: the tables are shorter than seqlen"},
		{9, "rope: more dimensions are rotated than a head has"},
		{10, "convert: y is U8 [3,5], wanted F32|F16|BF16|F64 [3,5]"},
		{11, "norm: w is F32 [3,5], wanted F32 [1,5]"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct dev *d = device(1, MATH_F32);
		struct mat x = dev_zeros(d, F32, 3, 5), w = dev_zeros(d, F32, 4, 5), y = dev_zeros(d, F32, 3, 4), b = dev_zeros(d, F32, 1, 5);
		struct mat wide = dev_zeros(d, F32, 4, 6), words = dev_zeros(d, I32, 3, 5), bytes = dev_zeros(d, U8, 3, 5), none = {0};
		struct norm n = {.w = b}, wrong = {.w = x};
		struct rope r = {.cos = w, .sin = w}, long_one = {.cos = b, .sin = b};
		struct attention a = {1, 1, 5, 1, 0, 0, 2}, odd = {5, 2, 1, 1, 0, 0, 3};

		switch (rows[i].which) {
		case 0: op_linear(d, &y, &x, &wide, NULL, false); break;
		case 1: op_linear(d, &x, &x, &w, NULL, false); break;
		case 2: op_linear(d, &y, &words, &w, NULL, false); break;
		case 3: op_linear(d, &y, &x, &w, &b, false); break;
		case 4: op_linear(d, &y, &x, &none, NULL, false); break;
		case 5: op_norm_heads(d, &x, &x, 2, &n); break;
		case 6: op_attention(d, &x, &x, &x, &x, &a); break;
		case 7: op_attention(d, &x, &x, &x, &x, &odd); break;
		case 8: r.cos.cols = r.sin.cols = 1; r.cos.rows = r.sin.rows = 2; op_rope(d, &x, 1, &r, 3); break;
		case 9: op_rope(d, &x, 1, &long_one, 1); break;
		case 10: op_convert(d, &bytes, &x); break;
		default: op_norm(d, &x, &x, &wrong); break;
		}
		assert_int_equal(dev_status(d), E_DATA);
		assert_string_equal(err_text(), rows[i].text);
		dev_close(d);
	}
}

static void
a_failed_device_computes_nothing(void **state)
{
	struct dev *d = device(1, MATH_F32);
	float ones[4] = {1, 1, 1, 1};
	struct mat x = dev_view(d, F32, 2, 2, ones), none = {0};

	(void)state;
	op_add(d, &x, &none, 1);
	op_add(d, &x, &x, 1);
	op_act(d, &x, &x, ACT_SILU);
	assert_true(ones[0] == 1 && ones[3] == 1);
	assert_int_equal(dev_status(d), E_DATA);
	assert_string_equal(err_text(), "add: x is missing");
	dev_close(d);
}

static void
nothing_to_do_is_fine(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct mat x = dev_mat(d, F32, 0, 8), w = dev_zeros(d, F32, 4, 8), y = dev_mat(d, F32, 0, 4), ids = dev_mat(d, I32, 1, 0);
	struct mat b = dev_zeros(d, F32, 1, 8), nll = dev_mat(d, F32, 1, 0), h = dev_zeros(d, F32, 8, 8);
	struct norm n = {.w = b};
	struct attention a = {2, 2, 4, 1, 0, 0, 5};

	(void)state;
	op_linear(d, &y, &x, &w, NULL, false);
	op_norm(d, &x, &x, &n);
	op_attention(d, &x, &x, &x, &x, &a);
	op_act(d, &x, &x, ACT_SILU);
	op_add(d, &x, &x, 1);
	op_embed(d, &x, &w, &ids);
	op_nll(d, &nll, &x, &w, NULL, &ids, 5);
	op_gram(d, &h, &x, NULL);
	assert_good(d);
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_conversion_rounds_to_even),
		cmocka_unit_test(middles_are_rounded_once),
		cmocka_unit_test(all_half_floats_survive),
		cmocka_unit_test(what_is_too_large_becomes_infinite),
		cmocka_unit_test(rows_of_the_table_are_taken),
		cmocka_unit_test(ids_beyond_the_table_are_told),
		cmocka_unit_test(norms_of_all_kinds),
		cmocka_unit_test(a_row_of_zeros_stays_zero),
		cmocka_unit_test(linears_of_all_types_and_odd_shapes),
		cmocka_unit_test(a_linear_wider_than_a_panel),
		cmocka_unit_test(columns_beside_the_result_are_left_alone),
		cmocka_unit_test(ropes_of_both_kinds),
		cmocka_unit_test(attention_of_all_kinds),
		cmocka_unit_test(attention_of_large_scores),
		cmocka_unit_test(activations_of_all_kinds),
		cmocka_unit_test(activations_of_extremes),
		cmocka_unit_test(sums_are_scaled),
		cmocka_unit_test(losses_of_odd_shapes),
		cmocka_unit_test(words_beyond_the_head_are_told),
		cmocka_unit_test(threads_do_not_show),
		cmocka_unit_test(mismatches_are_told),
		cmocka_unit_test(a_failed_device_computes_nothing),
		cmocka_unit_test(nothing_to_do_is_fine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
