/* Format gptq: what AutoGPTQ began and GPTQModel, Transformers and vLLM read.  K in_features, N out_features, b bits, G groups.
 *
 *     NAME.qweight I32 [K b/32, N]   codes: a little-endian bit stream down each column
 *     NAME.qzeros  I32 [G, N b/32]   zero points: a stream along each row; v1 stores zero - 1, v2 zero
 *     NAME.scales  F16 [G, N]
 *     NAME.g_idx   I32 [K]           group of each input
 *
 * For 4 bits one word of qweight is, from its lowest bits, rows 8r .. 8r+7 of a column:
 *
 *     31    28 27    24                       7     4 3     0
 *     | 8r+7  |  8r+6  |        ...          |  8r+1  |  8r   |
 *
 * 3 bits run across words, 32 codes in 3.  A row of a qlinear is the same stream, so packing only turns words. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/base/pool.h"
#include "stages/pack/format.h"
#include "stages/pack/gptq.h"
#include "stages/pack/layout.h"
#include "stages/project.h"

enum { QWEIGHT, QZEROS, SCALES, G_IDX, TENSORS, TILE = 16 };

static const struct param rows[] = {
	{"checkpoint_format", PARAM_WORD, offsetof(struct gptq_params, checkpoint_format), "gptq", 0, 0, "gptq gptq_v2",
	 "how zero points are stored: gptq as zero - 1, which every loader reads; gptq_v2 as they are", NULL, 0, 0},
	{0},
};

static enum dtype
scale_type(const void *params, enum dtype model)
{
	(void)params;
	(void)model;
	return F16;
}

/* A zero of 0 under v1 is a field of -1: the writers in use let it borrow from its neighbour. */
static int
zero_min(const void *params, bool sym)
{
	return gptq_is_v1(params) && !sym;
}

/* Streams of codes and of zero points end with a word: 8 codes of 4 bits, 32 of 3. */
static int
check(const void *params, const struct choice *c, bool has_order)
{
	int step = c->bits == 3 ? 32 : 32 / c->bits;

	(void)params;
	(void)has_order;
	if (c->bits != 2 && c->bits != 3 && c->bits != 4 && c->bits != 8)
		return err_set(E_USE, "format gptq has no %d bits for %s; 2, 3, 4 and 8 are possible", c->bits, c->name);
	if (c->cols % step != 0 || c->rows % step != 0)
		return err_set(E_USE, "format gptq with %d bits needs %s_features in multiples of %d, and %s has %" PRId64
		               "; use format compressed-tensors, or leave it out with an override (skip: true)", c->bits,
		               c->cols % step ? "in" : "out", step, c->name, c->cols % step ? c->cols : c->rows);
	return group_check(c);
}

static int
tensors(const void *params, const struct choice *c, enum dtype scale, bool has_order, struct tensor out[FORMAT_TENSORS])
{
	int64_t groups = c->cols / c->group;
	const struct tensor made[TENSORS] = {
		[QWEIGHT] = {.name = mem_format("%s.qweight", c->name), .type = I32, .rank = 2, .shape = {c->cols * c->bits / 32, c->rows}},
		[QZEROS] = {.name = mem_format("%s.qzeros", c->name), .type = I32, .rank = 2, .shape = {groups, c->rows * c->bits / 32}},
		[SCALES] = {.name = mem_format("%s.scales", c->name), .type = scale, .rank = 2, .shape = {groups, c->rows}},
		[G_IDX] = {.name = mem_format("%s.g_idx", c->name), .type = I32, .rank = 1, .shape = {c->cols}},
	};

	(void)params;
	(void)has_order;
	memcpy(out, made, sizeof(made));
	for (int k = 0; k < TENSORS; k++)
		out[k].bytes = tensor_bytes(&out[k]);
	return TENSORS;
}

/* ---- packing ---- */

static int
pack_zeros(bool v1, const struct qlinear *q, const struct tensor *t, unsigned char *to)
{
	size_t row = (size_t)t->shape[1] * 4;
	uint8_t *fields = mem_new((size_t)q->rows, 1);

	for (int64_t g = 0; g < q->groups; g++) {
		for (int64_t o = 0; o < q->rows; o++) {
			int zero = q->zero ? q->zero[o * q->groups + g] : 1 << (q->bits - 1);

			if (zero < v1) {
				free(fields);
				return err_set(E_DATA, "%s: zero point 0 of output %" PRId64 " has no place in "
				               "checkpoint_format gptq; use gptq_v2", t->name, o);
			}
			fields[o] = (uint8_t)(zero - v1);
		}
		codes_pack(to + (size_t)g * row, fields, q->rows, q->bits);
	}
	free(fields);
	return 0;
}

