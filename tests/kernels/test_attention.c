#include "tests/kernels/data.h"

struct attention_case {
	int heads, kv_heads, width;
	int64_t seqlen, sequences, window;
	float softcap;
	enum dtype out;
	enum math math;
};

/* Row t of head h, in double. */
static void
attention_row(double *y, const struct host *q, const struct host *k, const struct host *v, const struct attention *a,
              int64_t t, int h, enum dtype operand)
{
	int64_t kv = h / (a->heads / a->kv_heads), first = t - t % a->seqlen, s, i;
	double *score = test_malloc((size_t)(t - first + 1) * sizeof(*score)), total = 0, max = -INFINITY;

	if (a->window > 0 && first < t - a->window + 1)
		first = t - a->window + 1;
	for (s = first; s <= t; s++) {
		double *sum = &score[s - first];

		for (i = 0, *sum = 0; i < a->width; i++)
			*sum += round_to(q->v[(t * a->heads + h) * a->width + i], operand)
			        * round_to(k->v[(s * a->kv_heads + kv) * a->width + i], operand);
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
	struct host q = host_new(tokens, c->heads * c->width, F32, 1), k = host_new(tokens, c->kv_heads * c->width,
	                                                                            F32, 2);
	struct host v = host_new(tokens, c->kv_heads * c->width, F32, 3);
	struct attention a = {c->heads, c->kv_heads, c->width, 1.5f / sqrtf((float)c->width), c->softcap, c->window,
	                      c->seqlen};
	struct mat qm = upload(d, &q), km = upload(d, &k), vm = upload(d, &v), y = dev_mat(d, c->out, tokens,
	                                                                                   c->heads * c->width);
	/* Weights of the sum are rounded as well. */
	double tolerance = (c->math == MATH_F32 ? 1e-5 : step_of(operand_of(c->math))) + (c->out == F32 ? 0 : step_of(c->out));
	double *want = test_malloc((size_t)c->width * sizeof(*want)), *got;
	int h;

	dev_math(d, c->math);
	op_attention(d, &y, &qm, &km, &vm, &a);
	got = download(d, &y);
	for (t = 0; t < tokens; t += tokens > 300 ? 37 : 1) {
		for (h = 0; h < c->heads; h++) {
			attention_row(want, &q, &k, &v, &a, t, h, operand_of(c->math));
			for (i = 0; i < c->width; i++)
				assert_close("attention", t, got[(t * c->heads + h) * c->width + i], want[i],
				             tolerance * (fabs(want[i]) + 0.5));
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
		{4, 2, 128, 290, 1, 0, 0, BF16, MATH_BF16},
		{2, 1, 128, 200, 1, 70, 3, F32, MATH_BF16},
		{2, 1, 192, 150, 2, 0, 0, F32, MATH_BF16},
		{2, 1, 250, 150, 1, 0, 0, BF16, MATH_BF16},
		{4, 2, 32, 128, 2, 0, 0, F16, MATH_F32},
	};
	struct dev *d = device(2, MATH_F32);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct attention_case half = rows[i];

		check_attention(d, &rows[i]);
		half.math = MATH_F16;
		half.out = half.out == BF16 ? F16 : half.out;
		if (rows[i].math == MATH_BF16)
			check_attention(d, &half);
	}
	dev_close(d);
}

/* Scores so large that an exponential of their own would overflow. */
static void
attention_of_large_scores(void **state)
{
	struct dev *d = device(1, MATH_F32);
	float q[2] = {200, 200}, k[2] = {10, 12}, v[2] = {1, 3}, y[2];
	struct attention a = {1, 1, 1, 1, 0, 0, 2};
	struct mat qm = dev_view(d, F32, 2, 1, q), km = dev_view(d, F32, 2, 1, k), vm = dev_view(d, F32, 2, 1,
	                                                                                         v), ym = dev_mat(d,
	                                                                                                          F32, 2, 1);

	(void)state;
	op_attention(d, &ym, &qm, &km, &vm, &a);
	dev_get(d, y, &ym);
	assert_good(d);
	assert_true(y[0] == 1);
	assert_true(y[1] == 3);
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attention_of_all_kinds),
		cmocka_unit_test(attention_of_large_scores),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
