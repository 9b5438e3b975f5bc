/* Format compressed-tensors, pack-quantized: what llm-compressor writes and vLLM and Transformers read.
 *
 *     NAME.weight_packed      I32 [O, ceil(I b/32)]   codes: a little-endian bit stream along each row
 *     NAME.weight_scale       the model's type [O, G]
 *     NAME.weight_shape       I64 [2] = O, I
 *     NAME.weight_zero_point  I32 [ceil(O b/32), G]   asymmetric only: a stream down each column
 *
 * Codes and zero points are signed there and stored with 2^(b-1) added, which is what a qlinear holds.  Since 0.18 codes
 * of 3 bits run across words (before, 10 to a word); other bits were always so. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/base/pool.h"
#include "stages/pack/format.h"
#include "stages/pack/layout.h"
#include "stages/project.h"

/* Loaders tell dense from padded packing by this: it is the release whose layout is written here. */
#define CT_VERSION "0.19.0"

enum { PACKED, SCALE, SHAPE, ZERO_POINT, TENSORS };

static enum dtype
scale_type(const void *params, enum dtype model)
{
	(void)params;
	return model;
}

static int
zero_min(const void *params, bool sym)
{
	(void)params;
	(void)sym;
	return 0;
}

static int
check(const void *params, const struct choice *c, bool has_order)
{
	(void)params;
	if (c->bits < 1 || c->bits > 8)
		return err_set(E_USE, "format compressed-tensors has no %d bits for %s; 1 to 8 are possible", c->bits, c->name);
	if (has_order && c->group < c->cols)
		return err_set(E_USE, "format compressed-tensors has no g_idx, which desc_act needs for %s; use "
		               "format gptq, or actorder: static", c->name);
	return group_check(c);
}

static int64_t
words(int64_t n, int bits)
{
	return (n * bits + 31) / 32;
}

static int
tensors(const void *params, const struct choice *c, enum dtype scale, bool has_order, struct tensor out[FORMAT_TENSORS])
{
	int64_t groups = c->cols / c->group;
	const struct tensor made[TENSORS] = {
		[PACKED] = {.name = mem_format("%s.weight_packed", c->name), .type = I32, .rank = 2,
		            .shape = {c->rows, words(c->cols, c->bits)}},
		[SCALE] = {.name = mem_format("%s.weight_scale", c->name), .type = scale, .rank = 2, .shape = {c->rows, groups}},
		[SHAPE] = {.name = mem_format("%s.weight_shape", c->name), .type = I64, .rank = 1, .shape = {2}},
		[ZERO_POINT] = {.name = c->sym ? NULL : mem_format("%s.weight_zero_point", c->name), .type = I32, .rank = 2,
		                .shape = {words(c->rows, c->bits), groups}},
	};
	int n = c->sym ? TENSORS - 1 : TENSORS;

	(void)params;
	(void)has_order;
	memcpy(out, made, (size_t)n * sizeof(*out));
	for (int k = 0; k < n; k++)
		out[k].bytes = tensor_bytes(&out[k]);
	return n;
}

/* ---- packing ---- */

static void
pack_codes(const struct qlinear *q, const struct tensor *t, unsigned char *to)
{
	size_t from = codes_bytes(q->cols, q->bits), row = (size_t)t->shape[1] * 4;

	if (row == from) {
		memcpy(to, q->codes, t->bytes);
		return;
	}
	memset(to, 0, t->bytes);
	for (int64_t o = 0; o < q->rows; o++)
		memcpy(to + (size_t)o * row, q->codes + (size_t)o * from, from);
}

static void
pack_zeros(const struct qlinear *q, const struct tensor *t, unsigned char *to)
{
	int64_t nwords = t->shape[0];
	unsigned char *streams = mem_new((size_t)(nwords * q->groups), 4);
	uint8_t *zero = mem_new((size_t)q->rows, 1);

	for (int64_t g = 0; g < q->groups; g++) {
		for (int64_t o = 0; o < q->rows; o++)
			zero[o] = q->zero ? q->zero[o * q->groups + g] : (uint8_t)(1 << (q->bits - 1));
		codes_pack(streams + g * nwords * 4, zero, q->rows, q->bits);
	}
	words_turn(to, streams, q->groups, nwords);
	free(zero);
	free(streams);
}

