#include "qjob/engine/run.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"
#include "qjob/base/pool.h"
#include "qjob/engine/plan.h"
#include "qjob/engine/schedule.h"

enum { MAX_JOBS = 64 };

struct worker {
	struct run *run;
	unsigned resources;        /* a bit each */
	pthread_t thread;
};

static void
end_well(struct run *run, const struct node *n, enum node_state state, bool start)
{
	struct node_outcome *o = &run->r->v[n->number];
	const struct record *r = &run->records[n->number];

	if (!n->source) {
		memcpy(o->key, r->key, sizeof(o->key));
		last_put(run->o->store, graph_project(run->g), n->name, r->key);
	}
	pthread_mutex_lock(&run->lock);
	o->state = state;
	if (state == NODE_HIT)
		run->r->hits++;
	else
		run->r->ran++;
	pthread_mutex_unlock(&run->lock);
	run_state(run, n, state, NULL);
	pthread_mutex_lock(&run->lock);
	schedule_end(run, n, start);
	pthread_mutex_unlock(&run->lock);
}

/* What failed, or was in vain, takes with it all that stands behind it.  why: the sentence of a failure. */
static void
end_without(struct run *run, const struct node *n, enum node_state state, const char *why)
{
	struct node_outcome *o = &run->r->v[n->number];
	size_t *skipped = mem_new(run->g->n + 1, sizeof(*skipped)), count;

	pthread_mutex_lock(&run->lock);
	o->state = state;
	o->why = mem_text(why);
	schedule_leave(run, n);
	run->r->failed += state == NODE_FAILED;
	count = schedule_skip(run, n, skipped);
	for (size_t i = 0; i < count; i++)
		run->r->v[skipped[i]].state = NODE_SKIPPED;
	pthread_mutex_unlock(&run->lock);
	run_state(run, n, state, why);
	for (size_t i = 0; i < count; i++)
		run_state(run, run->g->v[skipped[i]], NODE_SKIPPED, NULL);
	free(skipped);
}

/* Takes the sentence of the error that happened in this thread.  beside: on a thread that may not touch what the lane carries. */
static void
end_badly(struct run *run, const struct node *n, int rc, bool beside)
{
	struct task *t = &run->tasks[n->number];
	char *why = mem_text(err_text());

	t->code = rc;
	if (t->lane && !beside)
		lane_drop(t->lane);
	end_without(run, n, NODE_FAILED, why);
	free(why);
}

static void
end_vainly(struct run *run, const struct node *n)
{
	if (run->tasks[n->number].lane)
		lane_drop(run->tasks[n->number].lane);
	run_log(run, n, LOG_WARN, "is dropped: what it went on from could not be kept");
	end_without(run, n, NODE_SKIPPED, NULL);
}

bool
node_is_vain(struct run *run, const struct node *n)
{
	bool is;

	pthread_mutex_lock(&run->lock);
	is = run->tasks[n->number].vain;
	pthread_mutex_unlock(&run->lock);
	return is;
}

/* 1: the store has it, and the record is ours; 0: it must run. */
static int
look(struct run *run, const struct node *n)
{
	struct record *mine = &run->records[n->number], found;
	int rc;

	run->tasks[n->number].looked = true;
	if (n->source)
		return source_get(run->o->store, n, mine);
	rc = node_key(n, run->records, run->early, &mine->manifest, mine->key);
	if (rc == 0)
		rc = store_get(run->o->store, mine->key, &found);
	if (rc == 1) {
		record_release(mine);
		*mine = found;
	}
	return rc;
}

static int
look_again(struct run *run, const struct node *n)
{
	struct record found;
	int rc = store_get(run->o->store, run->records[n->number].key, &found);

	if (rc == 1) {
		record_release(&run->records[n->number]);
		run->records[n->number] = found;
	}
	return rc;
}

static void
save_stats(struct run *run)
{
	if (stat_save(run->o->store) < 0)
		run_log(run, NULL, LOG_WARN, "the stat cache is not saved: %s", err_text());
}

/* A node that only digests a local file, which must hold still meanwhile.  What it learns is saved at once: after a kill
 * nothing tells that a large model was read, but this. */
static int
run_source(struct run *run, const struct node *n)
{
	struct record *r = &run->records[n->number];
	struct file_id before, after;
	int rc;

	stat_settle(n->source);
	run_state(run, n, NODE_RUNS, NULL);
	rc = file_id(&before, n->source);
	if (rc == 0)
		rc = job_source(run, n, r);
	if (rc >= 0)
		rc = file_id(&after, n->source);
	if (rc == 0 && memcmp(&before, &after, sizeof(after)) != 0)
		rc = err_set(E_DATA, "%s: changed while it was read; run again", n->source);
	if (rc == 0) {
		exports_sort(r);
		source_put(run->o->store, n, r);
		save_stats(run);
	}
	return rc;
}

