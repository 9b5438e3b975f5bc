/* A stage turns finished inputs into the outputs of a node.
 *
 * It is a pure function of its inputs and settings: it reads only what the node needs and what the project has mapped,
 * writes only below job->out, and never learns whether a cache exists.  The engine decides what runs, keys it, and
 * publishes it.  Stages do not print: they log and report progress through the job. */
#ifndef QJOB_STAGES_STAGE_H
#define QJOB_STAGES_STAGE_H

#include <stdbool.h>

#include "qjob/base/buf.h"
#include "stages/graph.h"

struct project;              /* settings and opened headers: stages/project.h */
struct job;

enum log_level { LOG_INFO, LOG_WARN };

/* What the engine does for a running job.  Every function may be called from the job's thread only. */
struct job_host {
	/* Path of output file `what` of a needed node; it stays valid while the job runs.  NULL: no such need. */
	const char *(*input)(struct job *j, const char *node, const char *what);
	/* SHA-256 of the keyed need with this label, as its key has it.  NULL: no such need. */
	const char *(*digest)(struct job *j, const char *label);
	/* Declares a digest that this node computed, under a name later nodes may need. */
	void (*exports)(struct job *j, const char *what, const char *sha256);
	void (*progress)(struct job *j, double done, double of, const char *text);   /* text may be NULL: "loss 0.0123" */
	void (*log)(struct job *j, enum log_level level, const char *text);
	bool (*stop)(struct job *j);     /* true: give up soon with E_SYS; what was done is dropped */
};

struct job {
	const struct node *node;
	const struct project *project;
	const char *out;             /* an empty folder, ours; its files become the node's outputs (NULL for
	                              * a replay, and for a node with a source) */
	void **carry;                /* the lane's state, NULL at its start; the stage allocates it */
	void *kept;                  /* what run leaves for finish, which frees it; the stage's */
	const struct job_host *host;
	void *own;                   /* the engine's */
};

struct stage {
	const char *name;
	int version;                         /* bump when equal inputs would give other bytes */
	const char *help;                    /* one line */
	int (*expand)(struct graph *g, const struct project *p);     /* declares its nodes; earlier stages have */
	/* Optional: opens what run will want (a device), on the thread that computes while that still waits for files to be
	 * digested.  A failure is told when run meets it. */
	void (*warm)(const struct project *p);
	/* Optional: closes it again, on the same thread, once no node that computes is left and no lane carries anything.  A stage
	 * that runs in spite of that opens what it wants itself. */
	void (*cool)(const struct project *p);
	int (*run)(struct job *job);         /* 0, or an error; the engine publishes only after 0 */
	/* Optional: writes what run has left in job->kept, on another thread, while this one may run the next node already.  So
	 * it has no carry, touches no device, and what later nodes need by digest alone has been exported by run.  Called once after
	 * every run that returned 0; with out NULL when the node was given up: then it only frees. */
	int (*finish)(struct job *job);
	int (*replay)(struct job *job);      /* advances *carry past a node that is in the store; lanes only */
	void (*drop)(void *carry);           /* frees a lane's state; lanes only */
};

extern const struct stage stage_fetch, stage_tokenize, stage_calibrate, stage_quantize, stage_pack, stage_validate;
extern const struct stage *const stages[];   /* in order, ends with NULL */

void job_log(struct job *j, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- what the command line and the engine call ---- */

struct settings;
struct diag;
struct yaml;
struct dev_options;

/* Opens the model's headers and the device's facts and checks settings against them: everything that can be refused before work. All
 * problems go to d; NULL when any.  s and tree must outlive the project. */
struct project *project_open(const struct settings *s, const struct yaml *tree, const struct dev_options *o, struct diag *d);
void project_close(struct project *p);
/* Whether the CPU computes because a card that is there cannot be used; then text (capacity size) says why. */
bool project_passed_over(const struct project *p, char *text, size_t size);
/* Before a run: writes what inputs are still to be made of (the data of a synthetic model). */
int project_prepare(const struct project *p);
/* Declares every node of every stage. */
int project_graph(const struct project *p, struct graph *g);
/* Every local file whose content the result depends on, absolute; for the stat cache and --depfile.  Owned by p. */
const char *const *project_inputs(const struct project *p, size_t *n);
/* The verdict of validate after a run: 0, or E_GATE-like negative with a sentence when a limit of the recipe is exceeded;
 * summary: lines for people, read from the node's output at `path`. */
int project_verdict(const struct project *p, const char *report_path, struct buf *summary);

#endif
