/* The graph: what the stages declare and the engine runs.
 *
 * A node is one unit of a stage that is cached on its own.  Its key is the SHA-256 of a manifest: the facts known when
 * it was declared and one line for each thing it needs, by digest.  Needs name an earlier node and one of
 * its exports: an output file, or a digest that the node computed (a tensor of a fetched file, the activations behind a block).
 *
 * Nodes with a lane carry a state in memory from one to the next (activations).  They are declared in order;
 * a node found in the store is not run, but if a later one of its lane must run, its stage replays it first. */
#ifndef QJOB_STAGES_GRAPH_H
#define QJOB_STAGES_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qjob/base/buf.h"
#include "qjob/base/map.h"

struct stage;

enum resource { RES_IO, RES_COMPUTE, RESOURCES };   /* disk and hashing, many at once; a whole device */

struct need {
	char *label;             /* its line in the manifest: "tensor model.norm.weight" */
	struct node *node;
	char *what;              /* an export of that node */
	bool keyed;              /* false: only for order and access (a file whose tensors are keyed one by one) */
};

struct cost {                    /* predicted from headers; 0: negligible */
	double flops;
	uint64_t host, device, disk;   /* bytes: peak memory while it runs, bytes it leaves in the store */
};

struct node {
	const struct stage *stage;
	char *name;              /* "quantize/17", unique */
	int index;               /* the stage's: block, shard, file */
	struct buf facts;        /* manifest lines: "set quantize.bits 4\n" in any order; the engine sorts */
	struct need *needs;
	size_t nneeds, capneeds;
	const char *lane;        /* NULL: none */
	char *source;            /* NULL, or a local file (owned): the node only digests it, has no key and no record, and
	                          * its exports are remembered by the stat cache */
	enum resource resource;
	struct cost cost;
	char **publish;          /* its output files that belong in the output folder, by their name there */
	size_t npublish;
	char *unit;              /* what progress counts: "blocks", "files" */
	size_t number;           /* in order of declaration; the engine keeps its own state by it */
};

struct graph {
	struct node **v;         /* in order of declaration: needs come before what needs them */
	size_t n, cap;
	struct map by_name;
	char *project;           /* owned; tells this project's nodes from another's for `qjob why` (the output folder, say);
	                            NULL: one for all.  Never part of a key */
};

/* Adds the fact "stage NAME VERSION" by itself. */
struct node *graph_add(struct graph *g, const struct stage *s, int index, const char *name_fmt, ...) __attribute__((format(printf, 4, 5)));
struct node *graph_find(const struct graph *g, const char *name);
/* One line, newline added; control characters and backslashes are written \xNN. */
void node_fact(struct node *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void node_need(struct node *n, struct node *from, const char *what, const char *label_fmt, ...) __attribute__((format(printf, 4, 5)));
void node_after(struct node *n, struct node *from, const char *what);    /* unkeyed */
void node_publish(struct node *n, const char *file);
void graph_release(struct graph *g);

#endif
