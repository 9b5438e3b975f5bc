#include "stages/pack/shard.h"
#include "tests/stages/packed.h"

static void
collect(const struct node *n, struct buf *out)
{
	for (size_t i = 0; i < n->nneeds; i++)
		buf_printf(out, "%s|%s|%s|%d\n", n->needs[i].label, n->needs[i].node->name, n->needs[i].what, n->needs[i].keyed);
}

static void
declares_nodes(void **state)
{
	struct fake f;
	struct graph g;
	const struct node *n;
	struct buf needs = {0};

	(void)state;
	fake_open(&f, "llama-tied-bf16", "gptq", "{}");
	packed_graph(&f, &g);
	n = graph_find(&g, "pack/shard-0");
	assert_non_null(n);
	assert_int_equal(n->resource, RES_IO);
	assert_int_equal(n->npublish, 1);
	assert_string_equal(n->publish[0], "model.safetensors");
	collect(n, &needs);
	assert_string_equal(buf_text(&needs),
	                    "tensor model.embed_tokens.weight|fetch/model.safetensors|model.embed_tokens.weight|1\n"
	                    "tensor model.layers.0.input_layernorm.weight|fetch/model.safetensors|model.layers.0.input_layernorm.weight|1\n"
	                    "block 0|quantize/0|block.safetensors|1\n"
	                    "tensor "
		"model.layers.0.post_attention_layernorm.weight|fetch/model.safetensors|model.layers.0.post_attention_layernorm.weight|1\n"
	                    "tensor model.layers.1.input_layernorm.weight|fetch/model.safetensors|model.layers.1.input_layernorm.weight|1\n"
	                    "block 1|quantize/1|block.safetensors|1\n"
	                    "tensor "
		"model.layers.1.post_attention_layernorm.weight|fetch/model.safetensors|model.layers.1.post_attention_layernorm.weight|1\n"
	                    "tensor model.norm.weight|fetch/model.safetensors|model.norm.weight|1\n");
	assert_non_null(strstr(buf_text(&n->facts), "format gptq 1\n"));
	assert_non_null(strstr(buf_text(&n->facts), "set pack.checkpoint_format gptq\n"));
	assert_non_null(strstr(buf_text(&n->facts), "linear model.layers.1.mlp.down_proj bits 4 group_size 32 sym true\n"));
	assert_non_null(strstr(buf_text(&n->facts), "out 000003 model.layers.0.mlp.down_proj.qzeros I32 5 8\n"));
	buf_clear(&needs);
	n = graph_find(&g, "pack/files");
	collect(n, &needs);
	assert_string_equal(buf_text(&needs), "file config.json|fetch/config.json|content|1\n"
	                    "file generation_config.json|fetch/generation_config.json|content|1\n");
	assert_int_equal(n->npublish, 3);
	assert_string_equal(n->publish[0], "config.json");
	assert_string_equal(n->publish[1], "quantize_config.json");
	assert_string_equal(n->publish[2], "generation_config.json");
	buf_release(&needs);
	graph_release(&g);
	fake_close(&f);
}

/* The facts of a node after a change to the recipe. */
static char *
facts_of(const char *node, void (*change)(struct fake *f))
{
	struct fake f;
	struct graph g;
	char *facts;

	fake_open(&f, "llama", "gptq", "{}");
	f.s.pack.max_shard_size = "180kB";
	change(&f);
	packed_graph(&f, &g);
	facts = mem_text(buf_text(&graph_find(&g, node)->facts));
	graph_release(&g);
	fake_close(&f);
	return facts;
}

static void as_it_is(struct fake *f) { (void)f; }
static void other_kernel(struct fake *f) { f->s.pack.kernel = "torch"; }
static void one_bits(struct fake *f) { fake_choice(f, "model.layers.1.mlp.down_proj")->bits = 8; }
static void skip_one(struct fake *f) { fake_choice(f, "model.layers.1.mlp.down_proj")->skip = true; }
static void other_damp(struct fake *f) { f->method.damp_percent = "0.1"; }
static void order(struct fake *f) { f->p.wish.ordered = true; }

