#include "tests/kernels/quant.h"

#include <jansson.h>

enum { STATIC, STATIC_ORDER, FRESH, FRESH_ORDER, STALE, STALE_ORDER, KINDS };

static struct how
kind(int k, int bits, int64_t group, bool sym)
{
	return (struct how){
		.g = {.bits = bits, .group = group, .sym = sym, .stored = F32}, .damp = 0.01, .type = F64,
		.by_diag = k % 2, .static_groups = k < FRESH, .stale = k >= STALE,
	};
}

/* The reference begins with what the device was given or found. */
static struct answer
reference_of(const struct answer *a, int64_t group)
{
	struct answer ref = answer_new(a->O, a->n, group);

	memcpy(ref.scale, a->scale, (size_t)(a->O * a->groups) * sizeof(float));
	memcpy(ref.zero, a->zero, (size_t)(a->O * a->groups));
	memcpy(ref.group_of, a->group_of, (size_t)a->n * sizeof(int32_t));
	memcpy(ref.order, a->order, (size_t)a->n * sizeof(int32_t));
	return ref;
}

static void
codes_are_those_of_elimination(void **state)
{
	static const int64_t groups[] = {48, 16, 32};
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(20, 48, 150, 1);

	(void)state;
	for (int k = 0; k < KINDS; k++)
		for (int sym = 0; sym < 2; sym++)
			for (int g = 0; g < 3; g++) {
				struct how how = kind(k, 2 + g, groups[g], sym);
				struct answer a = answer_new(p.O, p.n, groups[g]), ref;

				how.clip = 0.83f;      /* no weight lies exactly between two codes */
				solve_here(d, &a, &p, &how);
				ref = reference_of(&a, groups[g]);
				eliminate(&ref, &p, &how.g, how.damp);
				assert_int_equal(codes_that_differ(&a, &ref), 0);
				answer_free(&a);
				answer_free(&ref);
			}
	problem_free(&p);
	dev_close(d);
}

/* Widths around the block of 128 and groups that straddle it: where a block ends changes nothing. */
static void
codes_are_those_of_the_textbook(void **state)
{
	static const struct { int64_t n, group; } rows[] = {
		{1, 1}, {20, 7}, {127, 127}, {128, 32}, {129, 129}, {129, 1}, {200, 48}, {256, 96}, {256, 128}, {300, 160},
		{300, 192}, {260, 260}, {257, 130},
	};
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
		struct problem p = problem_new(19, rows[r].n, 2 * rows[r].n + 1, r);

		for (int k = 0; k < 2 * KINDS; k++) {
			struct how how = kind(k / 2, 4 - k % 2, rows[r].group, k % 2);
			struct answer a = answer_new(p.O, p.n, rows[r].group), ref;

			how.clip = 0.9f;
			solve_here(d, &a, &p, &how);
			ref = reference_of(&a, rows[r].group);
			textbook(&ref, &p, &how);
			assert_int_equal(codes_that_differ(&a, &ref), 0);
			assert_memory_equal(a.scale, ref.scale, (size_t)(p.O * a.groups) * sizeof(float));
			assert_memory_equal(a.zero, ref.zero, (size_t)(p.O * a.groups));
			assert_memory_equal(a.group_of, ref.group_of, (size_t)p.n * sizeof(int32_t));
			for (int64_t o = 0; o < p.O; o++)
				assert_close("loss", o, a.loss[o], ref.loss[o], 1e-7 * ref.loss[o]);
			answer_free(&a);
			answer_free(&ref);
		}
		problem_free(&p);
	}
	dev_close(d);
}

static double
at(const json_t *c, const char *name, size_t i)
{
	return json_number_value(json_array_get(json_object_get(c, name), i));
}

