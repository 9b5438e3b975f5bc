#include "qjob/base/hash.h"
#include "stages/pack/layout.h"
#include "tests/stages/fake.h"

/* ---- what the peers wrote ---- */

/* By tests/golden/peers/digests.py. */
static const struct peer { const char *folder, *sha256; } peers[] = {
	{"gptqmodel-llama-gptq-w4g32sym", "998038063ae80cb79b46cc95575ec57713477a81540de87e55a90843adc4f5a4"},
	{"gptqmodel-llama-gptq-w4g32sym-descact", "0b525a6d66c45234012c22598fddce8c6f9593b4cb48f8aa8c347c8b76c1d2d0"},
	{"gptqmodel-llama-gptq-w4g32sym-down8", "f0e96f0a255d07ee8d1ab96709cf77384b865d9ea7895959e2ab6aa13c08be7d"},
	{"gptqmodel-llama_tied_bf16-rtn-w3g32sym", "3c085d4a1a9e9a03eb6feb817240a13ab547cb28e061f6dc87f964d571f54c25"},
	{"gptqmodel-llama_tied_bf16-rtn-w4g32sym", "5e9cadfc054219000a5fa703154acf97773f377b666de878bf0b2f57d26e4fd8"},
	{"gptqmodel-llama_tied_bf16-rtn-w8g32sym", "f894e6d36be2e99762487097fd9070d49b7cd1d2dc4f530b4820f17f7a592311"},
	{"gptqmodel-qwen2-rtn-w4g32asym-v2", "e88450e8bea0ad35bccbb6be2db6765f3ef079a9007c5b4699e8a289d01355d4"},
	{"llmcompressor-llama-gptq-w4g32sym", "ebc941c8e3ed1d51e625da3b289a101514a6014b442b38812ff9b3ebd8849f02"},
	{"llmcompressor-llama_tied_bf16-rtn-w3g32sym", "79798f160d5cdf9176c1c3340117d14320930211f3d2e43866a746c89eae5dd6"},
	{"llmcompressor-llama_tied_bf16-rtn-w4g32sym", "8250cf3ef2539a5a4199040982a36c6e02b0752bf4ceed4704615f64332f9d91"},
	{"llmcompressor-qwen2-rtn-w4g32asym", "61349572fcb7cfb78c4624d781e161659192f6dfa1c9621577265ab46b62e62b"},
};

enum { PEERS = sizeof(peers) / sizeof(peers[0]) };

