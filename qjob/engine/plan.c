#include "qjob/engine/plan.h"

#include <stdlib.h>
#include <string.h>

#include "cache/key.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/engine/inside.h"

enum { SENTENCES = 4 };    /* of a reason; the rest is counted */

static const char *const action_names[] = {
	[PLAN_HIT] = "hit", [PLAN_RESUME] = "resume", [PLAN_RUN] = "run", [PLAN_MAYBE] = "maybe",
};

struct planner {
	const struct graph *g;
	struct store *s;
	struct plan *p;
	struct record *records;    /* by number: of hits */
};

/* What two sentences must share to be told as one: "linear NAME: bits 4 -> 3" of several linears. */
static bool
is_alike(const char *a, const char *b)
{
	const char *x = strstr(a, ": "), *y = strstr(b, ": ");
	size_t n = strcspn(a, "\n"), m = strcspn(b, "\n"), word = strcspn(a, " \n");

	if (!x || !y || x > a + n || y > b + m || a + word >= x || strncmp(a, b, word + 1) != 0)
		return false;
	return a + n - x == b + m - y && memcmp(x, y, (size_t)(a + n - x)) == 0;
}

static const char *
next_line(const char *p)
{
	return p + strcspn(p, "\n") + 1;
}

/* How many later lines are like p. */
static size_t
count_alike(const char *p)
{
	size_t n = 0;

	for (const char *q = next_line(p); *q; q = next_line(q))
		n += is_alike(p, q);
	return n;
}

static bool
was_told(const char *all, const char *p)
{
	for (const char *q = all; q < p; q = next_line(q))
		if (is_alike(q, p))
			return true;
	return false;
}

/* Lines as one sentence: "a; linear x and 6 more: bits 4 -> 3; c; d; and 7 more". */
static char *
joined(const struct buf *lines)
{
	struct buf out = {0};
	size_t n = 0;

	for (const char *all = buf_text(lines), *p = all; *p; p = next_line(p)) {
		size_t more, len = strcspn(p, "\n"), head = len;

		if (n >= SENTENCES || was_told(all, p)) {
			n += n >= SENTENCES;
			continue;
		}
		more = count_alike(p);
		if (more)
			head = (size_t)(strstr(p, ": ") - p);
		buf_printf(&out, "%s%.*s", n ? "; " : "", (int)head, p);
		if (more)
			buf_printf(&out, " and %zu more%.*s", more, (int)(len - head), p + head);
		n++;
	}
	if (n > SENTENCES)
		buf_printf(&out, "; and %zu more", n - SENTENCES);
	return buf_detach(&out);
}

char *
plan_reason(const struct graph *g, struct store *s, const struct node *n, const char *key, const struct buf *manifest)
{
	struct record before;
	struct buf lines = {0};
	char last[SHA256_HEX], *text;

	if (!last_get(s, graph_project(g), n->name, last))
		return mem_text("never ran");
	if (strcmp(last, key) == 0)
		return mem_text("its result is no longer in the store");
	if (store_get(s, last, &before) != 1)
		return mem_text("something changed, and its earlier result is no longer in the store");
	why_diff(buf_text(&before.manifest), buf_text(manifest), &lines);
	record_release(&before);
	text = joined(&lines);
	buf_release(&lines);
	return text;
}

/* The first thing it needs by digest that is not known yet; NULL: all are. */
static const struct node *
unknown_need(const struct planner *pl, const struct node *n)
{
	for (size_t i = 0; i < n->nneeds; i++)
		if (n->needs[i].keyed && pl->p->v[n->needs[i].node->number].action != PLAN_HIT)
			return n->needs[i].node;
	return NULL;
}

static void
plan_source(const struct planner *pl, const struct node *n, struct plan_entry *e)
{
	bool known = source_get(pl->s, n, &pl->records[n->number]) == 1;

	e->action = known ? PLAN_HIT : PLAN_RUN;
	e->reason = mem_text(known ? "" : "its file is new or was changed");
}

/* The line that starts with `in LABEL `, without newline; NULL: none. */
static const char *
input_line(const char *manifest, const char *label, size_t *n)
{
	char *start = mem_format("\nin %s sha256:", label);
	const char *p = strstr(manifest, start);

	free(start);
	if (!p)
		return NULL;
	*n = strcspn(++p, "\n");
	return p;
}

/* The manifest n will have if everything not known yet comes out as it was before. */
static void
hopeful_manifest(const struct planner *pl, const struct node *n, const char *before, struct buf *manifest)
{
	struct buf facts = {0};
	char key[SHA256_HEX];

	buf_add(&facts, n->facts.p, n->facts.n);
	for (size_t i = 0; i < n->nneeds; i++) {
		const struct need *d = &n->needs[i];
		const struct store_export *e = record_find(&pl->records[d->node->number], d->what);
		const char *line;
		size_t len;

		if (!d->keyed)
			continue;
		if (e) {
			buf_printf(&facts, "in %s sha256:%s\n", d->label, e->sha256);
			continue;
		}
		line = input_line(before, d->label, &len);
		if (line)
			buf_add(&facts, line, len);
		else
			buf_printf(&facts, "in %s ?", d->label);
		buf_puts(&facts, "\n");
	}
	key_make(&facts, manifest, key);
	buf_release(&facts);
}

