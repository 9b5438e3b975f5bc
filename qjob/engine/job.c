#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/engine/inside.h"

/* One call of a stage. */
struct call {
	struct job job;            /* its `own` is this */
	struct run *run;
	struct record *record;     /* takes exports; NULL while replaying */
	char **paths;              /* given to the stage */
	size_t n;
};

static double
clock_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double
run_seconds(const struct run *run)
{
	return clock_seconds() - run->began;
}

bool
run_is_stopping(const struct run *run)
{
	return run->o->stop && __atomic_load_n(run->o->stop, __ATOMIC_RELAXED);
}

void
run_tell(struct run *run, struct event e)
{
	if (!run->o->on_event)
		return;
	pthread_mutex_lock(&run->talk);
	e.seconds = run_seconds(run);
	run->o->on_event(run->o->own, &e);
	pthread_mutex_unlock(&run->talk);
}

void
run_state(struct run *run, const struct node *n, enum node_state state, const char *text)
{
	run_tell(run, (struct event){.kind = EV_STATE, .node = n, .state = state, .text = text});
}

void
run_log(struct run *run, const struct node *n, enum log_level level, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	run_tell(run, (struct event){.kind = EV_LOG, .node = n, .level = level, .text = text});
}

static const char *
give_path(struct call *c, const struct store_export *e)
{
	if (!e || !e->file)
		return NULL;
	c->paths = mem_grow(c->paths, c->n + 1, sizeof(*c->paths));
	c->paths[c->n] = store_blob(c->run->o->store, e->sha256);
	return c->paths[c->n++];
}

/* A replay may also read what its node made. */
static const char *
host_input(struct job *j, const char *node, const char *what)
{
	struct call *c = j->own;

	if (!c->record && strcmp(node, j->node->name) == 0)
		return give_path(c, record_find(&c->run->records[j->node->number], what));
	for (size_t i = 0; i < j->node->nneeds; i++) {
		const struct need *d = &j->node->needs[i];

		if (strcmp(d->node->name, node) == 0 && strcmp(d->what, what) == 0)
			return give_path(c, need_find(d, c->run->records, c->run->early));
	}
	return NULL;
}

static const char *
host_digest(struct job *j, const char *label)
{
	struct call *c = j->own;

	for (size_t i = 0; i < j->node->nneeds; i++) {
		const struct need *d = &j->node->needs[i];
		const struct store_export *e;

		if (!d->keyed || strcmp(d->label, label) != 0)
			continue;
		e = need_find(d, c->run->records, c->run->early);
		return e ? e->sha256 : NULL;
	}
	return NULL;
}

static void
host_exports(struct job *j, const char *what, const char *sha256)
{
	struct call *c = j->own;

	if (c->record)
		record_add(c->record, what, sha256);
}

static void
host_progress(struct job *j, double done, double of, const char *text)
{
	struct call *c = j->own;

	run_tell(c->run, (struct event){.kind = EV_PROGRESS, .node = j->node, .done = done, .of = of, .text = text});
}

static void
host_log(struct job *j, enum log_level level, const char *text)
{
	struct call *c = j->own;

	run_tell(c->run, (struct event){.kind = EV_LOG, .node = j->node, .level = level, .text = text});
}

static bool
host_stop(struct job *j)
{
	struct call *c = j->own;

	return run_is_stopping(c->run);
}

static const struct job_host host = {
	.input = host_input, .digest = host_digest, .exports = host_exports,
	.progress = host_progress, .log = host_log, .stop = host_stop,
};

static int
call_stage(struct call *c, const struct node *n, int (*stage)(struct job *job))
{
	void *none = NULL;
	int rc;

	c->job.node = n;
	c->job.project = c->run->p;
	c->job.host = &host;
	c->job.own = c;
	if (!c->job.carry)
		c->job.carry = &none;
	err_set(0, "%s failed without saying why", n->name);
	rc = stage(&c->job);
	for (size_t i = 0; i < c->n; i++)
		free(c->paths[i]);
	free(c->paths);
	return rc;
}

int
job_source(struct run *run, const struct node *n, struct record *r)
{
	struct call c = {.run = run, .record = r};

	return call_stage(&c, n, n->stage->run);
}

static int
job_run(struct run *run, struct making *m, void **carry)
{
	struct call c = {.run = run, .record = &m->made, .job = {.out = m->dir, .carry = carry}};
	int rc = call_stage(&c, m->node, m->node->stage->run);

	m->kept = c.job.kept;
	return rc;
}

/* out NULL: only to free. */
static int
job_finish(struct run *run, struct making *m, const char *out)
{
	struct call c = {.run = run, .record = &m->made, .job = {.out = out, .kept = m->kept}};

	return m->node->stage->finish ? call_stage(&c, m->node, m->node->stage->finish) : 0;
}

static int
job_replay(struct run *run, const struct node *n, void **carry)
{
	struct call c = {.run = run, .job = {.carry = carry}};

	if (!n->stage->replay)
		return err_set(E_USE, "the stage %s has a lane and cannot replay it", n->stage->name);
	return call_stage(&c, n, n->stage->replay);
}

void
lane_drop(struct lane *l)
{
	if (l->carry && l->drop)
		l->drop(l->carry);
	l->carry = NULL;
}

/* Brings the carry to where the node at `to` starts. */
static int
lane_reach(struct run *run, struct lane *l, size_t to)
{
	for (; l->pos < to; l->pos++) {
		const struct node *n = run->g->v[l->v[l->pos]];
		int rc;

		if (run_is_stopping(run))
			return err_set(E_SYS, "interrupted");
		run_state(run, n, NODE_REPLAYS, NULL);
		rc = job_replay(run, n, &l->carry);
		if (rc < 0)
			return err_in(rc, "replay of %s", n->name);
		run_state(run, n, NODE_HIT, NULL);
	}
	return 0;
}

int
making_run(struct run *run, struct making *m)
{
	const struct node *n = m->node;
	const struct record *known = &run->records[n->number];
	struct lane *l = run->tasks[n->number].lane;
	int rc = store_begin(run->o->store, known->key, &m->dir);

	if (rc < 0)
		return rc;
	memcpy(m->made.key, known->key, sizeof(m->made.key));
	buf_add(&m->made.manifest, known->manifest.p, known->manifest.n);
	if (l)
		rc = lane_reach(run, l, run->tasks[n->number].at);
	if (rc == 0) {
		run_state(run, n, NODE_RUNS, NULL);
		rc = job_run(run, m, l ? &l->carry : NULL);
		m->ran = rc == 0;
	}
	if (rc == 0 && l && ++l->pos == l->n)
		lane_drop(l);
	return rc < 0 ? rc : 0;
}

int
making_end(struct run *run, struct making *m, int rc)
{
	struct record *known = &run->records[m->node->number];
	char *said = rc < 0 ? mem_text(err_text()) : NULL;

	if (m->ran) {
		int code = job_finish(run, m, rc < 0 ? NULL : m->dir);

		rc = rc < 0 ? rc : code;
	}
	if (rc >= 0)
		rc = store_commit(run->o->store, &m->made, m->dir);
	if (rc < 0) {
		if (!said)
			said = mem_text(err_text());
		store_abandon(run->o->store, m->dir);
		record_release(&m->made);
		err_set(rc, "%s", said);
	} else {
		record_release(known);
		*known = m->made;
	}
	free(said);
	free(m->dir);
	return rc < 0 ? rc : 0;
}