static void
pack_scales(const struct qlinear *q, const struct tensor *t, unsigned char *to)
{
	size_t each = dtype_size(t->type);

	for (int64_t g = 0; g < q->groups; g++)
		for (int64_t o = 0; o < q->rows; o++) {
			unsigned char *at = to + (size_t)(g * q->rows + o) * each;
			uint16_t h;

			if (q->scale_type == t->type) {
				memcpy(at, (const unsigned char *)q->scale + (size_t)(o * q->groups + g) * each, each);
			} else {
				h = float_f16(qlinear_scale(q, o, g));
				memcpy(at, &h, 2);
			}
		}
}

static int
pack(const void *params, const struct qlinear *q, int k, const struct tensor *t, void *to)
{
	switch (k) {
	case QWEIGHT:
		words_turn(to, q->codes, q->rows, t->shape[0]);
		return 0;
	case QZEROS:
		return pack_zeros(gptq_is_v1(params), q, t, to);
	case SCALES:
		if (t->type != q->scale_type && t->type != F16)
			return err_set(E_DATA, "%s: scales come as %s", t->name, dtype_name(q->scale_type));
		pack_scales(q, t, to);
		return 0;
	}
	for (int64_t i = 0; i < q->cols; i++) {
		int32_t g = q->group_of ? q->group_of[i] : (int32_t)(i / q->group);

		memcpy((unsigned char *)to + i * 4, &g, 4);
	}
	return 0;
}

/* ---- reading as a stranger ---- */

struct reader {
	struct label label;
	bool v1, desc_act;
	const char *linear;
	int64_t rows, cols, groups;
	const struct tensor *t[TENSORS];
	float *scale;            /* [G, N] */
	uint8_t *zero;           /* [G, N] */
	int32_t *group_of;       /* [K] */
	struct qlinear *q;       /* NULL: not wanted */
	uint8_t *codes;          /* q's */
};

static bool
owns(const json_t *quantization_config)
{
	const char *method = json_string_value(json_object_get(quantization_config, "quant_method"));

	return method && strcmp(method, "gptq") == 0;
}

static int
read_rule(struct reader *r, const json_t *rule)
{
	const json_t *bits = json_object_get(rule, "bits"), *group = json_object_get(rule, "group_size");
	const json_t *sym = json_object_get(rule, "sym");

	if ((bits && !json_is_integer(bits)) || (group && !json_is_integer(group)) || (sym && !json_is_boolean(sym)))
		return err_set(E_DATA, "config.json: quantization_config: bits, group_size and sym are a number, a "
		               "number and a truth value");
	if (bits)
		r->label.bits = (int)json_integer_value(bits);
	if (group)
		r->label.group = json_integer_value(group);
	if (sym)
		r->label.sym = json_is_true(sym);
	return 0;
}

static int
read_dynamic(struct reader *r, const json_t *config)
{
	const json_t *dynamic = json_object_get(config, "dynamic");
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)dynamic, key, v) {
		bool skip = strncmp(key, "-:", 2) == 0, keep = strncmp(key, "+:", 2) == 0;

		if (!regex_match(key + 2 * (skip || keep), r->linear))
			continue;
		if (skip)
			return err_set(E_DATA, "%s.weight is missing, and config.json says it is not quantized "
			               "(dynamic %s)", r->linear, key);
		return read_rule(r, v);
	}
	return 0;
}

