#include "tests/stages/fake.h"

/* JSON written with ' for ", to be readable here; caller frees. */
static char *
quoted(const char *text)
{
	char *s = mem_text(text);

	for (char *c = s; *c; c++)
		*c = *c == '\'' ? '"' : *c;
	return s;
}

static void
assert_config(struct fake *f, const char *want)
{
	json_t *j = f->s.format->config(&f->p);
	char *text = quoted(want);
	struct buf line = {0};

	json_write_line(j, &line);
	assert_string_equal(buf_text(&line), text);
	buf_release(&line);
	free(text);
	json_decref(j);
}

static void
assert_json(const json_t *j, const char *want)
{
	char *text = quoted(want);
	json_t *wanted = json_loads(text, 0, NULL);

	assert_non_null(wanted);
	if (!json_equal(j, wanted))
		fail_msg("found %s", json_dumps(j, 0));
	json_decref(wanted);
	free(text);
}

#define META "'meta':{'quantizer':['qjob:" QJOB_VERSION "'],'damp_percent':0.05,'static_groups':true}}"

static void
labels_gptq(void **state)
{
	struct fake f;

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	assert_config(&f,
	              "{'quant_method':'gptq','method':'gptq','bits':4,'group_size':32,'desc_act':false,'sym':true,'lm_head':false,"
	              "'format':'gptq','checkpoint_format':'gptq','pack_dtype':'int32'," META);
	f.p.wish.ordered = true;
	for (size_t i = 0; i < f.p.nchoices; i++)
		f.p.choices[i].sym = false;
	assert_config(&f,
	              "{'quant_method':'gptq','method':'gptq','bits':4,'group_size':32,'desc_act':true,'sym':false,'lm_head':false,"
	              "'format':'gptq','checkpoint_format':'gptq','pack_dtype':'int32','meta':{'quantizer':['qjob:" QJOB_VERSION
	              "','gptqmodel:0.9.0'],'damp_percent':0.05,'static_groups':true}}");
	fake_close(&f);
}

/* All of one part: one rule; a single linear: a rule by its name; gate and up together: one more for vLLM's fused linear. */
static void
labels_overrides(void **state)
{
	struct fake f;
	json_t *j;

	(void)state;
	fake_open(&f, "llama", "gptq", "checkpoint_format: gptq_v2");
	for (size_t i = 0; i < f.p.nchoices; i++) {
		struct choice *c = &f.p.choices[i];

		c->bits = c->part == DOWN ? 8 : 4;
		c->skip = c->part == O;
		c->sym = c->site != SITE_UP;
		if (c->part == K && c->block == 1)
			c->group = c->cols;
	}
	j = f.s.format->config(&f.p);
	assert_json(json_object_get(j, "dynamic"),
	            "{'+:.*\\\\.mlp\\\\.gate_proj$': {'sym': false}, '+:.*\\\\.mlp\\\\.up_proj$': {'sym': false},"
	            "'+:.*\\\\.mlp\\\\.gate_up_proj$': {'sym': false}, '-:.*\\\\.self_attn\\\\.o_proj$': {},"
	            "'+:.*\\\\.mlp\\\\.down_proj$': {'bits': 8},"
	            "'+:^model\\\\.layers\\\\.1\\\\.self_attn\\\\.k_proj$': {'group_size': -1}}");
	assert_json(json_object_get(j, "modules_in_block_to_quantize"),
	            "[['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'mlp.gate_proj', 'mlp.up_proj',"
	            "'mlp.down_proj']]");
	json_decref(j);
	fake_choice(&f, "model.layers.0.self_attn.o_proj")->skip = false;
	j = f.s.format->config(&f.p);
	assert_int_equal(json_array_size(json_array_get(json_object_get(j, "modules_in_block_to_quantize"), 0)), 13);
	assert_string_equal(json_string_value(json_array_get(json_array_get(json_object_get(j, "modules_in_block_to_quantize"), 0), 3)),
	                    "model.layers.0.self_attn.o_proj");
	assert_non_null(json_object_get(json_object_get(j, "dynamic"), "-:^model\\.layers\\.1\\.self_attn\\.o_proj$"));
	json_decref(j);
	fake_close(&f);
}

