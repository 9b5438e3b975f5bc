/* Synthetic models: the shapes of well-known ones with made-up weights, for benchmarks and for plans about models that one does not have.
 *
 *     synthetic:NAME?layers=N&seed=S      layers: the first N blocks (default: all); seed: 0 by default
 *
 * Such a model is a real folder, config.json and shards of bf16 safetensors with their index, in $QJOB_SYNTHETIC or else in
 * /dev/shm/qjob-synthetic, named NAME-LAYERS-SEED.  synthetic_open makes it of headers alone: the data is a hole, which takes no memory
 * and is enough to plan with.  synthetic_fill writes the data of a file before it is first read, and makes the file read-only,
 * which is how a filled one is told.  A folder appears whole, by a rename; filling is the same bytes whoever does it how often,
 * so a crash or two runs at once do no harm.
 *
 * Weights and biases are normal with standard deviation 0.02, norms are 1.  Every weight follows from the seed, its tensor's name
 * and its place in it. */
#ifndef QJOB_MODEL_SYNTHETIC_H
#define QJOB_MODEL_SYNTHETIC_H

#include <stdbool.h>
#include <stdint.h>

#include "qjob/model/weights.h"

/* Is this written "synthetic:..."? */
bool is_synthetic(const char *source);

/* The file of a folder that says its seed. */
#define SYNTHETIC_SEED "seed.txt"

/* A key of a query with its bounds; value holds the default. */
struct query_key {
	const char *name;
	int64_t min, max, value;
};

/* Reads "layers=4&seed=7" (NULL or "": nothing), the keys being v[n]; E_USE names what is wrong in `source`. */
int query_read(const char *query, struct query_key *v, size_t n, const char *source);

/* The folder of a synthetic source, made of headers where there is none; caller frees. */
int synthetic_open(char **folder, const char *source);
/* Writes the data of a file of such a folder, unless it is there.  weights_open of the folder gave `f`, whose mapping sees it. */
int synthetic_fill(const struct weights_file *f);

#endif