static int
pack(const void *params, const struct qlinear *q, int k, const struct tensor *t, void *to)
{
	int64_t shape[2] = {q->rows, q->cols};

	(void)params;
	if (q->group_of)
		return err_set(E_DATA, "%s: groups follow an order, which this format cannot say", t->name);
	if (k == SCALE && t->type != q->scale_type)
		return err_set(E_DATA, "%s: scales come as %s, not %s", t->name, dtype_name(q->scale_type), dtype_name(t->type));
	switch (k) {
	case PACKED:
		pack_codes(q, t, to);
		break;
	case SCALE:
		memcpy(to, q->scale, t->bytes);
		break;
	case SHAPE:
		memcpy(to, shape, sizeof(shape));
		break;
	default:
		pack_zeros(q, t, to);
	}
	return 0;
}

/* ---- config.json ---- */

static bool
setting_is(const struct project *p, const char *name, const char *value)
{
	struct buf text = {0};
	bool is = method_setting(p, name, &text) && strcmp(buf_text(&text), value) == 0;

	buf_release(&text);
	return is;
}

static json_t *
group_config(const struct project *p, const struct label *l, json_t *targets)
{
	bool ordered = setting_is(p, "actorder", "static");
	json_t *j = json_object(), *w = json_object();

	json_object_set_new(j, "targets", targets);
	json_object_set_new(j, "format", json_string("pack-quantized"));
	json_object_set_new(j, "input_activations", json_null());
	json_object_set_new(j, "output_activations", json_null());
	json_object_set_new(w, "num_bits", json_integer(l->bits));
	json_object_set_new(w, "type", json_string("int"));
	json_object_set_new(w, "symmetric", json_boolean(l->sym));
	json_object_set_new(w, "strategy", json_string(l->group < 0 ? "channel" : "group"));
	json_object_set_new(w, "group_size", l->group < 0 ? json_null() : json_integer(l->group));
	json_object_set_new(w, "block_structure", json_null());
	json_object_set_new(w, "dynamic", json_false());
	json_object_set_new(w, "actorder", ordered ? json_string("static") : json_null());
	json_object_set_new(w, "scale_dtype", json_null());
	json_object_set_new(w, "zp_dtype", l->sym ? json_null() : json_string("torch.int8"));
	json_object_set_new(w, "observer", json_string("minmax"));
	json_object_set_new(w, "observer_kwargs", json_object());
	json_object_set_new(j, "weights", w);
	return j;
}

static bool
same_label(const struct label *a, const struct label *b)
{
	return a->bits == b->bits && a->group == b->group && a->sym == b->sym;
}

/* The label under which a linear is listed: the common one where it fits, so that "one group a row" splits no group. */
static struct label
listed(const struct choice *c, const struct label *common)
{
	return label_fits(common, c) ? *common : label_of(c);
}

static json_t *
members(const struct project *p, const struct label *l, const struct label *common)
{
	json_t *names = json_array();

	for (size_t i = 0; i < p->nchoices; i++) {
		struct label own = listed(&p->choices[i], common);

		if (!p->choices[i].skip && same_label(&own, l))
			json_array_append_new(names, json_string(p->choices[i].name));
	}
	return names;
}

/* One group for all linears targets their class; several name theirs, since loaders prefer a name to a class. */
static json_t *
config_groups(const struct project *p, size_t nquantized)
{
	struct label common = label_common(p);
	json_t *groups = json_object();
	size_t done = 0;

	for (size_t i = 0; i < p->nchoices && done < nquantized; i++) {
		struct label own = listed(&p->choices[i], &common);
		json_t *targets;
		bool seen = p->choices[i].skip;
		char name[32];

		for (size_t j = 0; j < i && !seen; j++) {
			struct label before = listed(&p->choices[j], &common);

			seen = !p->choices[j].skip && same_label(&before, &own);
		}
		if (seen)
			continue;
		targets = members(p, &own, &common);
		done += json_array_size(targets);
		if (json_array_size(targets) == nquantized) {
			json_decref(targets);
			targets = json_pack("[s]", "Linear");
		}
		snprintf(name, sizeof(name), "group_%zu", json_object_size(groups));
		json_object_set_new(groups, name, group_config(p, &own, targets));
	}
	return groups;
}

static json_t *
config(const struct project *p)
{
	json_t *j = json_object(), *ignore = json_array();
	const char *head = p->weights.config.family->names[HEAD];
	size_t nquantized = 0;

	for (size_t i = 0; i < p->nchoices; i++) {
		if (p->choices[i].skip)
			json_array_append_new(ignore, json_string(p->choices[i].name));
		else
			nquantized++;
	}
	/* Tied or not: without it a loader expects a packed one. */
	json_array_append_new(ignore, json_string(head ? head : "lm_head"));
	json_object_set_new(j, "quant_method", json_string("compressed-tensors"));
	json_object_set_new(j, "version", json_string(CT_VERSION));
	json_object_set_new(j, "format", json_string("pack-quantized"));
	json_object_set_new(j, "quantization_status", json_string("compressed"));
	json_object_set_new(j, "config_groups", config_groups(p, nquantized));
	json_object_set_new(j, "ignore", ignore);
	json_object_set_new(j, "global_compression_ratio", json_null());
	json_object_set_new(j, "kv_cache_scheme", json_null());
	json_object_set_new(j, "sparsity_config", json_object());
	json_object_set_new(j, "transform_config", json_object());
	return j;
}

