/* The labels of format gptq: quantization_config, quantize_config.json, and what loaders make of them. */
#include "stages/pack/gptq.h"

#include <stdlib.h>
#include <string.h>

#include "stages/pack/layout.h"
#include "stages/project.h"

bool
gptq_is_v1(const struct gptq_params *params)
{
	return strcmp(params->checkpoint_format, "gptq") == 0;
}

/* ---- dynamic: other settings for some linears ---- */

/* What one linear's rule under `dynamic` says: NULL when the common label holds. */
static json_t *
rule(const struct choice *c, const struct label *common)
{
	json_t *j;

	if (c->skip)
		return json_object();
	if (label_fits(common, c))
		return NULL;
	j = json_object();
	if (c->bits != common->bits)
		json_object_set_new(j, "bits", json_integer(c->bits));
	if (c->group != common->group && !(common->group < 0 && c->group == c->cols))
		json_object_set_new(j, "group_size", json_integer(label_of(c).group));
	if (c->sym != common->sym)
		json_object_set_new(j, "sym", json_boolean(c->sym));
	return j;
}

static bool
same_rule(const struct choice *a, const struct choice *b, const struct label *common)
{
	json_t *ja = rule(a, common), *jb = rule(b, common);
	bool same = a->skip == b->skip && (ja && jb ? json_equal(ja, jb) : ja == jb);

	json_decref(ja);
	json_decref(jb);
	return same;
}

/* The choice of the same part in another block; blocks have the same parts in the same order. */
static const struct choice *
in_block(const struct project *p, const struct choice *c, int block)
{
	size_t n;
	const struct choice *first = project_block(p, c->block, &n), *other = project_block(p, block, &n);

	return other + (c - first);
}

static bool
is_uniform(const struct project *p, const struct choice *c, const struct label *common)
{
	for (int b = 1; b < p->weights.config.L; b++)
		if (!same_rule(in_block(p, c, 0), in_block(p, c, b), common))
			return false;
	return true;
}

/* "+:.*\\.mlp\\.down_proj$" for all blocks, "+:^model\\.layers\\.3\\.mlp\\.down_proj$" for one; `last` replaces the last component. */
static void
add_rule(json_t *dynamic, const struct project *p, const struct choice *c, const struct label *common, const char *last)
{
	bool uniform = is_uniform(p, c, common);
	const char *name = uniform ? part_suffix(p->weights.config.family, c->part) : c->name;
	const char *dot = strrchr(name, '.');
	char *full = last ? mem_format("%.*s.%s", (int)(dot ? dot - name : 0), name, last) : mem_text(name);
	struct buf key = {0};

	buf_puts(&key, c->skip ? "-:" : "+:");
	buf_puts(&key, uniform ? ".*" : "^");
	regex_quote(full, &key);
	buf_puts(&key, "$");
	json_object_set_new(dynamic, buf_text(&key), rule(c, common));
	buf_release(&key);
	free(full);
}

/* vLLM runs these as one linear and asks for a rule by its name. */
static const char *const fused[SITES] = {[SITE_QKV] = "qkv_proj", [SITE_UP] = "gate_up_proj"};

/* GPTQModel and vLLM read `dynamic`; the first rule that matches wins. */
static json_t *
dynamic_rules(const struct project *p, const struct label *common)
{
	json_t *dynamic = json_object();

	for (size_t i = 0; i < p->nchoices; i++) {
		const struct choice *c = &p->choices[i];
		bool last = i + 1 == p->nchoices || c[1].site != c->site, alike = true;
		json_t *own = rule(c, common);

		if (own && (c->block == 0 || !is_uniform(p, c, common)))
			add_rule(dynamic, p, c, common, NULL);
		for (size_t j = i; last && j > 0 && p->choices[j - 1].site == c->site && p->choices[j - 1].block == c->block; j--)
			alike = alike && same_rule(c, &p->choices[j - 1], common);
		if (own && last && alike && fused[c->site] && (c->block == 0 || !is_uniform(p, c, common)))
			add_rule(dynamic, p, c, common, fused[c->site]);
		json_decref(own);
	}
	if (json_object_size(dynamic))
		return dynamic;
	json_decref(dynamic);
	return NULL;
}

