#define _GNU_SOURCE    /* sched_getaffinity */

#include "qjob/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"

enum { MOST_THREADS = 256, MOST_BESIDE = 8 };
static const long WATCH_NS = 50000000;    /* between two looks of who watches */

struct pool {
	size_t n;
	int (*piece)(void *own, size_t i);
	void *own;
	pthread_mutex_t lock;      /* of all that follows */
	pthread_cond_t ended;      /* a piece has */
	size_t next, done, failed; /* failed: the smallest i, or n */
	bool stopped;
	int code;                  /* of the failure, with its sentence */
	char *said;
};

int
pool_threads(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return n < 1 ? 1 : n < MOST_THREADS ? n : MOST_THREADS;
}

int
pool_threads_beside(void)
{
	int n = pool_threads() - 1;

	return n < 1 ? 1 : n < MOST_BESIDE ? n : MOST_BESIDE;
}

static bool
take(struct pool *p, size_t *i)
{
	bool any;

	pthread_mutex_lock(&p->lock);
	any = p->next < p->n && !p->stopped;
	if (any)
		*i = p->next++;
	pthread_mutex_unlock(&p->lock);
	return any;
}

/* Pieces start in order, so the smallest failure has always started when another one stops the rest. */
static void
end(struct pool *p, size_t i, int rc)
{
	pthread_mutex_lock(&p->lock);
	p->done++;
	if (rc < 0) {
		p->stopped = true;
		if (i < p->failed) {
			p->failed = i;
			p->code = rc;
			free(p->said);
			p->said = mem_text(err_text());
		}
	}
	pthread_cond_signal(&p->ended);
	pthread_mutex_unlock(&p->lock);
}

static void *
work(void *own)
{
	struct pool *p = own;
	size_t i;

	while (take(p, &i))
		end(p, i, p->piece(p->own, i));
	return NULL;
}

/* Waits for a piece to end, not longer than who watches may wait; true: nothing is at work any more. */
static bool
wait_end(struct pool *p, size_t *done)
{
	struct timespec t;
	bool over;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += WATCH_NS;
	if (t.tv_nsec >= 1000000000) {
		t.tv_nsec -= 1000000000;
		t.tv_sec++;
	}
	pthread_mutex_lock(&p->lock);
	if (p->done < p->next)
		pthread_cond_timedwait(&p->ended, &p->lock, &t);
	*done = p->done;
	over = p->done == p->next && (p->next == p->n || p->stopped);
	pthread_mutex_unlock(&p->lock);
	return over;
}

static int
look(struct pool *p, int (*watch)(void *own, size_t done))
{
	size_t done;
	int rc;

	pthread_mutex_lock(&p->lock);
	done = p->done;
	pthread_mutex_unlock(&p->lock);
	rc = watch(p->own, done);
	if (rc >= 0)
		return 0;
	pthread_mutex_lock(&p->lock);
	p->stopped = true;
	pthread_mutex_unlock(&p->lock);
	return rc;
}

/* The caller's part where somebody watches. */
static int
work_watched(struct pool *p, int (*watch)(void *own, size_t done))
{
	size_t i, done = 0;
	int rc = look(p, watch);

	while (take(p, &i)) {
		end(p, i, p->piece(p->own, i));
		rc = look(p, watch);
	}
	while (!wait_end(p, &done))
		if (rc == 0)
			rc = look(p, watch);
	return rc;
}

static void
open_pool(struct pool *p)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->ended, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&p->lock, NULL);
}

int
pool_watch(size_t n, int threads, int (*piece)(void *own, size_t i), void *own, int (*watch)(void *own, size_t done))
{
	struct pool p = {.n = n, .piece = piece, .own = own, .failed = n};
	pthread_t helpers[MOST_THREADS];
	size_t wanted = threads > MOST_THREADS ? MOST_THREADS : threads > 1 ? (size_t)threads : 1, k = 0;
	int rc = 0;

	if (wanted > n)
		wanted = n;
	open_pool(&p);
	while (k + 1 < wanted && pthread_create(&helpers[k], NULL, work, &p) == 0)
		k++;
	if (watch)
		rc = work_watched(&p, watch);
	else
		work(&p);
	while (k)
		pthread_join(helpers[--k], NULL);
	pthread_cond_destroy(&p.ended);
	pthread_mutex_destroy(&p.lock);
	if (p.said)
		rc = err_set(p.code, "%s", p.said);
	free(p.said);
	return rc;
}

int
pool_run(size_t n, int threads, int (*piece)(void *own, size_t i), void *own)
{
	return pool_watch(n, threads, piece, own, NULL);
}