/* What changes bytes changes keys, of the nodes that hold those bytes alone. */
static void
keys_what_changes(void **state)
{
	static const char *const nodes[] = {"pack/shard-0", "pack/shard-1", "pack/files"};
	static const struct { void (*change)(struct fake *f); bool changes[3]; } rows[] = {
		{other_kernel, {false, false, false}},
		{one_bits,     {false, true,  true}},
		{skip_one,     {false, true,  true}},
		{other_damp,   {false, false, true}},
		{order,        {false, false, true}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (int k = 0; k < 3; k++) {
			char *before = facts_of(nodes[k], as_it_is), *after = facts_of(nodes[k], rows[i].change);

			if ((strcmp(before, after) != 0) != rows[i].changes[k])
				fail_msg("change %zu, node %s:\n%s\n%s", i, nodes[k], before, after);
			free(before);
			free(after);
		}
}

/* Every packed linear is what its codes mean, everything else is the source's. */
static void
assert_packed(struct packed *k)
{
	struct fake *f = &k->f;
	struct weights w = {0};
	char *folder = packed_folder(k);

	assert_ok(weights_open(&w, folder));
	assert_ok(format_attach(&w));
	assert_ok(weights_check(&w));
	for (size_t i = 0; i < f->p.nchoices; i++) {
		const struct choice *c = &f->p.choices[i];
		size_t n = (size_t)(c->rows * c->cols);
		float *want, *got;

		if (c->skip)
			continue;
		want = mem_new(n, sizeof(*want));
		got = mem_new(n, sizeof(*got));
		assert_ok(decode_dense(&w, c->name, got, c->rows, c->cols));
		qlinear_dequant(&k->linears[i].q, want);
		assert_memory_equal(got, want, n * sizeof(*got));
		free(want);
		free(got);
	}
	for (size_t i = 0; i < f->p.weights.nfiles; i++)
		for (size_t j = 0; j < f->p.weights.files[i].st.n; j++) {
			const struct tensor *from = &f->p.weights.files[i].st.v[j], *to = weights_find(&w, from->name);

			if (project_choice(&f->p, from->name)) {
				assert_null(to);
				continue;
			}
			assert_non_null(to);
			assert_int_equal(to->type, from->type);
			assert_int_equal(to->bytes, from->bytes);
			assert_memory_equal(to->p, from->p, from->bytes);
		}
	weights_close(&w);
	free(folder);
}

static void
packs_models(void **state)
{
	static const struct { const char *model, *format, *params, *shard; bool order, asym; size_t shards; } rows[] = {
		{"llama",           "gptq",               "{}",                         "5GB",   false, false, 1},
		{"llama",           "gptq",               "{}",                         "5GB",   true,  true,  1},
		{"qwen2",           "gptq",               "checkpoint_format: gptq_v2", "100kB", false, true,  3},
		{"qwen3",           "gptq",               "{}",                         "60kB",  true,  false, 5},
		{"llama-tied-bf16", "compressed-tensors", "{}",                         "5GB",   false, false, 1},
		{"mistral",         "compressed-tensors", "{}",                         "1B",    false, true,  0},
		{"llama3-rope",     "compressed-tensors", "{}",                         "100kB", false, true,  3},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct packed k;

		packed_open(&k, rows[i].model, rows[i].format, rows[i].params);
		k.f.s.pack.max_shard_size = rows[i].shard;
		k.f.p.wish.ordered = rows[i].order;
		for (size_t j = 0; j < k.f.p.nchoices; j++) {
			k.f.p.choices[j].sym = !rows[i].asym;
			k.f.p.choices[j].bits = j % 3 == 0 ? 8 : j % 3 == 1 ? 3 : 4;
			k.f.p.choices[j].skip = k.f.p.choices[j].part == O;
		}
		packed_random(&k);
		packed_run(&k);
		if (rows[i].shards)
			assert_int_equal(k.nshards, rows[i].shards);
		else
			assert_true(k.nshards > 20);
		assert_packed(&k);
		packed_close(&k);
	}
}

static void
read_text(const struct packed *k, const char *name, struct buf *text)
{
	char *folder = packed_folder(k), *path = path_join(folder, name);

	assert_ok(file_read(text, path, 1 << 20));
	free(path);
	free(folder);
}

/* config.json is the source's text with one key more; the index knows every tensor; the rest is carried byte for byte. */
static void
writes_small_files(void **state)
{
	struct packed k;
	struct buf text = {0}, source = {0}, extra = {0};
	json_t *j, *own, *map;
	static const char middle[] = ",\n  \"quantization_config\": {\n    \"quant_method\": \"gptq\",\n";

	(void)state;
	packed_open(&k, "llama", "gptq", "{}");
	k.f.s.pack.max_shard_size = "200kB";
	packed_random(&k);
	packed_run(&k);
	assert_ok(file_read(&source, k.f.files[0].path, 1 << 20));
	read_text(&k, "config.json", &text);
	while (source.p[source.n - 1] != '}')
		source.n--;
	source.n--;
	while (strchr(" \n", source.p[source.n - 1]))
		source.n--;
	assert_memory_equal(text.p, source.p, source.n);
	assert_memory_equal(text.p + source.n, middle, sizeof(middle) - 1);
	assert_string_equal(text.p + text.n - 12, "    }\n  }\n}\n");
	assert_ok(json_parse(&j, text.p, text.n, "config.json"));
	own = json_object_get(j, "quantization_config");
	assert_int_equal(json_integer_value(json_object_get(own, "bits")), 4);
	read_text(&k, "quantize_config.json", &extra);
	assert_ok(json_parse(&map, extra.p, extra.n, "quantize_config.json"));
	assert_true(json_equal(own, map));
	json_decref(map);
	json_decref(j);
	buf_clear(&text);
	read_text(&k, "model.safetensors.index.json", &text);
	assert_ok(json_parse(&j, text.p, text.n, "index"));
	map = json_object_get(j, "weight_map");
	assert_string_equal(json_string_value(json_object_get(map, "lm_head.weight")), "model-00001-of-00002.safetensors");
	assert_string_equal(json_string_value(json_object_get(map, "model.norm.weight")), "model-00002-of-00002.safetensors");
	json_decref(j);
	buf_clear(&text);
	buf_clear(&source);
	read_text(&k, "generation_config.json", &text);
	assert_ok(file_read(&source, k.f.files[1].path, 1 << 20));
	assert_string_equal(buf_text(&text), buf_text(&source));
	buf_release(&text);
	buf_release(&source);
	buf_release(&extra);
	packed_close(&k);
}

static void
same_bytes_again(void **state)
{
	struct buf text[2] = {{0}, {0}};

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct packed k;

		packed_open(&k, "llama", "gptq", "{}");
		packed_random(&k);
		packed_run(&k);
		read_text(&k, "model.safetensors", &text[i]);
		read_text(&k, "config.json", &text[i]);
		packed_close(&k);
	}
	assert_int_equal(text[0].n, text[1].n);
	assert_memory_equal(text[0].p, text[1].p, text[0].n);
	buf_release(&text[0]);
	buf_release(&text[1]);
}

/* Of 7B shapes: nobody waits long for the last one. */
static void
the_last_of_large_shards_is_small(void **state)
{
	static const char recipe[] = "model: {source: 'synthetic:qwen2-7b'}\nquantize: {method: rtn}\npack: {max_shard_size: 1GB}\n";
	const struct dev_options o = {.name = "cpu"};
	struct diag d = {0};
	struct yaml *tree = yaml_parse(recipe, strlen(recipe), "r.yaml", &d);
	char *root = t_dir();
	struct settings settings;
	struct project *p;
	struct shards s;
	size_t n = 0;

	(void)state;
	setenv("QJOB_SYNTHETIC", root, 1);
	settings_read(&settings, tree, &d);
	p = project_open(&settings, tree, &o, &d);
	assert_non_null(p);
	assert_ok(shards_plan(&s, p));
	assert_true(s.n > 5);
	assert_in_range(s.v[s.n - 1].bytes, 64 << 20, 125000000);
	for (size_t i = 0; i < s.n; i++) {
		assert_int_equal(s.v[i].first, n);
		assert_int_equal(s.tensors[n].k, 0);
		assert_true(s.v[i].n == 1 || s.v[i].bytes <= 1000000000);
		n += s.v[i].n;
	}
	assert_int_equal(n, s.ntensors);
	shards_release(&s);
	project_close(p);
	settings_release(&settings);
	yaml_free(tree);
	diag_release(&d);
	unsetenv("QJOB_SYNTHETIC");
	t_dir_end(root);
}

static void
plans_shards(void **state)
{
	struct fake f;
	struct shards s;
	uint64_t sum = 0;

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	f.s.pack.max_shard_size = "82kB";        /* embedding and head are 81920 bytes each */
	assert_ok(shards_plan(&s, &f.p));
	assert_string_equal(s.tensors[0].t.name, "lm_head.weight");
	assert_string_equal(s.v[0].name, "model-00001-of-00003.safetensors");
	assert_int_equal(s.v[0].n, 1);
	assert_int_equal(s.v[1].n, 1);
	for (size_t i = 0; i < s.n; i++) {
		assert_int_equal(s.v[i].first, i ? s.v[i - 1].first + s.v[i - 1].n : 0);
		assert_true(s.v[i].bytes <= 82000);
		sum += s.v[i].bytes;
	}
	assert_int_equal(sum, s.bytes);
	shards_release(&s);
	f.s.pack.max_shard_size = "1000";        /* less than any: a file for each, none empty */
	assert_ok(shards_plan(&s, &f.p));
	for (size_t i = 0; i < s.n; i++)
		assert_true(s.v[i].n >= 1);
	shards_release(&s);
	f.s.pack.max_shard_size = "much";
	assert_int_equal(shards_plan(&s, &f.p), E_USE);
	assert_string_equal(err_text(), "pack.max_shard_size: much is not a size like 5GB, 200MB or 1GiB");
	fake_close(&f);
}

static void
orders_names(void **state)
{
	static const char *const sorted[] = {
		"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.a", "model.layers.2.a",
			"model.layers.2.b", "model.layers.02.b",
		"model.layers.10.a", "model.layers.100.a", "model.norm.weight", "model.norm.weight2",
	};
	enum { N = sizeof(sorted) / sizeof(sorted[0]) };

	(void)state;
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			int by = name_order(sorted[i], sorted[j]);

			assert_true(i == j ? by == 0 : i < j ? by < 0 : by > 0);
		}
}