/* Optimum replaces every linear of a block unless told which ones, by the ends of their names. */
static json_t *
quantized_modules(const struct project *p)
{
	const struct config *config = &p->weights.config;
	json_t *lists = json_array(), *list = json_array();
	bool uniform = true, any = false;
	size_t n;

	project_block(p, 0, &n);
	for (size_t i = 0; i < p->nchoices; i++) {
		any = any || p->choices[i].skip;
		uniform = uniform && p->choices[i].skip == p->choices[i % n].skip;
	}
	for (size_t i = 0; any && i < (uniform ? n : p->nchoices); i++) {
		const struct choice *c = &p->choices[i];

		if (!c->skip)
			json_array_append_new(list, json_string(uniform ? part_suffix(config->family, c->part) + 1 : c->name));
	}
	json_array_append_new(lists, list);
	if (any)
		return lists;
	json_decref(lists);
	return NULL;
}

/* ---- the whole ---- */

static void
add_setting(json_t *meta, const struct project *p, const char *name)
{
	struct buf value = {0};
	json_t *v = NULL;

	if (method_setting(p, name, &value))
		v = json_loads(buf_text(&value), JSON_DECODE_ANY, NULL);
	if (v && !json_is_null(v))
		json_object_set(meta, name, v);
	json_decref(v);
	buf_release(&value);
}

static json_t *
meta(const struct project *p, bool marked)
{
	json_t *meta = json_object(), *quantizer = json_array();
	struct buf order = {0};

	json_array_append_new(quantizer, json_string("qjob:" QJOB_VERSION));
	/* GPTQModel reads asymmetric v1 only from files whose writer never let a zero point borrow from its neighbour, and
	 * knows them by this entry alone.  Ours do not: zero_min. */
	if (marked)
		json_array_append_new(quantizer, json_string("gptqmodel:0.9.0"));
	json_object_set_new(meta, "quantizer", quantizer);
	add_setting(meta, p, "damp_percent");
	add_setting(meta, p, "true_sequential");
	if (method_setting(p, "actorder", &order))
		json_object_set_new(meta, "static_groups", json_boolean(strcmp(buf_text(&order), "static") == 0));
	buf_release(&order);
	return meta;
}

json_t *
gptq_config(const struct project *p)
{
	const struct gptq_params *params = p->s->format_params;
	struct label common = label_common(p);
	json_t *j = json_object(), *dynamic, *modules;
	bool order = false, asym = false;

	for (size_t i = 0; i < p->nchoices; i++) {
		const struct choice *c = &p->choices[i];

		order = order || (!c->skip && p->wish.ordered && c->group < c->cols);
		asym = asym || (!c->skip && !c->sym);
	}
	dynamic = dynamic_rules(p, &common);
	modules = quantized_modules(p);
	json_object_set_new(j, "quant_method", json_string("gptq"));
	json_object_set_new(j, "method", json_string("gptq"));
	json_object_set_new(j, "bits", json_integer(common.bits));
	json_object_set_new(j, "group_size", json_integer(common.group));
	json_object_set_new(j, "desc_act", json_boolean(order));
	json_object_set_new(j, "sym", json_boolean(common.sym));
	json_object_set_new(j, "lm_head", json_false());
	json_object_set_new(j, "format", json_string(params->checkpoint_format));
	json_object_set_new(j, "checkpoint_format", json_string(params->checkpoint_format));
	json_object_set_new(j, "pack_dtype", json_string("int32"));
	if (dynamic)
		json_object_set_new(j, "dynamic", dynamic);
	if (modules)
		json_object_set_new(j, "modules_in_block_to_quantize", modules);
	json_object_set_new(j, "meta", meta(p, asym && gptq_is_v1(params)));
	return j;
}

/* AutoGPTQ's own file; it and GPTQModel look there first. */
const char *
gptq_extra_file(const struct project *p, struct buf *content)
{
	json_t *j = gptq_config(p);

	json_write(j, content);
	json_decref(j);
	return "quantize_config.json";
}

void
gptq_notes(const struct project *p, json_t *out)
{
	struct label common = label_common(p);
	bool mixed = false, vllm = true;

	for (size_t i = 0; i < p->nchoices; i++) {
		const struct choice *c = &p->choices[i];

		mixed = mixed || (!c->skip && !label_fits(&common, c));
		vllm = vllm && (c->skip || (c->sym && (c->bits == 4 || c->bits == 8) && !(p->wish.ordered && c->group < c->cols)));
	}
	if (mixed)
		json_array_append_new(out, json_string("Transformers reads one bits, group_size and sym for all "
		                                       "linears of format gptq and runs this "
		                      "mixture wrongly without a word (5.17) or refuses it (5.23); GPTQModel and vLLM read it; use format "
		                      "compressed-tensors for Transformers"));
	if (!vllm)
		json_array_append_new(out, json_string("vLLM 0.32 takes format gptq with 4 or 8 bits, sym, and no "
		                                       "desc_act with groups alone; "
		                      "it will refuse this"));
}
