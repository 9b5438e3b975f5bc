#include "qjob/model/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/base/number.h"
#include "qjob/model/config_keys.h"
#include "qjob/model/family.h"

/* Bounds that no model comes near and that keep every product of two of them in 63 bits. */
enum {
	FILE_MOST = 16 << 20, WIDTH_MOST = 1 << 24, HEADS_MOST = 1 << 16, BLOCKS_MOST = 100000, POSITIONS_MOST = 1 << 28,
};

static const struct {
	const char *name;
	enum act act;
} acts[] = {
	{"silu",              ACT_SILU},
	{"swish",             ACT_SILU},
	{"gelu",              ACT_GELU},
	{"gelu_new",          ACT_GELU_TANH},
	{"gelu_fast",         ACT_GELU_TANH},
	{"gelu_pytorch_tanh", ACT_GELU_TANH},
	{"quick_gelu",        ACT_QUICK_GELU},
	{"relu",              ACT_RELU},
};

static const struct {
	const char *name;
	enum dtype type;
} dtypes[] = {
	{"float32", F32}, {"float16", F16}, {"bfloat16", BF16},
};

/* The keys of rope_parameters that each type has. */
static const struct {
	const char *name;
	enum rope_type type;
	const char *keys[8];
} ropes[] = {
	{"default", ROPE_DEFAULT, {"rope_theta", NULL}},
	{"linear",  ROPE_LINEAR,  {"rope_theta", "factor", NULL}},
	{"llama3",  ROPE_LLAMA3,  {"rope_theta", "factor", "low_freq_factor", "high_freq_factor",
	                           "original_max_position_embeddings", NULL}},
};

static int
read_family(struct config *c, const struct keys *k)
{
	const char *type = NULL, *arch;
	const json_t *list = json_object_get(k->json, "architectures");
	char names[256] = "";
	size_t n = 0;

	if (keys_text(k, "model_type", &type) < 0)
		return E_DATA;
	if (!type)
		return err_set(E_DATA, "%s: there is no model_type", k->name);
	c->family = family_find(type);
	for (int i = 0; i < nfamilies && n < sizeof(names); i++)
		n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "", families[i].model_type);
	if (!c->family)
		return keys_refuse(k, E_USE, "model_type", "and only %s are known", names);
	arch = json_string_value(json_array_get(list, 0));
	if (list && !json_is_null(list) && (!arch || strcmp(arch, c->family->arch) != 0))
		return keys_refuse(k, E_USE, "architectures", "and for model_type %s only [\"%s\"] is honoured", type,
		                   c->family->arch);
	return 0;
}

static int
read_sizes(struct config *c, const struct keys *k)
{
	int64_t heads, kv, width = 0;

	if (keys_whole(k, "hidden_size", 1, WIDTH_MOST, false, &c->D) < 0 ||
	    keys_whole(k, "intermediate_size", 1, WIDTH_MOST, false, &c->I) < 0 ||
	    keys_whole(k, "vocab_size", 1, INT32_MAX, false, &c->V) < 0 ||
	    keys_whole(k, "num_hidden_layers", 1, BLOCKS_MOST, false, &c->L) < 0 ||
	    keys_whole(k, "max_position_embeddings", 1, POSITIONS_MOST, false, &c->positions) < 0 ||
	    keys_whole(k, "num_attention_heads", 1, HEADS_MOST, false, &heads) < 0)
		return E_DATA;
	kv = heads;
	if (keys_whole(k, "num_key_value_heads", 1, HEADS_MOST, true, &kv) < 0 ||
	    keys_whole(k, "head_dim", 1, HEADS_MOST, true, &width) < 0)
		return E_DATA;
	if (heads % kv != 0)
		return keys_refuse(k, E_DATA, "num_key_value_heads", "which does not divide num_attention_heads, %" PRId64, heads);
	if (width == 0 && c->D % heads != 0)
		return keys_refuse(k, E_DATA, "num_attention_heads", "which does not divide hidden_size, %" PRId64, c->D);
	width = width ? width : c->D / heads;
	if (width % 2 != 0)
		return err_set(E_DATA, "%s: heads are %" PRId64 " wide, and rotation needs an even width", k->name, width);
	c->heads = (int)heads;
	c->kv_heads = (int)kv;
	c->head_dim = (int)width;
	c->rotary = (int)width;
	return 0;
}

