#include "tests/stages/solving.h"

static void
rounding_follows_preset_and_format(void **state)
{
	static const struct { const char *yaml, *format, *rounding; } rows[] = {
		{"", "gptq", "stored"},
		{"", "compressed-tensors", "stored"},
		{"{preset: compat}", "gptq", "fp32"},
		{"{preset: compat}", "compressed-tensors", "stepwise"},
		{"{preset: compat, rounding: stored}", "gptq", "stored"},
		{"{rounding: fp32}", "compressed-tensors", "fp32"},
	};
	struct buf b = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct configured c;

		configure(&c, "rtn", rows[i].yaml, rows[i].format);
		assert_int_equal(c.d.n, 0);
		assert_string_equal(value(&c, "rounding", &b), rows[i].rounding);
		assert_string_equal(value(&c, "scale_search", &b), "minmax");
		configured_end(&c);
	}
	buf_release(&b);
}

static void
asks_for_nothing(void **state)
{
	struct configured c;
	struct calibration_wish wish;
	int64_t group;
	bool sym;
	int bits;

	(void)state;
	configure(&c, "rtn", "{bits: 3, group_size: -1, sym: false}", "gptq");
	c.m->wish(c.params, &wish);
	c.m->defaults(c.params, &bits, &group, &sym);
	assert_int_equal(wish.needs, 0);
	assert_false(wish.ordered);
	assert_int_equal(bits, 3);
	assert_int_equal(group, -1);
	assert_false(sym);
	configured_end(&c);
}

static void
wrong_settings_are_refused(void **state)
{
	struct configured c;

	(void)state;
	configure(&c, "rtn", "{group_size: 0}", "gptq");
	assert_int_equal(c.d.n, 1);
	assert_string_equal(c.d.v[0], "r.yaml:4:1: quantize.group_size: 0 is no size of a group; -1 is one group a row");
	configured_end(&c);
}

static void
rounds_to_nearest_and_tells_the_error(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(150, 96, 1, 3);
	double least[2] = {0};

	(void)state;
	for (int search = 0; search < 2; search++) {
		struct configured c;
		struct solved s;
		struct grid g = {.bits = 3, .group = 32, .sym = true, .stored = F16};
		struct answer a = answer_new(p.O, p.n, 32), r = answer_new(p.O, p.n, 32);

		configure(&c, "rtn", search ? "{scale_search: mse}" : "", "gptq");
		assert_int_equal(solve_site(d, &a, &s, &c, &p, 0, NULL, &g), 0);
		assert_true(s.in_order);
		assert_string_equal(s.fallback, "");
		assert_int_equal(g.search, search ? SEARCH_MSE : SEARCH_MINMAX);
		assert_int_equal(g.rounding, ROUND_STORED);
		round_here(d, &r, &p, &g);
		assert_int_equal(codes_that_differ(&a, &r), 0);
		for (int64_t o = 0; o < p.O; o++) {
			double want = 0;

			for (int64_t i = 0; i < p.n; i++)
				want += pow((double)p.w[o * p.n + i] - value_of(&a, o, i), 2);
			assert_close("loss", o, a.loss[o], want, 1e-6 * want);
			least[search] += want;
		}
		answer_free(&a);
		answer_free(&r);
		configured_end(&c);
	}
	assert_true(least[1] < least[0]);
	problem_free(&p);
	dev_close(d);
}

static void
weights_that_are_not_finite_are_an_error(void **state)
{
	struct dev *d = device(1, MATH_F32);
	struct problem p = problem_new(3, 8, 1, 3);
	struct grid g = {.bits = 4, .group = 8, .sym = true, .stored = F16};
	struct answer a = answer_new(3, 8, 8);
	struct configured c;
	struct solved s;

	(void)state;
	p.w[9] = INFINITY;
	configure(&c, "rtn", "", "gptq");
	assert_int_equal(solve_site(d, &a, &s, &c, &p, 0, NULL, &g), E_NUMERIC);
	assert_string_equal(err_text(), "row 1 of the weights holds a value that is not finite");
	configured_end(&c);
	answer_free(&a);
	problem_free(&p);
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rounding_follows_preset_and_format),
		cmocka_unit_test(asks_for_nothing),
		cmocka_unit_test(wrong_settings_are_refused),
		cmocka_unit_test(rounds_to_nearest_and_tells_the_error),
		cmocka_unit_test(weights_that_are_not_finite_are_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