/* tests/golden/babai.py: elimination in exact rationals. */
static void
codes_are_those_of_exact_arithmetic(void **state)
{
	struct dev *d = device(1, MATH_F32);
	json_t *cases = json_load_file(QJOB_TESTS_DIR "/golden/babai.json", 0, NULL), *c;
	size_t k, n;

	(void)state;
	assert_true(json_array_size(cases) == 60);
	json_array_foreach(cases, k, c) {
		int64_t group = json_integer_value(json_object_get(c, "group"));
		struct how how = {.static_groups = true, .ready = true};
		struct problem p = {.O = 1, .n = (int64_t)json_array_size(json_object_get(c, "w"))};
		struct answer a = answer_new(1, p.n, group);

		n = (size_t)p.n;
		p.w = mem_new(n, sizeof(float));
		p.h = mem_new(n * n, sizeof(float));
		how.g = (struct grid){.bits = (int)json_integer_value(json_object_get(c, "bits")), .group = group, .stored = F32};
		how.by_diag = at(c, "order", 0) != 0 || at(c, "order", 1) != 1;
		for (size_t i = 0; i < n; i++) {
			p.w[i] = (float)at(c, "w", i);
			a.group_of[i] = (int32_t)((int64_t)i / group);
			how.by_diag |= at(c, "order", i) != (double)i;
		}
		for (size_t i = 0; i < n * n; i++)
			p.h[i] = (float)at(c, "h", i);
		for (int64_t g = 0; g < a.groups; g++) {
			a.scale[g] = (float)at(c, "scale", (size_t)g);
			a.zero[g] = (uint8_t)at(c, "zero", (size_t)g);
		}
		for (how.type = F32; how.type <= F64; how.type += F64 - F32) {
			solve_here(d, &a, &p, &how);
			for (size_t i = 0; i < n; i++) {
				assert_int_equal(a.order[i], (int)at(c, "order", i));
				assert_int_equal(a.code[i], (int)at(c, "code", i));
			}
			assert_close("loss", 0, a.loss[0], json_number_value(json_object_get(c, "loss")), how.type == F32 ? 1e-2 : 1e-9);
		}
		answer_free(&a);
		problem_free(&p);
	}
	json_decref(cases);
	dev_close(d);
}

/* Least loss of any codes of row o, with a's scales; n is small. */
static double
best_loss(const struct problem *p, const struct answer *a, int64_t o, int bits)
{
	struct answer try = *a;
	double best = INFINITY;

	try.code = mem_new((size_t)(p->O * p->n), 1);
	for (int64_t k = 0; k < (int64_t)1 << (bits * p->n); k++) {
		for (int64_t i = 0; i < p->n; i++)
			try.code[o * p->n + i] = (uint8_t)(k >> (bits * i) & ((1 << bits) - 1));
		best = fmin(best, row_loss(p, p->w, &try, o));
	}
	free(try.code);
	return best;
}

static void
no_better_than_every_choice_and_better_than_rounding(void **state)
{
	struct dev *d = device(1, MATH_F32);
	double solved = 0, nearest = 0, best = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 20; seed++) {
		struct problem p = problem_new(2, 5, 12, seed);
		struct how how = kind(STATIC_ORDER, 2, 5, false);
		struct answer a = answer_new(p.O, p.n, 5), r = answer_new(p.O, p.n, 5);

		how.damp = 0;
		solve_here(d, &a, &p, &how);
		round_here(d, &r, &p, &how.g);
		for (int64_t o = 0; o < p.O; o++) {
			double least = best_loss(&p, &a, o, 2), mine = row_loss(&p, p.w, &a, o);

			assert_true(mine >= least * (1 - 1e-9));
			solved += mine;
			best += least;
			nearest += row_loss(&p, p.w, &r, o);
		}
		answer_free(&a);
		answer_free(&r);
		problem_free(&p);
	}
	assert_true(solved < 0.9 * nearest);
	assert_true(solved < 1.7 * best);
	dev_close(d);
}

/* Without correlation there is nothing to make up for: every order rounds to nearest. */
static void
a_diagonal_matrix_rounds_to_nearest(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(24, 200, 10, 3);

	(void)state;
	for (int equal = 0; equal < 2; equal++) {
		for (int64_t i = 0; i < p.n * p.n; i++)
			p.h[i] = i % (p.n + 1) ? 0 : equal ? 7 : (float)(1 + i % 13);
		for (int k = 0; k < FRESH; k++)
			for (enum dtype type = F32; type <= F64; type += F64 - F32) {
				struct how how = kind(k, 3, 40, k == STATIC);
				struct answer a = answer_new(p.O, p.n, 40), r = answer_new(p.O, p.n, 40);

				how.g.rounding = type == F32 ? ROUND_STORED : ROUND_FP32;
				how.type = type;
				solve_here(d, &a, &p, &how);
				round_here(d, &r, &p, &how.g);
				assert_int_equal(codes_that_differ(&a, &r), 0);
				answer_free(&a);
				answer_free(&r);
			}
	}
	problem_free(&p);
	dev_close(d);
}

static void
the_scale_of_the_statistics_changes_no_code(void **state)
{
	static const float factors[] = {0.25f, 1024.f, 2.f};
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (int k = 0; k < KINDS; k++) {
		struct problem p = problem_new(30, 150, 400, 8);
		struct how how = kind(k, 4, 32, true);
		struct answer a = answer_new(p.O, p.n, 32), b = answer_new(p.O, p.n, 32);

		how.g.search = SEARCH_WEIGHTED;
		solve_here(d, &a, &p, &how);
		for (size_t f = 0; f < 3; f++) {
			for (int64_t i = 0; i < p.n * p.n; i++)
				p.h[i] *= factors[f];
			solve_here(d, &b, &p, &how);
			assert_int_equal(codes_that_differ(&a, &b), 0);
		}
		answer_free(&a);
		answer_free(&b);
		problem_free(&p);
	}
	dev_close(d);
}

