/* op_factor where n is large enough for tensor cores, against the damped matrix in double; and how long it takes.  Exits 77 where there
 * is no card. */
#include "kernels/cuda/cholesky.h"
#include "tests/kernels/quant.h"

#include <time.h>

enum { N = CHOLESKY_LEAST + 300, T = 3 * N / 2, PAIRS = 600 };

static const double damp = 0.01;

/* The statistics of a layer, on the device and here. */
struct layer {
	struct dev *d;
	struct mat h;
	float *here;
	double ridge, most;      /* of damp; the largest element of h + ridge */
};

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* [T,N]: a part that all inputs share, another that neighbours do, and energies thousands of times apart. */
static float *
inputs_new(void)
{
	float *x = mem_new((size_t)T * N, sizeof(*x)), *scale = mem_new(N, sizeof(*scale));
	uint64_t seed = 11;

	for (int64_t i = 0; i < N; i++)
		scale[i] = (float)exp(4 * fmax(-1, fmin(1, number(&seed))));
	for (int64_t t = 0; t < T; t++) {
		double common = number(&seed), near = 0;

		for (int64_t i = 0; i < N; i++) {
			near = 0.8 * near + number(&seed);
			x[t * N + i] = (float)((double)scale[i] * (common + near));
		}
	}
	free(scale);
	return x;
}

static void
layer_init(struct layer *l)
{
	float *x = inputs_new();
	struct mat m;
	size_t mark;

	l->h = dev_zeros(l->d, F32, N, N);
	l->here = mem_new((size_t)N * N, sizeof(*l->here));
	mark = dev_mark(l->d);
	m = put(l->d, F32, T, N, x);
	op_gram(l->d, &l->h, &m, NULL);
	dev_get(l->d, l->here, &l->h);
	assert_good(l->d);
	dev_release(l->d, mark);
	free(x);
	for (int64_t i = 0; i < N; i++)
		l->ridge += damp / N * (double)l->here[i * (N + 1)];
	for (int64_t i = 0; i < N; i++)
		l->most = fmax(l->most, (double)l->here[i * (N + 1)] + l->ridge);
}

/* Element (i, j) of the damped matrix in the given order. */
static double
wanted(const struct layer *l, const int32_t *order, int64_t i, int64_t j)
{
	int64_t a = order[i], b = order[j];

	return (double)(a > b ? l->here[a * N + b] : l->here[b * N + a]) + (i == j ? l->ridge : 0);
}

/* Element (i, j) of u u^T. */
static double
squared(const float *u, int64_t i, int64_t j)
{
	double sum = 0;

	for (int64_t k = i > j ? i : j; k < N; k++)
		sum += (double)u[i * N + k] * (double)u[j * N + k];
	return sum;
}

/* u of the layer; caller frees. */
static float *
factor(const struct layer *l, int32_t *order)
{
	size_t mark = dev_mark(l->d);
	struct mat o = dev_mat(l->d, I32, 1, N), u = dev_mat(l->d, F32, N, N);
	float *v = mem_new((size_t)N * N, sizeof(*v));
	int64_t dead = -1;

	op_order(l->d, &o, &l->h, true);
	if (op_factor(l->d, &u, &l->h, &o, damp, &dead) != 0)
		fail_msg("%s", err_text());
	assert_int_equal(dead, 0);
	dev_get(l->d, order, &o);
	dev_get(l->d, v, &u);
	assert_good(l->d);
	dev_release(l->d, mark);
	return v;
}

static void
a_large_factor_times_itself_is_the_damped_matrix(void **state)
{
	const struct layer *l = *state;
	int32_t *order = mem_new(N, sizeof(*order));
	float *u = factor(l, order);
	double worst = 0, own = 0;
	uint64_t seed = 5;

	for (int64_t s = 0; s < N + PAIRS; s++) {
		int64_t i = s < N ? s : (int64_t)(fabs(number(&seed)) * 1e6) % N;
		int64_t j = s < N ? s : (int64_t)(fabs(number(&seed)) * 1e6) % N;
		double off = fabs(squared(u, i, j) - wanted(l, order, i, j));

		worst = fmax(worst, off / l->most);
		own = fmax(own, off / sqrt(wanted(l, order, i, i) * wanted(l, order, j, j)));
		assert_true(isfinite(off));
		assert_true(i > j ? u[i * N + j] == 0 : i < j || u[i * N + i] > 0);
	}
	printf("n = %d: off by %.2g of the largest element, by %.2g of what is on the diagonal beside\n", N, worst, own);
	assert_true(worst <= 1e-5);
	assert_true(own <= 1e-5);
	free(order);
	free(u);
}

