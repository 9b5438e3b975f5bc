#include "qjob/model/family.h"

#include <stdio.h>
#include <string.h>

static const char *const llama_names[PARTS] = {
	[EMBED]      = "model.embed_tokens",
	[FINAL_NORM] = "model.norm",
	[HEAD]       = "lm_head",
	[ATTN_NORM]  = "model.layers.%d.input_layernorm",
	[Q]          = "model.layers.%d.self_attn.q_proj",
	[K]          = "model.layers.%d.self_attn.k_proj",
	[V]          = "model.layers.%d.self_attn.v_proj",
	[O]          = "model.layers.%d.self_attn.o_proj",
	[MLP_NORM]   = "model.layers.%d.post_attention_layernorm",
	[GATE]       = "model.layers.%d.mlp.gate_proj",
	[UP]         = "model.layers.%d.mlp.up_proj",
	[DOWN]       = "model.layers.%d.mlp.down_proj",
};

static const char *const qwen3_names[PARTS] = {
	[EMBED]      = "model.embed_tokens",
	[FINAL_NORM] = "model.norm",
	[HEAD]       = "lm_head",
	[ATTN_NORM]  = "model.layers.%d.input_layernorm",
	[Q]          = "model.layers.%d.self_attn.q_proj",
	[K]          = "model.layers.%d.self_attn.k_proj",
	[V]          = "model.layers.%d.self_attn.v_proj",
	[Q_NORM]     = "model.layers.%d.self_attn.q_norm",
	[K_NORM]     = "model.layers.%d.self_attn.k_norm",
	[O]          = "model.layers.%d.self_attn.o_proj",
	[MLP_NORM]   = "model.layers.%d.post_attention_layernorm",
	[GATE]       = "model.layers.%d.mlp.gate_proj",
	[UP]         = "model.layers.%d.mlp.up_proj",
	[DOWN]       = "model.layers.%d.mlp.down_proj",
};

/* The defaults are those of Transformers' configuration classes. */
static const char llama_defaults[] =
	"{\"vocab_size\": 32000, \"hidden_size\": 4096, \"intermediate_size\": 11008, \"num_hidden_layers\": 32,"
	" \"num_attention_heads\": 32, \"num_key_value_heads\": null, \"head_dim\": null, \"hidden_act\": \"silu\","
	" \"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": false,"
	" \"attention_bias\": false, \"mlp_bias\": false}";

static const char mistral_defaults[] =
	"{\"vocab_size\": 32000, \"hidden_size\": 4096, \"intermediate_size\": 14336, \"num_hidden_layers\": 32,"
	" \"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"head_dim\": null, \"hidden_act\": \"silu\","
	" \"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": false,"
	" \"sliding_window\": 4096}";

static const char qwen2_defaults[] =
	"{\"vocab_size\": 151936, \"hidden_size\": 4096, \"intermediate_size\": 22016, \"num_hidden_layers\": 32,"
	" \"num_attention_heads\": 32, \"num_key_value_heads\": 32, \"head_dim\": null, \"hidden_act\": \"silu\","
	" \"max_position_embeddings\": 32768, \"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": false,"
	" \"use_sliding_window\": false, \"sliding_window\": 4096, \"max_window_layers\": 28, \"layer_types\": null}";

static const char qwen3_defaults[] =
	"{\"vocab_size\": 151936, \"hidden_size\": 4096, \"intermediate_size\": 22016, \"num_hidden_layers\": 32,"
	" \"num_attention_heads\": 32, \"num_key_value_heads\": 32, \"head_dim\": 128, \"hidden_act\": \"silu\","
	" \"max_position_embeddings\": 32768, \"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": false,"
	" \"attention_bias\": false,"
	" \"use_sliding_window\": false, \"sliding_window\": 4096, \"max_window_layers\": 28, \"layer_types\": null}";

static const char *const none[] = {NULL};
static const char *const llama_known[] = {"is_llama_config", NULL};
static const char *const qwen2_known[] = {"attention_bias", NULL};   /* q, k, v have biases and o none, whatever it says */

const struct family families[] = {
	/* type      architecture          names        norm      qkv_bias qk_norm known        defaults */
	{"llama",   "LlamaForCausalLM",   llama_names, NORM_RMS, false,   false,  llama_known, llama_defaults},
	{"mistral", "MistralForCausalLM", llama_names, NORM_RMS, false,   false,  none,        mistral_defaults},
	{"qwen2",   "Qwen2ForCausalLM",   llama_names, NORM_RMS, true,    false,  qwen2_known, qwen2_defaults},
	{"qwen3",   "Qwen3ForCausalLM",   qwen3_names, NORM_RMS, false,   true,   none,        qwen3_defaults},
};
const int nfamilies = sizeof(families) / sizeof(families[0]);

static const struct {
	const char *name;
	enum part parts[4];
	int n;
} sites[SITES] = {
	[SITE_QKV]  = {"qkv",  {Q, K, V},  3},
	[SITE_O]    = {"o",    {O},        1},
	[SITE_UP]   = {"up",   {GATE, UP}, 2},
	[SITE_DOWN] = {"down", {DOWN},     1},
};

const struct family *
family_find(const char *model_type)
{
	for (int i = 0; i < nfamilies; i++)
		if (strcmp(families[i].model_type, model_type) == 0)
			return &families[i];
	return NULL;
}

const char *
site_name(enum site s)
{
	return sites[s].name;
}

int
site_parts(const struct family *f, enum site s, enum part parts[4])
{
	int n = 0;

	for (int i = 0; i < sites[s].n; i++)
		if (f->names[sites[s].parts[i]])
			parts[n++] = sites[s].parts[i];
	return n;
}

bool
part_in_block(enum part p)
{
	return p >= ATTN_NORM && p < PARTS;
}

bool
part_is_norm(enum part p)
{
	return p == FINAL_NORM || p == ATTN_NORM || p == MLP_NORM || p == Q_NORM || p == K_NORM;
}

void
part_name(const struct family *f, enum part p, int block, char *name, unsigned size)
{
	const char *form = f->names[p];
	const char *hole = strstr(form, "%d");

	if (hole)
		snprintf(name, size, "%.*s%d%s", (int)(hole - form), form, block, hole + 2);
	else
		snprintf(name, size, "%s", form);
}
