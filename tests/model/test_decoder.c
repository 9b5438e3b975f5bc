#include "qjob/model/decoder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"
#include "qjob/model/qlinear.h"

#define MODELS QJOB_TESTS_DIR "/golden/models/"

/* A model with its expected outputs, and what a run of it gave. */
struct golden {
	struct weights w;
	struct safetensors expected;
	int32_t *ids;
	int64_t n, seqlen;
	float *out;                  /* hidden states, then logits */
	size_t at, room;
};

/* On the CPU, or on what QJOB_TEST_DEVICE names. */
static struct dev *
device(int threads, enum math math)
{
	const char *set = getenv("QJOB_TEST_DEVICE");
	const struct dev_options o = {.name = set && set[0] ? set : "cpu", .threads = threads};
	struct dev *d;

	if (dev_open(&d, &o) < 0)
		fail_msg("%s", err_text());
	dev_math(d, math);
	return d;
}

static void
golden_open(struct golden *g, const char *name)
{
	char *folder = path_join(MODELS, name), *path = path_join(folder, "expected.safetensors");
	const struct tensor *t;

	*g = (struct golden){0};
	if (weights_open(&g->w, folder) < 0 || weights_check(&g->w) < 0 || safetensors_open(&g->expected, path) < 0)
		fail_msg("%s", err_text());
	free(folder);
	free(path);
	t = safetensors_find(&g->expected, "input_ids");
	assert_int_equal(t->type, I64);
	g->n = t->shape[0];
	g->seqlen = t->shape[1];
	g->ids = mem_new((size_t)(g->n * g->seqlen), sizeof(*g->ids));
	for (int64_t i = 0; i < g->n * g->seqlen; i++) {
		int64_t id;

		memcpy(&id, (const char *)t->p + i * 8, sizeof(id));
		g->ids[i] = (int32_t)id;
	}
}

static void
golden_close(struct golden *g)
{
	free(g->ids);
	free(g->out);
	safetensors_close(&g->expected);
	weights_close(&g->w);
}

static int
keep(void *own, const float *p, size_t n)
{
	struct golden *g = own;

	assert_true(n <= g->room - g->at);
	memcpy(g->out + g->at, p, n * sizeof(*p));
	g->at += n;
	return 0;
}

/* Windows [from, from + n) cut to seqlen tokens. */
static void
run(struct golden *g, struct dev *d, bool hidden, int64_t from, int64_t n, int64_t seqlen)
{
	const struct config *c = &g->w.config;
	int32_t *ids = mem_new((size_t)(n * seqlen), sizeof(*ids));
	const struct forward f = {.ids = ids, .n = n, .seqlen = seqlen, .hidden = hidden, .take = keep, .own = g};

	for (int64_t i = 0; i < n * seqlen; i++)
		ids[i] = g->ids[(from + i / seqlen) * g->seqlen + i % seqlen];
	g->room = (size_t)(n * seqlen * ((hidden ? c->L + 1 : 0) * c->D + c->V));
	g->at = 0;
	free(g->out);
	g->out = mem_new(g->room, sizeof(*g->out));
	if (decoder_forward(d, &g->w, &f) < 0)
		fail_msg("%s", err_text());
	assert_int_equal(g->at, g->room);
	free(ids);
}

static double
largest_difference(const float *a, const void *b, size_t n)
{
	double most = 0;

	for (size_t i = 0; i < n; i++) {
		float x;

		memcpy(&x, (const char *)b + i * sizeof(x), sizeof(x));
		if (!(fabs((double)a[i] - (double)x) <= most))
			most = fabs((double)a[i] - (double)x);
	}
	return most;
}

/* Root of the mean square of the difference, over that of b. */
static double
relative_difference(const float *a, const void *b, size_t n)
{
	double difference = 0, size = 0;

	for (size_t i = 0; i < n; i++) {
		float x;

		memcpy(&x, (const char *)b + i * sizeof(x), sizeof(x));
		difference += ((double)a[i] - (double)x) * ((double)a[i] - (double)x);
		size += (double)x * (double)x;
	}
	return sqrt(difference / size);
}

static void
close_to(const char *model, const char *name, const float *got, const struct tensor *want)
{
	double most = largest_difference(got, want->p, want->bytes / sizeof(float));

	if (!(most <= 1e-4))
		fail_msg("%s: %s differs by %g", model, name, most);
}

