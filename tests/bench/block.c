/* Where the time of one block goes on a device: each operation of calibrating and quantizing a decoder layer at real shapes, the
 * arithmetic it does, and what that makes a second; and the phases they make, beside the least that they could take.
 *
 *     bench.block [device [shape [tokens]]]      cuda qwen2-7b 262144
 *
 * Operations over tokens are timed on as many tokens as the device likes at a time, and scaled.  Medians of several runs.  The least
 * is by the ceilings measured on one H200, of which an H100 has all but the memory's: 790 T a second of bf16 products, 67 T of fp64
 * ones for factors, 409 T of tf32 ones for the solver, 4.2 TB/s of memory, 55 GB/s to the host. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/ops.h"
#include "qjob/base/err.h"

enum { RUNS = 5, SEQLEN = 2048 };

static const struct shape {
	const char *name;
	int64_t D, I;
	int heads, kv_heads, width;
} shapes[] = {
	{"qwen2-7b",    3584,  18944, 28, 4,  128},
	{"llama-3-8b",  4096,  14336, 32, 8,  128},
	{"llama-3-70b", 8192,  28672, 64, 8,  128},
	{"opt-175b-as-llama", 12288, 49152, 96, 96, 128},
	{"smollm2",     576,   1536,  9,  3,  64},
};

enum phase { READ, FORWARD, GRAM, FACTOR, LOOP, PACK, PHASES };

static const char *const phase_names[] = {"read", "forward", "gram", "factor", "scales, loop", "codes out"};

static const double products = 790e12, fp64 = 67e12, tf32 = 409e12, memory = 4.2e12, host = 55e9;

struct bench {
	struct dev *d;
	const struct shape *s;
	int64_t T, tokens;           /* at a time; of all */
	struct {
		double took, least;      /* seconds a block */
	} phases[PHASES];
};

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void
must(struct dev *d)
{
	if (dev_status(d) == 0)
		return;
	fprintf(stderr, "%s\n", err_text());
	exit(1);
}

/* About normal, deviation 1 (sum of four uniform numbers), one block of rows repeated. */
static struct mat
noise(struct dev *d, enum dtype type, int64_t rows, int64_t cols, uint32_t seed)
{
	enum { MOST = 1 << 22 };
	int64_t some = rows * cols < MOST ? rows : MOST / cols;
	struct mat y = dev_mat(d, type, rows, cols), x;
	size_t mark = dev_mark(d);
	float *v = malloc((size_t)(some * cols) * sizeof(*v));

	for (int64_t i = 0; v && i < some * cols; i++) {
		v[i] = 0;
		for (int k = 0; k < 4; k++) {
			seed = seed * 1664525 + 1013904223;
			v[i] += (float)((int32_t)seed) * 0x1p-31f * 0.87f;
		}
	}
	x = dev_mat(d, F32, some, cols);
	dev_put(d, &x, v);
	for (int64_t at = 0; at < rows; at += some) {
		int64_t n = rows - at < some ? rows - at : some;
		struct mat to = mat_rows(&y, at, n), from = mat_rows(&x, 0, n);

		op_convert(d, &to, &from);
	}
	must(d);
	free(v);
	dev_release(d, mark);
	return y;
}

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* What one run does, and the least time of it; a block needs it so many times. */
struct work {
	enum phase phase;
	double times, flop, least;
};

static void
report(struct bench *b, const char *what, double seconds[RUNS], struct work w)
{
	double s;

	qsort(seconds, RUNS, sizeof(*seconds), by_value);
	s = seconds[RUNS / 2];
	printf("%-28s %9.3f ms  x%-4.0f = %8.2f ms a block, %8.2f at least", what, s * 1e3, w.times, s * w.times * 1e3,
	       w.least * w.times * 1e3);
	if (w.flop > 0)
		printf(" %9.1f TFLOP/s", w.flop / s * 1e-12);
	printf("\n");
	b->phases[w.phase].took += s * w.times;
	b->phases[w.phase].least += w.least * w.times;
}

static void
report_phases(const struct bench *b)
{
	double took = 0, least = 0;

	printf("\n%-14s %10s %10s\n", "phase", "ms a block", "at least");
	for (int i = 0; i < PHASES; i++) {
		printf("%-14s %10.1f %10.1f\n", phase_names[i], b->phases[i].took * 1e3, b->phases[i].least * 1e3);
		took += b->phases[i].took;
		least += b->phases[i].least;
	}
	printf("%-14s %10.1f %10.1f\n", "all", took * 1e3, least * 1e3);
}

static struct work
by_math(enum phase phase, double times, double flop, double rate)
{
	return (struct work){phase, times, flop, flop / rate};
}

static struct work
by_bytes(enum phase phase, double times, double bytes, double rate)
{
	return (struct work){phase, times, 0, bytes / rate};
}