static void
open_peer(struct weights *w, const char *folder)
{
	char *path = mem_format("%s/golden/peers/%s", QJOB_TESTS_DIR, folder);

	assert_ok(weights_open(w, path));
	assert_ok(format_attach(w));
	assert_non_null(w->decode);
	free(path);
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names of a model's linears, sorted; shapes by config. */
static size_t
linear_names(const struct weights *w, char **names, enum part *parts)
{
	enum part site[4];
	size_t n = 0;

	for (int b = 0; b < w->config.L; b++)
		for (enum site s = 0; s < SITES; s++)
			for (int i = site_parts(w->config.family, s, site); i-- > 0;) {
				names[n] = mem_new(256, 1);
				part_name(w->config.family, site[i], b, names[n++], 256);
			}
	qsort(names, n, sizeof(*names), by_text);
	for (size_t i = 0; i < n; i++)
		for (enum part p = 0; p < PARTS; p++) {
			char name[256];

			for (int b = 0; w->config.family->names[p] && b < w->config.L; b++) {
				part_name(w->config.family, p, b, name, sizeof(name));
				if (strcmp(name, names[i]) == 0)
					parts[i] = p;
			}
		}
	return n;
}

static int64_t
part_cols(const struct config *c, enum part p)
{
	return site_width(c, p == DOWN ? SITE_DOWN : p == O ? SITE_O : SITE_QKV);
}

static void
decodes_peers(void **state)
{
	(void)state;
	for (size_t k = 0; k < PEERS; k++) {
		struct weights w = {0};
		struct sha256 *h = sha256_new();
		char *names[64], hex[SHA256_HEX];
		enum part parts[64];
		size_t n;

		open_peer(&w, peers[k].folder);
		assert_ok(weights_check(&w));
		n = linear_names(&w, names, parts);
		for (size_t i = 0; i < n; i++) {
			int64_t rows = part_rows(&w.config, parts[i]), cols = part_cols(&w.config, parts[i]);
			float *out = mem_new((size_t)(rows * cols), sizeof(*out));

			assert_ok(decode_dense(&w, names[i], out, rows, cols));
			sha256_add(h, out, (size_t)(rows * cols) * sizeof(*out));
			free(out);
			free(names[i]);
		}
		sha256_end(h, hex);
		assert_string_equal(hex, peers[k].sha256);
		weights_close(&w);
	}
}

/* ---- packing what the peers packed gives their bytes ---- */

static unsigned
bit(const struct tensor *t, int64_t word, int64_t at)
{
	return ((const unsigned char *)t->p)[word * 4 + at / 8] >> (at % 8) & 1;
}

static void
put_bit(uint8_t *to, int64_t at, unsigned value)
{
	to[at / 8] |= (uint8_t)(value << (at % 8));
}

/* A peer's tensors taken apart bit by bit into the neutral form. */
struct apart {
	uint8_t *codes, *zero;
	unsigned char *scale;
	struct qlinear q;
};

static const struct tensor *
tensor_of(const struct weights *w, const char *linear, const char *suffix)
{
	char name[300];

	snprintf(name, sizeof(name), "%s.%s", linear, suffix);
	return weights_find(w, name);
}

static void
apart_gptq(struct apart *a, const struct weights *w, const struct choice *c, bool v1)
{
	const struct tensor *qw = tensor_of(w, c->name, "qweight"), *qz = tensor_of(w, c->name, "qzeros"),
		*s = tensor_of(w, c->name, "scales");
	int64_t groups = s->shape[0], N = c->rows;
	size_t row = codes_bytes(c->cols, c->bits), each = dtype_size(s->type);

	*a = (struct apart){mem_new((size_t)N, row), mem_new((size_t)(N * groups), 1), mem_new((size_t)(N * groups), each), {0}};
	for (int64_t o = 0; o < N; o++) {
		for (int64_t at = 0; at < c->cols * c->bits; at++)
			put_bit(a->codes + (size_t)o * row, at, bit(qw, at / 32 * N + o, at % 32));
		for (int64_t g = 0; g < groups; g++) {
			unsigned field = 0;

			for (int b = 0; b < c->bits; b++)
				field |= bit(qz, g * qz->shape[1], o * c->bits + b) << b;
			a->zero[o * groups + g] = (uint8_t)(field + v1);
			memcpy(a->scale + (size_t)(o * groups + g) * each, (const unsigned char *)s->p + (size_t)(g * N + o) * each, each);
		}
	}
	a->q = (struct qlinear){c->bits, N, c->cols, c->group, groups, c->sym, a->codes, a->scale, s->type, c->sym ? NULL : a->zero,
	                        tensor_of(w, c->name, "g_idx")->p};
}

static void
apart_ct(struct apart *a, const struct weights *w, const struct choice *c)
{
	const struct tensor *p = tensor_of(w, c->name, "weight_packed"), *z = tensor_of(w, c->name, "weight_zero_point");
	const struct tensor *s = tensor_of(w, c->name, "weight_scale");
	int64_t groups = s->shape[1];
	size_t row = codes_bytes(c->cols, c->bits);

	*a = (struct apart){mem_new((size_t)c->rows, row), mem_new((size_t)(c->rows * groups), 1), mem_new(s->bytes, 1), {0}};
	memcpy(a->scale, s->p, s->bytes);
	for (int64_t o = 0; o < c->rows; o++) {
		for (int64_t at = 0; at < c->cols * c->bits; at++)
			put_bit(a->codes + (size_t)o * row, at, bit(p, o * p->shape[1], at));
		for (int64_t at = o * c->bits; z && at < (o + 1) * c->bits; at++)
			for (int64_t g = 0; g < groups; g++)
				put_bit(&a->zero[o * groups + g], at - o * c->bits, bit(z, at / 32 * groups + g, at % 32));
	}
	a->q = (struct qlinear){c->bits, c->rows, c->cols, c->group, groups, c->sym, a->codes, a->scale, s->type, z ? a->zero : NULL, NULL};
}

static void
repack_one(const struct fake *f, const struct weights *w, const struct choice *c, const struct apart *a)
{
	const struct format *format = f->s.format;
	struct tensor t[FORMAT_TENSORS];
	int n = format->tensors(f->s.format_params, c, a->q.scale_type, false, t);

	for (int k = 0; k < n; k++) {
		const struct tensor *want = weights_find(w, t[k].name);
		unsigned char *to;

		assert_non_null(want);
		assert_int_equal(t[k].type, want->type);
		assert_int_equal(t[k].rank, want->rank);
		for (int i = 0; i < want->rank; i++)
			assert_int_equal(t[k].shape[i], want->shape[i]);
		assert_int_equal(t[k].bytes, want->bytes);
		to = mem_new(want->bytes, 1);
		memset(to, 0xa5, want->bytes);   /* every byte must be written */
		assert_ok(format->pack(f->s.format_params, &a->q, k, &t[k], to));
		assert_memory_equal(to, want->p, want->bytes);
		free(to);
		free(t[k].name);
	}
}

static void
packs_as_peers(void **state)
{
	static const struct { const char *folder, *model, *format, *params; int bits; bool sym; } rows[] = {
		{"gptqmodel-llama-gptq-w4g32sym",              "llama",           "gptq", "checkpoint_format: gptq", 4, true},
		{"gptqmodel-llama-gptq-w4g32sym-descact",      "llama",           "gptq", "checkpoint_format: gptq", 4, true},
		{"gptqmodel-llama_tied_bf16-rtn-w3g32sym",     "llama-tied-bf16", "gptq", "checkpoint_format: gptq", 3, true},
		{"gptqmodel-llama_tied_bf16-rtn-w4g32sym",     "llama-tied-bf16", "gptq", "checkpoint_format: gptq", 4, true},
		{"gptqmodel-llama_tied_bf16-rtn-w8g32sym",     "llama-tied-bf16", "gptq", "checkpoint_format: gptq", 8, true},
		{"gptqmodel-qwen2-rtn-w4g32asym-v2",           "qwen2",           "gptq", "checkpoint_format: gptq_v2", 4, false},
		{"llmcompressor-llama-gptq-w4g32sym",          "llama",           "compressed-tensors", "{}", 4, true},
		{"llmcompressor-llama_tied_bf16-rtn-w3g32sym", "llama-tied-bf16", "compressed-tensors", "{}", 3, true},
		{"llmcompressor-llama_tied_bf16-rtn-w4g32sym", "llama-tied-bf16", "compressed-tensors", "{}", 4, true},
		{"llmcompressor-qwen2-rtn-w4g32asym",          "qwen2",           "compressed-tensors", "{}", 4, false},
	};

	(void)state;
	for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
		struct fake f;
		struct weights w = {0};

		fake_open(&f, rows[k].model, rows[k].format, rows[k].params);
		open_peer(&w, rows[k].folder);
		for (size_t i = 0; i < f.p.nchoices; i++) {
			struct choice *c = &f.p.choices[i];
			struct apart a;

			c->bits = rows[k].bits;
			c->sym = rows[k].sym;
			if (strcmp(rows[k].format, "gptq") == 0)
				apart_gptq(&a, &w, c, strcmp(rows[k].params, "checkpoint_format: gptq") == 0);
			else
				apart_ct(&a, &w, c);
			repack_one(&f, &w, c, &a);
			free(a.codes);
			free(a.zero);
			free(a.scale);
		}
		weights_close(&w);
		fake_close(&f);
	}
}

