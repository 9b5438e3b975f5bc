#include "tests/kernels/data.h"

/* ---- threads ---- */

/* A little of everything; and how many numbers it left. */
static void
everything(struct dev *d, float *out, size_t *count)
{
	enum { T = 600, D = 192, V = 700, SEQ = 300 };
	struct host x = host_new(T, D, F32, 1), w = host_new(3 * D, D, BF16, 2), v = host_new(1, D, F32,
	                                                                                      3), head = host_new(V,
	                                                                                                          D, F16, 4);
	struct host c = host_new(SEQ, 8, F32, 5), s = host_new(SEQ, 8, F32, 6);
	struct mat h = upload(d, &x), wm = upload(d, &w), y = dev_mat(d, F32, T, D), qkv = dev_mat(d, F32, T,
	                                                                                           3 * D), hm = upload(d, &head);
	struct mat q = mat_cols(&qkv, 0, D), k = mat_cols(&qkv, D, D), u = mat_cols(&qkv, 2 * D,
	                                                                            D), w1 = mat_rows(&wm, 0, D);
	struct mat half = dev_mat(d, dev_operand(d) == F16 ? F16 : BF16, T, D), ids = dev_zeros(d, I32, 1, T), nll = dev_mat(d, F32, 1, T);
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
	static const enum math maths[] = {MATH_F32, MATH_BF16, MATH_F16};
	static const int threads[] = {1, 2, 3, 7};
	float *one = test_malloc(600 * 1000 * sizeof(float)), *many = test_malloc(600 * 1000 * sizeof(float));
	struct dev *d;
	size_t n, m;
	int i, k;

	(void)state;
	for (k = 0; k < 3; k++) {
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
		{2, "linear: x is I32 [3,5], wanted F32|F16|BF16 [any,any]"},
		{3, "linear: bias is F32 [1,5], wanted F32 [1,4]"},
		{4, "linear: w is missing"},
		{5, "norm_heads: the heads do not divide x's columns"},
		{6, "attention: seqlen does not divide the tokens"},
		{7, "attention: the key-value heads do not divide the heads"},
		{8, "rope: the tables are shorter than seqlen"},
		{9, "rope: more dimensions are rotated than a head has"},
		{10, "convert: y is U8 [3,5], wanted F32|F16|BF16|F64 [3,5]"},
		{11, "norm: w is F32 [3,5], wanted F32 [1,5]"},
		{12, "attention: the scale is not positive"},
		{13, "add: x is not aligned"},
		{14, "linear: x is not aligned"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct dev *d = device(1, MATH_F32);
		struct mat x = dev_zeros(d, F32, 3, 5), w = dev_zeros(d, F32, 4, 5), y = dev_zeros(d, F32, 3,
		                                                                                   4), b = dev_zeros(d, F32, 1, 5);
		struct mat wide = dev_zeros(d, F32, 4, 6), words = dev_zeros(d, I32, 3, 5), bytes = dev_zeros(d, U8,
		                                                                                              3, 5), none = {0};
		struct mat shifted = {.p = (char *)y.p + 1, .rows = 2, .cols = 2, .ld = 2, .type = F32}, small = mat_cols(&y, 0, 2);
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
		case 12: a.scale = 0; op_attention(d, &x, &x, &x, &x, &a); break;
		case 13: small = mat_rows(&small, 0, 2); op_add(d, &small, &shifted, 1); break;
		case 14: shifted.type = F16; op_linear(d, &y, &shifted, &w, NULL, false); break;
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
	struct mat x = dev_mat(d, F32, 0, 8), w = dev_zeros(d, F32, 4, 8), y = dev_mat(d, F32, 0,
	                                                                               4), ids = dev_mat(d, I32, 1,
	                                                                                                 0);
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
		cmocka_unit_test(threads_do_not_show),
		cmocka_unit_test(mismatches_are_told),
		cmocka_unit_test(a_failed_device_computes_nothing),
		cmocka_unit_test(nothing_to_do_is_fine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
