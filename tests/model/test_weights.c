#include "qjob/model/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"

/* One block: D 4, I 6, V 5, 2 heads of 2, 1 of keys. */
static const char plain[] = "{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":6,\"vocab_size\":5,"
                            "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1}";
static const char tied[] = "{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":6,\"vocab_size\":5,"
                           "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                           "\"tie_word_embeddings\":true}";
static const char packed[] = "{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":6,\"vocab_size\":5,"
                             "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                             "\"quantization_config\":{\"quant_method\":\"gptq\"}}";

#define BLOCK "model.layers.0."
static const struct tensor whole[] = {
	{.name = (char *)"model.embed_tokens.weight",              .type = BF16, .rank = 2, .shape = {5, 4}},
	{.name = (char *)BLOCK "input_layernorm.weight",           .type = F32,  .rank = 1, .shape = {4}},
	{.name = (char *)BLOCK "self_attn.q_proj.weight",          .type = BF16, .rank = 2, .shape = {4, 4}},
	{.name = (char *)BLOCK "self_attn.k_proj.weight",          .type = BF16, .rank = 2, .shape = {2, 4}},
	{.name = (char *)BLOCK "self_attn.v_proj.weight",          .type = BF16, .rank = 2, .shape = {2, 4}},
	{.name = (char *)BLOCK "self_attn.o_proj.weight",          .type = BF16, .rank = 2, .shape = {4, 4}},
	{.name = (char *)BLOCK "post_attention_layernorm.weight",  .type = F32,  .rank = 1, .shape = {4}},
	{.name = (char *)BLOCK "mlp.gate_proj.weight",             .type = BF16, .rank = 2, .shape = {6, 4}},
	{.name = (char *)BLOCK "mlp.up_proj.weight",               .type = F16,  .rank = 2, .shape = {6, 4}},
	{.name = (char *)BLOCK "mlp.down_proj.weight",             .type = BF16, .rank = 2, .shape = {4, 6}},
	{.name = (char *)"model.norm.weight",                      .type = F32,  .rank = 1, .shape = {4}},
	{.name = (char *)"lm_head.weight",                         .type = BF16, .rank = 2, .shape = {5, 4}},
};
enum { WHOLE = sizeof(whole) / sizeof(whole[0]), ROOM = WHOLE + 8 };

struct list {
	struct tensor v[ROOM];
	size_t n;
};

static struct list
all(void)
{
	struct list l = {.n = WHOLE};

	memcpy(l.v, whole, sizeof(whole));
	return l;
}

static struct tensor *
at(struct list *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i].name, name) == 0)
			return &l->v[i];
	fail_msg("no %s", name);
	return NULL;
}

static void
drop(struct list *l, const char *name)
{
	*at(l, name) = l->v[l->n - 1];
	l->n--;
}

static void
add(struct list *l, const char *name, enum dtype type, int64_t rows, int64_t cols)
{
	l->v[l->n++] = (struct tensor){.name = (char *)name, .type = type, .rank = cols ? 2 : 1, .shape = {rows, cols}};
}

static void
text_file(const char *path, const char *text)
{
	assert_int_equal(file_replace(path, text, strlen(text)), 0);
}

/* Every byte of tensor i is first + i. */
static void
tensor_file(const char *path, const struct tensor *v, size_t n, int first)
{
	struct safetensors_out *o;
	char bytes[256];

	assert_int_equal(safetensors_begin(&o, path, v, n), 0);
	for (size_t i = 0; i < n; i++) {
		memset(bytes, first + (int)i, sizeof(bytes));
		assert_int_equal(safetensors_add(o, bytes, tensor_bytes(&v[i])), 0);
	}
	assert_int_equal(safetensors_end(o), 0);
}

static void
save(const char *config, const struct list *l)
{
	dir_remove("m");
	assert_int_equal(dir_make("m"), 0);
	text_file("m/config.json", config);
	tensor_file("m/model.safetensors", l->v, l->n, 1);
}

static void
check_refused(const char *config, const struct list *l, const char *message)
{
	struct weights w;

	save(config, l);
	if (weights_open(&w, "m") < 0)
		fail_msg("%s", err_text());
	assert_int_equal(weights_check(&w), E_DATA);
	assert_string_equal(err_text(), message);
	weights_close(&w);
}