/* ---- packing and decoding random linears ---- */

/* Weights that consist of the tensors of one linear and a config, in memory. */
struct memory {
	struct weights w;
	struct weights_file file;
	struct tensor t[FORMAT_TENSORS];
	unsigned char *bytes[FORMAT_TENSORS];
	int n;
};

static void
memory_make(struct memory *m, const struct fake *f, const struct choice *c, const struct qlinear *q)
{
	const struct format *format = f->s.format;
	json_t *config = json_object();

	memset(m, 0, sizeof(*m));
	m->n = format->tensors(f->s.format_params, c, q->scale_type, f->p.wish.ordered, m->t);
	for (int k = 0; k < m->n; k++) {
		m->bytes[k] = mem_new(m->t[k].bytes, 1);
		assert_ok(format->pack(f->s.format_params, q, k, &m->t[k], m->bytes[k]));
		m->t[k].p = m->bytes[k];
		map_put(&m->w.by_name, m->t[k].name, NULL)->v.i = k;
	}
	m->file.st.v = m->t;
	m->file.st.n = (size_t)m->n;
	m->w.files = &m->file;
	m->w.nfiles = 1;
	json_object_set_new(config, "quantization_config", format->config(&f->p));
	m->w.config.json = config;
	assert_ok(format_attach(&m->w));
}

