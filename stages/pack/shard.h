/* Shards: which tensor goes into which file of the output, decided from the headers alone.
 *
 * Tensors stand in the order of their names with numbers compared as numbers, so that how the source was sharded changes
 * nothing.  NAME.weight of a quantized linear is replaced by its format's tensors, which stay in one file. */
#ifndef QJOB_STAGES_PACK_SHARD_H
#define QJOB_STAGES_PACK_SHARD_H

#include "stages/project.h"

struct packed_tensor {
	struct tensor t;              /* name owned; p: the source's bytes; NULL: packed from a qlinear */
	const struct choice *choice;  /* NULL: copied */
	int k;                        /* which of the format's tensors */
};

struct shard {
	char *name;                   /* "model.safetensors", "model-00001-of-00003.safetensors" */
	size_t first, n;
	uint64_t bytes;               /* of tensors, without the header */
};

struct shards {
	struct packed_tensor *tensors;
	size_t ntensors;
	struct shard *v;
	size_t n;
	uint64_t bytes;
};

int shards_plan(struct shards *s, const struct project *p);
void shards_release(struct shards *s);

/* Negative, 0 or positive as a stands before b, with runs of digits compared by their value. */
int name_order(const char *a, const char *b);

#endif
