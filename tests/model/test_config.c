#include "qjob/model/config.h"

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
#include "qjob/model/family.h"
#include "qjob/model/rope.h"

static void
parse(struct config *c, const char *text)
{
	if (config_parse(c, text, strlen(text), "config.json") < 0)
		fail_msg("%s", err_text());
}

static void
refused(const char *text, int code, const char *message)
{
	struct config c;
	int r = config_parse(&c, text, strlen(text), "config.json");

	if (r == 0)
		fail_msg("accepted: %s", text);
	assert_string_equal(err_text(), message);
	assert_int_equal(r, code);
	assert_null(c.json);
	assert_null(c.windowed);
}

static void
every_row_of_families_is_whole(void **state)
{
	static const enum part needed[] = {EMBED, FINAL_NORM, HEAD, ATTN_NORM, Q, K, V, O, MLP_NORM, UP, DOWN};

	(void)state;
	for (int i = 0; i < nfamilies; i++) {
		const struct family *f = &families[i];
		enum part parts[4];

		assert_ptr_equal(family_find(f->model_type), f);
		for (size_t k = 0; k < sizeof(needed) / sizeof(needed[0]); k++)
			assert_non_null(f->names[needed[k]]);
		for (int p = 0; p < PARTS; p++)
			if (f->names[p])
				assert_int_equal(strstr(f->names[p], "%d") != NULL, part_in_block((enum part)p));
		assert_int_equal(f->qk_norm, f->names[Q_NORM] && f->names[K_NORM]);
		assert_int_equal(site_parts(f, SITE_QKV, parts), 3);
		assert_int_equal(parts[2], V);
		assert_int_equal(site_parts(f, SITE_DOWN, parts), 1);
		assert_non_null(f->known);
	}
	assert_null(family_find("mamba2"));
}

static void
names_of_parts(void **state)
{
	char name[64];

	(void)state;
	part_name(family_find("qwen3"), Q_NORM, 12, name, sizeof(name));
	assert_string_equal(name, "model.layers.12.self_attn.q_norm");
	part_name(family_find("llama"), HEAD, 3, name, sizeof(name));
	assert_string_equal(name, "lm_head");
	assert_string_equal(site_name(SITE_QKV), "qkv");
	assert_string_equal(site_name(SITE_DOWN), "down");
}

/* What Transformers 5.17 makes of {"model_type": ...} alone. */
static void
absent_keys_take_the_defaults_of_transformers(void **state)
{
	static const struct {
		const char *text;
		int64_t D, I, V, L, positions, window;
		int heads, kv_heads, head_dim;
	} rows[] = {
		{"{\"model_type\":\"llama\"}",   4096, 11008, 32000,  32, 2048,   0,    32, 32, 128},
		{"{\"model_type\":\"mistral\"}", 4096, 14336, 32000,  32, 131072, 4096, 32, 8,  128},
		{"{\"model_type\":\"qwen2\"}",   4096, 22016, 151936, 32, 32768,  0,    32, 32, 128},
		{"{\"model_type\":\"qwen3\",\"hidden_size\":1024}", 1024, 22016, 151936, 32, 32768, 0, 32, 32, 128},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct config c;

		parse(&c, rows[i].text);
		assert_int_equal(c.D, rows[i].D);
		assert_int_equal(c.I, rows[i].I);
		assert_int_equal(c.V, rows[i].V);
		assert_int_equal(c.L, rows[i].L);
		assert_int_equal(c.positions, rows[i].positions);
		assert_int_equal(c.window, rows[i].window);
		assert_int_equal(c.heads, rows[i].heads);
		assert_int_equal(c.kv_heads, rows[i].kv_heads);
		assert_int_equal(c.head_dim, rows[i].head_dim);
		assert_true(c.eps == 1e-6f);
		assert_false(c.tied || c.attention_bias || c.mlp_bias);
		assert_int_equal(c.act, ACT_SILU);
		assert_int_equal(c.dtype, DTYPES);
		assert_int_equal(c.rope, ROPE_DEFAULT);
		assert_true(c.rope_theta == 10000);
		config_release(&c);
	}
}