static void
memory_free(struct memory *m)
{
	for (int k = 0; k < m->n; k++) {
		free(m->bytes[k]);
		free(m->t[k].name);
	}
	map_release(&m->w.by_name);
	json_decref(m->w.config.json);
}

static void
round_trip(struct fake *f, const struct choice *c, enum dtype scale, bool order, uint32_t seed)
{
	size_t n = (size_t)(c->rows * c->cols);
	float *want = mem_new(n, sizeof(*want)), *got = mem_new(n, sizeof(*got));
	struct fake_linear l;
	struct memory m;

	fake_linear(&l, c, scale, f->s.format->zero_min(f->s.format_params, c->sym), order, seed);
	memory_make(&m, f, c, &l.q);
	assert_ok(decode_dense(&m.w, c->name, got, c->rows, c->cols));
	qlinear_dequant(&l.q, want);
	assert_memory_equal(got, want, n * sizeof(*want));
	memory_free(&m);
	fake_linear_free(&l);
	free(want);
	free(got);
}

static void
one_choice(struct fake *f, int bits, int64_t group, bool sym)
{
	f->p.nchoices = 1;
	f->p.weights.config.L = 1;
	f->p.choices[0] = (struct choice){.name = "model.layers.0.self_attn.q_proj", .part = Q, .site = SITE_QKV, .rows = 96, .cols = 160,
	                                  .bits = bits, .group = group < 0 ? 160 : group, .sym = sym};
}

static void
round_trips(void **state)
{
	static const struct { const char *format, *params; enum dtype scale; } rows[] = {
		{"gptq", "checkpoint_format: gptq", F16}, {"gptq", "checkpoint_format: gptq_v2", F16},
		{"compressed-tensors", "{}", F32}, {"compressed-tensors", "{}", F16}, {"compressed-tensors", "{}", BF16},
	};
	static const int bits[] = {2, 3, 4, 8};
	static const int64_t groups[] = {-1, 16, 32, 80};
	uint32_t seed = 7;

	(void)state;
	for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++)
		for (int i = 0; i < 4 * 4 * 2 * 2; i++) {
			struct fake f;
			bool order = (i & 1) && strcmp(rows[k].format, "gptq") == 0;

			fake_open(&f, "llama", rows[k].format, rows[k].params);
			one_choice(&f, bits[i / 16], groups[i / 4 % 4], i / 2 % 2);
			f.p.wish.ordered = order;
			round_trip(&f, &f.p.choices[0], rows[k].scale, order, ++seed);
			fake_close(&f);
		}
}