static void
notes(const struct project *p, json_t *out)
{
	bool asym = false;

	for (size_t i = 0; i < p->nchoices; i++)
		asym = asym || (!p->choices[i].skip && !p->choices[i].sym);
	if (asym)
		json_array_append_new(out, json_string("Transformers 5.23 with compressed-tensors 0.20 refuses "
		                                       "asymmetric weights (5.17 with 0.19 and "
		                      "vLLM 0.32 read them)"));
}

/* ---- reading as a stranger ---- */

static bool
owns(const json_t *quantization_config)
{
	const char *method = json_string_value(json_object_get(quantization_config, "quant_method"));

	return method && strcmp(method, "compressed-tensors") == 0;
}

enum hit { NO_HIT, CLASS_HIT, PATTERN_HIT, NAME_HIT };

static enum hit
target_hit(const json_t *list, const char *linear)
{
	enum hit best = NO_HIT;
	size_t i;
	json_t *v;

	json_array_foreach((json_t *)list, i, v) {
		const char *text = json_string_value(v);
		enum hit hit = NO_HIT;

		if (!text)
			continue;
		if (strcmp(text, linear) == 0)
			hit = NAME_HIT;
		else if (strncmp(text, "re:", 3) == 0 && regex_match(text + 3, linear))
			hit = PATTERN_HIT;
		else if (strcmp(text, "Linear") == 0)
			hit = CLASS_HIT;
		best = hit > best ? hit : best;
	}
	return best;
}

/* The weights part of the group that targets a linear: by name before by pattern before by class. */
static int
find_scheme(const json_t *config, const char *linear, const json_t **weights)
{
	const char *status = json_string_value(json_object_get(config, "quantization_status"));
	enum hit best = NO_HIT;
	const char *key;
	json_t *group;

	if (!status || strcmp(status, "compressed") != 0)
		return err_set(E_DATA, "config.json: quantization_config.quantization_status is not compressed, so "
		               "loaders would look for %s.weight", linear);
	if (target_hit(json_object_get(config, "ignore"), linear) != NO_HIT)
		return err_set(E_DATA, "%s.weight is missing, and config.json says it is not quantized (ignore)", linear);
	json_object_foreach(json_object_get(config, "config_groups"), key, group) {
		enum hit hit = target_hit(json_object_get(group, "targets"), linear);

		if (hit > best) {
			best = hit;
			*weights = json_object_get(group, "weights");
		}
	}
	if (best == NO_HIT || !json_is_object(*weights))
		return err_set(E_DATA, "%s.weight is missing, and no group of quantization_config.config_groups targets it", linear);
	return 0;
}

struct reader {
	struct label label;
	const char *linear;
	int64_t rows, cols, groups;
	const struct tensor *t[TENSORS];
	float *scale;       /* [O, G] */
	uint8_t *zero;      /* [O, G] */
};

static int
read_label(struct reader *r, const struct weights *w)
{
	const json_t *config = json_object_get(w->config.json, "quantization_config"), *weights = NULL, *group;
	const char *type, *strategy;
	int rc = find_scheme(config, r->linear, &weights);

	if (rc < 0)
		return rc;
	type = json_string_value(json_object_get(weights, "type"));
	strategy = json_string_value(json_object_get(weights, "strategy"));
	group = json_object_get(weights, "group_size");
	r->label.bits = (int)json_integer_value(json_object_get(weights, "num_bits"));
	r->label.sym = !json_is_false(json_object_get(weights, "symmetric"));
	if (r->label.bits < 1 || r->label.bits > 8 || !type || strcmp(type, "int") != 0)
		return err_set(E_DATA, "config.json: the scheme of %s is not int with 1 to 8 bits", r->linear);
	if (strategy && strcmp(strategy, "channel") == 0) {
		r->groups = 1;
	} else if (strategy && strcmp(strategy, "group") == 0 && json_is_integer(group) && json_integer_value(group) > 0 &&
	           r->cols % json_integer_value(group) == 0) {
		r->groups = r->cols / json_integer_value(group);
	} else {
		return err_set(E_DATA, "config.json: the scheme of %s has neither strategy channel nor strategy group "
		               "with a group_size that divides %" PRId64,
		               r->linear, r->cols);
	}
	r->label.group = r->cols / r->groups;
	return 0;
}