/* Ran, and gave what its last key gave: whatever follows cannot tell. */
static bool
is_cutoff(struct run *run, const struct node *n)
{
	const struct record *mine = &run->records[n->number];
	struct record before;
	char key[SHA256_HEX];
	bool same;

	if (!last_get(run->o->store, graph_project(run->g), n->name, key) || strcmp(key, mine->key) == 0)
		return false;
	if (store_get(run->o->store, key, &before) != 1)
		return false;
	same = record_same(mine, &before);
	record_release(&before);
	return same;
}

static void
end_run(struct run *run, const struct node *n, int rc, bool beside)
{
	if (rc >= 0) {
		end_well(run, n, !n->source && is_cutoff(run, n) ? NODE_CUTOFF : NODE_DONE, true);
		aside_add(run, n);
	} else if (run_is_stopping(run)) {
		pthread_mutex_lock(&run->lock);
		run->stopped = true;
		pthread_cond_broadcast(&run->changed);
		pthread_mutex_unlock(&run->lock);
	} else {
		end_badly(run, n, rc, beside);
	}
}

void
node_end(struct run *run, struct making *m, int rc)
{
	const struct node *n = m->node;
	double began = run_seconds(run);
	bool vain = rc == 0 && node_is_vain(run, n);
	char key[SHA256_HEX];

	memcpy(key, run->records[n->number].key, sizeof(key));
	rc = making_end(run, m, vain ? err_set(E_SYS, "in vain") : rc);
	store_unlock(run->o->store, key, m->lock);
	run->r->v[n->number].seconds += run_seconds(run) - began;
	if (vain)
		end_vainly(run, n);
	else
		end_run(run, n, rc, m->beside);
}

static void
park(struct run *run, const struct node *n, long owner)
{
	struct task *t = &run->tasks[n->number];
	bool vain;

	if (!t->told)
		run_log(run, n, LOG_INFO, "waits for process %ld, which is making it", owner);
	t->told = true;
	pthread_mutex_lock(&run->lock);
	vain = t->vain;
	if (!vain)
		schedule_park(run, n);
	pthread_mutex_unlock(&run->lock);
	if (vain)
		end_vainly(run, n);
}

/* Makes it, unless another process does. */
static void
make(struct run *run, const struct node *n, double began)
{
	struct making m = {.node = n};
	struct node_outcome *o = &run->r->v[n->number];
	char key[SHA256_HEX];
	long owner;
	int rc;

	memcpy(key, run->records[n->number].key, sizeof(key));
	if (!store_lock(run->o->store, key, &m.lock, &owner)) {
		park(run, n, owner);
		return;
	}
	/* Whoever held the lock before may have made it. */
	rc = look_again(run, n);
	if (rc == 1) {
		store_unlock(run->o->store, key, m.lock);
		end_well(run, n, NODE_HIT, true);
		return;
	}
	if (rc == 0) {
		o->reason = plan_reason(run->g, run->o->store, n, key, &run->records[n->number].manifest);
		rc = making_run(run, &m);
	}
	o->seconds += run_seconds(run) - began;
	if (rc < 0 || !finish_later(run, &m))
		node_end(run, &m, rc);
}

/* Everything that has to happen for a node whose needs have ended well. */
static void
step(struct run *run, const struct node *n)
{
	double began = run_seconds(run);
	int rc = run->tasks[n->number].looked ? 0 : look(run, n);

	if (rc == 1) {
		end_well(run, n, NODE_HIT, true);
	} else if (rc < 0) {
		end_badly(run, n, rc, false);
	} else if (n->source) {
		rc = run_source(run, n);
		run->r->v[n->number].seconds += run_seconds(run) - began;
		end_run(run, n, rc, false);
	} else {
		make(run, n, began);
	}
}

static void *
work(void *own)
{
	struct worker *w = own;
	const struct node *n;

	for (;;) {
		pthread_mutex_lock(&w->run->lock);
		n = schedule_take(w->run, w->resources);
		pthread_mutex_unlock(&w->run->lock);
		if (!n)
			return NULL;
		step(w->run, n);
	}
}

/* What is in the store already, in order of declaration and without a thread: all there is to do when nothing changed. */
static void
take_hits(struct run *run)
{
	for (size_t i = 0; i < run->g->n && !run_is_stopping(run); i++) {
		const struct node *n = run->g->v[i];
		int rc;

		if (run->tasks[i].ended || run->tasks[i].waits)
			continue;
		rc = look(run, n);
		if (rc == 1)
			end_well(run, n, NODE_HIT, false);
		else if (rc < 0)
			end_badly(run, n, rc, false);
	}
}

/* The first stage that computes and has to wait; NULL: none.  Call before any thread runs. */
static const struct stage *
waiting_stage(const struct run *run)
{
	for (size_t i = 0; i < run->g->n; i++)
		if (!run->tasks[i].ended && run->tasks[i].waits && run->g->v[i]->stage->warm)
			return run->g->v[i]->stage;
	return NULL;
}