/* Words are filled to their last bit, whatever the width: compressed-tensors takes any shape. */
static void
round_trips_odd_shapes(void **state)
{
	uint32_t seed = 99;

	(void)state;
	for (int bits = 2; bits <= 8; bits++)
		for (int sym = 0; sym < 2; sym++) {
			struct fake f;

			fake_open(&f, "llama", "compressed-tensors", "{}");
			one_choice(&f, bits, -1, sym);
			f.p.choices[0].rows = 13;
			f.p.choices[0].cols = 21;
			f.p.choices[0].group = 7;
			round_trip(&f, &f.p.choices[0], BF16, false, ++seed);
			fake_close(&f);
		}
}

/* ---- what is refused ---- */

#define assert_refused(call, code, text) do { \
	assert_int_equal(call, code); \
	assert_string_equal(err_text(), text); \
} while (0)

static int
check(const char *format, const struct choice *c, bool order)
{
	return format_find(format)->check(NULL, c, order);
}

static void
refuses_choices(void **state)
{
	struct choice c = {.name = "model.layers.0.self_attn.q_proj", .rows = 576, .cols = 576, .bits = 4, .group = 128, .sym = true};

	(void)state;
	assert_refused(check("gptq", &c, false), E_USE,
	               "group_size 128 does not divide in_features 576 of model.layers.0.self_attn.q_proj; 64 does");
	assert_refused(check("compressed-tensors", &c, false), E_USE,
	               "group_size 128 does not divide in_features 576 of model.layers.0.self_attn.q_proj; 64 does");
	c.group = 64;
	assert_ok(check("gptq", &c, true));
	assert_refused(check("compressed-tensors", &c, true), E_USE, "format compressed-tensors has no g_idx, which desc_act needs for "
	               "model.layers.0.self_attn.q_proj; use format gptq, or actorder: static");
	c.bits = 5;
	assert_ok(check("compressed-tensors", &c, false));
	assert_refused(check("gptq", &c, false), E_USE,
	               "format gptq has no 5 bits for model.layers.0.self_attn.q_proj; 2, 3, 4 and 8 are possible");
	c = (struct choice){.name = "a.b", .rows = 48, .cols = 36, .bits = 4, .group = 36, .sym = true};
	assert_refused(check("gptq", &c, false), E_USE, "format gptq with 4 bits needs in_features in multiples of 8, "
	               "and a.b has 36; use format "
	               "compressed-tensors, or leave it out with an override (skip: true)");
	c.cols = c.group = 64;
	assert_ok(check("gptq", &c, false));
	c.bits = 3;
	assert_refused(check("gptq", &c, false), E_USE, "format gptq with 3 bits needs out_features in multiples of "
	               "32, and a.b has 48; use format "
	               "compressed-tensors, or leave it out with an override (skip: true)");
	c = (struct choice){.name = "a.b", .rows = 32, .cols = 33, .bits = 4, .group = 32, .sym = true};
	assert_refused(check("compressed-tensors", &c, false), E_USE,
	               "group_size 32 does not divide in_features 33 of a.b; -1 does (one group a row)");
}

static void
refuses_a_zero_point_of_zero(void **state)
{
	struct fake f;
	struct fake_linear l;
	struct tensor t[FORMAT_TENSORS];
	unsigned char to[4096];

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	one_choice(&f, 4, 32, false);
	fake_linear(&l, &f.p.choices[0], F16, 1, false, 1);
	l.zero[5 * 7] = 0;
	f.s.format->tensors(f.s.format_params, &f.p.choices[0], F16, false, t);
	assert_refused(f.s.format->pack(f.s.format_params, &l.q, 1, &t[1], to), E_DATA,
	               "model.layers.0.self_attn.q_proj.qzeros: zero point 0 of "
	               "output 7 has no place in checkpoint_format gptq; use gptq_v2");
	for (int k = 0; k < 4; k++)
		free(t[k].name);
	fake_linear_free(&l);
	fake_close(&f);
}