/* Rows know nothing of each other, and columns have no place of their own but by their order. */
static void
permutations_permute(void **state)
{
	enum { O = 110, N = 140 };
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(O, N, 400, 2), q = problem_new(O, N, 400, 2);
	struct how how = kind(STATIC_ORDER, 4, N, false);
	struct answer a = answer_new(O, N, N), b = answer_new(O, N, N);

	(void)state;
	for (int64_t i = 0; i < N; i++)
		p.h[i * N + i] += (float)i * 1e-3f * p.h[i * N + i];      /* no two alike: the order is one */
	for (int64_t o = 0; o < O; o++)
		for (int64_t i = 0; i < N; i++)
			q.w[(O - 1 - o) * N + (N - 1 - i)] = p.w[o * N + i];
	for (int64_t i = 0; i < N; i++)
		for (int64_t j = 0; j < N; j++)
			q.h[(N - 1 - i) * N + (N - 1 - j)] = p.h[i * N + j];
	solve_here(d, &a, &p, &how);
	solve_here(d, &b, &q, &how);
	for (int64_t o = 0; o < O; o++)
		for (int64_t i = 0; i < N; i++)
			assert_int_equal(a.code[o * N + i], b.code[(O - 1 - o) * N + (N - 1 - i)]);
	answer_free(&a);
	answer_free(&b);
	problem_free(&p);
	problem_free(&q);
	dev_close(d);
}

static void
weights_on_the_grid_stay(void **state)
{
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (enum dtype type = F32; type <= F64; type += F64 - F32) {
		struct problem p = problem_new(20, 150, 300, 5);
		struct how how = kind(STATIC_ORDER, 4, 50, false);
		struct answer a = answer_new(p.O, p.n, 50);

		how.ready = true;
		how.type = type;
		for (int64_t k = 0; k < p.O * a.groups; k++) {
			a.scale[k] = 0.125f;
			a.zero[k] = (uint8_t)(k % 16);
		}
		for (int64_t k = 0; k < p.O * p.n; k++) {
			int64_t g = k / p.n * a.groups + k % p.n / 50;

			a.group_of[k % p.n] = (int32_t)(k % p.n / 50);
			p.w[k] = (float)(k * 7 % 16 - a.zero[g]) * a.scale[g];
		}
		solve_here(d, &a, &p, &how);
		for (int64_t o = 0; o < p.O; o++) {
			assert_true(a.loss[o] == 0);
			for (int64_t i = 0; i < p.n; i++) {
				assert_int_equal(a.code[o * p.n + i], (o * p.n + i) * 7 % 16);
				assert_true(value_of(&a, o, i) == (double)p.w[o * p.n + i]);
			}
		}
		answer_free(&a);
		problem_free(&p);
	}
	dev_close(d);
}

static void
loss_is_the_error_in_the_output(void **state)
{
	static const struct { enum dtype type; double tolerance; } rows[] = {{F32, 1e-3}, {F64, 1e-6}};
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(100, 200, 500, 6), other = problem_new(100, 200, 1, 7);

	(void)state;
	for (int k = 0; k < KINDS; k++)
		for (size_t r = 0; r < 2; r++) {
			struct how how = kind(k, 4, 64, true);
			struct answer a = answer_new(p.O, p.n, 64), b = answer_new(p.O, p.n, 64);

			how.type = rows[r].type;
			how.undamped = true;
			solve_here(d, &a, &p, &how);
			how.target = other.w;
			solve_here(d, &b, &p, &how);
			assert_int_equal(codes_that_differ(&a, &b), 0);
			for (int64_t o = 0; o < p.O; o++) {
				double want = row_loss(&p, p.w, &a, o), far = row_loss(&p, other.w, &b, o);

				assert_close("loss", o, a.loss[o], want, rows[r].tolerance * want);
				assert_close("loss of the target", o, b.loss[o], far, rows[r].tolerance * far);
			}
			answer_free(&a);
			answer_free(&b);
		}
	problem_free(&p);
	problem_free(&other);
	dev_close(d);
}

/* numerics: fp32 against double. */
static void
single_precision_is_enough(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(100, 400, 900, 11);

	(void)state;
	for (int k = 0; k < FRESH; k++) {
		struct how how = kind(k, 4, 64, true);
		struct answer a = answer_new(p.O, p.n, 64), b = answer_new(p.O, p.n, 64);
		double in_double, in_single;

		how.g.search = SEARCH_WEIGHTED;
		solve_here(d, &a, &p, &how);
		how.type = F32;
		solve_here(d, &b, &p, &how);
		in_double = total_loss(&p, &a);
		in_single = total_loss(&p, &b);
		assert_true((double)codes_that_differ(&a, &b) <= 0.003 * (double)(p.O * p.n));
		assert_true(fabs(in_single - in_double) <= 1e-3 * in_double);
		answer_free(&a);
		answer_free(&b);
	}
	problem_free(&p);
	dev_close(d);
}