static void
old_and_new_style_say_the_same(void **state)
{
	static const char *const texts[] = {
		"{\"model_type\":\"llama\",\"dtype\":\"bfloat16\",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500000.0,"
		"\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}",
		"{\"model_type\":\"llama\",\"torch_dtype\":\"bfloat16\",\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\","
		"\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}",
		"{\"model_type\":\"llama\",\"torch_dtype\":\"float16\",\"dtype\":\"bfloat16\",\"rope_theta\":1,\"rope_scaling\":{},"
		"\"rope_parameters\":{\"type\":\"llama3\",\"rope_theta\":5e5,\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
		"\"original_max_position_embeddings\":1,\"partial_rotary_factor\":1.0},\"original_max_position_embeddings\":8192}",
	};
	struct buf want = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct config c;
		struct buf key = {0};

		parse(&c, texts[i]);
		config_key(&c, i ? &key : &want);
		if (i)
			assert_string_equal(key.p, want.p);
		buf_release(&key);
		config_release(&c);
	}
	assert_string_equal(want.p,
		"config.act silu\nconfig.attention_bias 0\nconfig.dtype BF16\nconfig.eps 9.999999974752427e-07\n"
		"config.head_dim 128\nconfig.heads 32\nconfig.hidden_size 4096\nconfig.intermediate_size 11008\n"
		"config.kv_heads 32\nconfig.mlp_bias 0\nconfig.model_type llama\nconfig.rope llama3\nconfig.rope_factor 8\n"
		"config.rope_high 4\nconfig.rope_low 1\nconfig.rope_original 8192\nconfig.rope_theta 5e+05\n"
		"config.rotary 128\nconfig.window 0\nconfig.windowed \n");
	buf_release(&want);
}

static void
sliding_windows(void **state)
{
	static const struct {
		const char *text, *windowed;
		int64_t window;
	} rows[] = {
		{"{\"model_type\":\"mistral\",\"num_hidden_layers\":2,\"sliding_window\":null}", "00", 0},
		{"{\"model_type\":\"mistral\",\"num_hidden_layers\":2,\"sliding_window\":7}", "11", 7},
		{"{\"model_type\":\"qwen2\",\"num_hidden_layers\":3,\"sliding_window\":7}", "000", 0},
		{"{\"model_type\":\"qwen2\",\"num_hidden_layers\":3,\"sliding_window\":7,\"use_sliding_window\":true,"
		 "\"max_window_layers\":1}", "011", 7},
		{"{\"model_type\":\"qwen3\",\"num_hidden_layers\":3,\"sliding_window\":7,\"use_sliding_window\":true,"
		 "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}", "101", 7},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct config c;

		parse(&c, rows[i].text);
		assert_int_equal(c.window, rows[i].window);
		for (int b = 0; b < c.L; b++)
			assert_int_equal(config_windowed(&c, b), rows[i].windowed[b] == '1');
		config_release(&c);
	}
}

#define LLAMA(rest) "{\"model_type\":\"llama\"," rest "}"
#define QWEN(rest) "{\"model_type\":\"qwen2\",\"num_hidden_layers\":2," rest "}"