static void
a_large_factor_is_the_same_again(void **state)
{
	int32_t *order = mem_new(N, sizeof(*order));
	float *one = factor(*state, order), *other = factor(*state, order);

	assert_memory_equal(one, other, (size_t)N * N * sizeof(*one));
	free(order);
	free(one);
	free(other);
}

/* The statistics with one element changed do not factor, and it is input `bad` that is named. */
static void
assert_bad(const struct layer *l, const struct mat *order, int64_t bad, int64_t element, float value, double damping)
{
	size_t mark = dev_mark(l->d);
	struct mat h, u = dev_mat(l->d, F32, N, N);
	float was = l->here[element];
	int64_t dead;
	char want[64];

	l->here[element] = value;
	h = put(l->d, F32, N, N, l->here);
	l->here[element] = was;
	snprintf(want, sizeof(want), "pivot %lld of %d is not positive", (long long)bad + 1, N);
	assert_int_equal(op_factor(l->d, &u, &h, order, damping, &dead), E_NUMERIC);
	if (!strstr(err_text(), want))
		fail_msg("%s; wanted %s", err_text(), want);
	assert_good(l->d);
	dev_release(l->d, mark);
}

/* Pivots are met from the last one on; what the others tell of an input is far more than a thousandth of it. */
static void
the_first_bad_pivot_of_a_large_matrix_is_named(void **state)
{
	static const int64_t bad[] = {6900, 5800, 1234, 3};
	const struct layer *l = *state;
	size_t mark = dev_mark(l->d);
	struct mat o = dev_mat(l->d, I32, 1, N);

	op_order(l->d, &o, &l->h, false);
	for (size_t k = 0; k < sizeof(bad) / sizeof(bad[0]); k++) {
		int64_t at = bad[k] * (N + 1), below = (bad[k] + 50) * N + bad[k];

		assert_bad(l, &o, bad[k], at, l->here[at] * 1e-3f, 0);
		assert_bad(l, &o, bad[k], below, NAN, damp);
	}
	dev_release(l->d, mark);
}

static void
how_long_it_takes(void **state)
{
	static const int64_t sizes[] = {4096, 6144, 7000, 8192, 11008, 14336, 18944};
	const struct layer *l = *state;

	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		int64_t n = sizes[s], dead;
		size_t mark = dev_mark(l->d);
		struct host x = host_new(64, n, F32, s);
		struct mat m = upload(l->d, &x), h = dev_zeros(l->d, F32, n, n), u = dev_mat(l->d, F32, n, n), o = dev_mat(l->d, I32, 1, n);
		double best = 1e9;

		op_gram(l->d, &h, &m, NULL);
		op_order(l->d, &o, &h, true);
		for (int k = 0; k < 4; k++) {
			double from = now();

			if (op_factor(l->d, &u, &h, &o, damp, &dead) != 0)
				fail_msg("%s", err_text());
			best = k ? fmin(best, now() - from) : best;
		}
		printf("n = %lld: %.2f ms\n", (long long)n, best);
		host_free(&x);
		dev_release(l->d, mark);
	}
}

int
main(void)
{
	struct dev_options card = {.name = "cuda"};
	struct layer l = {0};
	int rc;

	if (dev_open(&l.d, &card) != 0) {
		printf("skipped: %s\n", err_text());
		return 77;
	}
	dev_math(l.d, MATH_F32);
	layer_init(&l);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(a_large_factor_times_itself_is_the_damped_matrix, &l),
		cmocka_unit_test_prestate(a_large_factor_is_the_same_again, &l),
		cmocka_unit_test_prestate(the_first_bad_pivot_of_a_large_matrix_is_named, &l),
		cmocka_unit_test_prestate(how_long_it_takes, &l),
	};

	rc = cmocka_run_group_tests(tests, NULL, NULL);
	free(l.here);
	dev_close(l.d);
	return rc;
}