/* What the recipes rest on, on inputs of unequal energy. */
static void
losses_are_in_the_expected_order(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(64, 256, 1500, 21);
	double loss[4], nearest;

	(void)state;
	for (int bits = 3; bits <= 4; bits++) {
		struct how how = kind(STATIC, bits, 64, true);
		struct answer a = answer_new(p.O, p.n, 64);

		round_here(d, &a, &p, &how.g);
		nearest = total_loss(&p, &a);
		for (int k = 0; k < 4; k++) {
			how.by_diag = k > 0;
			how.g.search = k < 2 ? SEARCH_MINMAX : k < 3 ? SEARCH_MSE : SEARCH_WEIGHTED;
			solve_here(d, &a, &p, &how);
			loss[k] = total_loss(&p, &a);
		}
		assert_true(loss[0] < nearest);
		assert_true(loss[1] < loss[0]);
		assert_true(loss[2] < loss[1]);
		assert_true(loss[3] < loss[2]);
		answer_free(&a);
	}
	problem_free(&p);
	dev_close(d);
}

static void
threads_change_no_bit(void **state)
{
	struct problem p = problem_new(300, 300, 700, 4);

	(void)state;
	for (int k = 0; k < KINDS; k++)
		for (enum dtype type = F32; type <= F64; type += F64 - F32) {
			struct how how = kind(k, 4, k % 2 ? 160 : 32, false);
			struct answer a = answer_new(p.O, p.n, how.g.group);

			how.type = type;
			how.g.search = SEARCH_WEIGHTED;
			for (int threads = 1; threads <= 4; threads += 1 + (threads == 2)) {
				struct dev *d = device(threads, MATH_F32);
				struct answer b = answer_new(p.O, p.n, how.g.group);

				solve_here(d, threads == 1 ? &a : &b, &p, &how);
				if (threads > 1) {
					assert_memory_equal(a.code, b.code, (size_t)(p.O * p.n));
					assert_memory_equal(a.scale, b.scale, (size_t)(p.O * a.groups) * sizeof(float));
					assert_memory_equal(a.zero, b.zero, (size_t)(p.O * a.groups));
					assert_memory_equal(a.loss, b.loss, (size_t)p.O * sizeof(double));
				}
				answer_free(&b);
				dev_close(d);
			}
			answer_free(&a);
		}
	problem_free(&p);
}

static void
weights_that_are_not_finite_are_named(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(200, 60, 100, 1);
	struct how how = kind(FRESH, 4, 20, true);
	struct answer a = answer_new(p.O, p.n, 20);
	struct mat w, h = put(d, F32, p.n, p.n, p.h), u = dev_mat(d, F32, p.n, p.n), order = dev_mat(d, I32, 1, p.n);
	struct mat loss = dev_mat(d, F64, 1, p.O);
	struct qmat q = qmat_new(d, &a);
	struct babai b = {0};
	int64_t dead;

	(void)state;
	p.w[150 * p.n + 3] = p.w[190 * p.n] = NAN;
	w = put(d, F32, p.O, p.n, p.w);
	op_order(d, &order, &h, false);
	assert_int_equal(op_factor(d, &u, &h, &order, 0.01, &dead), 0);
	op_babai(d, &q, &loss, &w, &u, &order, NULL, &how.g, &b);
	assert_int_equal(dev_status(d), E_NUMERIC);
	assert_string_equal(err_text(), "row 150 of the weights holds a value that is not finite");
	answer_free(&a);
	problem_free(&p);
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes_are_those_of_elimination),
		cmocka_unit_test(codes_are_those_of_the_textbook),
		cmocka_unit_test(codes_are_those_of_exact_arithmetic),
		cmocka_unit_test(no_better_than_every_choice_and_better_than_rounding),
		cmocka_unit_test(a_diagonal_matrix_rounds_to_nearest),
		cmocka_unit_test(the_scale_of_the_statistics_changes_no_code),
		cmocka_unit_test(permutations_permute),
		cmocka_unit_test(weights_on_the_grid_stay),
		cmocka_unit_test(loss_is_the_error_in_the_output),
		cmocka_unit_test(single_precision_is_enough),
		cmocka_unit_test(losses_are_in_the_expected_order),
		cmocka_unit_test(threads_change_no_bit),
		cmocka_unit_test(weights_that_are_not_finite_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
