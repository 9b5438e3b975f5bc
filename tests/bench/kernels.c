/* What the CPU backend does in a second: GFLOP/s of the operations that cost, at the shapes of a small and a large model.
 *
 *     bench.kernels [threads [f32|bf16 [isa]]]
 *
 * Every figure is the best of some runs, and a few elements of each result are checked against sums in double. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/ops.h"
#include "qjob/base/err.h"

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct mat
noise(struct dev *d, enum dtype type, int64_t rows, int64_t cols, uint32_t seed)
{
	struct mat x = dev_mat(d, F32, rows, cols), y;
	float *row = malloc((size_t)(rows * cols) * sizeof(*row));
	int64_t i;

	for (i = 0; row && i < rows * cols; i++) {
		seed = seed * 1664525 + 1013904223;
		row[i] = (float)((int32_t)seed) * 0x1p-31f;
	}
	dev_put(d, &x, row);
	free(row);
	if (type == F32)
		return x;
	y = dev_mat(d, type, rows, cols);
	op_convert(d, &y, &x);
	return y;
}

static float *
floats(struct dev *d, const struct mat *m)
{
	struct mat f = dev_mat(d, F32, m->rows, m->cols);
	float *v = calloc((size_t)(m->rows * m->cols), sizeof(*v));

	op_convert(d, &f, m);
	dev_get(d, v, &f);
	return v;
}

struct result {
	double seconds, error;    /* error: largest seen, relative to the sum of magnitudes */
};

static void
report(const char *what, const char *shape, double flop, struct result r)
{
	printf("%-10s %-28s %8.2f ms %8.1f GFLOP/s   error %.1e\n", what, shape, r.seconds * 1e3,
	       flop / r.seconds * 1e-9, r.error);
}

static int
runs(double flop)
{
	int n = (int)(4e11 / flop);

	return n < 2 ? 2 : n > 20 ? 20 : n;
}

static void
bench_linear(struct dev *d, int64_t tokens, int64_t outputs, int64_t inputs)
{
	struct mat x = noise(d, F32, tokens, inputs, 1), w = noise(d, BF16, outputs, inputs, 2), y = dev_mat(d, F32,
	                                                                                                     tokens, outputs);
	double flop = 2.0 * (double)tokens * (double)outputs * (double)inputs;
	struct result r = {1e9, 0};
	char shape[64];
	float *xv, *wv, *yv;
	int i, k;

	for (i = 0; i < runs(flop); i++) {
		double t = now();

		op_linear(d, &y, &x, &w, NULL, false);
		t = now() - t;
		r.seconds = t < r.seconds ? t : r.seconds;
	}
	xv = floats(d, &x);
	wv = floats(d, &w);
	yv = floats(d, &y);
	for (i = 0; i < 50; i++) {
		int64_t row = i * 7919 % tokens, col = i * 104729 % outputs;
		double sum = 0, size = 0;

		for (k = 0; k < inputs; k++) {
			double p = (double)xv[row * inputs + k] * (double)wv[col * inputs + k];

			sum += p;
			size += fabs(p);
		}
		r.error = fmax(r.error, fabs((double)yv[row * outputs + col] - sum) / size);
	}
	snprintf(shape, sizeof(shape), "%lldx%lldx%lld", (long long)tokens, (long long)outputs, (long long)inputs);
	report("linear", shape, flop, r);
	free(xv);
	free(wv);
	free(yv);
	dev_release(d, 0);
}

static void
bench_gram(struct dev *d, int64_t tokens, int64_t width)
{
	struct mat x = noise(d, F32, tokens, width, 1), h = dev_zeros(d, F32, width, width), a = dev_mat(d, F32, 1,
	                                                                                                 tokens);
	double flop = (double)tokens * (double)width * (double)(width + 1);
	struct result r = {1e9, 0};
	char shape[64];
	float *xv, *hv;
	int i, n = runs(flop);
	int64_t t;

	for (t = 0; t < tokens; t++)
		((float *)a.p)[t] = 1;
	for (i = 0; i < n; i++) {
		double s = now();

		op_gram(d, &h, &x, &a);
		s = now() - s;
		r.seconds = s < r.seconds ? s : r.seconds;
	}
	xv = floats(d, &x);
	hv = floats(d, &h);
	for (i = 0; i < 50; i++) {
		int64_t row = i * 7919 % width, col = i * 104729 % (row + 1);
		double sum = 0, size = 0;

		for (t = 0; t < tokens; t++) {
			double p = (double)xv[t * width + row] * (double)xv[t * width + col];

			sum += p;
			size += fabs(p);
		}
		r.error = fmax(r.error, fabs((double)hv[row * width + col] / n - sum) / size);
	}
	snprintf(shape, sizeof(shape), "%lldx%lld, lower half", (long long)tokens, (long long)width);
	report("gram", shape, flop, r);
	free(xv);
	free(hv);
	dev_release(d, 0);
}

