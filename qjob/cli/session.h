/* A session: what every command that reads a recipe opens first.  Messages go to stderr. */
#ifndef QJOB_CLI_SESSION_H
#define QJOB_CLI_SESSION_H

#include "cache/store.h"
#include "kernels/dev.h"
#include "qjob/cli/options.h"
#include "qjob/engine/recipe.h"
#include "stages/graph.h"
#include "stages/stage.h"

struct session {
	struct recipe recipe;
	struct store *store;
	struct dev_options dev;
};

/* A variant with its model's headers open. */
struct opened {
	struct project *project;
	struct graph graph;
};

/* -1, or an exit code after messages.  Close it in any case. */
int session_open(struct session *s, const char *command, const struct recipe_options *o);
void session_close(struct session *s);
/* The same. */
int variant_open(struct opened *v, const struct session *s, const struct variant *of);
void variant_close(struct opened *v);

/* {"quantize.bits": "4"...}: every parameter that can change bytes, after defaults.  Caller decrefs. */
json_t *parameters_json(const struct settings *s);

/* path as the user would write it: relative when it lies below the current folder.  Caller frees. */
char *short_path(const char *path);
/* "1.25 GB", "512 B" */
void size_text(double bytes, char *text, size_t n);
/* "0.4 s", "3:07", "1:02:45" */
void time_text(double seconds, char *text, size_t n);

#endif