static int
read_act(struct config *c, const struct keys *k)
{
	const char *name = NULL;

	if (keys_text(k, "hidden_act", &name) < 0)
		return E_DATA;
	for (size_t i = 0; name && i < sizeof(acts) / sizeof(acts[0]); i++)
		if (strcmp(acts[i].name, name) == 0) {
			c->act = acts[i].act;
			return 0;
		}
	return keys_refuse(k, E_USE, "hidden_act", "and only silu, gelu, gelu_pytorch_tanh, quick_gelu and relu are honoured");
}

/* New style first, as Transformers does when both are there. */
static int
read_dtype(struct config *c, const struct keys *k)
{
	const char *key = "dtype", *name = NULL;

	if (keys_text(k, key, &name) < 0)
		return E_DATA;
	if (!name)
		key = "torch_dtype";
	if (!name && keys_text(k, key, &name) < 0)
		return E_DATA;
	c->dtype = DTYPES;
	if (!name)
		return 0;
	for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
		if (strcmp(dtypes[i].name, name) == 0)
			c->dtype = dtypes[i].type;
	if (c->dtype == DTYPES)
		return keys_refuse(k, E_USE, key, "and only float32, float16 and bfloat16 are honoured");
	return 0;
}

static int
read_scalars(struct config *c, const struct keys *k)
{
	double eps;

	if (keys_real(k, "rms_norm_eps", 0, 1, false, &eps) < 0 ||
	    keys_flag(k, "tie_word_embeddings", &c->tied) < 0)
		return E_DATA;
	c->eps = (float)eps;
	if (json_object_get(k->usual, "attention_bias") && keys_flag(k, "attention_bias", &c->attention_bias) < 0)
		return E_DATA;
	if (json_object_get(k->usual, "mlp_bias") && keys_flag(k, "mlp_bias", &c->mlp_bias) < 0)
		return E_DATA;
	return 0;
}

/* layer_types, or what Transformers makes of max_window_layers: blocks from that one on see the window. */
static int
read_layer_types(struct config *c, const struct keys *k)
{
	const json_t *types = keys_get(k, "layer_types");
	int64_t first = 0;

	if (keys_whole(k, "max_window_layers", 0, INT32_MAX, false, &first) < 0)
		return E_DATA;
	if (types && !json_is_null(types) && (int64_t)json_array_size(types) != c->L)
		return keys_refuse(k, E_DATA, "layer_types", "wanted a list of num_hidden_layers, %" PRId64 ", texts", c->L);
	c->windowed = mem_new((size_t)c->L, 1);
	for (int64_t i = 0; i < c->L; i++) {
		const char *type = json_string_value(json_array_get(types, (size_t)i));

		if (!types || json_is_null(types))
			type = c->window && i >= first ? "sliding_attention" : "full_attention";
		c->windowed[i] = type && strcmp(type, "sliding_attention") == 0;
		if (!type || (!c->windowed[i] && strcmp(type, "full_attention") != 0))
			return keys_refuse(k, E_USE, "layer_types", "and only full_attention and sliding_attention are honoured");
		if (c->windowed[i] && !c->window)
			return keys_refuse(k, E_DATA, "layer_types", "with sliding_attention but no sliding window in use");
	}
	return 0;
}