/* The output of token t in head h, element e, against the sum in double. */
static double
attention_error(const float *q, const float *k, const float *v, const float *y, const struct attention *a, int64_t t,
                int h, int e)
{
	int64_t first = t - t % a->seqlen, s, i, H = a->heads, K = a->kv_heads, E = a->width, g = h / (H / K);
	double total = 0, sum = 0;

	for (s = first; s <= t; s++) {
		double score = 0;

		for (i = 0; i < E; i++)
			score += (double)q[(t * H + h) * E + i] * (double)k[(s * K + g) * E + i];
		score = exp(score * (double)a->scale);
		total += score;
		sum += score * (double)v[(s * K + g) * E + e];
	}
	return fabs((double)y[(t * H + h) * E + e] - sum / total);
}

static void
bench_attention(struct dev *d, int64_t tokens, int64_t seqlen, int heads, int kv_heads, int width)
{
	struct attention a = {heads, kv_heads, width, 1 / sqrtf((float)width), 0, 0, seqlen};
	struct mat q = noise(d, F32, tokens, heads * width, 1), k = noise(d, F32, tokens, kv_heads * width, 2);
	struct mat v = noise(d, F32, tokens, kv_heads * width, 3), y = dev_mat(d, F32, tokens, heads * width);
	double flop = 2.0 * (double)tokens * (double)(seqlen + 1) * heads * width;
	struct result r = {1e9, 0};
	char shape[64];
	float *qv, *kv, *vv, *yv;
	int i;

	for (i = 0; i < runs(flop); i++) {
		double t = now();

		op_attention(d, &y, &q, &k, &v, &a);
		t = now() - t;
		r.seconds = t < r.seconds ? t : r.seconds;
	}
	qv = floats(d, &q);
	kv = floats(d, &k);
	vv = floats(d, &v);
	yv = floats(d, &y);
	for (i = 0; i < 50; i++)
		r.error = fmax(r.error, attention_error(qv, kv, vv, yv, &a, i * 7919 % tokens, i % heads, i % width));
	snprintf(shape, sizeof(shape), "%lld of %lld, %d/%d heads, %d", (long long)tokens, (long long)seqlen, heads,
	         kv_heads, width);
	report("attention", shape, flop, r);
	free(qv);
	free(kv);
	free(vv);
	free(yv);
	dev_release(d, 0);
}

static void
bench_nll(struct dev *d, int64_t tokens, int64_t seqlen, int64_t words, int64_t width)
{
	struct mat x = noise(d, F32, tokens, width, 1), head = noise(d, BF16, words, width, 2), nll = dev_mat(d, F32,
	                                                                                                      1, tokens);
	struct mat ids = dev_zeros(d, I32, 1, tokens);
	double flop = 2.0 * (double)tokens * (double)words * (double)width, t = now();
	struct result r = {0, 0};
	char shape[64];

	op_nll(d, &nll, &x, &head, NULL, &ids, seqlen);
	r.seconds = now() - t;
	snprintf(shape, sizeof(shape), "%lldx%lldx%lld", (long long)tokens, (long long)words, (long long)width);
	report("nll", shape, flop, r);
	dev_release(d, 0);
}

/* Operations between the products: GB/s of what they read and write. */
static void
bench_rows(struct dev *d, int64_t tokens, int64_t width)
{
	struct mat x = noise(d, F32, tokens, width, 1), y = dev_mat(d, F32, tokens, width), w = noise(d, F32, 1,
	                                                                                              width, 2);
	struct mat half = dev_mat(d, BF16, tokens, width);
	struct norm n = {.w = w, .eps = 1e-5f};
	static const char *const name[] = {"norm", "silu*up", "gelu", "gelu_tanh", "add", "to bf16"};
	int i, k;

	for (k = 0; k < 6; k++) {
		double best = 1e9, t;

		for (i = 0; i < 20; i++) {
			t = now();
			switch (k) {
			case 0: op_norm(d, &y, &x, &n); break;
			case 1: op_gated(d, &y, &x, &x, ACT_SILU); break;
			case 2: op_act(d, &y, &x, ACT_GELU); break;
			case 3: op_act(d, &y, &x, ACT_GELU_TANH); break;
			case 4: op_add(d, &y, &x, 1); break;
			default: op_convert(d, &half, &x); break;
			}
			t = now() - t;
			best = t < best ? t : best;
		}
		printf("%-10s %lldx%-23lld %8.2f ms %8.2f Gnumbers/s\n", name[k], (long long)tokens,
		       (long long)width, best * 1e3,
		       (double)(tokens * width) / best * 1e-9);
	}
	dev_release(d, 0);
}

