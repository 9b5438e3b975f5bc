/* Families: everything that tells one decoder from another, as data.
 *
 * A decoder block is the same sentence with different words.  The words are a row in family.c; the sentence is
 * block.c.  Adding a family that only changes words is one row and one golden test, and no other file. */
#ifndef QJOB_MODEL_FAMILY_H
#define QJOB_MODEL_FAMILY_H

#include <stdbool.h>

/* The parts of a model that carry weights. */
enum part {
	EMBED, FINAL_NORM, HEAD,                          /* outside the blocks */
	ATTN_NORM, Q, K, V, Q_NORM, K_NORM, O,            /* of a block */
	MLP_NORM, GATE, UP, DOWN,
	PARTS
};

/* Where linears share an input: they share its statistics and are quantized together, in this order. */
enum site { SITE_QKV, SITE_O, SITE_UP, SITE_DOWN, SITES };

enum norm_kind { NORM_RMS, NORM_LAYER };

struct family {
	const char *model_type;            /* config.json */
	const char *arch;                  /* architectures[0] */
	const char *const *names;          /* tensor name of each part, %d the block, without ".weight"; NULL: has none */
	enum norm_kind norm;
	bool qkv_bias;                     /* q,k,v have biases whatever config says (Qwen2) */
	bool qk_norm;                      /* heads of q and k are normed before rotation (Qwen3) */
	const char *const *known;          /* config keys beyond those of defaults and the common ones that are harmless; ends with NULL */
	const char *defaults;              /* JSON: the config keys that this family reads, and their values when absent (null: derived) */
};

extern const struct family families[];
extern const int nfamilies;

const struct family *family_find(const char *model_type);
const char *site_name(enum site s);                          /* "qkv", "o", "up", "down" */
/* The linears of a site: parts[0..n-1]; returns n. */
int site_parts(const struct family *f, enum site s, enum part parts[4]);
bool part_in_block(enum part p);
bool part_is_norm(enum part p);
/* The tensor name of a part in a block ("model.layers.3.mlp.up_proj"), without ".weight". */
void part_name(const struct family *f, enum part p, int block, char *name, unsigned size);

#endif
