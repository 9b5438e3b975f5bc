#include "tests/kernels/quant.h"

static const int64_t sizes[] = {1, 2, 31, 32, 33, 127, 128, 129, 300};

/* u of p's h as the device makes it, in doubles; n below the upper triangle of h is not to be read. */
static double *
factor_here(struct dev *d, const struct problem *p, enum dtype type, int32_t *order, double damp)
{
	size_t mark = dev_mark(d);
	float *lower = mem_new((size_t)(p->n * p->n), sizeof(*lower));
	struct mat h, o = dev_mat(d, I32, 1, p->n), u = dev_mat(d, type, p->n, p->n);
	int64_t dead = -1;
	double *v;

	for (int64_t i = 0; i < p->n; i++)
		for (int64_t j = 0; j < p->n; j++)
			lower[i * p->n + j] = j <= i ? p->h[i * p->n + j] : NAN;
	h = put(d, F32, p->n, p->n, lower);
	op_order(d, &o, &h, true);
	if (op_factor(d, &u, &h, &o, damp, &dead) != 0)
		fail_msg("%s", err_text());
	assert_int_equal(dead, 0);
	dev_get(d, order, &o);
	v = download(d, &u);
	dev_release(d, mark);
	free(lower);
	return v;
}

static void
a_factor_times_itself_is_the_damped_matrix(void **state)
{
	static const struct { enum dtype type; double tolerance; } rows[] = {{F32, 1e-5}, {F64, 1e-12}};
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
		for (size_t r = 0; r < 2; r++) {
			struct problem p = problem_new(1, sizes[s], 2 * sizes[s], s);
			int32_t *order = mem_new((size_t)p.n, sizeof(*order));
			double *u = factor_here(d, &p, rows[r].type, order, 0.01), *h = ordered(&p, order, 0.01), most = 0;

			for (int64_t i = 0; i < p.n; i++)
				most = fmax(most, h[i * p.n + i]);
			for (int64_t i = 0; i < p.n; i++)
				for (int64_t j = 0; j < p.n; j++) {
					double sum = 0;

					for (int64_t k = 0; k < p.n; k++)
						sum += u[i * p.n + k] * u[j * p.n + k];
					assert_close("u u^T", i * p.n + j, sum, h[i * p.n + j], rows[r].tolerance * most);
					if (j < i)
						assert_true(u[i * p.n + j] == 0);
				}
			for (int64_t i = 0; i < p.n; i++)
				assert_true(u[i * (p.n + 1)] > 0);
			test_free(u);
			free(h);
			free(order);
			problem_free(&p);
		}
	dev_close(d);
}

/* GPTQ's own factor t, h^-1 = t^T t, is the inverse of u. */
static void
a_factor_is_the_inverse_of_the_textbooks(void **state)
{
	struct dev *d = device(1, MATH_F32);
	struct problem p = problem_new(1, 60, 200, 5);
	int32_t order[60];
	double *u = factor_here(d, &p, F64, order, 0.01), *t = ordered(&p, order, 0.01);

	(void)state;
	invert(t, p.n);
	cholesky_upper(t, p.n);
	for (int64_t i = 0; i < p.n; i++)
		for (int64_t j = 0; j < p.n; j++) {
			double sum = 0;

			for (int64_t k = 0; k < p.n; k++)
				sum += t[i * p.n + k] * u[k * p.n + j];
			assert_close("t u", i * p.n + j, sum, i == j, 1e-11);
		}
	test_free(u);
	free(t);
	problem_free(&p);
	dev_close(d);
}

static void
order_is_descending_and_stable(void **state)
{
	static const float diag[] = {3, 7, 3, 0, 7, NAN, 3};
	static const int32_t by_diag[] = {5, 1, 4, 0, 2, 6, 3};
	struct dev *d = device(2, MATH_F32);
	float h[49] = {0};
	struct mat m, o = dev_mat(d, I32, 1, 7);
	int32_t got[7];

	(void)state;
	for (int i = 0; i < 7; i++)
		h[i * 8] = diag[i];
	m = put(d, F32, 7, 7, h);
	op_order(d, &o, &m, true);
	dev_get(d, got, &o);
	assert_memory_equal(got, by_diag, sizeof(got));
	op_order(d, &o, &m, false);
	dev_get(d, got, &o);
	for (int i = 0; i < 7; i++)
		assert_int_equal(got[i], i);
	assert_good(d);
	dev_close(d);
}

static int
try_factor(struct dev *d, const float *h, int64_t n, enum dtype type, double damp, int64_t *dead)
{
	struct mat m = put(d, F32, n, n, h), o = dev_mat(d, I32, 1, n), u = dev_mat(d, type, n, n);

	op_order(d, &o, &m, false);
	return op_factor(d, &u, &m, &o, damp, dead);
}

