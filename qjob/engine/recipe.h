/* A recipe: YAML, what it extends, --set, and the variants of its matrix.
 *
 * Paths in a recipe are relative to the folder of the file that wrote them, except `output`, which is relative to the
 * current folder, so that a recipe can be shared and its results land where the work is done. */
#ifndef QJOB_ENGINE_RECIPE_H
#define QJOB_ENGINE_RECIPE_H

#include "qjob/base/diag.h"
#include "qjob/base/yaml.h"
#include "stages/settings.h"

/* One point of the matrix: the whole recipe without it. */
struct variant {
	char *name;               /* "quantize.bits=3"; "" without a matrix */
	struct yaml *tree;
	struct settings settings;
	char *output;             /* of the settings, absolute */
};

struct recipe {
	char *path;
	struct yaml *tree;        /* merged, --set applied */
	char **files;             /* the recipe and what it extends, absolute */
	char **names;             /* the same as they appear in messages */
	size_t nfiles;
	struct variant *v;
	size_t n;
};

/* All problems of the files go to d, each with its place and sorted by it; E_USE when there are any.
 * sets: "quantize.bits=3", the value is YAML.  Release r in any case. */
int recipe_load(struct recipe *r, const char *path, const char *const *sets, size_t nsets, struct diag *d);
void recipe_release(struct recipe *r);
/* Sorts messages by file, line and column, and drops what is said twice (by several variants). */
void recipe_sort(const struct recipe *r, struct diag *d);

/* The recipe with every default written out, as YAML (`qjob plan`, qjob.json).  Paths of this machine are
 * left out when portable: source and datasets are then named by their last component. */
void recipe_write(const struct settings *s, bool with_help, bool portable, struct buf *out);
/* A commented recipe for `qjob init`; method NULL: the default.  E_USE for an unknown method. */
int recipe_init(const char *model, const char *method, struct buf *out);
/* The whole JSON Schema; caller decrefs. */
json_t *recipe_schema(void);

#endif
