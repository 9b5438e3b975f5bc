/* preset: compat chooses the codes of the peers: tests/golden/peers holds what they wrote from tests/golden/models. */
#include "qjob/model/weights.h"
#include "tests/stages/solving.h"

/* A peer's folder and what it was told. */
struct peer {
	const char *folder, *model, *yaml, *format;
	int bits;
	bool sym, v2;
};

/* Codes, scales and zeros of one linear as the peer stored them. */
struct stored {
	int64_t O, I, groups;
	enum dtype type;
	double *scale;            /* [O,G] */
	uint8_t *code;            /* [O,I] */
	uint8_t *zero;            /* [O,G] */
	int32_t *group_of;        /* [I] */
};

static const struct tensor *
tensor(const struct safetensors *s, const char *linear, const char *suffix)
{
	char *name = mem_format("%s.%s", linear, suffix);
	const struct tensor *t = safetensors_find(s, name);

	free(name);
	return t;
}

/* Code k of a little-endian stream whose words lie `stride` apart. */
static unsigned
field(const uint32_t *words, int64_t stride, int64_t k, int bits)
{
	unsigned v = 0;

	for (int64_t b = k * bits; b < (k + 1) * bits; b++)
		v |= (words[b / 32 * stride] >> (b % 32) & 1) << (b - k * bits);
	return v;
}

static struct stored
stored_new(int64_t rows, int64_t cols, int64_t groups, enum dtype type)
{
	struct stored s = {.O = rows, .I = cols, .groups = groups, .type = type};

	s.scale = mem_new((size_t)(rows * groups), sizeof(*s.scale));
	s.code = mem_new((size_t)(rows * cols), 1);
	s.zero = mem_new((size_t)(rows * groups), 1);
	s.group_of = mem_new((size_t)cols, sizeof(*s.group_of));
	return s;
}

static void
stored_free(struct stored *s)
{
	free(s->scale);
	free(s->code);
	free(s->zero);
	free(s->group_of);
}

static struct stored
read_gptq(const struct safetensors *f, const char *name, const struct peer *p)
{
	const struct tensor *code = tensor(f, name, "qweight"), *zero = tensor(f, name, "qzeros"), *scale = tensor(f, name, "scales");
	const struct tensor *order = tensor(f, name, "g_idx");
	int64_t rows = scale->shape[1], cols = order->shape[0], G = scale->shape[0];
	struct stored s = stored_new(rows, cols, G, scale->type);

	for (int64_t o = 0; o < rows; o++) {
		for (int64_t i = 0; i < cols; i++)
			s.code[o * cols + i] = (uint8_t)field((const uint32_t *)code->p + o, rows, i, p->bits);
		for (int64_t g = 0; g < G; g++) {
			unsigned z = field((const uint32_t *)zero->p + g * zero->shape[1], 1, o, p->bits);

			s.zero[o * G + g] = (uint8_t)(z + !p->v2);
			s.scale[o * G + g] = read_number((const char *)scale->p + 2 * (g * rows + o), scale->type);
		}
	}
	memcpy(s.group_of, order->p, order->bytes);
	return s;
}

static struct stored
read_compressed(const struct safetensors *f, const char *name, const struct peer *p)
{
	const struct tensor *code = tensor(f, name, "weight_packed"), *zero = tensor(f, name, "weight_zero_point");
	const struct tensor *scale = tensor(f, name, "weight_scale");
	int64_t rows = scale->shape[0], G = scale->shape[1], cols = G * 32, size = (int64_t)dtype_size(scale->type);
	struct stored s = stored_new(rows, cols, G, scale->type);

	for (int64_t o = 0; o < rows; o++) {
		for (int64_t i = 0; i < cols; i++)
			s.code[o * cols + i] = (uint8_t)field((const uint32_t *)code->p + o * code->shape[1], 1, i, p->bits);
		for (int64_t g = 0; g < G; g++) {
			s.scale[o * G + g] = read_number((const char *)scale->p + (o * G + g) * size, scale->type);
			s.zero[o * G + g] = (uint8_t)(zero ? field((const uint32_t *)zero->p + g, G, o, p->bits) : 1u << (p->bits - 1));
		}
	}
	for (int64_t i = 0; i < cols; i++)
		s.group_of[i] = (int32_t)(i / 32);
	return s;
}