static void
check_accepted(const char *config, const struct list *l)
{
	struct weights w;

	save(config, l);
	if (weights_open(&w, "m") < 0 || weights_check(&w) < 0)
		fail_msg("%s", err_text());
	weights_close(&w);
}

static void
open_refused(int code, const char *message)
{
	struct weights w;

	assert_int_equal(weights_open(&w, "m"), code);
	assert_string_equal(err_text(), message);
	assert_null(w.files);
	assert_null(w.folder);
}

static void
the_goldens_are_whole(void **state)
{
	static const char *const names[] = {"llama", "llama-tied-bf16", "llama3-rope", "mistral", "qwen2", "qwen3"};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *path = path_join(QJOB_TESTS_DIR "/golden/models", names[i]);
		struct weights w;

		if (weights_open(&w, path) < 0 || weights_check(&w) < 0)
			fail_msg("%s", err_text());
		assert_string_equal(w.folder, path);
		assert_int_equal(w.nfiles, strcmp(names[i], "qwen2") == 0 ? 2 : 1);
		assert_string_equal(weights_file_of(&w, "model.norm.weight")->name,
		                    w.nfiles == 2 ? "model-00002-of-00002.safetensors" : "model.safetensors");
		assert_int_equal(weights_find(&w, "model.norm.weight")->shape[0], 64);
		assert_null(weights_find(&w, "model.norm.bias"));
		assert_null(weights_file_of(&w, "model.norm.bias"));
		weights_close(&w);
		free(path);
	}
}

static void
missing_and_wrong_tensors_are_named(void **state)
{
	struct list l = all();

	(void)state;
	check_accepted(plain, &l);
	drop(&l, BLOCK "mlp.up_proj.weight");
	check_refused(plain, &l, "m: tensor \"model.layers.0.mlp.up_proj.weight\" is missing");
	l = all();
	drop(&l, "lm_head.weight");
	check_refused(plain, &l, "m: tensor \"lm_head.weight\" is missing");
	check_accepted(tied, &l);
	l = all();
	at(&l, BLOCK "self_attn.k_proj.weight")->shape[0] = 4;
	check_refused(plain, &l, "m: tensor \"model.layers.0.self_attn.k_proj.weight\" is [4, 4], wanted [2, 4] by config.json");
	l = all();
	at(&l, "model.norm.weight")->rank = 2;
	at(&l, "model.norm.weight")->shape[1] = 1;
	check_refused(plain, &l, "m: tensor \"model.norm.weight\" is [4, 1], wanted [4] by config.json");
	l = all();
	at(&l, "model.norm.weight")->type = F64;
	check_refused(plain, &l, "m: tensor \"model.norm.weight\" is F64, wanted F32, F16 or BF16");
}

static void
tensors_left_over_are_named(void **state)
{
	struct list l = all();

	(void)state;
	add(&l, BLOCK "self_attn.rotary_emb.inv_freq", F32, 1, 0);
	check_accepted(plain, &l);
	add(&l, BLOCK "self_attn.q_proj.bias", BF16, 4, 0);
	check_refused(plain, &l, "m: tensor \"model.layers.0.self_attn.q_proj.bias\" belongs to no part of model_type llama");
	add(&l, "model.layers.1.input_layernorm.weight", BF16, 4, 0);
	add(&l, "score.weight", BF16, 4, 0);
	check_refused(plain, &l,
	              "m: tensor \"model.layers.0.self_attn.q_proj.bias\" and 2 more belong to no part of model_type llama");
}

static void
biases_are_demanded(void **state)
{
	static const char biased[] = "{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":6,\"vocab_size\":5,"
	                             "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
	                             "\"mlp_bias\":true}";
	struct list l = all();

	(void)state;
	check_refused(biased, &l, "m: tensor \"model.layers.0.mlp.gate_proj.bias\" is missing");
	add(&l, BLOCK "mlp.gate_proj.bias", F32, 6, 0);
	add(&l, BLOCK "mlp.up_proj.bias", F32, 6, 0);
	add(&l, BLOCK "mlp.down_proj.bias", F32, 4, 0);
	check_accepted(biased, &l);
}