static void
outputs_equal_transformers(void **state)
{
	static const char *const models[] = {
		"llama", "llama-tied-bf16", "llama3-rope", "mistral", "qwen2", "qwen3", "small-llama-bias", "small-llama-linear",
		"small-mistral-window", "small-qwen2-window", "small-qwen3-bias",
	};
	struct dev *d = device(0, MATH_F32);

	(void)state;
	for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
		struct golden g;
		char name[32];
		int64_t b;

		golden_open(&g, models[i]);
		run(&g, d, true, 0, g.n, g.seqlen);
		for (b = 0; b <= g.w.config.L; b++) {
			snprintf(name, sizeof(name), "hidden_states.%d", (int)b);
			close_to(models[i], name, g.out + b * g.n * g.seqlen * g.w.config.D, safetensors_find(&g.expected, name));
		}
		close_to(models[i], "logits", g.out + b * g.n * g.seqlen * g.w.config.D,
		         safetensors_find(&g.expected, "logits"));
		golden_close(&g);
	}
	dev_close(d);
}

/* A window alone, beside another, or cut short gives the same numbers. */
static void
windows_do_not_see_each_other_nor_what_follows(void **state)
{
	struct dev *d = device(0, MATH_F32);
	struct golden all, one;
	int64_t vocab, T;

	(void)state;
	golden_open(&all, "qwen3");
	golden_open(&one, "qwen3");
	vocab = all.w.config.V;
	T = all.seqlen;
	run(&all, d, false, 0, 2, T);
	run(&one, d, false, 1, 1, T);
	assert_true(largest_difference(one.out, all.out + T * vocab, (size_t)(T * vocab)) <= 1e-5);
	run(&one, d, false, 1, 1, T / 2);
	assert_true(largest_difference(one.out, all.out + T * vocab, (size_t)(T / 2 * vocab)) <= 1e-5);
	run(&one, d, false, 0, 1, 1);
	assert_true(largest_difference(one.out, all.out, (size_t)vocab) <= 1e-5);
	golden_close(&one);
	golden_close(&all);
	dev_close(d);
}

static void
threads_do_not_change_a_bit(void **state)
{
	static const enum math maths[] = {MATH_F32, MATH_BF16, MATH_F16};

	(void)state;
	for (int m = 0; m < 3; m++) {
		struct dev *d1 = device(1, maths[m]), *d2 = device(2, maths[m]);
		struct golden a, b;

		golden_open(&a, "llama-tied-bf16");
		golden_open(&b, "llama-tied-bf16");
		run(&a, d1, true, 0, a.n, a.seqlen);
		run(&b, d2, true, 0, b.n, b.seqlen);
		assert_memory_equal(a.out, b.out, a.room * sizeof(*a.out));
		golden_close(&a);
		golden_close(&b);
		dev_close(d1);
		dev_close(d2);
	}
}

static void
narrow_products_stay_close(void **state)
{
	static const struct {
		enum math math;
		const char *model;
		double least, most;
	} rows[] = {
		{MATH_BF16, "llama-tied-bf16", 1e-4, 0.02},
		{MATH_F16,  "llama-tied-bf16", 1e-5, 0.0025},
		{MATH_F16,  "qwen2",           1e-5, 0.0025},
		{MATH_F16,  "mistral",         1e-5, 0.0025},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct dev *d = device(0, rows[i].math);
		struct golden g;
		double off;

		golden_open(&g, rows[i].model);
		run(&g, d, false, 0, g.n, g.seqlen);
		off = relative_difference(g.out, safetensors_find(&g.expected, "logits")->p, g.room);
		if (!(off > rows[i].least && off <= rows[i].most))
			fail_msg("%s: logits differ by %g", rows[i].model, off);
		golden_close(&g);
		dev_close(d);
	}
}

/* ---- negative log-likelihood ---- */

struct steps {
	int n, blocks, stop;
};

static int
step(void *own, int block, int blocks)
{
	struct steps *s = own;

	s->n++;
	assert_int_equal(block, s->n);
	s->blocks = blocks;
	return s->n == s->stop;
}

static double
reference_nll(const struct golden *g, int64_t row, int32_t id)
{
	const int64_t vocab = g->w.config.V;
	const char *p = (const char *)safetensors_find(&g->expected, "logits")->p + row * vocab * 4;
	double most = -INFINITY, sum = 0;
	float x;

	for (int64_t v = 0; v < vocab; v++) {
		memcpy(&x, p + v * 4, sizeof(x));
		most = fmax(most, (double)x);
	}
	for (int64_t v = 0; v < vocab; v++) {
		memcpy(&x, p + v * 4, sizeof(x));
		sum += exp((double)x - most);
	}
	memcpy(&x, p + (int64_t)id * 4, sizeof(x));
	return most + log(sum) - (double)x;
}