static void
what_cannot_be_honoured_is_refused(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *message;
	} rows[] = {
		{"[]", E_DATA, "config.json: wanted an object"},
		{"{}", E_DATA, "config.json: there is no model_type"},
		{"{\"model_type\":3}", E_DATA, "config.json: model_type is 3, wanted a text"},
		{"{\"model_type\":\"gemma2\"}", E_USE,
		 "config.json: model_type is \"gemma2\", and only llama, mistral, qwen2, qwen3 are known"},
		{LLAMA("\"architectures\":[\"LlamaForSequenceClassification\"]"), E_USE,
		 "config.json: architectures is [\"LlamaForSequenceClassification\"], and for model_type llama only "
		 "[\"LlamaForCausalLM\"] is honoured"},
		{LLAMA("\"pretraining_tp\":2"), E_USE,
		 "config.json: pretraining_tp is 2, and for model_type llama only 1 is honoured"},
		{"{\"model_type\":\"mistral\",\"mlp_bias\":true}", E_USE,
		 "config.json: mlp_bias is true, and for model_type mistral only false is honoured"},
		{LLAMA("\"partial_rotary_factor\":0.5"), E_USE,
		 "config.json: partial_rotary_factor is 0.5, and for model_type llama only 1 is honoured"},
		{LLAMA("\"logit_scale\":0.0625"), E_USE,
		 "config.json: logit_scale is 0.0625, a key that is not known for model_type llama; remove it if it changes no "
		 "number of a forward pass"},
		{LLAMA("\"hidden_act\":\"relu2\""), E_USE,
		 "config.json: hidden_act is \"relu2\", and only silu, gelu, gelu_pytorch_tanh, quick_gelu and relu are honoured"},
		{LLAMA("\"dtype\":\"float64\""), E_USE,
		 "config.json: dtype is \"float64\", and only float32, float16 and bfloat16 are honoured"},
		{LLAMA("\"torch_dtype\":\"float8_e4m3fn\""), E_USE,
		 "config.json: torch_dtype is \"float8_e4m3fn\", and only float32, float16 and bfloat16 are honoured"},
		{LLAMA("\"hidden_size\":\"64\""), E_DATA,
		 "config.json: hidden_size is \"64\", wanted a whole number from 1 to 16777216"},
		{LLAMA("\"hidden_size\":null"), E_DATA,
		 "config.json: hidden_size is null, wanted a whole number from 1 to 16777216"},
		{LLAMA("\"num_hidden_layers\":0"), E_DATA,
		 "config.json: num_hidden_layers is 0, wanted a whole number from 1 to 100000"},
		{LLAMA("\"vocab_size\":99999999999"), E_DATA,
		 "config.json: vocab_size is 99999999999, wanted a whole number from 1 to 2147483647"},
		{LLAMA("\"num_key_value_heads\":5"), E_DATA,
		 "config.json: num_key_value_heads is 5, which does not divide num_attention_heads, 32"},
		{LLAMA("\"hidden_size\":100"), E_DATA,
		 "config.json: num_attention_heads is 32, which does not divide hidden_size, 100"},
		{LLAMA("\"head_dim\":15"), E_DATA, "config.json: heads are 15 wide, and rotation needs an even width"},
		{LLAMA("\"rms_norm_eps\":-1"), E_DATA, "config.json: rms_norm_eps is -1, wanted a number from 0 to 1"},
		{LLAMA("\"tie_word_embeddings\":1"), E_DATA, "config.json: tie_word_embeddings is 1, wanted true or false"},
		{LLAMA("\"rope_scaling\":[]"), E_DATA, "config.json: rope_scaling is [], wanted an object"},
		{LLAMA("\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}"), E_USE,
		 "config.json: rope_scaling.type is \"dynamic\", and only default, linear and llama3 are honoured"},
		{LLAMA("\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":2.0}"), E_USE,
		 "config.json: rope_parameters.rope_type is \"yarn\", and only default, linear and llama3 are honoured"},
		{LLAMA("\"rope_parameters\":{\"rope_type\":\"linear\"}"), E_DATA,
		 "config.json: rope_parameters.factor is absent, wanted a number from 1e-06 to 1e+06"},
		{LLAMA("\"rope_parameters\":{\"rope_theta\":10000,\"mrope_section\":[1,2]}"), E_USE,
		 "config.json: rope_parameters.mrope_section is [1,2], and that is not honoured for rope_type default"},
		{LLAMA("\"rope_parameters\":{\"full_attention\":{\"rope_theta\":10000}}"), E_USE,
		 "config.json: rope_parameters.full_attention is {\"rope_theta\":10000}, and that is not honoured for rope_type default"},
		{LLAMA("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}"), E_DATA,
		 "config.json: rope_scaling.low_freq_factor is 4, wanted less than high_freq_factor, 4"},
		{QWEN("\"layer_types\":[\"full_attention\"]"), E_DATA,
		 "config.json: layer_types is [\"full_attention\"], wanted a list of num_hidden_layers, 2, texts"},
		{QWEN("\"layer_types\":[\"full_attention\",\"mamba\"]"), E_USE,
		 "config.json: layer_types is [\"full_attention\",\"mamba\"], and only full_attention and sliding_attention are honoured"},
		{QWEN("\"layer_types\":[\"full_attention\",\"sliding_attention\"]"), E_DATA,
		 "config.json: layer_types is [\"full_attention\",\"sliding_attention\"], with sliding_attention but no sliding window "
		 "in use"},
		{QWEN("\"use_sliding_window\":true,\"sliding_window\":0"), E_DATA,
		 "config.json: sliding_window is 0, wanted a whole number from 1 to 2147483647"},
		{"{\"model_type\":\"llama\",\"model_type\":\"llama\"}", E_DATA,
		 "config.json:1:34: duplicate object key near '\"model_type\"'"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		refused(rows[i].text, rows[i].code, rows[i].message);
}

static void
long_values_are_cut(void **state)
{
	(void)state;
	refused(LLAMA("\"x\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""), E_USE,
	        "config.json: x is \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..., "
	        "a key that is not known for model_type llama; remove it if it changes no number of a forward pass");
}

/* As real models have them: SmolLM2's, and keys that only say how text is drawn. */
static void
harmless_keys_pass(void **state)
{
	struct config c;

	(void)state;
	parse(&c, LLAMA("\"is_llama_config\":true,\"rope_interleaved\":false,\"rope_scaling\":null,\"rope_theta\":100000,"
	                "\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.42.3\",\"use_cache\":true,"
	                "\"initializer_range\":0.04,\"bos_token_id\":1,\"eos_token_id\":[2,3],\"pretraining_tp\":1,"
	                "\"attention_bias\":true,\"mlp_bias\":true,\"_name_or_path\":\"x\",\"temperature\":0.5,"
	                "\"quantization_config\":{\"bits\":4},\"head_dim\":null,\"num_key_value_heads\":null,"
	                "\"tie_word_embeddings\":true,\"hidden_act\":\"gelu_new\",\"rms_norm_eps\":1e-5"));
	assert_true(c.rope_theta == 100000);
	assert_true(c.attention_bias && c.mlp_bias && c.tied);
	assert_int_equal(c.act, ACT_GELU_TANH);
	assert_true(c.eps == 1e-5f);
	assert_int_equal(c.dtype, BF16);
	assert_int_equal(c.kv_heads, 32);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(c.json, "quantization_config"), "bits")), 4);
	config_release(&c);
}

