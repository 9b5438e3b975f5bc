/* The solver on a card against the CPU's, on correlated inputs at widths of real layers, the last one wide enough for the factor of
 * kernels/cuda/cholesky.cu.  Both factor in double below it, and then some 3 codes in 100000 differ, where sums of fp32 are taken in
 * another order; a change leads to more where groups depend on the codes before them.  That factor is one of fp32, and where inputs
 * lie as they come, the large ones among the small ones, it changes 1.5 codes in a thousand.  Exits 77 where there is no card. */
#include "kernels/cuda/cholesky.h"
#include "tests/kernels/quant.h"

enum { O = 512, FACTORS = 64, T = 4096, NARROW = 2 };

static const int64_t widths[NARROW + 1] = {2304, 4352, CHOLESKY_LEAST + 512};

struct both {
	struct dev *cpu, *card;
};

/* [tokens,n]: factors of falling strength that all inputs share, a noise of their own, and energies a hundred times apart. */
static float *
inputs_new(int64_t tokens, int64_t n, uint64_t seed)
{
	float *x = mem_new((size_t)(tokens * n), sizeof(*x)), *mix = mem_new((size_t)(FACTORS * n), sizeof(*mix));

	for (int64_t i = 0; i < n; i++) {
		double scale = exp(2.3 * fmax(-1, fmin(1, number(&seed))));

		for (int64_t k = 0; k < FACTORS; k++)
			mix[k * n + i] = (float)(scale * number(&seed) / (1 + (double)k / 4));
		for (int64_t t = 0; t < tokens; t++)
			x[t * n + i] = (float)(0.3 * scale * number(&seed));
	}
	for (int64_t t = 0; t < tokens; t++)
		for (int64_t k = 0; k < FACTORS; k++) {
			float z = (float)number(&seed);

			for (int64_t i = 0; i < n; i++)
				x[t * n + i] += z * mix[k * n + i];
		}
	free(mix);
	return x;
}

/* The lower triangle of h as a device makes it of bf16 activations of unit energy, `piece` tokens at a time. */
static void
take_moments(struct dev *d, float *to, const float *inputs, int64_t tokens, int64_t n, int64_t piece)
{
	size_t mark = dev_mark(d);
	struct mat full = put(d, F32, tokens, n, inputs), x = dev_mat(d, BF16, tokens, n), a = dev_mat(d, F32, 1, tokens);
	struct mat h = dev_zeros(d, F32, n, n);

	op_convert(d, &x, &full);
	op_token_weight(d, &a, &x);
	for (int64_t from = 0; from < tokens; from += piece) {
		struct mat some = mat_rows(&x, from, piece), of = mat_cols(&a, from, piece);

		op_gram(d, &h, &some, &of);
	}
	dev_get(d, to, &h);
	assert_good(d);
	dev_release(d, mark);
}

static struct problem
correlated(struct dev *cpu, int64_t n)
{
	struct problem p = {O, n, mem_new((size_t)(O * n), sizeof(float)), mem_new((size_t)(n * n), sizeof(float))};
	int64_t tokens = 2 * n;
	float *x = inputs_new(tokens, n, (uint64_t)n);
	uint64_t seed = 7;

	for (int64_t k = 0; k < O * n; k++)
		p.w[k] = (float)(number(&seed) / 8);
	take_moments(cpu, p.h, x, tokens, n, tokens);
	free(x);
	return p;
}

static double
sum_of(const double *v, int64_t n)
{
	double sum = 0;

	for (int64_t i = 0; i < n; i++)
		sum += v[i];
	return sum;
}

/* most: share of codes that may differ. */
static void
compare(const struct both *on, const struct problem *p, const char *name, const struct how *how, double most)
{
	struct answer a = answer_new(O, p->n, how->g.group), b = answer_new(O, p->n, how->g.group);
	double share, loss;

	solve_here(on->cpu, &a, p, how);
	solve_here(on->card, &b, p, how);
	share = (double)codes_that_differ(&a, &b) / (double)(O * p->n);
	loss = sum_of(b.loss, O) / sum_of(a.loss, O) - 1;
	print_message("n %lld, %s: %.4f %% of the codes differ, loss %+.2e\n", (long long)p->n, name, 100 * share, loss);
	assert_memory_equal(a.order, b.order, (size_t)p->n * sizeof(*a.order));
	assert_memory_equal(a.group_of, b.group_of, (size_t)p->n * sizeof(*a.group_of));
	if (how->static_groups) {
		assert_memory_equal(a.scale, b.scale, (size_t)(O * a.groups) * sizeof(*a.scale));
		assert_memory_equal(a.zero, b.zero, (size_t)(O * a.groups));
	}
	assert_true(share <= most);
	assert_true(fabs(loss) <= 1e-3);
	answer_free(&a);
	answer_free(&b);
}

