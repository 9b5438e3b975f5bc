/* Running a graph: keys, hits, replay, scheduling, publication.  Knows no stage by name. */
#ifndef QJOB_ENGINE_RUN_H
#define QJOB_ENGINE_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qjob/base/buf.h"
#include "stages/graph.h"
#include "stages/stage.h"

struct store;

enum node_state {
	NODE_WAITS,      /* for its needs */
	NODE_HIT,        /* found in the store */
	NODE_REPLAYS, NODE_RUNS,
	NODE_DONE,       /* ran and was published */
	NODE_CUTOFF,     /* ran and gave what was there before, so what follows was a hit */
	NODE_FAILED,
	NODE_SKIPPED,    /* something it needs failed */
};

/* What happens, for progress, --events and logs.  Called from worker threads, one at a time (the engine holds a lock). */
struct event {
	enum { EV_START, EV_STATE, EV_PROGRESS, EV_LOG, EV_END } kind;
	const struct node *node;         /* NULL: of the run */
	enum node_state state;
	double done, of;                 /* EV_PROGRESS */
	const char *text;                /* EV_LOG, EV_PROGRESS; may be NULL; EV_STATE of a failure: the reason */
	enum log_level level;
	double seconds;                  /* since the run began */
};

struct run_options {
	struct store *store;
	const char *output;              /* folder to publish to; NULL: none */
	const char *identity;            /* text for qjob.json: the resolved recipe, portable */
	int io_jobs;                     /* concurrent RES_IO nodes; 0: one a processor but one, at most 8 */
	void (*on_event)(void *own, const struct event *e);
	void *own;
	volatile const int *stop;        /* becomes nonzero on a signal */
};

struct node_outcome {
	enum node_state state;
	char key[65];
	char *why;                       /* failure, or NULL */
	char *reason;                    /* why it had to run: "tensor model.norm.weight changed"; NULL: it did not,
	                                  * or only digests a file */
	double seconds;
};

struct run_result {
	struct node_outcome *v;          /* by node->number */
	size_t n, hits, ran, failed;
	double seconds;
};

/* 0 when every node is in the store and the output folder is complete; E_SYS "interrupted" after *stop; else the first failure's code.
 * A failing node lets independent nodes finish. */
int engine_run(const struct graph *g, const struct project *p, const struct run_options *o, struct run_result *r);
void run_result_release(struct run_result *r);

/* Path of an output file of a finished node in the store; NULL when it has none.  Caller frees. */
char *engine_output(struct store *s, const struct run_result *r, const struct node *n, const char *file);

#endif