static struct stored
read_stored(const struct safetensors *f, const char *name, const struct peer *p)
{
	return strcmp(p->format, "gptq") == 0 ? read_gptq(f, name, p) : read_compressed(f, name, p);
}

/* Solves with the statistics given (gram NULL: none), and asks for the peer's every code, scale, zero and group. */
static void
compare(struct dev *d, const struct configured *c, const struct tensor *w, const struct stored *s, const struct peer *p,
        const float *gram)
{
	size_t mark = dev_mark(d);
	struct answer a = answer_new(s->O, s->I, 32);
	struct grid g = {.bits = p->bits, .group = 32, .sym = p->sym, .stored = s->type};
	struct stats stats = {.tokens = gram ? 2048 : 0};
	struct solved out = {.q = qmat_new(d, &a), .loss = dev_zeros(d, F64, 1, s->O)};
	struct mat m = put(d, w->type, s->O, s->I, w->p);

	if (gram)
		stats.gram = put(d, F32, s->I, s->I, gram);
	assert_int_equal(c->m->solve(d, &out, &m, &stats, &g, c->params), 0);
	qmat_get(d, &a, &out.q);
	assert_good(d);
	assert_string_equal(out.fallback, "");
	assert_memory_equal(a.code, s->code, (size_t)(s->O * s->I));
	assert_memory_equal(a.zero, s->zero, (size_t)(s->O * s->groups));
	assert_memory_equal(a.group_of, s->group_of, (size_t)s->I * sizeof(int32_t));
	for (int64_t k = 0; k < s->O * s->groups; k++)
		assert_true(round_to((double)a.scale[k], s->type) == s->scale[k]);
	answer_free(&a);
	dev_release(d, mark);
}

static void
open_pair(const struct peer *p, struct weights *model, struct safetensors *packed)
{
	char *folder = mem_format(QJOB_TESTS_DIR "/golden/models/%s", p->model);
	char *file = mem_format(QJOB_TESTS_DIR "/golden/peers/%s/model.safetensors", p->folder);

	assert_int_equal(weights_open(model, folder), 0);
	assert_int_equal(safetensors_open(packed, file), 0);
	free(folder);
	free(file);
}

static const struct peer rounded_peers[] = {
	{"gptqmodel-llama_tied_bf16-rtn-w3g32sym", "llama-tied-bf16", "{bits: 3}", "gptq", 3, true, false},
	{"gptqmodel-llama_tied_bf16-rtn-w4g32sym", "llama-tied-bf16", "{bits: 4}", "gptq", 4, true, false},
	{"gptqmodel-llama_tied_bf16-rtn-w8g32sym", "llama-tied-bf16", "{bits: 8}", "gptq", 8, true, false},
	{"gptqmodel-qwen2-rtn-w4g32asym-v2", "qwen2", "{bits: 4, sym: false}", "gptq", 4, false, true},
	{"llmcompressor-llama_tied_bf16-rtn-w3g32sym", "llama-tied-bf16", "{bits: 3}", "compressed-tensors", 3, true, false},
	{"llmcompressor-llama_tied_bf16-rtn-w4g32sym", "llama-tied-bf16", "{bits: 4}", "compressed-tensors", 4, true, false},
	{"llmcompressor-qwen2-rtn-w4g32asym", "qwen2", "{bits: 4, sym: false}", "compressed-tensors", 4, false, false},
};

