#include "qjob/model/config_keys.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "qjob/base/err.h"

/* Keys that config.c reads itself, for every family. */
static const char *const used[] = {
	"architectures", "dtype", "model_type", "original_max_position_embeddings", "quantization_config",
	"rope_parameters", "rope_scaling", "rope_theta", "torch_dtype", NULL,
};

/* Keys that change no number of a forward pass whatever their value: how the model was trained, named, saved, or
 * how text is drawn from it. */
static const char *const harmless[] = {
	/* names and versions */
	"_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
	"_flash_attn_2_enabled", "_from_model_config", "_name_or_path", "attn_implementation", "name_or_path",
	"tokenizer_class", "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
	/* tokens */
	"begin_suppress_tokens", "bos_token_id", "cls_token_id", "decoder_start_token_id", "eos_token_id",
	"forced_bos_token_id", "forced_eos_token_id", "mask_token_id", "pad_token_id", "sep_token_id",
	"suppress_tokens", "unk_token_id",
	/* training */
	"attention_dropout", "attn_pdrop", "embd_pdrop", "hidden_dropout", "hidden_dropout_prob", "initializer_range",
	"max_sequence_length", "resid_pdrop",
	/* outputs */
	"finetuning_task", "id2label", "is_decoder", "label2id", "num_labels", "num_logits_to_keep",
	"output_attentions", "output_hidden_states", "output_scores", "prefix", "problem_type", "return_dict",
	"return_dict_in_generate", "task_specific_params", "tf_legacy_loss", "tie_encoder_decoder", "torchscript",
	"use_bfloat16", "use_cache",
	/* generation, and the size of pieces */
	"assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "chunk_size_feed_forward",
	"diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
	"encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
	"length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_assistant_tokens",
	"num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences",
	"remove_invalid_values", "repetition_penalty", "target_lookbehind", "temperature", "top_k", "top_p",
	"typical_p", NULL,
};

/* Keys that change nothing at these values and would at others. */
static const struct {
	const char *key, *values;      /* as JSON, separated by spaces */
} only[] = {
	{"add_cross_attention",         "false"},
	{"attention_bias",              "false null"},
	{"attn_logit_softcapping",      "null"},
	{"cross_attention_hidden_size", "null"},
	{"final_logit_softcapping",     "null"},
	{"is_encoder_decoder",          "false"},
	{"layer_types",                 "null"},
	{"mlp_bias",                    "false null"},
	{"partial_rotary_factor",       "1 1.0 null"},
	{"per_layer_config",            "{} null"},
	{"pretraining_tp",              "1 null"},
	{"pruned_heads",                "{} null"},
	{"qk_layernorm",                "false null"},
	{"query_pre_attn_scalar",       "null"},
	{"rope_interleaved",            "false null"},
	{"sliding_window",              "null"},
	{"use_mrope",                   "false null"},
	{"use_qk_norm",                 "false null"},
	{"use_sliding_window",          "false null"},
};

static bool
is_listed(const char *const *list, const char *key)
{
	for (; *list; list++)
		if (strcmp(*list, key) == 0)
			return true;
	return false;
}

const json_t *
keys_get(const struct keys *k, const char *key)
{
	const json_t *v = json_object_get(k->json, key);

	return v ? v : json_object_get(k->usual, key);
}

int
keys_refuse(const struct keys *k, int code, const char *key, const char *why, ...)
{
	const json_t *v = keys_get(k, key);
	struct buf text = {0};
	char reason[256];
	va_list ap;

	va_start(ap, why);
	vsnprintf(reason, sizeof(reason), why, ap);
	va_end(ap);
	if (v)
		json_write_line(v, &text);
	else
		buf_puts(&text, "absent");
	if (text.n > 80)
		err_set(code, "%s: %s%s is %.77s..., %s", k->name, k->within, key, text.p, reason);
	else
		err_set(code, "%s: %s%s is %s, %s", k->name, k->within, key, text.p, reason);
	buf_release(&text);
	return code;
}

int
keys_whole(const struct keys *k, const char *key, int64_t min, int64_t max, bool optional, int64_t *out)
{
	const json_t *v = keys_get(k, key);

	if (optional && (!v || json_is_null(v)))
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
		return keys_refuse(k, E_DATA, key, "wanted a whole number from %" PRId64 " to %" PRId64, min, max);
	*out = json_integer_value(v);
	return 0;
}

int
keys_real(const struct keys *k, const char *key, double min, double max, bool optional, double *out)
{
	const json_t *v = keys_get(k, key);
	double x;

	if (optional && (!v || json_is_null(v)))
		return 0;
	x = json_is_number(v) ? json_number_value(v) : NAN;
	if (!(x >= min && x <= max))
		return keys_refuse(k, E_DATA, key, "wanted a number from %g to %g", min, max);
	*out = x;
	return 0;
}

int
keys_flag(const struct keys *k, const char *key, bool *out)
{
	const json_t *v = keys_get(k, key);

	if (v && !json_is_boolean(v))
		return keys_refuse(k, E_DATA, key, "wanted true or false");
	if (v)
		*out = json_is_true(v);
	return 0;
}

int
keys_text(const struct keys *k, const char *key, const char **out)
{
	const json_t *v = keys_get(k, key);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_string(v))
		return keys_refuse(k, E_DATA, key, "wanted a text");
	*out = json_string_value(v);
	return 0;
}

/* Is v one of the JSON texts in values? */
static bool
is_one_of(const json_t *v, const char *values)
{
	struct buf text = {0};
	bool found = false;

	json_write_line(v, &text);
	while (*values && !found) {
		size_t n = strcspn(values, " ");

		found = n == text.n && memcmp(values, text.p, n) == 0;
		values += n + (values[n] == ' ');
	}
	buf_release(&text);
	return found;
}

static int
check_key(const struct keys *k, const struct family *f, const char *key, const json_t *v)
{
	if (json_object_get(k->usual, key) || is_listed(f->known, key) || is_listed(used, key) || is_listed(harmless, key))
		return 0;
	for (size_t i = 0; i < sizeof(only) / sizeof(only[0]); i++) {
		if (strcmp(only[i].key, key) != 0)
			continue;
		if (is_one_of(v, only[i].values))
			return 0;
		return keys_refuse(k, E_USE, key, "and for model_type %s only %.*s is honoured", f->model_type,
		                   (int)strcspn(only[i].values, " "), only[i].values);
	}
	return keys_refuse(k, E_USE, key, "a key that is not known for model_type %s; remove it if it changes no number "
	                   "of a forward pass", f->model_type);
}

int
config_keys_check(const struct keys *k, const struct family *f)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)k->json, key, v)
		if (check_key(k, f, key, v) < 0)
			return E_USE;
	return 0;
}