/* What it needs is not there yet: it runs if something else changed, too, or else unless that gives what was there before. */
static void
plan_behind(const struct planner *pl, const struct node *n, const struct node *need, struct plan_entry *e)
{
	struct buf manifest = {0}, lines = {0};
	struct record before;
	char last[SHA256_HEX];

	e->action = PLAN_RUN;
	if (!last_get(pl->s, graph_project(pl->g), n->name, last)) {
		e->reason = mem_text("never ran");
		return;
	}
	if (store_get(pl->s, last, &before) == 1) {
		hopeful_manifest(pl, n, buf_text(&before.manifest), &manifest);
		why_diff(buf_text(&before.manifest), buf_text(&manifest), &lines);
		record_release(&before);
	}
	if (lines.n) {
		e->reason = joined(&lines);
	} else {
		e->action = PLAN_MAYBE;
		e->reason = mem_format("depends on what %s gives", need->name);
	}
	buf_release(&lines);
	buf_release(&manifest);
}

static int
plan_node(const struct planner *pl, const struct node *n, bool resumes, struct plan_entry *e)
{
	const struct node *need = unknown_need(pl, n);
	struct record *r = &pl->records[n->number];
	struct buf manifest = {0};
	int rc = 0;

	if (n->source) {
		plan_source(pl, n, e);
	} else if (need) {
		plan_behind(pl, n, need, e);
	} else {
		rc = node_key(n, pl->records, NULL, &manifest, e->key);
		if (rc == 0)
			rc = store_get(pl->s, e->key, r);
		e->action = rc == 1 ? PLAN_HIT : resumes ? PLAN_RESUME : PLAN_RUN;
		if (rc == 0)
			e->reason = plan_reason(pl->g, pl->s, n, e->key, &manifest);
		else if (rc == 1)
			e->reason = mem_text("");
	}
	buf_release(&manifest);
	return rc < 0 ? err_in(rc, "%s", n->name) : 0;
}

/* Whether all earlier nodes of its lane, one at least, are there. */
static bool
is_resumed(const struct planner *pl, const struct node *n)
{
	for (size_t i = n->number; n->lane && i-- > 0;) {
		const struct node *before = pl->g->v[i];

		if (before->lane && strcmp(before->lane, n->lane) == 0)
			return pl->p->v[i].action == PLAN_HIT;
	}
	return false;
}

int
plan_make(const struct graph *g, struct store *s, struct plan *p)
{
	struct planner pl = {g, s, p, mem_new(g->n + 1, sizeof(struct record))};
	int rc = 0;

	*p = (struct plan){.v = mem_new(g->n + 1, sizeof(*p->v)), .n = g->n};
	for (size_t i = 0; i < g->n && rc == 0; i++) {
		p->v[i].node = g->v[i];
		rc = plan_node(&pl, g->v[i], is_resumed(&pl, g->v[i]), &p->v[i]);
	}
	for (size_t i = 0; i < g->n; i++)
		record_release(&pl.records[i]);
	free(pl.records);
	if (rc < 0)
		plan_release(p);
	return rc;
}

void
plan_release(struct plan *p)
{
	for (size_t i = 0; i < p->n; i++)
		free(p->v[i].reason);
	free(p->v);
	*p = (struct plan){0};
}

static json_t *
cost_json(const struct cost *c)
{
	json_t *j = json_object();

	json_object_set_new(j, "flops", json_real(c->flops));
	json_object_set_new(j, "host_bytes", json_integer((json_int_t)c->host));
	json_object_set_new(j, "device_bytes", json_integer((json_int_t)c->device));
	json_object_set_new(j, "disk_bytes", json_integer((json_int_t)c->disk));
	return j;
}

static json_t *
entry_json(const struct plan_entry *e)
{
	json_t *j = json_object(), *needs = json_array();
	const struct node *n = e->node, *last = NULL;

	json_object_set_new(j, "name", json_string(n->name));
	json_object_set_new(j, "stage", json_string(n->stage->name));
	json_object_set_new(j, "action", json_string(action_names[e->action]));
	json_object_set_new(j, "key", e->key[0] ? json_string(e->key) : json_null());
	json_object_set_new(j, "reason", json_string(e->reason));
	for (size_t i = 0; i < n->nneeds; i++) {
		if (n->needs[i].node != last)
			json_array_append_new(needs, json_string(n->needs[i].node->name));
		last = n->needs[i].node;
	}
	json_object_set_new(j, "needs", needs);
	json_object_set_new(j, "cost", cost_json(&n->cost));
	return j;
}

json_t *
plan_json(const struct graph *g, const struct plan *p)
{
	json_t *j = json_object(), *nodes = json_array(), *count = json_object();
	size_t counts[sizeof(action_names) / sizeof(action_names[0])] = {0};
	struct cost all = {0};

	(void)g;
	for (size_t i = 0; i < p->n; i++) {
		const struct cost *c = &p->v[i].node->cost;

		counts[p->v[i].action]++;
		json_array_append_new(nodes, entry_json(&p->v[i]));
		if (p->v[i].action == PLAN_HIT)
			continue;
		all.flops += c->flops;
		all.disk += c->disk;
		all.host = c->host > all.host ? c->host : all.host;
		all.device = c->device > all.device ? c->device : all.device;
	}
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		json_object_set_new(count, action_names[i], json_integer((json_int_t)counts[i]));
	json_object_set_new(j, "nodes", nodes);
	json_object_set_new(j, "count", count);
	json_object_set_new(j, "cost", cost_json(&all));
	return j;
}
