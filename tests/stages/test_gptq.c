#include "tests/stages/solving.h"

enum { TOKENS = 500 };

static void
defaults_follow_the_presets(void **state)
{
	static const struct { const char *yaml, *format, *values[10]; } rows[] = {
		{"", "gptq", {"static", "0.05", "hessian", "unit", "0", "false", "false", "stored", "quantized", "true"}},
		{"{accuracy: high}", "gptq", {"static", "0.05", "hessian", "unit", "0.5", "false", "false", "stored", "quantized", "true"}},
		{"{accuracy: high, qep: 0.25}", "gptq",
		 {"static", "0.05", "hessian", "unit", "0.25", "false", "false", "stored", "quantized", "true"}},
		{"{preset: compat}", "gptq", {"none", "0.01", "minmax", "none", "0", "false", "false", "fp32", "quantized", "true"}},
		{"{preset: compat, actorder: static}", "compressed-tensors",
		 {"static", "0.01", "minmax", "none", "0", "false", "false", "stepwise", "quantized", "true"}},
		{"{preset: compat, desc_act: true}", "gptq",
		 {"group", "0.01", "minmax", "none", "0", "true", "false", "fp32", "quantized", "true"}},
		{"{desc_act: true}", "gptq", {"group", "0.05", "hessian", "unit", "0", "true", "false", "stored", "quantized", "true"}},
		{"{desc_act: true, static_groups: true}", "gptq",
		 {"static", "0.05", "hessian", "unit", "0", "false", "true", "stored", "quantized", "true"}},
		{"{actorder: group}", "gptq", {"group", "0.05", "hessian", "unit", "0", "true", "false", "stored", "quantized", "true"}},
		{"{actorder: none, static_groups: true, propagate: original}", "gptq",
		 {"none", "0.05", "hessian", "unit", "0", "false", "true", "stored", "original", "true"}},
	};
	static const char *const names[] = {"actorder", "damp_percent", "scale_search", "token_weight", "qep", "desc_act", "static_groups",
	                                    "rounding", "propagate", "true_sequential"};
	struct buf b = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct configured c;

		configure(&c, "gptq", rows[i].yaml, rows[i].format);
		assert_int_equal(c.d.n, 0);
		for (size_t k = 0; k < 10; k++)
			assert_string_equal(value(&c, names[k], &b), rows[i].values[k]);
		configured_end(&c);
	}
	buf_release(&b);
}

