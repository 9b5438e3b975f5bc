/* A quantized block as files: what quantize leaves and pack, validate and replay read.
 *
 *     block.safetensors   the linears in neutral form (qjob/model/qlinear.h), in order of site and part
 *     block.json          {"block": B, "linears": [{"name", "bits", "group_size", "sym", "rows", "cols", "loss", "tokens", "damp",
 *                         "dead", "fallback"}, ...]}; loss is tr(dW H dW^T) / tokens, or sum dW^2 without statistics */
#ifndef QJOB_STAGES_QBLOCK_H
#define QJOB_STAGES_QBLOCK_H

#include "qjob/base/hash.h"
#include "qjob/model/decoder.h"
#include "qjob/model/qlinear.h"
#include "stages/project.h"

struct qresult {
	const struct choice *choice;
	struct qlinear q;             /* its arrays lie in the block's room */
	const double *rows;           /* [O], in the room: loss of each row */
	double loss, damp;
	int64_t dead, tokens;
	char fallback[160];
};

struct qblock {
	struct qresult v[PARTS];
	size_t n;
	char *room;                   /* of results; the caller's, for as long as the block is */
	size_t used, size;
};

/* Bytes that the results of these linears take in a room. */
size_t qblock_bytes(const struct choice *c, size_t n);
/* Sends one linear's solution from the device to the room, in order with the operations around it: the device goes on, and
 * what arrives may be looked at after qblock_settle, which waits for all of it. */
int qblock_add(struct qblock *b, struct dev *d, const struct choice *c, const struct solved *s, const struct grid *g, int64_t tokens);
int qblock_settle(struct qblock *b, struct dev *d);
int qblock_write(const struct qblock *b, const char *folder, int block);

/* What the linears are, by content: from memory, before anything is written.  All cores are used. */
void qblock_digest(const struct qblock *b, char hex[SHA256_HEX]);

/* Puts the dequantized linears of a written block into `into` (matrices of the device, one a part) and b's places;
 * hex is what qblock_digest said of it. */
struct qplace {
	struct dev *d;
	struct block *b;
	struct mat *into;             /* [PARTS] */
};
int qblock_load(const char *path, const struct qplace *to, const struct choice *c, size_t n, char hex[SHA256_HEX]);

#endif
