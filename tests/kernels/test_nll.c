#include "tests/kernels/data.h"

static void
check_nll(struct dev *d, int64_t seqlen, int64_t sequences, int64_t width, int64_t words, enum dtype head, bool bias,
          enum math math)
{
	int64_t tokens = seqlen * sequences, t, v, i;
	struct host x = host_new(tokens, width, F32, 1), w = host_new(words, width, head, 2), b = host_new(1, words,
	                                                                                                   F32, 3);
	struct mat xm = upload(d, &x), wm = upload(d, &w), bm = upload(d, &b), ids = dev_mat(d, I32, 1,
	                                                                                     tokens), nll = dev_mat(d, F32, 1, tokens);
	enum dtype operand = operand_of(math);
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
				score += round_to(x.v[t * width + i], operand) * round_to(w.v[v * width + i],
				                                                          operand);
			total += exp(score);
			target = t % seqlen < seqlen - 1 && v == id[t + 1] ? score : target;
		}
		assert_close("nll", t, got[t], t % seqlen == seqlen - 1 ? 0 : log(total) - target,
		             1e-5 + 1e-6 * fabs(log(total)));
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
	check_nll(d, 20, 2, 64, 777, F16, false, MATH_F16);
	check_nll(d, 9, 30, 17, 300, BF16, true, MATH_F16);
	check_nll(d, 3, 1, 9000, 600, BF16, false, MATH_F32);   /* a head of several panels */
	check_nll(d, 3, 1, 3, 70000, BF16, true, MATH_BF16);    /* several panels of words */
	check_nll(d, 3, 1, 3, 70000, F16, true, MATH_F16);
	check_nll(d, 1100, 2, 2, 5, F32, false, MATH_F32);      /* several chunks of tokens */
	dev_close(d);
}

static void
words_beyond_the_head_are_told(void **state)
{
	struct dev *d = device(1, MATH_F32);
	int32_t id[2] = {0, -1};
	struct mat ids = dev_view(d, I32, 1, 2, id), head = dev_zeros(d, F32, 7, 4), x = dev_zeros(d, F32, 2,
	                                                                                           4), nll = dev_mat(d, F32, 1, 2);

	(void)state;
	op_nll(d, &nll, &x, &head, NULL, &ids, 2);
	assert_int_equal(dev_status(d), E_DATA);
	assert_string_equal(err_text(), "nll: token 1 is id -1, and the head has 7 rows");
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(losses_of_odd_shapes),
		cmocka_unit_test(words_beyond_the_head_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