static void
nll_is_that_of_the_logits(void **state)
{
	struct dev *d = device(0, MATH_F32);
	struct golden g;
	struct steps steps = {0};
	double window[2];
	float *nll;

	(void)state;
	golden_open(&g, "llama");
	nll = mem_new((size_t)(g.n * g.seqlen), sizeof(*nll));
	assert_int_equal(g.n, 2);
	assert_int_equal(decoder_nll(d, &g.w, g.ids, g.n, g.seqlen, window, nll, step, &steps), 0);
	assert_int_equal(steps.n, 2);
	assert_int_equal(steps.blocks, 2);
	for (int64_t i = 0; i < g.n; i++) {
		double sum = 0;

		for (int64_t t = 0; t + 1 < g.seqlen; t++) {
			double want = reference_nll(&g, i * g.seqlen + t, g.ids[i * g.seqlen + t + 1]);

			assert_true(fabs((double)nll[i * g.seqlen + t] - want) <= 1e-4);
			sum += want;
		}
		assert_true(nll[(i + 1) * g.seqlen - 1] == 0);
		assert_true(fabs(window[i] - sum / (double)(g.seqlen - 1)) <= 1e-5);
	}
	assert_int_equal(decoder_nll(d, &g.w, g.ids, 1, 2, window, NULL, NULL, NULL), 0);
	assert_true(fabs(window[0] - (double)nll[0]) <= 1e-5);
	free(nll);
	golden_close(&g);
	dev_close(d);
}

/* More windows than a chunk holds, of which each is one of two. */
static void
many_windows_come_in_chunks(void **state)
{
	struct dev *d = device(0, MATH_F32);
	struct golden g;
	double *window;
	int32_t *ids;
	int N;

	(void)state;
	golden_open(&g, "llama");
	N = 2 * (int)chunk_sequences(d, g.seqlen) + 1;
	window = mem_new((size_t)N, sizeof(*window));
	ids = mem_new((size_t)(N * g.seqlen), sizeof(*ids));
	for (int i = 0; i < N; i++)
		memcpy(ids + i * g.seqlen, g.ids + (i % 3 == 0) * g.seqlen, (size_t)g.seqlen * sizeof(*ids));
	assert_int_equal(decoder_nll(d, &g.w, ids, N, g.seqlen, window, NULL, NULL, NULL), 0);
	for (int i = 2; i < N; i++)
		assert_true(fabs(window[i] - window[i % 3 == 0 ? 0 : 1]) <= 1e-6);
	assert_true(fabs(window[0] - window[1]) > 1e-3);
	assert_int_equal(dev_mark(d), 0);
	free(window);
	free(ids);
	golden_close(&g);
	dev_close(d);
}

/* Mean NLLs of n windows within so much memory (0: plenty); returns the peak, 0 when it is too little. */
static size_t
nll_within(size_t memory, const struct golden *g, const int32_t *ids, int64_t n, double *window)
{
	const struct dev_options o = {.name = "cpu", .threads = 2, .memory = memory};
	size_t peak = 0;
	struct dev *d;
	int rc;

	assert_int_equal(dev_open(&d, &o), 0);
	dev_math(d, MATH_F32);
	rc = decoder_nll(d, &g->w, ids, n, g->seqlen, window, NULL, NULL, NULL);
	if (rc == 0)
		peak = dev_peak(d);
	else
		assert_int_equal(rc, E_USE);
	assert_int_equal(dev_mark(d), 0);
	dev_close(d);
	return peak;
}

static void
activations_beside_the_device_change_nothing(void **state)
{
	enum { N = 404 };
	struct golden g;
	double plenty[N], little[N];
	size_t most, memory = 0, peak;
	int32_t *ids;

	(void)state;
	golden_open(&g, "llama");
	ids = mem_new((size_t)(N * g.seqlen), sizeof(*ids));
	for (int i = 0; i < N; i++)
		memcpy(ids + i * g.seqlen, g.ids + (i % 3 == 0) * g.seqlen, (size_t)g.seqlen * sizeof(*ids));
	most = nll_within(0, &g, ids, N, plenty);
	do {
		memory += 100000;
		peak = nll_within(memory, &g, ids, N, little);
		if (peak == 0)
			assert_non_null(strstr(err_text(), "do not fit the "));
	} while (peak == 0);
	assert_true(peak <= memory && memory < most - (size_t)(N * g.seqlen * 64 * 4) / 2);
	assert_memory_equal(plenty, little, sizeof(plenty));
	free(ids);
	golden_close(&g);
}