/* How the source was laid out changes nothing. */
static void
order_is_that_of_names(void **state)
{
	struct fake f;
	struct shards a, b;
	struct safetensors *st;

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	st = &f.p.weights.files[0].st;
	assert_ok(shards_plan(&a, &f.p));
	for (size_t i = 0; i < st->n / 2; i++) {
		struct tensor t = st->v[i];

		st->v[i] = st->v[st->n - 1 - i];
		st->v[st->n - 1 - i] = t;
	}
	assert_ok(shards_plan(&b, &f.p));
	assert_int_equal(a.ntensors, b.ntensors);
	for (size_t i = 0; i < a.ntensors; i++) {
		assert_string_equal(a.tensors[i].t.name, b.tensors[i].t.name);
		assert_ptr_equal(a.tensors[i].t.p, b.tensors[i].t.p);
	}
	shards_release(&a);
	shards_release(&b);
	fake_close(&f);
}

static void
stores_no_tied_head(void **state)
{
	struct fake f;
	struct shards s;

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	f.p.weights.config.tied = true;
	assert_ok(shards_plan(&s, &f.p));
	assert_string_equal(s.tensors[0].t.name, "model.embed_tokens.weight");
	shards_release(&s);
	fake_close(&f);
}

static void
refuses_in_expand(void **state)
{
	struct fake f;
	struct graph g = {0};

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	f.s.pack.kernel = "machete";
	assert_int_equal(stage_pack.expand(&g, &f.p), E_USE);
	assert_string_equal(err_text(), "kernel machete needs out_features in multiples of 128, and "
	                    "model.layers.0.self_attn.o_proj has 64");
	f.s.pack.kernel = "any";
	for (size_t i = 0; i < f.p.nchoices; i++)
		f.p.choices[i].skip = true;
	assert_int_equal(stage_pack.expand(&g, &f.p), E_USE);
	assert_string_equal(err_text(), "quantize.overrides: every linear is skipped, so nothing would be quantized");
	graph_release(&g);
	fake_close(&f);
}

