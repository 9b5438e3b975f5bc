/* Who may start, who waits, who is skipped.  Edges go from earlier nodes to later ones, so there is always somebody to start
 * or somebody running: the order of declaration cannot deadlock. */
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/engine/schedule.h"

static const double RETRY = 0.025;    /* s, between looks at a key that another process makes */

static void
heap_put(struct heap *h, size_t number)
{
	size_t i = h->n++;

	for (; i && h->v[(i - 1) / 2] > number; i = (i - 1) / 2)
		h->v[i] = h->v[(i - 1) / 2];
	h->v[i] = number;
}

static size_t
heap_take(struct heap *h)
{
	size_t top = h->v[0], last = h->v[--h->n], i = 0, k;

	for (; (k = 2 * i + 1) < h->n; i = k) {
		if (k + 1 < h->n && h->v[k + 1] < h->v[k])
			k++;
		if (last <= h->v[k])
			break;
		h->v[i] = h->v[k];
	}
	h->v[i] = last;
	return top;
}

static void
add_edge(struct run *run, size_t from, size_t to, const char *what)
{
	struct task *t = &run->tasks[from];

	if ((t->nnext & (t->nnext - 1)) == 0)
		t->next = mem_grow(t->next, t->nnext ? 2 * t->nnext : 1, sizeof(*t->next));
	t->next[t->nnext++] = (struct edge){.to = to, .what = what};
	run->tasks[to].waits++;
}

static struct lane *
lane_named(struct run *run, const char *name)
{
	for (size_t i = 0; i < run->nlanes; i++)
		if (strcmp(run->lanes[i].name, name) == 0)
			return &run->lanes[i];
	run->lanes[run->nlanes].name = name;
	return &run->lanes[run->nlanes++];
}

static void
join_lane(struct run *run, const struct node *n)
{
	struct lane *l = lane_named(run, n->lane);

	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 16;
		l->v = mem_grow(l->v, l->cap, sizeof(*l->v));
	}
	if (n->stage->drop)
		l->drop = n->stage->drop;
	run->tasks[n->number].lane = l;
	run->tasks[n->number].at = l->n;
	if (l->n)
		add_edge(run, l->v[l->n - 1], n->number, NULL);
	l->v[l->n++] = n->number;
}

void
schedule_open(struct run *run)
{
	const struct graph *g = run->g;
	pthread_condattr_t attr;

	run->tasks = mem_new(g->n + 1, sizeof(*run->tasks));
	run->lanes = mem_new(g->n + 1, sizeof(*run->lanes));
	run->parked = mem_new(g->n + 1, sizeof(*run->parked));
	for (int i = 0; i < RESOURCES; i++)
		run->ready[i].v = mem_new(g->n + 1, sizeof(size_t));
	run->left = g->n;
	for (size_t i = 0; i < g->n; i++) {
		run->left_of[g->v[i]->resource]++;
		for (size_t k = 0; k < g->v[i]->nneeds; k++)
			add_edge(run, g->v[i]->needs[k].node->number, i, g->v[i]->needs[k].what);
		if (g->v[i]->lane)
			join_lane(run, g->v[i]);
	}
	pthread_mutex_init(&run->lock, NULL);
	pthread_mutex_init(&run->talk, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&run->changed, &attr);
	pthread_condattr_destroy(&attr);
}

void
schedule_close(struct run *run)
{
	for (size_t i = 0; i < run->g->n; i++)
		free(run->tasks[i].next);
	for (size_t i = 0; i < run->nlanes; i++) {
		lane_drop(&run->lanes[i]);
		free(run->lanes[i].v);
	}
	for (int i = 0; i < RESOURCES; i++)
		free(run->ready[i].v);
	free(run->parked);
	free(run->lanes);
	free(run->tasks);
	pthread_cond_destroy(&run->changed);
	pthread_mutex_destroy(&run->talk);
	pthread_mutex_destroy(&run->lock);
}

void
schedule_start(struct run *run)
{
	for (size_t i = 0; i < run->g->n; i++)
		if (!run->tasks[i].ended && run->tasks[i].waits == 0)
			heap_put(&run->ready[run->g->v[i]->resource], i);
}

static void
take_edge(struct run *run, struct edge *e, bool start)
{
	struct task *next = &run->tasks[e->to];

	if (e->done)
		return;
	e->done = true;
	if (--next->waits == 0 && start && !next->ended)
		heap_put(&run->ready[run->g->v[e->to]->resource], e->to);
}