/* A block of SmolLM2-135M over 2048 tokens in sequences of 512, with the statistics of its four sites. */
static void
bench_block(struct dev *d)
{
	enum { T = 2048, D = 576, I = 1536, KV = 192, BLOCKS = 30, CHUNKS = 16 };
	struct mat h = noise(d, F32, T, D, 1), x = dev_mat(d, F32, T, D), y = dev_mat(d, F32, T, D), ones = noise(d,
	                                                                                                          F32, 1, D, 3);
	struct mat q = dev_mat(d, F32, T, D), k = dev_mat(d, F32, T, KV), v = dev_mat(d, F32, T, KV);
	struct mat gate = dev_mat(d, F32, T, I), up = dev_mat(d, F32, T, I), a = dev_mat(d, F32, 1, T);
	struct mat wd = noise(d, BF16, D, D, 4), wk = noise(d, BF16, KV, D, 5), wi = noise(d, BF16, I, D,
	                                                                                   6), wo = noise(d, BF16, D,
	                                                                                                  I, 7);
	struct mat gd = dev_zeros(d, F32, D, D), gi = dev_zeros(d, F32, I, I), table = noise(d, F32, 512, 32, 8);
	struct norm n = {.w = ones, .eps = 1e-5f};
	struct rope r = {.cos = table, .sin = table};
	struct attention at = {9, 3, 64, 0.125f, 0, 0, 512};
	double best = 1e9, t;
	int i;

	for (i = 0; i < 5; i++) {
		t = now();
		op_norm(d, &x, &h, &n);
		op_token_weight(d, &a, &x);
		op_gram(d, &gd, &x, &a);
		op_linear(d, &q, &x, &wd, NULL, false);
		op_linear(d, &k, &x, &wk, NULL, false);
		op_linear(d, &v, &x, &wk, NULL, false);
		op_rope(d, &q, 9, &r, 512);
		op_rope(d, &k, 3, &r, 512);
		op_attention(d, &y, &q, &k, &v, &at);
		op_gram(d, &gd, &y, &a);
		op_linear(d, &h, &y, &wd, NULL, true);
		op_norm(d, &x, &h, &n);
		op_gram(d, &gd, &x, &a);
		op_linear(d, &gate, &x, &wi, NULL, false);
		op_linear(d, &up, &x, &wi, NULL, false);
		op_gated(d, &gate, &gate, &up, ACT_SILU);
		op_gram(d, &gi, &gate, &a);
		op_linear(d, &h, &gate, &wo, NULL, true);
		t = now() - t;
		best = t < best ? t : best;
	}
	printf("%-10s %-28s %8.2f ms, %.1f s for %d blocks of 64x512 tokens\n", "block", "SmolLM2, with statistics",
	       best * 1e3,
	       best * BLOCKS * CHUNKS, BLOCKS);
	dev_release(d, 0);
}

int
main(int argc, char **argv)
{
	struct dev_options o = {.name = "cpu", .threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0,
	                        .isa = argc > 3 ? argv[3] : NULL};
	enum math math = argc > 2 ? (strcmp(argv[2], "bf16") == 0 ? MATH_BF16 : MATH_F32) : MATH_AUTO;
	char facts[512] = "";
	struct dev *d;

	if (dev_facts(&o, facts, sizeof(facts)) != 0 || dev_open(&d, &o) != 0) {
		fprintf(stderr, "%s\n", err_text());
		return 1;
	}
	math = dev_math(d, math);
	printf("%smath %s\n", facts, math == MATH_BF16 ? "bf16" : "f32");
	bench_linear(d, 2048, 1536, 576);
	bench_linear(d, 2048, 576, 1536);
	bench_linear(d, 2048, 192, 576);
	bench_linear(d, 2048, 576, 576);
	bench_linear(d, 2048, 3584, 3584);
	bench_gram(d, 2048, 576);
	bench_gram(d, 2048, 1536);
	bench_gram(d, 2048, 3584);
	bench_attention(d, 2048, 512, 9, 3, 64);
	bench_attention(d, 2048, 2048, 9, 3, 64);
	bench_attention(d, 2048, 2048, 28, 4, 128);
	bench_nll(d, 2048, 512, 49152, 576);
	bench_rows(d, 2048, 1536);
	bench_block(d);
	printf("peak %.1f MiB\n", (double)dev_peak(d) / 1048576);
	if (dev_status(d) != 0)
		fprintf(stderr, "%s\n", err_text());
	dev_close(d);
	return 0;
}