static void
labels_one_group_a_row(void **state)
{
	struct fake f;
	json_t *j;

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	f.method.group = -1;
	f.p.wish.ordered = true;
	for (size_t i = 0; i < f.p.nchoices; i++)
		f.p.choices[i].group = f.p.choices[i].cols;
	j = f.s.format->config(&f.p);
	assert_int_equal(json_integer_value(json_object_get(j, "group_size")), -1);
	assert_false(json_is_true(json_object_get(j, "desc_act")));
	assert_null(json_object_get(j, "dynamic"));
	json_decref(j);
	fake_close(&f);
}

#define SCHEME(bits, actorder) "'format':'pack-quantized','input_activations':null,'output_activations':null,'weights':{'num_bits':" bits \
	",'type':'int','symmetric':true,'strategy':'group','group_size':32,'block_structure':null,'dynamic':false,'actorder':" actorder \
	",'scale_dtype':null,'zp_dtype':null,'observer':'minmax','observer_kwargs':{}}}"
#define CT_HEAD "{'quant_method':'compressed-tensors','version':'0.19.0','format':'pack-quantized','quantization_status':'compressed',"
#define CT_TAIL ",'global_compression_ratio':null,'kv_cache_scheme':null,'sparsity_config':{},'transform_config':{}}"

static void
labels_compressed_tensors(void **state)
{
	struct fake f;

	(void)state;
	fake_open(&f, "llama-tied-bf16", "compressed-tensors", "{}");
	assert_config(&f, CT_HEAD "'config_groups':{'group_0':{'targets':['Linear']," SCHEME("4", "'static'")
	              "},'ignore':['lm_head']" CT_TAIL);
	f.method.actorder = "none";
	for (size_t i = 0; i < f.p.nchoices; i++) {
		f.p.choices[i].skip = f.p.choices[i].site != SITE_DOWN;
		f.p.choices[i].bits = f.p.choices[i].block == 0 ? 8 : 4;
	}
	assert_config(&f, CT_HEAD "'config_groups':{"
	              "'group_0':{'targets':['model.layers.0.mlp.down_proj']," SCHEME("8", "null") ","
	              "'group_1':{'targets':['model.layers.1.mlp.down_proj']," SCHEME("4", "null") "},"
	              "'ignore':['model.layers.0.self_attn.q_proj','model.layers.0.self_attn.k_proj','model.layers.0.self_attn.v_proj',"
	              "'model.layers.0.self_attn.o_proj','model.layers.0.mlp.gate_proj','model.layers.0.mlp.up_proj',"
	              "'model.layers.1.self_attn.q_proj','model.layers.1.self_attn.k_proj','model.layers.1.self_attn.v_proj',"
	              "'model.layers.1.self_attn.o_proj','model.layers.1.mlp.gate_proj','model.layers.1.mlp.up_proj','lm_head']" CT_TAIL);
	fake_close(&f);
}

static void
notes_what_loaders_refuse(void **state)
{
	struct fake f;
	json_t *notes = json_array();

	(void)state;
	fake_open(&f, "llama", "gptq", "{}");
	f.s.format->notes(&f.p, notes);
	assert_int_equal(json_array_size(notes), 0);
	fake_choice(&f, "model.layers.1.mlp.up_proj")->bits = 3;
	f.s.format->notes(&f.p, notes);
	assert_int_equal(json_array_size(notes), 2);
	assert_string_equal(json_string_value(json_array_get(notes, 0)),
	                    "Transformers reads one bits, group_size and sym for all linears of format "
	                    "gptq and runs this mixture wrongly without a word (5.17) or refuses it (5.23); GPTQModel "
		"and vLLM read it; use format "
	                    "compressed-tensors for Transformers");
	assert_string_equal(json_string_value(json_array_get(notes, 1)),
	                    "vLLM 0.32 takes format gptq with 4 or 8 bits, sym, and no desc_act with "
	                    "groups alone; it will refuse this");
	json_decref(notes);
	fake_close(&f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(labels_gptq),
		cmocka_unit_test(labels_overrides),
		cmocka_unit_test(labels_one_group_a_row),
		cmocka_unit_test(labels_compressed_tensors),
		cmocka_unit_test(notes_what_loaders_refuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
