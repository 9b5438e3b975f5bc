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

/* Who waits for a node, once for each reason. */
struct edge {
	size_t to;
	const char *what;          /* the export that it needs; NULL: it is the next of the lane */
	bool done;
};

/* A node's state in a run. */
struct task {
	size_t waits;              /* needs, and the node before it in its lane, that have not ended */
	struct edge *next;
	size_t nnext;
	struct lane *lane;         /* NULL: none */
	size_t at;                 /* its place there */
	int code;                  /* of its failure */
	bool ended, looked, told;  /* looked: its key is known and the store has been asked; told: that it waits for a process */
	bool working;              /* a thread has it */
	bool vain;                 /* working, and what it went on from has failed since */
	double retry;              /* parked: when to look again, seconds since the run began */
};

/* Numbers of nodes, the smallest on top. */
struct heap {
	size_t *v, n;
};

/* A node between its key and its record. */
struct making {
	const struct node *node;
	struct record made;        /* to be committed */
	char *dir;                 /* of the store, being filled */
	void *kept;                /* between the stage's run and its finish */
	bool ran;                  /* run returned 0, so finish must follow */
	int lock;                  /* of the key */
	bool beside;               /* ends on the finisher's thread */
};

struct run {
	const struct graph *g;
	const struct project *p;
	const struct run_options *o;
	struct run_result *r;
	struct record *records;    /* by number: of what has ended well; key and manifest once looked */
	struct record *early;      /* by number: digests that a run gave before its node's end (finish.c); never changed again */
	struct task *tasks;        /* by number */
	struct lane *lanes;
	size_t nlanes;
	double began;
	pthread_mutex_t talk;      /* one event at a time */
	pthread_mutex_t lock;      /* of all that follows, of the outcomes and the tasks */
	pthread_cond_t changed;
	struct heap ready[RESOURCES];
	size_t *parked, nparked;
	size_t left, left_of[RESOURCES];   /* nodes that have not ended */
	bool stopped;
	char *aside;               /* folder of copies; NULL: no output */
	bool aside_alone;          /* there was no output folder before */
	struct making *finishing;  /* NULL: none */
	bool finishes, over;       /* there is a thread for it; it has no more to wait for */
};

/* ---- keys.c ---- */

/* The manifest and key of a node whose needs have all ended well, or have given their digests early (early may be NULL);
 * E_DATA when one of them did not make what is needed. */
int node_key(const struct node *n, const struct record *records, const struct record *early, struct buf *manifest,
             char key[SHA256_HEX]);
/* What a need asks for; NULL: it was not made.  What was given early is looked at first: a record changes as its node ends. */
const struct store_export *need_find(const struct need *d, const struct record *records, const struct record *early);
void exports_sort(struct record *r);
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

/* Digests of a node with a source: r takes what it exports. */
int job_source(struct run *run, const struct node *n, struct record *r);
/* Replays what stands between the carry and m's node, and runs that.  After a failure, too, making_end follows. */
int making_run(struct run *run, struct making *m);
/* rc 0: finishes and commits; negative: clears away what was begun, and keeps the sentence.  Returns the code of how it went. */
int making_end(struct run *run, struct making *m, int rc);
void lane_drop(struct lane *l);

/* ---- finish.c ---- */

/* The thread that ends nodes whose stage has a finish; without one, run->finishes stays false and their makers do. */
void finish_start(struct run *run, pthread_t *thread);
void finish_stop(struct run *run, pthread_t thread);
/* true: m will be ended by that thread, and is no longer the caller's; false: its maker ends it.  Waits for the one before. */
bool finish_later(struct run *run, struct making *m);

/* ---- run.c ---- */

/* Whether what the node at work went on from has failed meanwhile. */
bool node_is_vain(struct run *run, const struct node *n);
/* How a making ended: commits or clears it, lets go of its key, and tells all who wait. */
void node_end(struct run *run, struct making *m, int rc);

/* ---- publish.c ---- */

/* Refuses, before any work, what could not be published or would touch files that are not ours. */
int publish_check(const struct run *run);
int publish(struct run *run);
/* Whether the file at path has this content; its digest is remembered.  Any thread. */
bool publish_has(const struct run *run, const char *path, const char *sha256);

/* ---- aside.c ---- */

#define ASIDE ".qjob-publishing."      /* and the number of the process */

void aside_open(struct run *run);
/* What n publishes, and is not in the output folder, is copied aside.  Any thread; n has ended well. */
void aside_add(struct run *run, const struct node *n);
/* Moves the copy to `to`; false: there is none. */
bool aside_take(struct run *run, const char *name, const char *to);
void aside_close(struct run *run);     /* removes what is left; a second call does nothing */

#endif
