/* The finisher: one thread that writes and commits what a node's run has left, while the next node runs.
 *
 * A lane's nodes hand one another their state in memory and need of one another's results only what run has exported, so
 * the next one starts as soon as the run is over; who needs files waits for the record, as ever.  There is one place: a
 * run that is over waits there for the one before it.  So whatever the moment of a crash, what is lost is the node that was
 * running and at most one that had run and was being written. */
#include <stdlib.h>

#include "qjob/base/mem.h"
#include "qjob/engine/schedule.h"

static struct making *
take(struct run *run)
{
	struct making *m;

	pthread_mutex_lock(&run->lock);
	while (!run->finishing && !run->over)
		pthread_cond_wait(&run->changed, &run->lock);
	m = run->finishing;
	pthread_mutex_unlock(&run->lock);
	return m;
}

static void *
work(void *own)
{
	struct run *run = own;

	for (struct making *m = take(run); m; m = take(run)) {
		node_end(run, m, 0);
		pthread_mutex_lock(&run->lock);
		run->finishing = NULL;
		pthread_cond_broadcast(&run->changed);
		pthread_mutex_unlock(&run->lock);
		free(m);
	}
	return NULL;
}

void
finish_start(struct run *run, pthread_t *thread)
{
	for (size_t i = 0; i < run->g->n && !run->finishes; i++)
		run->finishes = !run->tasks[i].ended && run->g->v[i]->stage->finish;
	if (run->finishes && pthread_create(thread, NULL, work, run) != 0)
		run->finishes = false;
}

void
finish_stop(struct run *run, pthread_t thread)
{
	pthread_mutex_lock(&run->lock);
	run->over = true;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
	pthread_join(thread, NULL);
}

bool
finish_later(struct run *run, struct making *m)
{
	const struct node *n = m->node;
	struct task *t = &run->tasks[n->number];
	struct record *early = &run->early[n->number];
	bool vain;

	if (!run->finishes || !n->stage->finish)
		return false;
	pthread_mutex_lock(&run->lock);
	while (run->finishing)
		pthread_cond_wait(&run->changed, &run->lock);
	vain = t->vain;
	if (!vain) {
		for (size_t i = 0; i < m->made.n; i++)
			record_add(early, m->made.v[i].name, m->made.v[i].sha256);
		exports_sort(early);
		schedule_early(run, n);
		run->finishing = mem_new(1, sizeof(*m));
		*run->finishing = *m;
		run->finishing->beside = true;
		pthread_cond_broadcast(&run->changed);
	}
	pthread_mutex_unlock(&run->lock);
	return !vain;
}