static int
read_label(struct reader *r, const json_t *config)
{
	const json_t *format = json_object_get(config, "checkpoint_format");
	const char *name;
	int rc;

	if (!format)
		format = json_object_get(config, "format");
	name = format ? json_string_value(format) : "gptq";
	if (!name || (strcmp(name, "gptq") != 0 && strcmp(name, "gptq_v2") != 0))
		return err_set(E_DATA, "config.json: quantization_config.checkpoint_format: %s is neither gptq nor "
		               "gptq_v2", name ? name : "a value that is no text");
	r->v1 = strcmp(name, "gptq") == 0;
	r->desc_act = json_is_true(json_object_get(config, "desc_act"));
	r->label = (struct label){.sym = true};
	rc = read_rule(r, config);
	if (rc == 0)
		rc = read_dynamic(r, config);
	if (rc < 0)
		return rc;
	if (r->label.bits != 2 && r->label.bits != 3 && r->label.bits != 4 && r->label.bits != 8)
		return err_set(E_DATA, "config.json: quantization_config.bits: %d is not one of 2, 3, 4, 8", r->label.bits);
	if (r->label.group != -1 && r->label.group < 1)
		return err_set(E_DATA, "config.json: quantization_config.group_size: %" PRId64 " is neither -1 nor "
		               "positive", r->label.group);
	if (r->cols * r->label.bits % 32 != 0 || r->rows * r->label.bits % 32 != 0)
		return err_set(E_DATA, "%s: [%" PRId64 ", %" PRId64 "] at %d bits does not fill 32-bit words",
		               r->linear, r->rows, r->cols, r->label.bits);
	r->groups = r->label.group < 0 ? 1 : (r->cols + r->label.group - 1) / r->label.group;
	return 0;
}

static int
find_tensors(struct reader *r, const struct weights *w)
{
	int bits = r->label.bits, rc;

	rc = need_tensor(&r->t[QWEIGHT], w, r->linear, "qweight", I32, 2, r->cols * bits / 32, r->rows);
	if (rc == 0)
		rc = need_tensor(&r->t[QZEROS], w, r->linear, "qzeros", I32, 2, r->groups, r->rows * bits / 32);
	if (rc == 0)
		rc = need_tensor(&r->t[SCALES], w, r->linear, "scales", DTYPES, 2, r->groups, r->rows);
	if (rc == 0)
		rc = need_tensor(&r->t[G_IDX], w, r->linear, "g_idx", I32, 1, r->cols, -1);
	return rc;
}

static int
read_groups(struct reader *r)
{
	int64_t size = r->label.group < 0 ? r->cols : r->label.group;

	memcpy(r->group_of, r->t[G_IDX]->p, (size_t)r->cols * 4);
	for (int64_t i = 0; i < r->cols; i++) {
		if (r->group_of[i] < 0 || r->group_of[i] >= r->groups)
			return err_set(E_DATA, "%s.g_idx: %" PRId32 " at %" PRId64 " is no group; there are "
			               "%" PRId64, r->linear, r->group_of[i], i, r->groups);
		if (!r->desc_act && r->group_of[i] != i / size)
			return err_set(E_DATA, "%s.g_idx: groups follow an order, but the label says desc_act false", r->linear);
	}
	return 0;
}

/* v1 with 2, 4 or 8 bits is corrected word by word, which undoes the borrow that some writers leave. */
static void
read_zeros(struct reader *r)
{
	int bits = r->label.bits, max = (1 << bits) - 1;
	size_t nwords = (size_t)r->t[QZEROS]->shape[1];
	uint32_t ones = bits == 3 ? 0 : UINT32_MAX / (uint32_t)max, word;
	uint8_t *stream = mem_new(nwords, 4);

	for (int64_t g = 0; g < r->groups; g++) {
		uint8_t *zero = r->zero + g * r->rows;

		memcpy(stream, (const unsigned char *)r->t[QZEROS]->p + (size_t)g * nwords * 4, nwords * 4);
		for (size_t i = 0; r->v1 && i < nwords; i++) {
			memcpy(&word, stream + i * 4, 4);
			word += ones;
			memcpy(stream + i * 4, &word, 4);
		}
		codes_unpack(zero, stream, r->rows, bits);
		for (int64_t o = 0; r->v1 && bits == 3 && o < r->rows; o++)
			zero[o] = (uint8_t)((zero[o] + 1) & max);
	}
	free(stream);
}

