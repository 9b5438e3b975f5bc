/* Plans and reasons: what a run would do, and why, without doing it. */
#ifndef QJOB_ENGINE_PLAN_H
#define QJOB_ENGINE_PLAN_H

#include "qjob/base/json.h"
#include "qjob/engine/run.h"

enum plan_action { PLAN_HIT, PLAN_RESUME, PLAN_RUN, PLAN_MAYBE };   /* RESUME: first missing of a lane whose earlier nodes are there;
                                                                      MAYBE: depends on what an earlier node gives (early cutoff) */

struct plan_entry {
	const struct node *node;
	enum plan_action action;
	char key[65];             /* "" when not known before an earlier node has run */
	char *reason;             /* "never ran", "quantize.bits: 4 -> 3", "tensor model.norm.weight changed", ... */
};

struct plan {
	struct plan_entry *v;     /* by node->number */
	size_t n;
};

int plan_make(const struct graph *g, struct store *s, struct plan *p);
void plan_release(struct plan *p);
json_t *plan_json(const struct graph *g, const struct plan *p);

/* Why a node with this key and manifest is not in the store: what differs from its last run in this project, as one
 * sentence.  Caller frees. */
char *plan_reason(const struct graph *g, struct store *s, const struct node *n, const char *key, const struct buf *manifest);

/* The difference of two manifests as sentences, one a line: which field, tensor or library.  Empty: equal. */
void why_diff(const char *old_manifest, const char *new_manifest, struct buf *out);

#endif