/* One fault a row: what is changed in a sound file, and what is said. */
struct fault_row {
	const char *format, *params;
	void (*harm)(struct memory *m);
	const char *text;
};

static json_t *
label(struct memory *m)
{
	return json_object_get(m->w.config.json, "quantization_config");
}

static json_t *
scheme(struct memory *m)
{
	return json_object_get(json_object_get(json_object_get(label(m), "config_groups"), "group_0"), "weights");
}

static void v2_label(struct memory *m) { json_object_set_new(label(m), "checkpoint_format", json_string("gptq_v2")); }
static void v1_label(struct memory *m) { json_object_set_new(label(m), "checkpoint_format", json_string("gptq")); }
static void odd_label(struct memory *m) { json_object_set_new(label(m), "checkpoint_format", json_string("marlin")); }
static void group_label(struct memory *m) { json_object_set_new(label(m), "group_size", json_integer(64)); }
static void bits_label(struct memory *m) { json_object_set_new(label(m), "bits", json_integer(8)); }
static void no_bits(struct memory *m) { json_object_del(label(m), "bits"); }
static void text_bits(struct memory *m) { json_object_set_new(label(m), "bits", json_string("4")); }
static void zero_group(struct memory *m) { json_object_set_new(label(m), "group_size", json_integer(0)); }
static void lose_0(struct memory *m) { m->t[0].name[0] = 'X'; map_release(&m->w.by_name); map_put(&m->w.by_name,
                                                                                                  m->t[1].name, NULL)->v.i = 1; }
static void lose_last(struct memory *m)
{
	map_release(&m->w.by_name);
	for (int k = 0; k + 1 < m->n; k++)
		map_put(&m->w.by_name, m->t[k].name, NULL)->v.i = k;
}
static void nan_scale(struct memory *m) { m->bytes[2][3] = 0x7e; }
static void infinite_scale(struct memory *m) { uint32_t inf = 0x7f800000; memcpy(m->bytes[1] + 8, &inf, 4); }
static void far_group(struct memory *m) { int32_t g = 5; memcpy(m->bytes[3] + 12, &g, 4); }
static void negative_group(struct memory *m) { int32_t g = -1; memcpy(m->bytes[3] + 12, &g, 4); }
static void other_group(struct memory *m) { int32_t g = 4; memcpy(m->bytes[3] + 12, &g, 4); }
static void one_zero(struct memory *m) { m->bytes[1][0] = 0x78; }
static void int_scale(struct memory *m) { m->t[2].type = I16; }
static void flat_scale(struct memory *m) { m->t[2].shape[0] = 4; }
static void skipped(struct memory *m) { json_object_set_new(label(m), "dynamic", json_pack("{s:{}}", "-:.*q_proj$")); }
static void not_compressed(struct memory *m) { json_object_set_new(label(m), "quantization_status", json_string("frozen")); }
static void ignored(struct memory *m) { json_array_append_new(json_object_get(label(m), "ignore"), json_string("re:.*q_proj")); }
static void no_target(struct memory *m) { json_object_set_new(json_object_get(json_object_get(label(m),
                                                                                              "config_groups"),
	"group_0"), "targets", json_array()); }
static void float_type(struct memory *m) { json_object_set_new(scheme(m), "type", json_string("float")); }
static void no_group(struct memory *m) { json_object_set_new(scheme(m), "group_size", json_integer(48)); }
static void three_bits(struct memory *m) { json_object_set_new(scheme(m), "num_bits", json_integer(3)); m->t[0].shape[1] = 16; }
static void other_bits(struct memory *m) { json_object_set_new(scheme(m), "num_bits", json_integer(3)); }
static void asym_scheme(struct memory *m) { json_object_set_new(scheme(m), "symmetric", json_false()); }
static void wrong_shape(struct memory *m) { int64_t n = 161; memcpy(m->bytes[2] + 8, &n, 8); }