/* Once nothing is left to compute, what was opened for it goes while files are still written. */
static void
cool(struct run *run)
{
	bool idle;

	pthread_mutex_lock(&run->lock);
	idle = !run->stopped && !run->left_of[RES_COMPUTE];
	for (size_t i = 0; i < run->nlanes && idle; i++)
		lane_drop(&run->lanes[i]);
	pthread_mutex_unlock(&run->lock);
	for (size_t i = 0; i < run->g->n && idle; i++)
		if (run->g->v[i]->stage->cool) {
			run->g->v[i]->stage->cool(run->p);
			return;
		}
}

/* This thread computes; others do the disk's work beside it. */
static void
run_rest(struct run *run)
{
	struct worker w[MAX_JOBS + 1];
	size_t io = 0, wanted = (size_t)(run->o->io_jobs > 0 ? run->o->io_jobs : pool_threads_beside()), n = 0;
	const struct stage *waiting = waiting_stage(run);
	pthread_t finisher;

	for (size_t i = 0; i < run->g->n; i++)
		io += !run->tasks[i].ended && run->g->v[i]->resource == RES_IO;
	if (wanted > MAX_JOBS)
		wanted = MAX_JOBS;
	if (wanted > io)
		wanted = io;
	schedule_start(run);
	finish_start(run, &finisher);
	for (; n < wanted; n++) {
		w[n] = (struct worker){.run = run, .resources = 1u << RES_IO};
		if (pthread_create(&w[n].thread, NULL, work, &w[n]) != 0)
			break;
	}
	/* Nothing is computed while files are digested: what the first node will want is opened meanwhile. */
	if (n && waiting)
		waiting->warm(run->p);
	w[n] = (struct worker){.run = run, .resources = 1u << RES_COMPUTE | (n ? 0 : 1u << RES_IO)};
	work(&w[n]);
	cool(run);
	while (n)
		pthread_join(w[--n].thread, NULL);
	if (run->finishes)
		finish_stop(run, finisher);
}

/* How the nodes went, as the run's code and sentence. */
static int
verdict(const struct run *run)
{
	if (run->stopped || (run->left && run_is_stopping(run)))
		return err_set(E_SYS, "interrupted");
	for (size_t i = 0; i < run->g->n; i++) {
		if (run->r->v[i].state != NODE_FAILED)
			continue;
		if (run->r->failed > 1)
			return err_set(run->tasks[i].code, "%s: %s (and %zu more failed)", run->g->v[i]->name, run->r->v[i].why,
				run->r->failed - 1);
		return err_set(run->tasks[i].code, "%s: %s", run->g->v[i]->name, run->r->v[i].why);
	}
	return 0;
}

/* What makes the next run fast and explains it; not worth failing for. */
static void
save_caches(struct run *run)
{
	if (last_save(run->o->store) < 0)
		run_log(run, NULL, LOG_WARN, "the last keys are not remembered: %s", err_text());
	save_stats(run);
}

static void
hear(void *own, const char *text)
{
	run_log(own, NULL, LOG_WARN, "%s", text);
}

static int
run_all(struct run *run)
{
	int rc = publish_check(run);

	if (rc < 0)
		return rc;
	aside_open(run);
	take_hits(run);
	if (run->left)
		run_rest(run);
	rc = verdict(run);
	if (rc == 0 && run->o->output)
		rc = publish(run);
	return rc;
}

int
engine_run(const struct graph *g, const struct project *p, const struct run_options *o, struct run_result *r)
{
	struct run run = {.g = g, .p = p, .o = o, .r = r};
	char *said;
	int rc;

	*r = (struct run_result){.v = mem_new(g->n + 1, sizeof(*r->v)), .n = g->n};
	run.began = run_seconds(&run);
	run.records = mem_new(g->n + 1, sizeof(*run.records));
	run.early = mem_new(g->n + 1, sizeof(*run.early));
	schedule_open(&run);
	store_listen(o->store, hear, &run);
	run_tell(&run, (struct event){.kind = EV_START});
	rc = run_all(&run);
	said = rc < 0 ? mem_text(err_text()) : NULL;
	aside_close(&run);
	save_caches(&run);
	r->seconds = run_seconds(&run);
	run_tell(&run, (struct event){.kind = EV_END, .text = said});
	store_listen(o->store, NULL, NULL);
	schedule_close(&run);
	for (size_t i = 0; i < g->n; i++) {
		record_release(&run.records[i]);
		record_release(&run.early[i]);
	}
	free(run.early);
	free(run.records);
	if (said)
		err_set(rc, "%s", said);
	free(said);
	return rc;
}

void
run_result_release(struct run_result *r)
{
	for (size_t i = 0; i < r->n; i++) {
		free(r->v[i].why);
		free(r->v[i].reason);
	}
	free(r->v);
	*r = (struct run_result){0};
}

char *
engine_output(struct store *s, const struct run_result *r, const struct node *n, const char *file)
{
	const struct store_export *e;
	struct record record;
	char *path = NULL;

	if (!r->v[n->number].key[0] || store_get(s, r->v[n->number].key, &record) != 1)
		return NULL;
	e = record_find(&record, file);
	if (e && e->file)
		path = store_blob(s, e->sha256);
	record_release(&record);
	return path;
}