/* A symmetric linear has one zero point; off by one everywhere, the file is of the other version than its label. */
static int
check_zeros(const struct reader *r)
{
	int middle = 1 << (r->label.bits - 1), other = middle + (r->v1 ? 1 : -1);
	int64_t n = r->groups * r->rows, wrong = 0, first = -1;

	for (int64_t i = 0; r->label.sym && i < n; i++) {
		wrong += r->zero[i] == other;
		if (first < 0 && r->zero[i] != middle)
			first = i;
	}
	if (first < 0)
		return 0;
	if (wrong == n)
		return err_set(E_DATA, "%s.qzeros: every zero point is stored as %s does it, but the label says "
		               "checkpoint_format %s", r->linear,
		               r->v1 ? "gptq_v2" : "gptq", r->v1 ? "gptq" : "gptq_v2");
	return err_set(E_DATA, "%s.qzeros: zero point %d at group %" PRId64 ", output %" PRId64 ", but the label says "
	               "sym, which is %d", r->linear,
	               r->zero[first], first / r->rows, first % r->rows, middle);
}

/* Rows [i * TILE, (i + 1) * TILE) of the codes: their streams are gathered from the columns of qweight. */
static int
read_tile(void *own, size_t tile)
{
	const struct reader *r = own;
	int64_t words = r->t[QWEIGHT]->shape[0], o = (int64_t)tile * TILE, n = o + TILE < r->rows ? TILE : r->rows - o;
	const unsigned char *p = r->t[QWEIGHT]->p;

	for (int64_t k = 0; k < words; k++)
		for (int64_t i = 0; i < n; i++)
			memcpy(r->codes + ((o + i) * words + k) * 4, p + (k * r->rows + o + i) * 4, 4);
	return 0;
}

/* Scales and zero points by row; the groups as they are. */
static void
turn_grid(const struct reader *r, float *scale, uint8_t *zero)
{
	for (int64_t o = 0; o < r->rows; o++)
		for (int64_t g = 0; g < r->groups; g++) {
			scale[o * r->groups + g] = r->scale[g * r->rows + o];
			zero[o * r->groups + g] = r->zero[g * r->rows + o];
		}
}

/* r's groups become q's. */
static int
fill(struct reader *r)
{
	size_t n = (size_t)(r->groups * r->rows);
	float *scale = mem_new(n, sizeof(*scale));
	uint8_t *zero = mem_new(n, 1);

	r->codes = mem_new((size_t)r->rows, codes_bytes(r->cols, r->label.bits));
	turn_grid(r, scale, zero);
	*r->q = (struct qlinear){
		.bits = r->label.bits, .rows = r->rows, .cols = r->cols, .group = r->label.group < 0 ? r->cols : r->label.group,
		.groups = r->groups, .sym = r->label.sym, .codes = r->codes, .scale = scale, .scale_type = F32, .zero = zero,
		.group_of = r->group_of,
	};
	r->group_of = NULL;
	return pool_run((size_t)((r->rows + TILE - 1) / TILE), pool_threads(), read_tile, r);
}

static int
decode(const struct weights *w, const char *linear, struct qlinear *q, int64_t nrows, int64_t cols)
{
	struct reader r = {.linear = linear, .rows = nrows, .cols = cols, .q = q};
	int rc = read_label(&r, json_object_get(w->config.json, "quantization_config"));

	if (rc == 0)
		rc = find_tensors(&r, w);
	if (rc < 0)
		return rc;
	r.scale = mem_new((size_t)(r.groups * nrows), sizeof(*r.scale));
	r.zero = mem_new((size_t)(r.groups * nrows), 1);
	r.group_of = mem_new((size_t)cols, sizeof(*r.group_of));
	rc = read_scales(r.scale, r.t[SCALES]);
	if (rc == 0)
		rc = read_groups(&r);
	if (rc == 0) {
		read_zeros(&r);
		rc = check_zeros(&r);
	}
	if (rc == 0 && q)
		rc = fill(&r);
	free(r.scale);
	free(r.zero);
	free(r.group_of);
	return rc;
}

const struct format format_gptq = {
	.name = "gptq",
	.version = 1,
	.help = "AutoGPTQ's layout: Transformers, GPTQModel, vLLM",
	.params = rows,
	.params_size = sizeof(struct gptq_params),
	.scale_type = scale_type,
	.zero_min = zero_min,
	.check = check,
	.tensors = tensors,
	.pack = pack,
	.config = gptq_config,
	.extra_file = gptq_extra_file,
	.notes = gptq_notes,
	.owns = owns,
	.decode = decode,
};