static int
read_window(struct config *c, const struct keys *k)
{
	bool has_switch = json_object_get(k->usual, "use_sliding_window"), on = !has_switch;

	if (!json_object_get(k->usual, "sliding_window"))
		return 0;
	if (has_switch && keys_flag(k, "use_sliding_window", &on) < 0)
		return E_DATA;
	if (on && keys_whole(k, "sliding_window", 1, INT32_MAX, true, &c->window) < 0)
		return E_DATA;
	return json_object_get(k->usual, "layer_types") ? read_layer_types(c, k) : 0;
}

/* ---- rope ---- */

static int
check_rope_keys(const struct keys *k, size_t row)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)k->json, key, v) {
		bool known = strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0;

		for (int i = 0; ropes[row].keys[i]; i++)
			known |= strcmp(key, ropes[row].keys[i]) == 0;
		known |= strcmp(key, "partial_rotary_factor") == 0 && json_number_value(v) == 1.0;
		if (!known)
			return keys_refuse(k, E_USE, key, "and that is not honoured for rope_type %s", ropes[row].name);
	}
	return 0;
}

/* rope_scaling, unless null or empty, goes before rope_parameters in Transformers. */
static int
rope_object(const struct keys *k, struct keys *in)
{
	static const char *const names[] = {"rope_scaling", "rope_parameters"};
	static const char *const within[] = {"rope_scaling.", "rope_parameters."};

	*in = (struct keys){.name = k->name, .within = within[1]};
	for (int i = 0; i < 2; i++) {
		const json_t *v = json_object_get(k->json, names[i]);

		if (v && !json_is_null(v) && !json_is_object(v))
			return keys_refuse(k, E_DATA, names[i], "wanted an object");
		if (json_object_size(v) == 0 || in->json)
			continue;
		in->json = v;
		in->within = within[i];
	}
	return 0;
}

static int
read_llama3(struct config *c, const struct keys *k, const struct keys *in)
{
	c->rope_original = (double)c->positions;
	if (keys_real(in, "low_freq_factor", 1e-6, 1e6, false, &c->rope_low) < 0 ||
	    keys_real(in, "high_freq_factor", 1e-6, 1e6, false, &c->rope_high) < 0 ||
	    keys_real(in, "original_max_position_embeddings", 1, 1e12, true, &c->rope_original) < 0 ||
	    keys_real(k, "original_max_position_embeddings", 1, 1e12, true, &c->rope_original) < 0)
		return E_DATA;
	if (c->rope_low >= c->rope_high)
		return keys_refuse(in, E_DATA, "low_freq_factor", "wanted less than high_freq_factor, %g", c->rope_high);
	return 0;
}

static int
read_rope(struct config *c, const struct keys *k)
{
	const size_t n = sizeof(ropes) / sizeof(ropes[0]);
	struct keys in;
	const char *name = NULL, *key = "rope_type";
	size_t row = 0;

	c->rope_theta = 10000;
	c->rope_factor = 1;
	if (rope_object(k, &in) < 0 || keys_text(&in, key, &name) < 0)
		return E_DATA;
	if (!name)
		key = "type";
	if (!name && keys_text(&in, key, &name) < 0)
		return E_DATA;
	while (name && row < n && strcmp(ropes[row].name, name) != 0)
		row++;
	if (row == n)
		return keys_refuse(&in, E_USE, key, "and only default, linear and llama3 are honoured");
	c->rope = ropes[row].type;
	if (keys_real(k, "rope_theta", 1, 1e15, true, &c->rope_theta) < 0 ||
	    keys_real(&in, "rope_theta", 1, 1e15, true, &c->rope_theta) < 0)
		return E_DATA;
	if (check_rope_keys(&in, row) < 0)
		return E_USE;
	if (c->rope != ROPE_DEFAULT && keys_real(&in, "factor", 1e-6, 1e6, false, &c->rope_factor) < 0)
		return E_DATA;
	return c->rope == ROPE_LLAMA3 ? read_llama3(c, k, &in) : 0;
}

/* ---- the whole ---- */

