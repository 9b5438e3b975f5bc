/* The decoder: one generic forward pass, cut where quantization needs to look.
 *
 * A block runs as five steps over a chunk of whole sequences; between two steps lies the input of a site:
 *
 *     step SITE_QKV    x = norm(h)                          h [T,D], x [T,D]
 *     step SITE_O      x = attention(rope(q,k), v) of x_in  x [T,H*E]
 *     step SITE_UP     h += o(x_in); x = norm(h)            x [T,D]
 *     step SITE_DOWN   x = act(gate(x_in)) * up(x_in)       x [T,I]
 *     step SITES       h += down(x_in)                      no x
 *
 * A plain forward pass is all five in order.  true-sequential quantization gathers statistics of x after a step,
 * replaces the weights of that site (block.linear[part].w), and goes on with the next step. */
#ifndef QJOB_MODEL_DECODER_H
#define QJOB_MODEL_DECODER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"
#include "qjob/model/family.h"
#include "qjob/model/held.h"
#include "qjob/model/weights.h"

struct linear {
	struct mat w, b;           /* [O,I] of any float type; b.p NULL: no bias, F32 [1,O] else */
};

struct block {
	int index;
	const struct config *config;
	struct linear linear[PARTS];     /* of parts that are linears */
	struct norm norm[PARTS];         /* of parts that are norms */
	struct rope rope;
	int64_t window;
};

/* What lies outside the blocks. */
struct ends {
	struct mat embed;          /* [V,D] */
	struct norm norm;
	struct mat head;           /* [V,D]; embed when tied */
};

/* Memory of d is taken until the caller's mark.  Linear weights stay in their stored type; norms and biases become F32. */
int embed_load(struct dev *d, struct mat *embed, const struct weights *w);
int ends_load(struct dev *d, struct ends *e, const struct weights *w);
/* h = the rows of table that ids (of the host, one a row of h) name. */
void embed_ids(struct dev *d, const struct held *h, const struct mat *table, const int32_t *ids);
int block_load(struct dev *d, struct block *b, const struct weights *w, int index, int64_t seqlen);
/* The block's linears will be loaded soon: see dev_ahead.  Does nothing for a block that is not there. */
void block_ahead(struct dev *d, const struct weights *w, int index);
int64_t site_width(const struct config *c, enum site s);       /* columns of x before the site: its in_features */
int64_t turn_width(const struct config *c, enum site s);       /* the widest of every other site from s: they can share memory */
int64_t part_rows(const struct config *c, enum part p);        /* out_features of a linear part */

/* One step over h [T,D] (whole sequences; not looked at by SITE_O and SITE_DOWN).  x_in: the x of the step before (SITE_QKV: NULL).
 * x: filled (SITES: NULL); F32, F16 or BF16; never x_in. */
void block_step(struct dev *d, const struct block *b, int step, struct mat *h, const struct mat *x_in, struct mat *x, int64_t seqlen);
/* All steps, h in place, chunk by chunk so that memory stays bounded. */
void block_forward(struct dev *d, const struct block *b, const struct held *h, int64_t seqlen);

/* The fewest whole sequences of seqlen that are taken together: about 2048 tokens, at least one. */
int64_t least_sequences(int64_t seqlen);
/* How many keep the device busy: a multiple of that. */
int64_t chunk_sequences(const struct dev *d, int64_t seqlen);

/* The whole model: mean NLL per window of ids[n][seqlen] I32 (host), tokens' own in nll (n*seqlen floats, may be NULL).
 * progress may be NULL; it is called after each block with the number of blocks done, and a nonzero answer stops with
 * E_SYS "interrupted". */
int decoder_nll(struct dev *d, const struct weights *w, const int32_t *ids, int64_t n, int64_t seqlen, double *window_nll, float *nll,
                int (*progress)(void *own, int block, int blocks), void *own);

/* Goes through decoder_nll on a dry device, for its peak: n windows, one block, one chunk. */
int decoder_rehearse(struct dev *dry, const struct weights *w, int64_t n, int64_t seqlen);

/* The whole model's outputs, handed to take() piece by piece, rows in order: with `hidden` the hidden states 0 .. L, each
 * [n*seqlen, D] (0 the embedding, the last one after the final norm, as Transformers has them), then logits [n*seqlen, V]. */
struct forward {
	const int32_t *ids;        /* [n][seqlen], host */
	int64_t n, seqlen;
	bool hidden;
	int (*take)(void *own, const float *p, size_t n);     /* n floats; negative stops */
	void *own;
};
int decoder_forward(struct dev *d, const struct weights *w, const struct forward *f);

#endif