/* Runs body RUNS + 1 times, the first to warm up. */
#define TIME(b, what, work, body) do { \
	double seconds_[RUNS]; \
	for (int run_ = -1; run_ < RUNS; run_++) { \
		double began_ = now(); \
		body; \
		must((b)->d); \
		if (run_ >= 0) \
			seconds_[run_] = now() - began_; \
	} \
	report((b), (what), seconds_, (work)); \
} while (0)

static void
bench_linear(struct bench *b, const char *what, int64_t outputs, int64_t inputs, int count)
{
	size_t mark = dev_mark(b->d);
	struct mat x = noise(b->d, dev_operand(b->d), b->T, inputs, 1), w = noise(b->d, BF16, outputs, inputs, 2);
	struct mat y = dev_mat(b->d, F32, b->T, outputs);

	TIME(b, what, by_math(FORWARD, (double)b->tokens / (double)b->T * count, 2.0 * (double)b->T * (double)outputs * (double)inputs,
	                      products), op_linear(b->d, &y, &x, &w, NULL, false));
	dev_release(b->d, mark);
}

static void
bench_rows(struct bench *b)
{
	const struct shape *s = b->s;
	double times = (double)b->tokens / (double)b->T, t = (double)b->T;
	size_t mark = dev_mark(b->d);
	struct mat h = noise(b->d, F32, b->T, s->D, 1), x = dev_mat(b->d, dev_operand(b->d), b->T, s->D), w = noise(b->d, F32, 1, s->D, 2);
	struct mat gate = noise(b->d, F32, b->T, s->I, 3), up = noise(b->d, F32, b->T, s->I, 4);
	struct mat y = dev_mat(b->d, dev_operand(b->d), b->T, s->I), q = noise(b->d, F32, b->T, s->heads * s->width, 5);
	struct norm n = {.w = w, .eps = 1e-6f};
	struct rope r = {noise(b->d, F32, SEQLEN, s->width / 2, 6), noise(b->d, F32, SEQLEN, s->width / 2, 7), false};

	TIME(b, "norm", by_bytes(FORWARD, 2 * times, t * (double)s->D * 6, memory), op_norm(b->d, &x, &h, &n));
	TIME(b, "rope of q", by_bytes(FORWARD, times, t * s->heads * s->width * 8, memory), op_rope(b->d, &q, s->heads, &r, SEQLEN));
	TIME(b, "gated", by_bytes(FORWARD, times, t * (double)s->I * 10, memory), op_gated(b->d, &y, &gate, &up, ACT_SILU));
	dev_release(b->d, mark);
}

static void
bench_attention(struct bench *b)
{
	const struct shape *s = b->s;
	struct attention a = {s->heads, s->kv_heads, s->width, (float)(1 / sqrt(s->width)), 0, 0, SEQLEN};
	size_t mark = dev_mark(b->d);
	struct mat q = noise(b->d, F32, b->T, s->heads * s->width, 1), k = noise(b->d, F32, b->T, s->kv_heads * s->width, 2);
	struct mat v = noise(b->d, F32, b->T, s->kv_heads * s->width, 3), y = dev_mat(b->d, dev_operand(b->d), b->T, s->heads * s->width);

	TIME(b, "attention", by_math(FORWARD, (double)b->tokens / (double)b->T, 2.0 * (double)b->T * SEQLEN * s->heads * s->width,
	                             products), op_attention(b->d, &y, &q, &k, &v, &a));
	dev_release(b->d, mark);
}

static void
bench_gram(struct bench *b, const char *what, int64_t n, int count)
{
	double times = (double)b->tokens / (double)b->T * count;
	size_t mark = dev_mark(b->d);
	struct mat x = noise(b->d, dev_operand(b->d), b->T, n, 1), a = dev_mat(b->d, F32, 1, b->T), h = dev_zeros(b->d, F32, n, n);

	TIME(b, "token weight", by_bytes(GRAM, times, (double)b->T * (double)n * 2, memory), op_token_weight(b->d, &a, &x));
	TIME(b, what, by_math(GRAM, times, (double)b->T * (double)n * (double)n, products), op_gram(b->d, &h, &x, &a));
	dev_release(b->d, mark);
}

