/* The stream: the activations of all calibration tokens on their way through the blocks.
 *
 * It is the carry of the calibrate and quantize lanes.  Before block b it holds what block b - 1 gave; its digest names
 * everything that those numbers came from, so it can stand for them in a key.  Memory below `mark` is the stream's
 * own; what a block takes above is released when the block is done. */
#ifndef QJOB_STAGES_STREAM_H
#define QJOB_STAGES_STREAM_H

#include "qjob/base/hash.h"
#include "stages/project.h"

struct stream {
	struct dev *d;
	int64_t sequences, seqlen, tokens;
	struct held h;             /* [tokens,D] in front of the block, or behind it */
	struct held f;             /* the same of the full-precision model; p NULL when no method asks */
	/* Inputs of a site, all tokens, as operands; by turns, so that no step writes what it reads: x[0] at qkv and up, x[1] at o
	 * and down.  p NULL where a chunk goes through the whole block at once. */
	struct held x[2], xf[2];
	char digest[SHA256_HEX];   /* of what h (and f) came from */
	size_t base, mark;         /* of the device, before the stream took memory and after */
};

/* Where it lies. */
struct layout {
	int parked;                /* how many lie beside the device: x[1], then x[0], then h (each with the full-precision model's) */
	int64_t chunk;             /* tokens that go through a step at a time */
};

/* Declares what a node of a stream's lane needs: the tensors of its block, and the activations that `before` left (NULL:
 * the calibration ids and the embedding); with the device's and the model's facts. */
int stream_needs(const struct project *p, struct graph *g, struct node *n, struct node *before);
/* Predicted arithmetic of one block over so many tokens. */
double block_flops(const struct project *p, double tokens);
/* What products multiply, by recipe and method. */
enum math stream_math(const struct project *p);
/* Does the stream stop at each site, so that all tokens wait there while the site is solved? */
bool stream_stops(const struct project *p);

/* Starts a stream at the embedding of the job's "tokenize/calibration" ids, unless *carry holds one already. */
int stream_open(struct stream **s, struct job *job);
void stream_drop(void *carry);
/* Its parts, for s with d, sequences, seqlen and tokens set: its matrices, and the embedding of ids[tokens] in them. */
int stream_take(struct stream *s, const struct project *p, const struct layout *l);
int stream_embed(struct stream *s, const struct project *p, const int32_t *ids);

/* Runs step `step` of b over all of h, from the input of the site before to that of the next.  With b_full: the
 * same over f.  Statistics of the output are added to st where its matrices are set; unit scales tokens. */
struct pass {
	const struct block *b, *b_full;    /* b_full NULL: no full-precision stream */
	struct stats *st;                  /* NULL: none */
	bool unit;
};
int stream_step(struct job *job, struct stream *s, int step, const struct pass *p);

/* All steps of b from h, with statistics of each site in st[SITES]; keep: h stays what it was.  For statistics
 * of a block whose sites do not see one another's quantization. */
int stream_sweep(struct job *job, struct stream *s, const struct pass *p, struct stats st[SITES], bool keep);

/* Zeroed statistics for a site, from the device's memory. */
struct stats stream_stats(struct stream *s, const struct config *c, enum site site, unsigned needs);

/* The stream has passed the job's block: `result` is the digest of what replaced its weights, "" for the originals. */
void stream_advance(struct stream *s, struct job *job, const char *result);

#endif