static int
find_tensors(struct reader *r, const struct weights *w)
{
	int bits = r->label.bits, rc;
	int64_t dense = words(r->cols, bits), padded = (r->cols + 32 / bits - 1) / (32 / bits), shape[2];

	rc = need_tensor(&r->t[PACKED], w, r->linear, "weight_packed", I32, 2, r->rows, -1);
	if (rc < 0)
		return rc;
	if (r->t[PACKED]->shape[1] != dense)
		return err_set(E_DATA, "%s.weight_packed has %" PRId64 " words a row, not %" PRId64 "%s", r->linear,
		               r->t[PACKED]->shape[1], dense,
		               r->t[PACKED]->shape[1] == padded ? ": it is padded, as compressed-tensors before 0.18 did" : "");
	rc = need_tensor(&r->t[SCALE], w, r->linear, "weight_scale", DTYPES, 2, r->rows, r->groups);
	if (rc == 0)
		rc = need_tensor(&r->t[SHAPE], w, r->linear, "weight_shape", I64, 1, 2, -1);
	if (rc == 0 && !r->label.sym)
		rc = need_tensor(&r->t[ZERO_POINT], w, r->linear, "weight_zero_point", I32, 2, words(r->rows, bits), r->groups);
	if (rc < 0)
		return rc;
	memcpy(shape, r->t[SHAPE]->p, sizeof(shape));
	if (shape[0] != r->rows || shape[1] != r->cols)
		return err_set(E_DATA, "%s.weight_shape says [%" PRId64 ", %" PRId64 "], the model has [%" PRId64 ", "
		               "%" PRId64 "]", r->linear,
		               shape[0], shape[1], r->rows, r->cols);
	return 0;
}

static void
read_zeros(struct reader *r)
{
	int64_t nwords = words(r->rows, r->label.bits);
	unsigned char *streams;
	uint8_t *column;

	if (r->label.sym) {
		memset(r->zero, 1 << (r->label.bits - 1), (size_t)(r->rows * r->groups));
		return;
	}
	streams = mem_new((size_t)(nwords * r->groups), 4);
	column = mem_new((size_t)r->rows, 1);
	words_turn(streams, r->t[ZERO_POINT]->p, nwords, r->groups);
	for (int64_t g = 0; g < r->groups; g++) {
		codes_unpack(column, streams + g * nwords * 4, r->rows, r->label.bits);
		for (int64_t o = 0; o < r->rows; o++)
			r->zero[o * r->groups + g] = column[o];
	}
	free(column);
	free(streams);
}

/* The streams as they are, but for the words that fill up a row; r's scales and zero points become q's. */
static void
fill(struct reader *r, struct qlinear *q)
{
	size_t each = codes_bytes(r->cols, r->label.bits);
	uint8_t *codes = mem_new((size_t)r->rows, each);

	for (int64_t o = 0; o < r->rows; o++)
		memcpy(codes + (size_t)o * each, (const uint8_t *)r->t[PACKED]->p + o * r->t[PACKED]->shape[1] * 4, each);
	*q = (struct qlinear){
		.bits = r->label.bits, .rows = r->rows, .cols = r->cols, .group = r->label.group, .groups = r->groups, .sym = r->label.sym,
		.codes = codes, .scale = r->scale, .scale_type = F32, .zero = r->zero,
	};
	r->scale = NULL;
	r->zero = NULL;
}

static int
decode(const struct weights *w, const char *linear, struct qlinear *q, int64_t rows, int64_t cols)
{
	struct reader r = {.linear = linear, .rows = rows, .cols = cols};
	int rc = read_label(&r, w);

	if (rc == 0)
		rc = find_tensors(&r, w);
	if (rc < 0)
		return rc;
	r.scale = mem_new((size_t)(rows * r.groups), sizeof(*r.scale));
	r.zero = mem_new((size_t)(rows * r.groups), 1);
	rc = read_scales(r.scale, r.t[SCALE]);
	if (rc == 0)
		read_zeros(&r);
	if (rc == 0 && q)
		fill(&r, q);
	free(r.scale);
	free(r.zero);
	return rc;
}

const struct format format_compressed_tensors = {
	.name = "compressed-tensors",
	.version = 1,
	.help = "pack-quantized, llm-compressor's layout: vLLM, Transformers",
	.scale_type = scale_type,
	.zero_min = zero_min,
	.check = check,
	.tensors = tensors,
	.pack = pack,
	.config = config,
	.notes = notes,
	.owns = owns,
	.decode = decode,
};
