/* Weights: a model folder's tensors by name, whichever file they lie in.
 *
 * Opens config.json and model.safetensors or the shards that model.safetensors.index.json lists; the index is checked
 * against the headers both ways.  Only headers are read; data stays mapped. */
#ifndef QJOB_MODEL_WEIGHTS_H
#define QJOB_MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>

#include "qjob/model/config.h"
#include "qjob/model/family.h"
#include "qjob/model/safetensors.h"

struct qlinear;

struct weights_file {
	char *name;                      /* relative: "model-00001-of-00002.safetensors" */
	char *path;
	struct safetensors st;
};

struct weights {
	char *folder;                    /* NULL when opened from named files */
	struct config config;
	struct weights_file *files;
	size_t nfiles;
	struct map by_name;              /* index: file << 32 | tensor */
	/* When a linear's ".weight" is absent, this may make it from what lies there instead (a packed output):
	 * set by the formats (stages/pack/format.h).  Fills q with memory of its own, the caller's to give to qlinear_free; NULL:
	 * it checks alone. */
	int (*decode)(const struct weights *w, const char *linear, struct qlinear *q, int64_t rows, int64_t cols);
	void *decode_own;
};

/* A file of a model by the name it has in its folder and the path where it lies (the same, or an object of a store). */
struct named_path {
	const char *name, *path;
};

int weights_open(struct weights *w, const char *folder);
int weights_open_files(struct weights *w, const struct named_path *files, size_t n);   /* config.json among them */
void weights_close(struct weights *w);
const struct tensor *weights_find(const struct weights *w, const char *name);
const struct weights_file *weights_file_of(const struct weights *w, const char *name);

/* Checks that every tensor the family needs is there with the right shape and a float type, and that none is left over.
 * Stored rotary frequencies are ignored, as loaders do.  With a quantization_config the tensors NAME.* of a block's
 * linear may stand for NAME.weight: what they hold is the format's to check. */
int weights_check(const struct weights *w);

/* What config.json says of the shape of a part; cols 0: of one dimension. */
void part_shape(const struct config *c, enum part p, int64_t *rows, int64_t *cols);
/* Does this part have a bias by the configuration? */
bool weights_has_bias(const struct config *c, enum part p);
/* Is the linear kept as the tensors of a format instead of a float NAME.weight? */
bool weights_is_packed(const struct weights *w, const char *linear);

#endif