static void
a_head_beside_a_tied_embedding_must_equal_it(void **state)
{
	static const char message[] = "m: tensor \"lm_head.weight\" differs from the embedding, to which config.json ties it; "
		"loaders disagree on which to use: remove it, or set tie_word_embeddings to false";
	struct list l = all();
	struct safetensors_out *o;
	struct weights w;

	(void)state;
	check_refused(tied, &l, message);
	save(tied, &l);
	assert_int_equal(safetensors_begin(&o, "m/model.safetensors", l.v, l.n), 0);
	for (size_t i = 0; i < l.n; i++) {
		static const char zeros[256];

		assert_int_equal(safetensors_add(o, zeros, tensor_bytes(&l.v[i])), 0);
	}
	assert_int_equal(safetensors_end(o), 0);
	assert_int_equal(weights_open(&w, "m"), 0);
	assert_int_equal(weights_check(&w), 0);
	weights_close(&w);
}

static void
a_format_may_stand_for_a_weight(void **state)
{
	struct list l = all();

	(void)state;
	drop(&l, BLOCK "mlp.down_proj.weight");
	add(&l, BLOCK "mlp.down_proj.qweight", I32, 1, 4);
	add(&l, BLOCK "mlp.down_proj.scales", F16, 1, 4);
	check_accepted(packed, &l);
	check_refused(plain, &l, "m: tensor \"model.layers.0.mlp.down_proj.weight\" is missing");
	l.n -= 2;
	add(&l, BLOCK "mlp.down_proj_extra.qweight", I32, 1, 4);
	check_refused(packed, &l,
	              "m: tensor \"model.layers.0.mlp.down_proj.weight\" is missing, and nothing stands in its place");
	l = all();
	at(&l, BLOCK "mlp.down_proj.weight")->type = U8;
	check_accepted(packed, &l);
	l = all();
	drop(&l, "model.norm.weight");
	add(&l, "model.norm.qweight", I32, 1, 4);
	check_refused(packed, &l, "m: tensor \"model.norm.weight\" is missing");
}

/* The first 4 tensors in a.safetensors, the rest in b.safetensors. */
static void
save_shards(const char *index)
{
	dir_remove("m");
	assert_int_equal(dir_make("m"), 0);
	text_file("m/config.json", plain);
	tensor_file("m/a.safetensors", whole, 2, 1);
	tensor_file("m/b.safetensors", whole + 2, 1, 3);
	text_file("m/model.safetensors.index.json", index);
}

#define EMBED_IN(file) "\"model.embed_tokens.weight\":\"" file "\""
#define NORM_IN(file) "\"model.layers.0.input_layernorm.weight\":\"" file "\""
#define Q_IN(file) "\"model.layers.0.self_attn.q_proj.weight\":\"" file "\""
#define INDEX(rest) "{\"metadata\":{\"total_size\":1},\"weight_map\":{" rest "}}"

