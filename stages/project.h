/* A project: one recipe with its model's headers open and its choices made for every linear.
 * For stages only; the engine holds it as an opaque pointer (stage.h). */
#ifndef QJOB_STAGES_PROJECT_H
#define QJOB_STAGES_PROJECT_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/dev.h"
#include "qjob/base/mem.h"
#include "qjob/model/decoder.h"
#include "qjob/model/weights.h"
#include "stages/quant/method.h"
#include "stages/settings.h"
#include "stages/stage.h"

/* What will be done to one linear. */
struct choice {
	char name[256];           /* "model.layers.3.mlp.up_proj" */
	int block;
	enum part part;
	enum site site;
	int64_t rows, cols;       /* O, I */
	bool skip;                /* stays in full precision */
	int bits;
	int64_t group;            /* as written in the output: > 0; cols for one group a row */
	bool sym;
};

struct project_file {
	char *name, *path;        /* in the model's folder */
	bool carried;             /* belongs in the output folder as it is (tokenizer, generation_config ...) */
};

/* Bytes that a stage takes at most: of a card, and of the host. */
struct demand {
	size_t device, host;
};

/* Who waits for project_turn; on its thread's stack. */
struct waiter {
	struct waiter *next;
	int index;
};

struct project {
	const struct settings *s;
	struct weights weights;
	struct project_file *files;    /* everything fetch digests: config.json first, then tensors, then the carried ones */
	size_t nfiles;
	struct choice *choices;        /* in order of block, site, part */
	size_t nchoices;
	struct calibration_wish wish;
	char device_facts[1024];       /* lines of dev_facts */
	struct dev_options device;
	struct {
		struct demand stream, alone, evaluation;   /* calibrate and quantize; quantize without a stream; validate */
	} memory;                      /* predicted: memory_predict */
	struct dev *dev;               /* opened at first use: project_dev */
	struct room *rooms;            /* beside it: project_room */
	struct {
		pthread_mutex_t lock;
		pthread_cond_t over;           /* a turn is */
		struct waiter *first;          /* by rising index; NULL: nobody waits */
		bool taken;
	} turn;                        /* project_turn */
	char **inputs;                 /* absolute */
	size_t ninputs;
};

/* The device all compute nodes of a project share; opened at the first call (compute nodes run one at a time). */
int project_dev(const struct project *p, struct dev **d);

/* Host memory of the device (dev_room) for what a node leaves to be finished: one that was given back, or a new one, which belongs to
 * the project; NULL when there is none to be had.  All have the size that the first call wants.  Call it between nodes' own
 * operations, on the thread that computes; give back from any. */
struct room {
	struct room *next;
	char *bytes;
	size_t size;
	atomic_bool taken;
};
struct room *project_room(const struct project *p, size_t size);
void room_back(struct room *r);
void project_warm(const struct project *p);
/* Closes the device with its rooms; whoever wants it again opens another. */
void project_cool(const struct project *p);

/* For work that uses all processors by itself: one has them at a time, so that the first is done early instead of all of them late.
 * project_turn returns when the turn is the caller's.  A turn that is free is taken at once; one that ends goes to the lowest index
 * that waits then, whoever came first: blocks need files in order.  Call from any thread; project_turn_over must follow. */
void project_turn(const struct project *p, int index);
void project_turn_over(const struct project *p);

/* Choices of one block: first and count. */
const struct choice *project_block(const struct project *p, int block, size_t *n);
/* The choice for a tensor NAME.weight; NULL when it is not quantized. */
const struct choice *project_choice(const struct project *p, const char *tensor);

/* Adds the keyed need of one tensor, labelled "tensor NAME". */
int project_need_tensor(const struct project *p, struct graph *g, struct node *n, const char *tensor);
/* The same for every tensor of `block`, or of the ends: -1. */
int project_need_tensors(const struct project *p, struct graph *g, struct node *n, int block);
/* Adds the device's facts and the model's config facts. */
void project_facts(const struct project *p, struct node *n);

/* choice.c: decides for every linear; problems go to d. */
void choices_make(struct project *p, const struct yaml *tree, struct diag *d);

#endif
