/* Config: config.json as numbers, whatever the family called them.
 *
 * Every key is either used, known to change no number of a forward pass, or refused with a sentence naming it.
 * Old and new styles are read (torch_dtype / dtype, rope_theta + rope_scaling / rope_parameters). */
#ifndef QJOB_MODEL_CONFIG_H
#define QJOB_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"
#include "qjob/base/buf.h"
#include "qjob/base/json.h"

struct family;

enum rope_type { ROPE_NONE, ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

struct config {
	const struct family *family;
	json_t *json;             /* as read, owned; what pack writes back plus its own */
	int64_t D, I, V, L;       /* width, MLP width, vocabulary, blocks */
	int heads, kv_heads, head_dim;
	int64_t positions;        /* max_position_embeddings */
	float eps;
	enum act act;
	bool tied;                /* lm_head is the embedding */
	bool attention_bias, mlp_bias;
	int64_t window;           /* sliding window; 0: none */
	uint8_t *windowed;        /* [L] nonzero: this block uses the window; NULL: all do when window > 0 */
	enum dtype dtype;         /* the type activations and scales take in stock loaders: F32, F16 or BF16;
	                           * DTYPES when config.json names none (weights_open then takes the embedding's) */
	enum rope_type rope;
	double rope_theta, rope_factor, rope_low, rope_high, rope_original;
	int rotary;               /* rotated dimensions of a head */
};

int config_load(struct config *c, const char *path);          /* path of config.json */
int config_parse(struct config *c, const char *text, size_t n, const char *name);
void config_release(struct config *c);

/* Does this block see only the last c->window tokens? */
bool config_windowed(const struct config *c, int block);

/* "config.hidden_size 576\n"...: everything of c that a block's arithmetic depends on, for keys; sorted. */
void config_key(const struct config *c, struct buf *out);

#endif
