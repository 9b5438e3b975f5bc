/* Progress: what people see while a recipe runs, and the events file.
 *
 * On a terminal one live line a running stage; elsewhere a line at the end of a node, but not more often than every few
 * seconds a stage; quiet: failures only. */
#ifndef QJOB_CLI_PROGRESS_H
#define QJOB_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdio.h>

#include "qjob/base/json.h"
#include "qjob/engine/run.h"

struct progress;

struct progress_options {
	FILE *to;                 /* usually stderr */
	bool live, quiet;
	FILE *events;             /* NDJSON; NULL: none */
	const char *variant;      /* "" without a matrix */
};

struct progress *progress_open(const struct graph *g, const struct progress_options *o);
void progress_event(void *own, const struct event *e);      /* run_options.on_event */
void progress_close(struct progress *p);                    /* removes the live lines */

/* One event as the object of --events; caller decrefs. */
json_t *event_json(const struct event *e, const char *variant);
const char *node_state_name(enum node_state s);

#endif