static void
warns_of_mixtures(void **state)
{
	struct packed k;
	struct buf log = {0};

	(void)state;
	packed_open(&k, "llama", "gptq", "{}");
	fake_choice(&k.f, "model.layers.0.mlp.down_proj")->bits = 8;
	packed_graph(&k.f, &k.g);
	assert_ok(fake_run(&k.f, &k.g, "pack/files", &log));
	assert_non_null(strstr(buf_text(&log), "warn: Transformers reads one bits, group_size and sym for all linears of format gptq"));
	buf_release(&log);
	packed_close(&k);
}

static void
names_a_block_that_does_not_fit(void **state)
{
	struct packed k;

	(void)state;
	packed_open(&k, "llama", "gptq", "{}");
	packed_random(&k);
	fake_choice(&k.f, "model.layers.1.mlp.gate_proj")->bits = 8;     /* the codes are of 4 bits */
	packed_graph(&k.f, &k.g);
	assert_int_equal(fake_run(&k.f, &k.g, "pack/shard-0", NULL), E_DATA);
	assert_non_null(strstr(err_text(), "model.layers.1.mlp.gate_proj.codes"));
	packed_close(&k);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(declares_nodes),
		cmocka_unit_test(keys_what_changes),
		cmocka_unit_test(packs_models),
		cmocka_unit_test(writes_small_files),
		cmocka_unit_test(same_bytes_again),
		cmocka_unit_test(plans_shards),
		cmocka_unit_test(the_last_of_large_shards_is_small),
		cmocka_unit_test(orders_names),
		cmocka_unit_test(order_is_that_of_names),
		cmocka_unit_test(stores_no_tied_head),
		cmocka_unit_test(refuses_in_expand),
		cmocka_unit_test(warns_of_mixtures),
		cmocka_unit_test(names_a_block_that_does_not_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