static int
read_all(struct config *c, const char *name)
{
	struct keys k = {.name = name, .json = c->json, .within = ""};
	json_t *usual = NULL;
	int r;

	if (!json_is_object(c->json))
		return err_set(E_DATA, "%s: wanted an object", name);
	r = read_family(c, &k);
	if (r == 0)
		r = json_parse(&usual, c->family->defaults, strlen(c->family->defaults), c->family->model_type);
	k.usual = usual;
	if (r == 0)
		r = config_keys_check(&k, c->family);
	if (r == 0)
		r = read_sizes(c, &k);
	if (r == 0)
		r = read_act(c, &k);
	if (r == 0)
		r = read_dtype(c, &k);
	if (r == 0)
		r = read_scalars(c, &k);
	if (r == 0)
		r = read_window(c, &k);
	if (r == 0)
		r = read_rope(c, &k);
	json_decref(usual);
	return r;
}

/* Takes j. */
static int
read_json(struct config *c, json_t *j, const char *name)
{
	int r;

	*c = (struct config){.json = j};
	r = read_all(c, name);
	if (r < 0)
		config_release(c);
	return r;
}

int
config_load(struct config *c, const char *path)
{
	json_t *j;
	int r = json_load_path(&j, path, FILE_MOST);

	*c = (struct config){0};
	return r < 0 ? r : read_json(c, j, path);
}

int
config_parse(struct config *c, const char *text, size_t n, const char *name)
{
	json_t *j;
	int r = json_parse(&j, text, n, name);

	*c = (struct config){0};
	return r < 0 ? r : read_json(c, j, name);
}

void
config_release(struct config *c)
{
	json_decref(c->json);
	free(c->windowed);
	*c = (struct config){0};
}

bool
config_windowed(const struct config *c, int block)
{
	return c->window > 0 && (!c->windowed || c->windowed[block]);
}

static void
key_real(struct buf *out, const char *name, double x)
{
	char text[REAL_TEXT];

	real_text(x, text);
	buf_printf(out, "config.%s %s\n", name, text);
}

static const char *
act_name(enum act act)
{
	size_t i = 0;

	while (acts[i].act != act)
		i++;
	return acts[i].name;
}

void
config_key(const struct config *c, struct buf *out)
{
	static const char *const rope_names[] = {
		[ROPE_NONE] = "none", [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3",
	};

	buf_printf(out, "config.act %s\n", act_name(c->act));
	buf_printf(out, "config.attention_bias %d\n", c->attention_bias);
	buf_printf(out, "config.dtype %s\n", c->dtype < DTYPES ? dtype_name(c->dtype) : "none");
	key_real(out, "eps", c->eps);
	buf_printf(out, "config.head_dim %d\n", c->head_dim);
	buf_printf(out, "config.heads %d\n", c->heads);
	buf_printf(out, "config.hidden_size %" PRId64 "\n", c->D);
	buf_printf(out, "config.intermediate_size %" PRId64 "\n", c->I);
	buf_printf(out, "config.kv_heads %d\n", c->kv_heads);
	buf_printf(out, "config.mlp_bias %d\n", c->mlp_bias);
	buf_printf(out, "config.model_type %s\n", c->family->model_type);
	buf_printf(out, "config.rope %s\n", rope_names[c->rope]);
	key_real(out, "rope_factor", c->rope_factor);
	key_real(out, "rope_high", c->rope_high);
	key_real(out, "rope_low", c->rope_low);
	key_real(out, "rope_original", c->rope_original);
	key_real(out, "rope_theta", c->rope_theta);
	buf_printf(out, "config.rotary %d\n", c->rotary);
	buf_printf(out, "config.window %" PRId64 "\n", c->window);
	buf_puts(out, "config.windowed ");
	for (int i = 0; c->window > 0 && i < c->L; i++)
		buf_puts(out, config_windowed(c, i) ? "1" : "0");
	buf_puts(out, "\n");
}