static void
codes_are_the_cpus_but_for_a_few(void **state)
{
	static const struct { const char *name; bool by_diag, static_groups; double most, wide; } ways[] = {
		{"static groups, by importance", true,  true,  0.0003, 0.001},
		{"static groups, as they lie",   false, true,  0.0003, 0.0025},
		{"groups of like importance",    true,  false, 0.0005, 0.005},
	};
	const struct both *on = *state;

	dev_math(on->cpu, MATH_F32);
	dev_math(on->card, MATH_F32);
	for (size_t k = 0; k < sizeof(widths) / sizeof(widths[0]); k++) {
		struct problem p = correlated(on->cpu, widths[k]);

		for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
			struct how how = {
				.g = {.bits = 4, .group = 128, .sym = true, .search = SEARCH_WEIGHTED, .stored = F16},
				.by_diag = ways[i].by_diag, .static_groups = ways[i].static_groups, .damp = 0.05, .type = F32,
			};

			compare(on, &p, ways[i].name, &how, widths[k] < CHOLESKY_LEAST ? ways[i].most : ways[i].wide);
		}
		problem_free(&p);
	}
}

/* How far g is from h, of which the lower triangles count: of the trace, and of all of h, as shares. */
static void
distance(const float *g, const float *h, int64_t n, double *trace, double *all)
{
	double sum = 0, off = 0, square = 0, square_off = 0;

	for (int64_t i = 0; i < n; i++) {
		for (int64_t j = 0; j <= i; j++) {
			double v = (double)h[i * n + j], w = (double)g[i * n + j] - v, times = j < i ? 2 : 1;

			square += times * v * v;
			square_off += times * w * w;
		}
		sum += (double)h[i * n + i];
		off += (double)g[i * n + i] - (double)h[i * n + i];
	}
	*trace = fabs(off / sum);
	*all = sqrt(square_off / square);
}

/* Against sums of the same rounded operands, and against those of operands that are not rounded: there rounding alone makes 1.4e-4
 * of these inputs, on the CPU as well. */
static void
moments_in_bf16_are_close(void **state)
{
	static const struct { enum math cpu; const char *name; double trace, all; } rows[] = {
		{MATH_BF16, "bf16", 2e-5, 2e-5},
		{MATH_F32,  "fp32", 1e-4, 2e-4},
	};
	const struct both *on = *state;

	dev_math(on->card, MATH_BF16);
	for (size_t k = 0; k < 2 * NARROW; k++) {
		int64_t n = widths[k / 2];
		float *x = inputs_new(T, n, (uint64_t)n);
		float *h = mem_new((size_t)(n * n), sizeof(*h)), *g = mem_new((size_t)(n * n), sizeof(*g));
		double trace, all;

		dev_math(on->cpu, rows[k % 2].cpu);
		take_moments(on->cpu, h, x, T, n, T);
		take_moments(on->card, g, x, T, n, T);
		distance(g, h, n, &trace, &all);
		print_message("n %lld, the CPU's in %s: trace off by %.2e, all of h by %.2e\n", (long long)n, rows[k % 2].name, trace, all);
		assert_true(trace <= rows[k % 2].trace);
		assert_true(all <= rows[k % 2].all);
		free(x);
		free(h);
		free(g);
	}
}

/* Panels run beside each other in streams of their own. */
static void
cuts_of_many_panels_do_not_show(void **state)
{
	const struct both *on = *state;
	int64_t n = widths[1];
	float *x = inputs_new(T, n, 3), *h = mem_new((size_t)(n * n), sizeof(*h)), *g = mem_new((size_t)(n * n), sizeof(*g));

	for (enum math math = MATH_F32; math <= MATH_F16; math++) {
		dev_math(on->card, math);
		take_moments(on->card, h, x, T, n, T);
		take_moments(on->card, g, x, T, n, 2048);
		for (int64_t i = 0; i < n; i++)
			assert_memory_equal(h + i * n, g + i * n, (size_t)(i + 1) * sizeof(*h));
	}
	free(x);
	free(h);
	free(g);
}

int
main(void)
{
	struct dev_options cpu = {.name = "cpu"}, card = {.name = "cuda"};
	struct both on;
	int rc;

	if (dev_open(&on.card, &card) != 0) {
		printf("skipped: %s\n", err_text());
		return 77;
	}
	if (dev_open(&on.cpu, &cpu) != 0) {
		printf("%s\n", err_text());
		return 1;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(codes_are_the_cpus_but_for_a_few, &on),
		cmocka_unit_test_prestate(moments_in_bf16_are_close, &on),
		cmocka_unit_test_prestate(cuts_of_many_panels_do_not_show, &on),
	};

	rc = cmocka_run_group_tests(tests, NULL, NULL);
	dev_close(on.cpu);
	dev_close(on.card);
	return rc;
}