static void
what_cannot_be_run_is_refused(void **state)
{
	struct dev *d = device(0, MATH_F32);
	struct golden g;
	struct steps steps = {.stop = 1};
	double window[2];
	int32_t ids[4] = {1, 2, 320, 3};

	(void)state;
	golden_open(&g, "llama");
	assert_int_equal(decoder_nll(d, &g.w, ids, 2, 2, window, NULL, NULL, NULL), E_DATA);
	assert_string_equal(err_text(), "window 1, position 0: token 320 is outside the vocabulary of 320");
	ids[2] = -1;
	assert_int_equal(decoder_nll(d, &g.w, ids, 2, 2, window, NULL, NULL, NULL), E_DATA);
	assert_string_equal(err_text(), "window 1, position 0: token -1 is outside the vocabulary of 320");
	assert_int_equal(decoder_nll(d, &g.w, ids, 1, 1, window, NULL, NULL, NULL), E_USE);
	assert_string_equal(err_text(), "windows of 1 tokens predict nothing, wanted at least 2");
	assert_int_equal(decoder_nll(d, &g.w, ids, 1, 257, window, NULL, NULL, NULL), E_USE);
	assert_string_equal(err_text(), "windows of 257 tokens are longer than max_position_embeddings, 256");
	assert_int_equal(decoder_nll(d, &g.w, g.ids, g.n, g.seqlen, window, NULL, step, &steps), E_SYS);
	assert_string_equal(err_text(), "interrupted");
	assert_int_equal(steps.n, 1);
	assert_int_equal(decoder_nll(d, &g.w, g.ids, g.n, g.seqlen, window, NULL, NULL, NULL), 0);
	golden_close(&g);
	dev_close(d);
}

/* ---- steps, and packed models ---- */

static void
steps_make_a_block(void **state)
{
	struct dev *d = device(0, MATH_F32);
	struct golden g;
	struct block b;
	struct mat h, x[SITES];
	const struct tensor *in, *out;
	float *got;

	(void)state;
	golden_open(&g, "mistral");
	in = safetensors_find(&g.expected, "hidden_states.0");
	out = safetensors_find(&g.expected, "hidden_states.1");
	assert_int_equal(block_load(d, &b, &g.w, 0, g.seqlen), 0);
	assert_int_equal(b.linear[Q].w.rows, part_rows(&g.w.config, Q));
	assert_null(b.linear[Q].b.p);
	h = dev_mat(d, F32, 2 * g.seqlen, g.w.config.D);
	got = mem_new(out->bytes, 1);
	memcpy(got, in->p, in->bytes);
	dev_put(d, &h, got);
	for (int s = 0; s <= SITES; s++) {
		if (s < SITES)
			x[s] = dev_mat(d, s % 2 ? BF16 : F32, h.rows, site_width(&g.w.config, (enum site)s));
		block_step(d, &b, s, &h, s ? &x[s - 1] : NULL, s < SITES ? &x[s] : NULL, g.seqlen);
	}
	dev_get(d, got, &h);
	assert_int_equal(dev_status(d), 0);
	assert_true(relative_difference(got, out->p, out->bytes / 4) <= 3e-3);    /* x in BF16 twice */
	free(got);
	golden_close(&g);
	dev_close(d);
}

/* Stands in for a format: 8 bits of the weight of the model that was not packed, at a scale of 1/64. */
static int
decode(const struct weights *w, const char *linear, struct qlinear *q, int64_t rows, int64_t cols)
{
	const struct tensor *t;
	size_t n = (size_t)(rows * cols);
	float *scale = mem_new((size_t)rows, sizeof(*scale));
	uint8_t *codes = mem_new(n, 1);
	char name[256];

	snprintf(name, sizeof(name), "%s.weight", linear);
	t = weights_find(w->decode_own, name);
	assert_non_null(t);
	assert_int_equal(t->shape[0], rows);
	assert_int_equal(t->shape[1], cols);
	for (size_t i = 0; i < n; i++)
		codes[i] = (uint8_t)(int)fmaxf(0, fminf(255, rintf(((const float *)t->p)[i] * 64) + 128));
	for (int64_t o = 0; o < rows; o++)
		scale[o] = 1.f / 64;
	*q = (struct qlinear){.bits = 8, .rows = rows, .cols = cols, .group = cols, .groups = 1, .sym = true, .codes = codes,
	                      .scale = scale, .scale_type = F32};
	return 0;
}