static void
what_is_not_positive_definite_is_said_and_may_be_tried_again(void **state)
{
	static const float flat[] = {8, 9, 9, 4, 4, 9, 4, 4, 4};      /* inputs 1 and 2 are the same */
	static const float bad[] = {1, 0, 0, 0, NAN, 0, 0, 0, 1};
	struct dev *d = device(2, MATH_F32);
	int64_t dead;

	(void)state;
	for (enum dtype type = F32; type <= F64; type += F64 - F32) {
		assert_int_equal(try_factor(d, flat, 3, type, 0, &dead), E_NUMERIC);
		assert_non_null(strstr(err_text(), "pivot 2 of 3 is not positive"));
		assert_int_equal(dev_status(d), 0);
		assert_int_equal(try_factor(d, flat, 3, type, 10, &dead), 0);
		assert_int_equal(try_factor(d, bad, 3, type, 0.1, &dead), E_NUMERIC);
		assert_non_null(strstr(err_text(), "pivot 3 of 3 is not positive"));      /* the damping is not a number either */
	}
	assert_good(d);
	dev_close(d);
}

static void
dead_inputs_count_as_one(void **state)
{
	static const float h[] = {0, 9, 9, 0, 6, 9, 0, 0, 0};
	struct dev *d = device(1, MATH_F32);
	struct mat m = put(d, F32, 3, 3, h), o = dev_mat(d, I32, 1, 3), u = dev_mat(d, F64, 3, 3);
	int64_t dead = 0;
	double *v;

	(void)state;
	op_order(d, &o, &m, false);
	assert_int_equal(op_factor(d, &u, &m, &o, 0.375, &dead), 0);
	assert_int_equal(dead, 2);
	v = download(d, &u);      /* mean 8/3, ridge 1 */
	assert_close("u", 0, v[0], sqrt(2), 1e-15);
	assert_close("u", 4, v[4], sqrt(7), 1e-15);
	assert_close("u", 8, v[8], sqrt(2), 1e-15);
	test_free(v);
	dev_close(d);
}

static void
solve_divides_by_the_damped_matrix(void **state)
{
	struct dev *d = device(2, MATH_F32);
	struct problem p = problem_new(130, 150, 400, 9);
	struct mat b = put(d, F32, p.O, p.n, p.w), h = put(d, F32, p.n, p.n, p.h), out = dev_mat(d, F32, p.O, p.n);
	double *x, ridge = mean_diag(&p), most = 0;

	(void)state;
	assert_int_equal(op_solve(d, &out, &b, &h, 1), 0);
	x = download(d, &out);
	for (int64_t k = 0; k < p.O * p.n; k++)
		most = fmax(most, fabs((double)p.w[k]));
	for (int64_t o = 0; o < p.O; o++)
		for (int64_t j = 0; j < p.n; j++) {
			double sum = x[o * p.n + j] * ridge;

			for (int64_t i = 0; i < p.n; i++)
				sum += x[o * p.n + i] * (double)p.h[i * p.n + j];
			assert_close("x (h + ridge)", o * p.n + j, sum, (double)p.w[o * p.n + j], 2e-5 * most);
		}
	test_free(x);
	memset(p.h, 0, sizeof(*p.h) * (size_t)(p.n * p.n));
	dev_put(d, &h, p.h);
	assert_int_equal(op_solve(d, &out, &b, &h, 1), E_NUMERIC);
	problem_free(&p);
	assert_good(d);
	dev_close(d);
}

static void
matmul_multiplies(void **state)
{
	struct dev *d = device(2, MATH_BF16);      /* the math of the forward pass is none of its business */
	struct host a = host_new(33, 70, F32, 1), b = host_new(70, 45, F32, 2);
	struct mat x = upload(d, &a), y = upload(d, &b), z = dev_mat(d, F32, 33, 45);
	double *got;

	(void)state;
	op_matmul(d, &z, &x, &y);
	got = download(d, &z);
	for (int64_t i = 0; i < 33; i++)
		for (int64_t j = 0; j < 45; j++) {
			double sum = 0;

			for (int64_t k = 0; k < 70; k++)
				sum += a.v[i * 70 + k] * b.v[k * 45 + j];
			assert_close("a b", i * 45 + j, got[i * 45 + j], sum, 1e-4);
		}
	test_free(got);
	host_free(&a);
	host_free(&b);
	dev_close(d);
}

static void
threads_change_no_bit(void **state)
{
	struct problem p = problem_new(1, 700, 900, 4);
	int32_t *order = mem_new((size_t)p.n, sizeof(*order));
	double *first = NULL;

	(void)state;
	for (int threads = 1; threads <= 4; threads++) {
		struct dev *d = device(threads, MATH_F32);
		double *u = factor_here(d, &p, F32, order, 0.01);

		if (first)
			assert_memory_equal(u, first, (size_t)(p.n * p.n) * sizeof(*u));
		test_free(first);
		first = u;
		dev_close(d);
	}
	test_free(first);
	free(order);
	problem_free(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_factor_times_itself_is_the_damped_matrix),
		cmocka_unit_test(a_factor_is_the_inverse_of_the_textbooks),
		cmocka_unit_test(order_is_descending_and_stable),
		cmocka_unit_test(what_is_not_positive_definite_is_said_and_may_be_tried_again),
		cmocka_unit_test(dead_inputs_count_as_one),
		cmocka_unit_test(solve_divides_by_the_damped_matrix),
		cmocka_unit_test(matmul_multiplies),
		cmocka_unit_test(threads_change_no_bit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