#define LINEAR "model.layers.0.self_attn.q_proj"

static const struct fault_row faults[] = {
	{"gptq", "{}", v2_label, LINEAR ".qzeros: every zero point is stored as gptq does it, but the label says "
	 "checkpoint_format gptq_v2"},
	{"gptq", "checkpoint_format: gptq_v2", v1_label,
	 LINEAR ".qzeros: every zero point is stored as gptq_v2 does it, but the label says checkpoint_format gptq"},
	{"gptq", "{}", odd_label, "config.json: quantization_config.checkpoint_format: marlin is neither gptq nor gptq_v2"},
	{"gptq", "{}", group_label, LINEAR ".qzeros has shape [5, 12], not [3, 12]"},
	{"gptq", "{}", bits_label, LINEAR ".qweight has shape [20, 96], not [40, 96]"},
	{"gptq", "{}", no_bits, "config.json: quantization_config.bits: 0 is not one of 2, 3, 4, 8"},
	{"gptq", "{}", text_bits, "config.json: quantization_config: bits, group_size and sym are a number, a number and a truth value"},
	{"gptq", "{}", zero_group, "config.json: quantization_config.group_size: 0 is neither -1 nor positive"},
	{"gptq", "{}", lose_0, LINEAR ".qweight is missing"},
	{"gptq", "{}", lose_last, LINEAR ".g_idx is missing"},
	{"gptq", "{}", nan_scale, LINEAR ".scales holds NaN at element 1"},
	{"gptq", "{}", far_group, LINEAR ".g_idx: 5 at 3 is no group; there are 5"},
	{"gptq", "{}", negative_group, LINEAR ".g_idx: -1 at 3 is no group; there are 5"},
	{"gptq", "{}", other_group, LINEAR ".g_idx: groups follow an order, but the label says desc_act false"},
	{"gptq", "{}", one_zero, LINEAR ".qzeros: zero point 9 at group 0, output 0, but the label says sym, which is 8"},
	{"gptq", "{}", int_scale, LINEAR ".scales is I16, not F16, BF16 or F32"},
	{"gptq", "{}", flat_scale, LINEAR ".scales has shape [4, 96], not [5, 96]"},
	{"gptq", "{}", skipped, LINEAR ".weight is missing, and config.json says it is not quantized (dynamic -:.*q_proj$)"},
	{"compressed-tensors", "{}", not_compressed,
	 "config.json: quantization_config.quantization_status is not compressed, so loaders would look for " LINEAR ".weight"},
	{"compressed-tensors", "{}", ignored, LINEAR ".weight is missing, and config.json says it is not quantized (ignore)"},
	{"compressed-tensors", "{}", no_target, LINEAR ".weight is missing, and no group of quantization_config.config_groups targets it"},
	{"compressed-tensors", "{}", float_type, "config.json: the scheme of " LINEAR " is not int with 1 to 8 bits"},
	{"compressed-tensors", "{}", no_group,
	 "config.json: the scheme of " LINEAR " has neither strategy channel nor strategy group with a group_size that divides 160"},
	{"compressed-tensors", "{}", three_bits,
	 LINEAR ".weight_packed has 16 words a row, not 15: it is padded, as compressed-tensors before 0.18 did"},
	{"compressed-tensors", "{}", other_bits, LINEAR ".weight_packed has 20 words a row, not 15"},
	{"compressed-tensors", "{}", asym_scheme, LINEAR ".weight_zero_point is missing"},
	{"compressed-tensors", "{}", wrong_shape, LINEAR ".weight_shape says [96, 161], the model has [96, 160]"},
	{"compressed-tensors", "{}", infinite_scale, LINEAR ".weight_scale holds an infinity at element 2"},
	{"compressed-tensors", "{}", lose_0, LINEAR ".weight_packed is missing"},
	{"compressed-tensors", "{}", lose_last, LINEAR ".weight_shape is missing"},
};