static void
files_are_read(void **state)
{
	struct config c;

	(void)state;
	if (config_load(&c, QJOB_TESTS_DIR "/golden/models/qwen3/config.json") < 0)
		fail_msg("%s", err_text());
	assert_string_equal(c.family->arch, "Qwen3ForCausalLM");
	assert_int_equal(c.head_dim, 32);
	assert_int_equal(c.dtype, F32);
	config_release(&c);
	assert_int_equal(config_load(&c, "absent.json"), E_SYS);
	config_release(&c);
}

/* Values of Transformers 5.17 (torch 2.11), theta 500000, 8 pairs, llama3 with factor 8, 1, 4, 32 positions. */
static void
rotary_frequencies_are_those_of_transformers(void **state)
{
	struct config c;
	float inv[64], cosines[64], sines[64];

	(void)state;
	parse(&c, LLAMA("\"head_dim\":16,\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500000.0,\"factor\":8.0,"
	                "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":32}"));
	rope_frequencies(&c, inv);
	assert_true(inv[0] == 1.0f);
	assert_true(inv[1] == 0.0242403448f);
	assert_true(inv[2] == 0.00470075384f);
	assert_true(inv[7] == 1.28917316e-06f);
	rope_tables(&c, 3, cosines, sines);
	assert_true(cosines[0] == 1 && sines[0] == 0);
	assert_true(cosines[16] == (float)cos(2) && sines[16] == (float)sin(2));
	assert_true(cosines[17] == (float)cos((double)(2 * inv[1])));
	config_release(&c);
	parse(&c, LLAMA("\"head_dim\":16,\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4.0}"));
	rope_frequencies(&c, inv);
	assert_true(inv[0] == 0.25f);
	config_release(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_row_of_families_is_whole),
		cmocka_unit_test(names_of_parts),
		cmocka_unit_test(absent_keys_take_the_defaults_of_transformers),
		cmocka_unit_test(old_and_new_style_say_the_same),
		cmocka_unit_test(sliding_windows),
		cmocka_unit_test(what_cannot_be_honoured_is_refused),
		cmocka_unit_test(long_values_are_cut),
		cmocka_unit_test(harmless_keys_pass),
		cmocka_unit_test(files_are_read),
		cmocka_unit_test(rotary_frequencies_are_those_of_transformers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