/* Scales, factor and codes of linears [rows, n] that share their input. */
static void
bench_solve(struct bench *b, const char *what, int64_t rows, int64_t n)
{
	struct dev *d = b->d;
	size_t mark = dev_mark(d);
	struct grid g = {.bits = 4, .group = 128, .sym = true, .search = SEARCH_WEIGHTED, .rounding = ROUND_STORED, .stored = F16};
	struct babai how = {.static_groups = true, .ridge = 0};
	int64_t groups = (n + g.group - 1) / g.group, dead;
	struct mat x = noise(d, BF16, 2 * 2048, n, 1), h = dev_zeros(d, F32, n, n), w = noise(d, F32, rows, n, 2);
	struct mat order = dev_mat(d, I32, 1, n), u = dev_mat(d, F32, n, n), loss = dev_mat(d, F64, 1, rows);
	struct mat weight = noise(d, F32, 1, n, 3);
	struct qmat q = {dev_mat(d, U8, rows, n), dev_mat(d, F32, rows, groups), dev_mat(d, U8, rows, groups), dev_mat(d, I32, 1, n)};
	struct mat stream = dev_mat(d, U8, rows, n / 2), back = dev_mat(d, BF16, rows, n);
	double m = (double)rows, k = (double)n;

	printf("%s [%lld,%lld]\n", what, (long long)rows, (long long)n);
	op_gated(d, &weight, &weight, &weight, ACT_NONE);      /* squares */
	op_gram(d, &h, &x, NULL);
	TIME(b, "  order", by_bytes(FACTOR, 1, 0, memory), op_order(d, &order, &h, true));
	TIME(b, "  factor", by_math(FACTOR, 1, k * k * k / 3, fp64), op_factor(d, &u, &h, &order, 0.05, &dead));
	TIME(b, "  fit", by_bytes(LOOP, 1, m * k * 4, memory), op_fit(d, &q, &w, &weight, &g));
	TIME(b, "  babai", by_math(LOOP, 1, m * k * k, tf32), op_babai(d, &q, &loss, &w, &u, &order, &weight, &g, &how));
	TIME(b, "  dequant", by_bytes(LOOP, 1, m * k * 3, memory), op_dequant(d, &back, &q, &g));
	TIME(b, "  pack codes", by_bytes(PACK, 1, m * k * 1.5, memory), op_pack_codes(d, &stream, &q.code, 4));
	dev_release(d, mark);
}

static void
bench_copies(struct bench *b)
{
	enum { BYTES = 1 << 28 };
	size_t mark = dev_mark(b->d);
	char *there = malloc(BYTES);
	struct mat m = dev_mat(b->d, U8, 1 << 14, BYTES >> 14);
	double heads = (double)b->s->width * 2 * (b->s->heads + b->s->kv_heads);
	double weights = 2 * (double)b->s->D * ((double)b->s->I * 3 + heads);      /* bytes of a block */

	if (!there)
		exit(1);
	memset(there, 1, BYTES);
	TIME(b, "put 256 MiB", by_bytes(READ, weights / BYTES, BYTES, host), dev_put(b->d, &m, there));
	TIME(b, "get 256 MiB", by_bytes(PACK, weights / 4 / BYTES, BYTES, host), dev_get(b->d, there, &m));
	free(there);
	dev_release(b->d, mark);
}

static void
bench_block(struct bench *b)
{
	const struct shape *s = b->s;
	int64_t queries = (int64_t)s->heads * s->width, keys = (int64_t)s->kv_heads * s->width;

	bench_copies(b);
	bench_linear(b, "linear q", queries, s->D, 1);
	bench_linear(b, "linear k, v", keys, s->D, 2);
	bench_linear(b, "linear o", s->D, queries, 1);
	bench_linear(b, "linear gate, up", s->I, s->D, 2);
	bench_linear(b, "linear down", s->D, s->I, 1);
	bench_rows(b);
	bench_attention(b);
	bench_gram(b, "gram of qkv, o, up", s->D, 3);
	bench_gram(b, "gram of down", s->I, 1);
	bench_solve(b, "qkv", queries + 2 * keys, s->D);
	bench_solve(b, "o", s->D, queries);
	bench_solve(b, "gate and up", 2 * s->I, s->D);
	bench_solve(b, "down", s->D, s->I);
	printf("%s, %lld tokens\n", s->name, (long long)b->tokens);
	report_phases(b);
}

int
main(int argc, char **argv)
{
	struct dev_options o = {.name = argc > 1 ? argv[1] : "auto"};
	struct bench b = {.s = &shapes[0], .tokens = argc > 3 ? strtol(argv[3], NULL, 10) : 128 * SEQLEN};
	char facts[512] = "";

	for (size_t i = 0; argc > 2 && i < sizeof(shapes) / sizeof(shapes[0]); i++)
		if (strcmp(shapes[i].name, argv[2]) == 0)
			b.s = &shapes[i];
	if (dev_facts(&o, facts, sizeof(facts)) != 0 || dev_open(&b.d, &o) != 0) {
		fprintf(stderr, "%s\n", err_text());
		return 1;
	}
	dev_math(b.d, MATH_AUTO);
	b.T = dev_tokens(b.d);
	printf("%s", facts);
	bench_block(&b);
	printf("peak %.2f GiB\n", (double)dev_peak(b.d) / (1 << 30));
	dev_close(b.d);
	return 0;
}