/* The linears of the plain model become what decode makes of them, in memory that the caller frees after the model. */
static float *
round_linears(struct golden *g)
{
	const struct weights self = {.decode_own = &g->w};
	float *room = mem_new(g->w.files[0].st.view.n, 1), *dense = room;

	for (size_t i = 0; i < g->w.files[0].st.n; i++) {
		struct tensor *t = &g->w.files[0].st.v[i];
		char linear[256];
		struct qlinear q;

		if (!strstr(t->name, "_proj"))
			continue;
		snprintf(linear, sizeof(linear), "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
		decode(&self, linear, &q, t->shape[0], t->shape[1]);
		qlinear_dequant(&q, dense);
		qlinear_free(&q);
		t->p = dense;
		dense += t->bytes / sizeof(*dense);
	}
	return room;
}

/* The same model under other names: its linears hidden behind a quantization_config, as formats do. */
static void
packed_linears_are_decoded(void **state)
{
	struct dev *d = device(0, MATH_F32);
	struct golden plain, packed;
	float *room;

	(void)state;
	golden_open(&plain, "llama");
	golden_open(&packed, "llama");
	json_object_set_new(packed.w.config.json, "quantization_config", json_object());
	for (size_t i = 0; i < packed.w.files[0].st.n; i++)
		if (strstr(packed.w.files[0].st.v[i].name, "_proj"))
			packed.w.files[0].st.v[i].type = U8;
	assert_int_equal(weights_check(&packed.w), 0);
	assert_true(weights_is_packed(&packed.w, "model.layers.1.mlp.up_proj"));
	assert_false(weights_is_packed(&packed.w, "lm_head"));
	packed.w.decode = decode;
	packed.w.decode_own = &plain.w;
	room = round_linears(&plain);
	run(&plain, d, true, 0, plain.n, plain.seqlen);
	run(&packed, d, true, 0, plain.n, plain.seqlen);
	assert_memory_equal(plain.out, packed.out, plain.room * sizeof(*plain.out));
	packed.w.decode = NULL;
	{
		double window[2];

		assert_int_equal(decoder_nll(d, &packed.w, plain.ids, 2, 48, window, NULL, NULL, NULL), E_USE);
		assert_string_equal(err_text(), "block 0: model.layers.0.self_attn.q_proj is quantized, in a format that is not known");
	}
	golden_close(&plain);
	golden_close(&packed);
	free(room);
	dev_close(d);
}

static void
widths(void **state)
{
	struct dev *d = device(0, MATH_F32);
	struct golden g;

	(void)state;
	golden_open(&g, "mistral");
	assert_int_equal(site_width(&g.w.config, SITE_QKV), 64);
	assert_int_equal(site_width(&g.w.config, SITE_O), 96);
	assert_int_equal(site_width(&g.w.config, SITE_UP), 64);
	assert_int_equal(site_width(&g.w.config, SITE_DOWN), 160);
	assert_int_equal(part_rows(&g.w.config, Q), 96);
	assert_int_equal(part_rows(&g.w.config, V), 48);
	assert_int_equal(part_rows(&g.w.config, GATE), 160);
	assert_int_equal(part_rows(&g.w.config, DOWN), 64);
	assert_int_equal(part_rows(&g.w.config, HEAD), 320);
	assert_int_equal(turn_width(&g.w.config, SITE_QKV), 64);
	assert_int_equal(turn_width(&g.w.config, SITE_O), 160);
	assert_int_equal(chunk_sequences(d, 2048), dev_tokens(d) / 2048);
	assert_int_equal(chunk_sequences(d, 512), dev_tokens(d) / 512);
	assert_int_equal(chunk_sequences(d, 5000), 1);
	assert_int_equal(least_sequences(600), 3);
	golden_close(&g);
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outputs_equal_transformers),
		cmocka_unit_test(windows_do_not_see_each_other_nor_what_follows),
		cmocka_unit_test(threads_do_not_change_a_bit),
		cmocka_unit_test(narrow_products_stay_close),
		cmocka_unit_test(nll_is_that_of_the_logits),
		cmocka_unit_test(many_windows_come_in_chunks),
		cmocka_unit_test(activations_beside_the_device_change_nothing),
		cmocka_unit_test(what_cannot_be_run_is_refused),
		cmocka_unit_test(steps_make_a_block),
		cmocka_unit_test(packed_linears_are_decoded),
		cmocka_unit_test(widths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