void
schedule_early(struct run *run, const struct node *n)
{
	struct task *t = &run->tasks[n->number];

	for (size_t i = 0; i < t->nnext; i++)
		if (!t->next[i].what || record_find(&run->early[n->number], t->next[i].what))
			take_edge(run, &t->next[i], true);
	pthread_cond_broadcast(&run->changed);
}

void
schedule_leave(struct run *run, const struct node *n)
{
	struct task *t = &run->tasks[n->number];

	t->ended = true;
	t->working = false;
	run->left--;
	run->left_of[n->resource]--;
}

void
schedule_end(struct run *run, const struct node *n, bool start)
{
	struct task *t = &run->tasks[n->number];

	schedule_leave(run, n);
	for (size_t i = 0; i < t->nnext; i++)
		take_edge(run, &t->next[i], start);
	if (t->lane && t->at + 1 == t->lane->n)
		lane_drop(t->lane);
	pthread_cond_broadcast(&run->changed);
}

size_t
schedule_skip(struct run *run, const struct node *n, size_t *skipped)
{
	struct heap todo = {mem_new(run->g->n + 1, sizeof(size_t)), 0};
	size_t count = 0;

	heap_put(&todo, n->number);
	while (todo.n) {
		const struct task *t = &run->tasks[heap_take(&todo)];

		for (size_t i = 0; i < t->nnext; i++) {
			struct task *next = &run->tasks[t->next[i].to];

			if (next->ended)
				continue;
			if (next->working) {
				next->vain = true;
				continue;
			}
			schedule_leave(run, run->g->v[t->next[i].to]);
			skipped[count++] = t->next[i].to;
			heap_put(&todo, t->next[i].to);
		}
	}
	free(todo.v);
	pthread_cond_broadcast(&run->changed);
	return count;
}

void
schedule_park(struct run *run, const struct node *n)
{
	run->tasks[n->number].working = false;
	run->tasks[n->number].retry = run_seconds(run) + RETRY;
	run->parked[run->nparked++] = n->number;
}

/* Nodes whose time has come are ready again; returns the seconds to the next one, 0: none is parked. */
static double
unpark(struct run *run)
{
	double now = run_seconds(run), next = 0;
	size_t kept = 0;

	for (size_t i = 0; i < run->nparked; i++) {
		size_t number = run->parked[i];
		double wait = run->tasks[number].retry - now;

		if (wait <= 0) {
			heap_put(&run->ready[run->g->v[number]->resource], number);
			continue;
		}
		if (next == 0 || wait < next)
			next = wait;
		run->parked[kept++] = number;
	}
	run->nparked = kept;
	return next;
}

static void
wait_change(struct run *run, double seconds)
{
	struct timespec t;
	double at = run->began + run_seconds(run) + seconds;

	if (seconds <= 0) {
		pthread_cond_wait(&run->changed, &run->lock);
		return;
	}
	t.tv_sec = (time_t)at;
	t.tv_nsec = (long)((at - (double)t.tv_sec) * 1e9);
	pthread_cond_timedwait(&run->changed, &run->lock, &t);
}

/* Nodes that were skipped after they became ready are left behind. */
static const struct node *
take_ready(struct run *run, unsigned resources)
{
	for (int i = RESOURCES - 1; i >= 0; i--)
		while ((resources >> i & 1) && run->ready[i].n) {
			size_t number = heap_take(&run->ready[i]);

			if (run->tasks[number].ended)
				continue;
			run->tasks[number].working = true;
			return run->g->v[number];
		}
	return NULL;
}

static bool
is_any_left(const struct run *run, unsigned resources)
{
	for (int i = 0; i < RESOURCES; i++)
		if ((resources >> i & 1) && run->left_of[i])
			return true;
	return false;
}

const struct node *
schedule_take(struct run *run, unsigned resources)
{
	const struct node *n;

	while (is_any_left(run, resources) && !run->stopped) {
		double wait = unpark(run);

		if (run_is_stopping(run)) {
			run->stopped = true;
			break;
		}
		n = take_ready(run, resources);
		if (n)
			return n;
		wait_change(run, wait);
	}
	pthread_cond_broadcast(&run->changed);
	return NULL;
}
