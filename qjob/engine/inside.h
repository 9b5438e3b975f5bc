/* What the files of the engine share; nobody outside this folder includes it. */
#ifndef QJOB_ENGINE_INSIDE_H
#define QJOB_ENGINE_INSIDE_H

#include <pthread.h>

#include "cache/store.h"
#include "qjob/engine/run.h"

/* Nodes that hand a state in memory to the next.  The carry has passed v[0..pos-1]. */
struct lane {
	const char *name;
	size_t *v, n, cap, pos;    /* numbers of its nodes, in order */
	void *carry;
	void (*drop)(void *carry);
};

/* A node's state in a run. */
struct task {
	size_t waits;              /* needs, and the node before it in its lane, that have not ended */
	size_t *next, nnext;       /* who waits for it, once for each reason */
	struct lane *lane;         /* NULL: none */
	size_t at;                 /* its place there */
	int code;                  /* of its failure */
	bool ended, looked, told;  /* looked: its key is known and the store has been asked; told: that it waits for a process */
	double retry;              /* parked: when to look again, seconds since the run began */
};

/* Numbers of nodes, the smallest on top. */
struct heap {
	size_t *v, n;
};

struct run {
	const struct graph *g;
	const struct project *p;
	const struct run_options *o;
	struct run_result *r;
	struct record *records;    /* by number: of what has ended well; key and manifest once looked */
	struct task *tasks;        /* by number */
	struct lane *lanes;
	size_t nlanes;
	double began;
	pthread_mutex_t talk;      /* one event at a time */
	pthread_mutex_t lock;      /* of all that follows, of the outcomes and the tasks */
	pthread_cond_t changed;
	struct heap ready[RESOURCES];
	size_t *parked, nparked;
	size_t left;               /* nodes that have not ended */
	bool stopped;
};

/* ---- keys.c ---- */

/* The manifest and key of a node whose needs have all ended well; E_DATA when one of them did not make what is needed. */
int node_key(const struct node *n, const struct record *records, struct buf *manifest, char key[SHA256_HEX]);
/* What the stat cache remembers of a node that only digests a local file; 1 found, 0 none. */
int source_get(struct store *s, const struct node *n, struct record *r);
void source_put(struct store *s, const struct node *n, const struct record *r);
/* A name that cannot leave the folder it is in. */
bool is_plain_name(const char *name);
const char *graph_project(const struct graph *g);

/* ---- job.c ---- */

double run_seconds(const struct run *run);
bool run_is_stopping(const struct run *run);
void run_tell(struct run *run, struct event e);
void run_state(struct run *run, const struct node *n, enum node_state state, const char *text);
void run_log(struct run *run, const struct node *n, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Calls the stage.  r takes the digests it exports; out NULL: it makes none. */
int job_run(struct run *run, const struct node *n, struct record *r, const char *out, void **carry);
/* Replays what stands between the carry and n, runs n, and commits it. */
int node_make(struct run *run, const struct node *n);
void lane_drop(struct lane *l);

/* ---- publish.c ---- */

/* Refuses, before any work, what could not be published or would touch files that are not ours. */
int publish_check(const struct run *run);
int publish(struct run *run);

#endif