static void
rounding_is_that_of_the_peers(void **state)
{
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (size_t i = 0; i < sizeof(rounded_peers) / sizeof(rounded_peers[0]); i++) {
		const struct peer *p = &rounded_peers[i];
		const char *key = strcmp(p->format, "gptq") == 0 ? ".qweight" : ".weight_packed";
		struct configured c;
		struct weights model;
		struct safetensors packed;
		int linears = 0;
		char *yaml = mem_format("{preset: compat, %s", p->yaml + 1);

		configure(&c, "rtn", yaml, p->format);
		assert_int_equal(c.d.n, 0);
		open_pair(p, &model, &packed);
		for (size_t k = 0; k < packed.n; k++) {
			size_t n = strlen(packed.v[k].name), m = strlen(key);
			char *name;
			struct stored s;

			if (n < m || strcmp(packed.v[k].name + n - m, key) != 0)
				continue;
			name = mem_format("%.*s", (int)(n - m), packed.v[k].name);
			s = read_stored(&packed, name, p);
			free(name);
			name = mem_format("%.*s.weight", (int)(n - m), packed.v[k].name);
			compare(d, &c, weights_find(&model, name), &s, p, NULL);
			free(name);
			stored_free(&s);
			linears++;
		}
		assert_int_equal(linears, 14);
		free(yaml);
		safetensors_close(&packed);
		weights_close(&model);
		configured_end(&c);
	}
	dev_close(d);
}

/* sum of x x^T over the calibration tokens, x = the first block's normed embeddings: layer 0's q, k, v see nothing else. */
static float *
first_gram(const struct weights *model)
{
	const float *table = weights_find(model, "model.embed_tokens.weight")->p;
	const float *norm = weights_find(model, "model.layers.0.input_layernorm.weight")->p;
	double sum[64 * 64] = {0};
	float *gram = mem_new(64 * 64, sizeof(*gram));
	FILE *f = fopen(QJOB_TESTS_DIR "/golden/peers/calibration.jsonl", "r");
	int c, id = -1, tokens = 0;

	assert_non_null(f);
	for (c = getc(f); c != EOF; c = getc(f)) {
		double x[64], energy = 0;

		if (c >= '0' && c <= '9') {
			id = (id < 0 ? 0 : id * 10) + c - '0';
			continue;
		}
		if (id < 0)
			continue;
		for (int i = 0; i < 64; i++)
			energy += pow((double)table[id * 64 + i], 2) / 64;
		for (int i = 0; i < 64; i++)
			x[i] = (double)table[id * 64 + i] / sqrt(energy + 1e-6) * (double)norm[i];
		for (int i = 0; i < 64 * 64; i++)
			sum[i] += x[i / 64] * x[i % 64];
		id = -1;
		tokens++;
	}
	fclose(f);
	assert_int_equal(tokens, 32 * 64);
	for (int i = 0; i < 64 * 64; i++)
		gram[i] = (float)sum[i];
	return gram;
}

static const struct peer solved_peers[] = {
	{"gptqmodel-llama-gptq-w4g32sym", "llama", "{preset: compat}", "gptq", 4, true, false},
	{"gptqmodel-llama-gptq-w4g32sym-descact", "llama", "{preset: compat, desc_act: true}", "gptq", 4, true, false},
	{"gptqmodel-llama-gptq-w4g32sym-down8", "llama", "{preset: compat}", "gptq", 4, true, false},
	{"llmcompressor-llama-gptq-w4g32sym", "llama", "{preset: compat, actorder: static}", "compressed-tensors", 4, true, false},
};

static void
gptq_is_that_of_the_peers(void **state)
{
	static const char *const names[] = {"q_proj", "k_proj", "v_proj"};
	struct dev *d = device(2, MATH_F32);

	(void)state;
	for (size_t i = 0; i < sizeof(solved_peers) / sizeof(solved_peers[0]); i++) {
		const struct peer *p = &solved_peers[i];
		struct configured c;
		struct weights model;
		struct safetensors packed;
		float *gram;

		configure(&c, "gptq", p->yaml, p->format);
		assert_int_equal(c.d.n, 0);
		open_pair(p, &model, &packed);
		gram = first_gram(&model);
		for (size_t k = 0; k < 3; k++) {
			char *name = mem_format("model.layers.0.self_attn.%s", names[k]), *full = mem_format("%s.weight", name);
			struct stored s = read_stored(&packed, name, p);

			compare(d, &c, weights_find(&model, full), &s, p, gram);
			stored_free(&s);
			free(name);
			free(full);
		}
		free(gram);
		safetensors_close(&packed);
		weights_close(&model);
		configured_end(&c);
	}
	dev_close(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rounding_is_that_of_the_peers),
		cmocka_unit_test(gptq_is_that_of_the_peers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