static void
the_index_is_checked_both_ways(void **state)
{
	static const struct {
		const char *index, *message;
	} rows[] = {
		{"{}", "m/model.safetensors.index.json: there is no weight_map"},
		{INDEX(EMBED_IN("a.safetensors") "," NORM_IN("a.safetensors") "," Q_IN("c.safetensors")), "m: there is no c.safetensors"},
		{INDEX(EMBED_IN("a.safetensors") "," NORM_IN("b.safetensors") "," Q_IN("b.safetensors")),
		 "m/model.safetensors.index.json: tensor \"model.layers.0.input_layernorm.weight\" is not in b.safetensors, but in "
		 "a.safetensors"},
		{INDEX(EMBED_IN("a.safetensors") "," NORM_IN("a.safetensors") "," Q_IN("b.safetensors") ",\"x\":\"b.safetensors\""),
		 "m/model.safetensors.index.json: tensor \"x\" is not in b.safetensors"},
		{INDEX(EMBED_IN("a.safetensors") "," Q_IN("b.safetensors")),
		 "m/model.safetensors.index.json: tensor \"model.layers.0.input_layernorm.weight\" of a.safetensors is not listed"},
		{INDEX(EMBED_IN("../m/a.safetensors")),
		 "m/model.safetensors.index.json: weight_map: \"model.embed_tokens.weight\": \"../m/a.safetensors\" is not a plain "
		 "file name"},
		{INDEX("\"x\":3"), "m/model.safetensors.index.json: weight_map: \"x\": wanted a file name"},
	};
	struct weights w;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		save_shards(rows[i].index);
		open_refused(E_DATA, rows[i].message);
	}
	save_shards(INDEX(Q_IN("b.safetensors") "," EMBED_IN("a.safetensors") "," NORM_IN("a.safetensors")));
	assert_int_equal(weights_open(&w, "m"), 0);
	assert_int_equal(w.nfiles, 2);
	assert_string_equal(w.files[0].name, "a.safetensors");
	assert_int_equal(w.config.dtype, BF16);
	assert_int_equal(*(const char *)weights_find(&w, BLOCK "self_attn.q_proj.weight")->p, 3);
	weights_close(&w);
	tensor_file("m/b.safetensors", whole + 1, 2, 3);
	open_refused(E_DATA, "m/b.safetensors: tensor \"model.layers.0.input_layernorm.weight\" is in m/a.safetensors as well");
}

static void
missing_files_are_named(void **state)
{
	(void)state;
	dir_remove("m");
	open_refused(E_DATA, "m: there is no config.json");
	text_file("m", "a file");
	open_refused(E_SYS, "m: Not a directory");
	assert_int_equal(unlink("m"), 0);
	assert_int_equal(mkdir("m", 0), 0);
	if (access("m/.", X_OK) != 0)    /* not root */
		open_refused(E_SYS, "m: Permission denied");
	assert_int_equal(chmod("m", 0777), 0);
	text_file("m/config.json", plain);
	open_refused(E_DATA, "m: there is no model.safetensors and no model.safetensors.index.json");
	text_file("m/model.safetensors", "x");
	open_refused(E_DATA, "m/model.safetensors: 1 bytes are too few for a safetensors file");
}

static void
files_may_lie_anywhere(void **state)
{
	static const struct named_path files[] = {
		{"tokenizer.json", "absent"},
		{"model.safetensors.index.json", "m/model.safetensors.index.json"},
		{"a.safetensors", "m/a.safetensors"},
		{"b.safetensors", "m/b-object"},
		{"config.json", "m/config.json"},
	};
	struct weights w;

	(void)state;
	save_shards(INDEX(EMBED_IN("a.safetensors") "," NORM_IN("a.safetensors") "," Q_IN("b.safetensors")));
	assert_int_equal(rename("m/b.safetensors", "m/b-object"), 0);
	if (weights_open_files(&w, files, 5) < 0)
		fail_msg("%s", err_text());
	assert_null(w.folder);
	assert_string_equal(weights_file_of(&w, BLOCK "self_attn.q_proj.weight")->path, "m/b-object");
	assert_int_equal(weights_check(&w), E_DATA);
	assert_string_equal(err_text(), "model: tensor \"model.layers.0.self_attn.k_proj.weight\" is missing");
	weights_close(&w);
	assert_int_equal(weights_open_files(&w, files, 4), E_DATA);
	assert_string_equal(err_text(), "model: there is no config.json");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_goldens_are_whole),
		cmocka_unit_test(missing_and_wrong_tensors_are_named),
		cmocka_unit_test(tensors_left_over_are_named),
		cmocka_unit_test(biases_are_demanded),
		cmocka_unit_test(a_head_beside_a_tied_embedding_must_equal_it),
		cmocka_unit_test(a_format_may_stand_for_a_weight),
		cmocka_unit_test(the_index_is_checked_both_ways),
		cmocka_unit_test(missing_files_are_named),
		cmocka_unit_test(files_may_lie_anywhere),
	};
	char folder[] = "/tmp/qjob-test-XXXXXX";
	int failed;

	if (!mkdtemp(folder) || chdir(folder) != 0)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	if (chdir("/") != 0 || dir_remove(folder) != 0)
		return 1;
	return failed;
}