static void
refuses_faults(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		float *out = mem_new(96 * 160, sizeof(*out));
		struct fake f;
		struct fake_linear l;
		struct memory m;

		fake_open(&f, "llama", faults[i].format, faults[i].params);
		one_choice(&f, 4, 32, true);
		fake_linear(&l, &f.p.choices[0], *faults[i].format == 'g' ? F16 : F32, 0, false, 3);
		memory_make(&m, &f, &f.p.choices[0], &l.q);
		assert_ok(decode_dense(&m.w, LINEAR, out, 96, 160));
		faults[i].harm(&m);
		assert_int_equal(decode_dense(&m.w, LINEAR, out, 96, 160), E_DATA);
		assert_string_equal(err_text(), faults[i].text);
		memory_free(&m);
		fake_linear_free(&l);
		fake_close(&f);
		free(out);
	}
}

static void
attaches_by_label(void **state)
{
	struct weights w = {0};

	(void)state;
	w.config.json = json_object();
	assert_ok(format_attach(&w));
	assert_null(w.decode);
	json_object_set_new(w.config.json, "quantization_config", json_pack("{s:s}", "quant_method", "awq"));
	assert_refused(format_attach(&w), E_DATA, "config.json: quantization_config.quant_method: awq is not one of "
	               "gptq, compressed-tensors");
	json_object_set_new(w.config.json, "quantization_config", json_pack("{s:i}", "quant_method", 7));
	assert_refused(format_attach(&w), E_DATA, "config.json: quantization_config.quant_method: a value that is no "
	               "text is not one of gptq, "
	               "compressed-tensors");
	json_decref(w.config.json);
}

/* A stranger resolves the rules of a mixture by itself: every linear decodes by the whole config. */
static void
decodes_mixtures(void **state)
{
	static const char *const formats_of[] = {"gptq", "compressed-tensors"};

	(void)state;
	for (int k = 0; k < 2; k++) {
		struct fake f;

		fake_open(&f, "llama", formats_of[k], "{}");
		for (size_t i = 0; i < f.p.nchoices; i++) {
			struct choice *c = &f.p.choices[i];

			c->bits = c->part == DOWN ? 8 : c->block == 1 ? 2 : 4;
			c->group = c->part == GATE ? c->cols : c->part == Q ? 16 : 32;
			c->sym = c->part != K;
		}
		for (size_t i = 0; i < f.p.nchoices; i++)
			round_trip(&f, &f.p.choices[i], k ? F32 : F16, false, (uint32_t)i);
		fake_close(&f);
	}
}

static void
matches_patterns(void **state)
{
	char long_name[200];

	(void)state;
	assert_true(regex_match(".*\\.down_proj$", "model.layers.3.mlp.down_proj"));
	assert_false(regex_match("layers", "model.layers.3"));      /* anchored, as re.match */
	assert_true(regex_match("model\\.layers\\.(3|4)\\.", "model.layers.3.mlp"));
	assert_false(regex_match("(", "("));
	memset(long_name, 'a', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	assert_false(regex_match("(a+)+$b", long_name));            /* given up, not waited for */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decodes_peers),
		cmocka_unit_test(packs_as_peers),
		cmocka_unit_test(round_trips),
		cmocka_unit_test(round_trips_odd_shapes),
		cmocka_unit_test(refuses_choices),
		cmocka_unit_test(refuses_a_zero_point_of_zero),
		cmocka_unit_test(refuses_faults),
		cmocka_unit_test(attaches_by_label),
		cmocka_unit_test(decodes_mixtures),
		cmocka_unit_test(matches_patterns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