static void
contradictions_are_refused(void **state)
{
	static const struct { const char *yaml, *error; } rows[] = {
		{"{group_size: 0}", "quantize.group_size: 0 is no size of a group; -1 is one group a row"},
		{"{desc_act: true, actorder: none}", "quantize.actorder: none contradicts desc_act: true; leave one of them out"},
		{"{desc_act: true, actorder: static}",
		 "quantize.actorder: static contradicts desc_act: true, which means actorder: group; "
		 "leave desc_act out, or add static_groups: true"},
		{"{actorder: group, static_groups: true}",
		 "quantize.static_groups: true contradicts actorder: group, whose groups follow the order; "
		 "actorder: static is an order with static groups"},
		{"{qep: 0.5, propagate: original}",
		 "quantize.qep: 0.5 makes up for the error of the quantized layers before, which "
		 "propagate: original never sees; set one of them back"},
		{"{accuracy: high, propagate: original}",
		 "quantize.qep: 0.5 makes up for the error of the quantized layers before, which "
		 "propagate: original never sees; set one of them back"},
		{"{preset: compat, accuracy: high}",
		 "quantize.accuracy: high contradicts preset: compat, which follows the other tools"},
		{"{preset: compat, token_weight: unit}",
		 "quantize.token_weight: unit contradicts preset: compat, which follows the other tools"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct configured c;
		char *want = mem_format("r.yaml:4:1: %s", rows[i].error);

		configure(&c, "gptq", rows[i].yaml, "gptq");
		assert_int_equal(c.d.n, 1);
		assert_string_equal(c.d.v[0], want);
		free(want);
		configured_end(&c);
	}
}

static void
wishes_follow_the_parameters(void **state)
{
	static const struct { const char *yaml; struct calibration_wish w; } rows[] = {
		{"", {NEED_GRAM, false, true, true, false, MATH_AUTO}},
		{"{accuracy: high, true_sequential: false}", {NEED_GRAM | NEED_CROSS, false, false, true, false, MATH_AUTO}},
		{"{preset: compat, desc_act: true}", {NEED_GRAM, false, true, false, true, MATH_F32}},
		{"{actorder: group, propagate: original}", {NEED_GRAM, true, true, true, true, MATH_AUTO}},
		{"{desc_act: true, static_groups: true}", {NEED_GRAM, false, true, true, false, MATH_AUTO}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct calibration_wish *w = &rows[i].w;
		struct calibration_wish got;
		struct configured c;

		configure(&c, "gptq", rows[i].yaml, "gptq");
		c.m->wish(c.params, &got);
		assert_int_equal(got.needs, w->needs);
		assert_int_equal(got.original, w->original);
		assert_int_equal(got.true_sequential, w->true_sequential);
		assert_int_equal(got.unit, w->unit);
		assert_int_equal(got.ordered, w->ordered);
		assert_int_equal(got.math, w->math);
		configured_end(&c);
	}
}

/* Every recipe is the operations it says, and none is worse than rounding. */
static void
recipes_choose_their_operations(void **state)
{
	static const struct { const char *yaml; struct how how; bool in_order; } rows[] = {
		{"", {.by_diag = true, .static_groups = true, .damp = 0.05, .type = F32, .g.search = SEARCH_WEIGHTED}, true},
		{"{actorder: none}", {.damp = 0.05, .type = F32, .g.search = SEARCH_WEIGHTED}, true},
		{"{actorder: none, static_groups: true, scale_search: mse}",
		 {.static_groups = true, .damp = 0.05, .type = F32, .g.search = SEARCH_MSE}, true},
		{"{desc_act: true, damp_percent: 0.1}", {.by_diag = true, .damp = 0.1, .type = F32, .g.search = SEARCH_WEIGHTED}, false},
		{"{preset: compat}", {.stale = true, .damp = 0.01, .type = F64, .g.rounding = ROUND_FP32}, true},
		{"{preset: compat, desc_act: true}",
		 {.by_diag = true, .stale = true, .damp = 0.01, .type = F64, .g.rounding = ROUND_FP32}, false},
		{"{preset: compat, actorder: static, rounding: stepwise}",
		 {.by_diag = true, .static_groups = true, .damp = 0.01, .type = F64, .g.rounding = ROUND_STEPWISE, .stale = true}, true},
	};
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(40, 160, TOKENS, 12);

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct answer a = answer_new(p.O, p.n, 32), want = answer_new(p.O, p.n, 32), r = answer_new(p.O, p.n, 32);
		struct grid g = {.bits = 4, .group = 32, .sym = true, .stored = F32}, nearest = g;
		struct how how = rows[i].how;
		struct configured c;
		struct solved s;
		double loss = 0;

		configure(&c, "gptq", rows[i].yaml, "gptq");
		assert_int_equal(solve_site(d, &a, &s, &c, &p, TOKENS, NULL, &g), 0);
		g.search = how.g.search;
		g.rounding = how.g.rounding;
		how.g = g;
		solve_here(d, &want, &p, &how);
		assert_int_equal(codes_that_differ(&a, &want), 0);
		assert_memory_equal(a.scale, want.scale, (size_t)(p.O * a.groups) * sizeof(float));
		assert_memory_equal(a.group_of, want.group_of, (size_t)p.n * sizeof(int32_t));
		assert_int_equal(s.in_order, rows[i].in_order);
		assert_true(s.damp == how.damp);
		assert_int_equal(s.dead, 0);
		assert_string_equal(s.fallback, "");
		for (int64_t o = 0; o < p.O; o++) {
			double exact = row_loss(&p, p.w, &a, o) / TOKENS;

			assert_close("loss", o, a.loss[o], exact, 1e-3 * exact);
			loss += a.loss[o];
		}
		round_here(d, &r, &p, &nearest);
		assert_true(loss < 0.6 * total_loss(&p, &r) / TOKENS);
		answer_free(&a);
		answer_free(&want);
		answer_free(&r);
		configured_end(&c);
	}
	problem_free(&p);
	dev_close(d);
}

/* Scales are rounded before codes are chosen: storing them afterwards changes nothing. */
static void
stored_scales_lose_nothing(void **state)
{
	static const enum dtype types[] = {F16, BF16};
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(40, 128, TOKENS, 2);

	(void)state;
	for (size_t k = 0; k < 8; k++) {
		struct answer a = answer_new(p.O, p.n, 64);
		struct grid g = {.bits = k / 4 ? 8 : 4, .group = 64, .sym = k / 2 % 2, .stored = types[k % 2]};
		struct configured c;
		struct solved s;
		double kept = 0, stored = 0;

		configure(&c, "gptq", "", "gptq");
		assert_int_equal(solve_site(d, &a, &s, &c, &p, TOKENS, NULL, &g), 0);
		for (int64_t o = 0; o < p.O; o++)
			kept += a.loss[o] * TOKENS;
		for (int64_t i = 0; i < p.O * a.groups; i++)
			a.scale[i] = (float)round_to((double)a.scale[i], g.stored);
		stored = total_loss(&p, &a);
		assert_true(fabs(stored - kept) <= 1e-4 * kept);
		answer_free(&a);
		configured_end(&c);
	}
	problem_free(&p);
	dev_close(d);
}

static void
fewer_tokens_than_inputs_raise_the_damping(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(10, 64, 20, 2);
	struct answer a = answer_new(p.O, p.n, 32);
	struct grid g = {.bits = 4, .group = 32, .sym = true, .stored = F16};
	struct configured c;
	struct solved s;

	(void)state;
	memset(p.h, 0, (size_t)(64 * 64) * sizeof(*p.h));
	for (int i = 0; i < 64 * 64; i++)
		p.h[i] = (float)((i / 64 % 20 == i % 64 % 20) * 4);      /* inputs that repeat every 20 */
	configure(&c, "gptq", "{damp_percent: 0}", "gptq");
	assert_int_equal(solve_site(d, &a, &s, &c, &p, 20, NULL, &g), 0);
	assert_true(s.damp == 0.01);
	assert_string_equal(s.fallback, "damp raised from 0 to 0.01, where the statistics become positive definite");
	configured_end(&c);
	configure(&c, "gptq", "{damp_percent: 0, damp_auto_increment: 0}", "gptq");
	assert_int_equal(solve_site(d, &a, &s, &c, &p, 20, NULL, &g), E_NUMERIC);
	assert_non_null(strstr(err_text(), "the statistics are not positive definite, with damp up to 0; "
	                                   "set damp_auto_increment, or more damp_percent: "));
	configured_end(&c);
	for (int i = 0; i < 64; i++)
		p.h[i * 65] = -4;
	configure(&c, "gptq", "{damp_auto_increment: 0.5}", "gptq");
	assert_int_equal(solve_site(d, &a, &s, &c, &p, 20, NULL, &g), E_NUMERIC);
	assert_non_null(strstr(err_text(), "the statistics are not positive definite, with damp up to 0.55; calibrate with more tokens: "));
	configured_end(&c);
	assert_good(d);
	answer_free(&a);
	problem_free(&p);
	dev_close(d);
}

static void
without_tokens_it_rounds_to_nearest(void **state)
{
	static const char *const recipes[] = {"", "{preset: compat}"};
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(10, 64, 20, 2);

	(void)state;
	for (size_t k = 0; k < 4; k++) {
		struct answer a = answer_new(p.O, p.n, 32), r = answer_new(p.O, p.n, 32);
		struct grid g = {.bits = 4, .group = 32, .sym = true, .stored = F16};
		struct configured c;
		struct solved s;

		if (k >= 2)
			memset(p.h, 0, (size_t)(64 * 64) * sizeof(*p.h));
		configure(&c, "gptq", recipes[k % 2], "gptq");
		assert_int_equal(solve_site(d, &a, &s, &c, &p, k < 2 ? 0 : 20, NULL, &g), 0);
		assert_string_equal(s.fallback, "rounded to nearest: no calibration token reached these weights");
		assert_int_equal(s.dead, 64);
		assert_true(s.in_order);
		assert_int_equal(g.search, k % 2 ? SEARCH_MINMAX : SEARCH_MSE);
		round_here(d, &r, &p, &g);
		assert_int_equal(codes_that_differ(&a, &r), 0);
		assert_true(a.loss[0] > 0);
		answer_free(&a);
		answer_free(&r);
		configured_end(&c);
	}
	problem_free(&p);
	dev_close(d);
}

/* Inputs that no token reached keep their rounded weights; compat drops them, as the peers do. */
static void
dead_inputs_are_counted(void **state)
{
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (int compat = 0; compat < 2; compat++) {
		struct problem p = problem_new(20, 64, TOKENS, 2);
		struct answer a = answer_new(p.O, p.n, 32);
		struct grid g = {.bits = 4, .group = 32, .sym = true, .stored = F16};
		struct configured c;
		struct solved s;
		int64_t kept = 0;

		for (int64_t i = 0; i < 64; i++)
			p.h[7 * 64 + i] = p.h[i * 64 + 7] = p.h[40 * 64 + i] = p.h[i * 64 + 40] = 0;
		configure(&c, "gptq", compat ? "{preset: compat}" : "", "gptq");
		assert_int_equal(solve_site(d, &a, &s, &c, &p, TOKENS, NULL, &g), 0);
		assert_int_equal(s.dead, 2);
		for (int64_t o = 0; o < p.O; o++) {
			kept += (a.code[o * 64 + 7] != 8) + (a.code[o * 64 + 40] != 8);
			if (!compat)
				assert_int_equal(a.code[o * 64 + 7],
				                 fmax(0, fmin(15, nearbyint((double)(p.w[o * 64 + 7] / a.scale[o * 2])) + 8)));
		}
		assert_true(compat ? kept == 0 : kept > p.O);
		answer_free(&a);
		problem_free(&p);
		configured_end(&c);
	}
	dev_close(d);
}

static void
statistics_that_overflow_are_named(void **state)
{
	struct dev *d = device(1, MATH_F32);
	struct problem p = problem_new(3, 8, 20, 3);
	struct grid g = {.bits = 4, .group = 8, .sym = true, .stored = F16};
	struct answer a = answer_new(3, 8, 8);
	float cross[8 * 8] = {[4 * 9] = NAN};
	struct configured c;
	struct solved s;

	(void)state;
	configure(&c, "gptq", "{qep: 0.5}", "gptq");
	assert_int_equal(solve_site(d, &a, &s, &c, &p, 20, cross, &g), E_NUMERIC);
	assert_string_equal(err_text(), "the activations of input 4 overflow: their energy is not finite");
	configured_end(&c);
	p.h[5 * 9] = INFINITY;
	configure(&c, "gptq", "", "gptq");
	assert_int_equal(solve_site(d, &a, &s, &c, &p, 20, NULL, &g), E_NUMERIC);
	assert_string_equal(err_text(), "the activations of input 5 overflow: their energy is not finite");
	dev_math(d, MATH_F16);
	assert_int_equal(solve_site(d, &a, &s, &c, &p, 20, NULL, &g), E_NUMERIC);
	assert_string_equal(err_text(), "the activations of input 5 overflow: their energy is not finite; float16 ends at 65504: "
	                    "try calibration.dtype: bfloat16");
	configured_end(&c);
	answer_free(&a);
	problem_free(&p);
	dev_close(d);
}

/* Two streams of T tokens: original f and quantized x, n wide. */
struct streams {
	int64_t T, n;
	double *f, *x;
};

static struct streams
streams_new(int64_t T, int64_t n, double apart)
{
	struct streams s = {T, n, mem_new((size_t)(T * n), sizeof(double)), mem_new((size_t)(T * n), sizeof(double))};
	uint64_t seed = 5;

	for (int64_t k = 0; k < T * n; k++) {
		s.f[k] = number(&seed) + (k % n ? 0.5 * s.f[k - 1] : 0);
		s.x[k] = s.f[k] + apart * (number(&seed) + (k % n ? 0.3 * s.f[k - 1] : 0));
	}
	return s;
}

static void
streams_stats(const struct streams *s, float *gram, float *cross)
{
	for (int64_t i = 0; i < s->n; i++)
		for (int64_t j = 0; j < s->n; j++) {
			double h = 0, c = 0;

			for (int64_t t = 0; t < s->T; t++) {
				h += s->x[t * s->n + i] * s->x[t * s->n + j];
				c += (s->f[t * s->n + i] - s->x[t * s->n + i]) * s->x[t * s->n + j];
			}
			gram[i * s->n + j] = (float)h;
			cross[i * s->n + j] = (float)c;
		}
}

/* sum over tokens of |W f - Q x|^2 */
static double
distance(const struct streams *s, const struct problem *p, const struct answer *a)
{
	double sum = 0;

	for (int64_t o = 0; o < p->O; o++)
		for (int64_t t = 0; t < s->T; t++) {
			double e = 0;

			for (int64_t i = 0; i < s->n; i++)
				e += (double)p->w[o * s->n + i] * s->f[t * s->n + i] - value_of(a, o, i) * s->x[t * s->n + i];
			sum += e * e;
		}
	return sum;
}

static void
qep_brings_outputs_nearer_to_the_original_ones(void **state)
{
	static const char *const recipes[] = {"", "{accuracy: high}", "{qep: 1, qep_damp: 0.001}"};
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(30, 48, TOKENS, 2);
	struct streams s = streams_new(TOKENS, 48, 0.3), same = streams_new(TOKENS, 48, 0);
	float *cross = mem_new(48 * 48, sizeof(*cross));
	struct answer a[3], b[3];
	double far[3];

	(void)state;
	for (int k = 0; k < 3; k++) {
		struct grid g = {.bits = 4, .group = 16, .sym = true, .stored = F16};
		struct configured c;
		struct solved r;

		a[k] = answer_new(p.O, p.n, 16);
		b[k] = answer_new(p.O, p.n, 16);
		configure(&c, "gptq", recipes[k], "gptq");
		streams_stats(&s, p.h, cross);
		assert_int_equal(solve_site(d, &a[k], &r, &c, &p, TOKENS, cross, &g), 0);
		far[k] = distance(&s, &p, &a[k]);
		for (int64_t o = 0; o < p.O; o++) {
			double exact = row_loss(&p, p.w, &a[k], o) / TOKENS;

			assert_close("loss of the original weights", o, a[k].loss[o], exact, 1e-3 * exact);
		}
		streams_stats(&same, p.h, cross);      /* equal streams: nothing to make up for */
		assert_int_equal(solve_site(d, &b[k], &r, &c, &p, TOKENS, cross, &g), 0);
		assert_int_equal(codes_that_differ(&b[k], &b[0]), 0);
		configured_end(&c);
	}
	assert_true(far[1] < 0.95 * far[0]);
	assert_true(far[2] < far[1]);
	for (int k = 0; k < 3; k++) {
		answer_free(&a[k]);
		answer_free(&b[k]);
	}
	free(cross);
	free(s.f);
	free(s.x);
	free(same.f);
	free(same.x);
	problem_free(&p);
	dev_close(d);
}

static void
methods_are_found_by_name(void **state)
{
	(void)state;
	assert_string_equal(method_names(), "gptq rtn");
	for (size_t i = 0; methods[i]; i++)
		assert_ptr_equal(method_find(methods[i]->name), methods[i]);
	assert_null(method_find("awq"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_follow_the_presets),
		cmocka_unit_test(contradictions_are_refused),
		cmocka_unit_test(wishes_follow_the_parameters),
		cmocka_unit_test(recipes_choose_their_operations),
		cmocka_unit_test(stored_scales_lose_nothing),
		cmocka_unit_test(fewer_tokens_than_inputs_raise_the_damping),
		cmocka_unit_test(without_tokens_it_rounds_to_nearest),
		cmocka_unit_test(dead_inputs_are_counted),
		cmocka_unit_test(statistics_that_overflow_are_named),
		cmocka_unit_test(qep_brings_outputs_nearer_to_the_original_ones),
		cmocka_unit_test(methods_are_found_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
