#include "kernels/cuda/ahead.h"

#include <cuda_runtime.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64, ALIGN = 256 };

/* One list and its copies. */
struct turn {
	struct span v[MOST];
	size_t at[MOST];             /* in bytes */
	size_t n, done;              /* done: the first so many are copied */
	char *bytes;                 /* pinned */
	size_t size;
};

struct ahead {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	bool started, over;
	struct turn turns[2];
	int now;                     /* the latest list */
};

static size_t
aligned(size_t n)
{
	return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* The next piece of the latest list, or false when there is none yet; waits unless it is over. */
static bool
next_piece(struct ahead *a, struct turn **turn, size_t *i)
{
	pthread_mutex_lock(&a->lock);
	while (!a->over && a->turns[a->now].done == a->turns[a->now].n)
		pthread_cond_wait(&a->changed, &a->lock);
	*turn = &a->turns[a->now];
	*i = (*turn)->done;
	pthread_mutex_unlock(&a->lock);
	return !a->over;
}

static void *
work(void *own)
{
	struct ahead *a = own;
	struct turn *t;
	size_t i;

	while (next_piece(a, &t, &i)) {
		memcpy(t->bytes + t->at[i], t->v[i].p, t->v[i].n);
		pthread_mutex_lock(&a->lock);
		t->done = i + 1;
		pthread_cond_broadcast(&a->changed);
		pthread_mutex_unlock(&a->lock);
	}
	return NULL;
}

struct ahead *
ahead_open(void)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	a->started = pthread_create(&a->thread, NULL, work, a) == 0;
	return a;
}

void
ahead_close(struct ahead *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->over = true;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	if (a->started)
		pthread_join(a->thread, NULL);
	for (int i = 0; i < 2; i++)
		cudaFreeHost(a->turns[i].bytes);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

/* Room for a list; lists of a model's blocks are alike, so this allocates twice in a run. */
static bool
has_room(struct turn *t, size_t bytes)
{
	if (t->size >= bytes)
		return true;
	cudaFreeHost(t->bytes);
	t->bytes = NULL;
	t->size = cudaHostAlloc((void **)&t->bytes, bytes, cudaHostAllocDefault) == cudaSuccess ? bytes : 0;
	if (!t->size)
		cudaGetLastError();      /* nothing that later calls should hear of */
	return t->size > 0;
}

void
ahead_announce(struct ahead *a, const struct span *v, size_t n)
{
	struct turn *t;
	size_t bytes = 0;

	if (!a->started)
		return;
	pthread_mutex_lock(&a->lock);
	while (a->turns[a->now].done < a->turns[a->now].n)
		pthread_cond_wait(&a->changed, &a->lock);
	t = &a->turns[a->now ^ 1];
	t->n = t->done = 0;
	for (size_t i = 0; i < n && i < MOST; i++) {
		t->v[i] = v[i];
		t->at[i] = bytes;
		bytes += aligned(v[i].n);
	}
	if (bytes && has_room(t, bytes)) {
		t->n = n < MOST ? n : MOST;
		a->now ^= 1;
		pthread_cond_broadcast(&a->changed);
	}
	pthread_mutex_unlock(&a->lock);
}

const void *
ahead_find(struct ahead *a, const void *p, size_t n)
{
	const void *found = NULL;
	struct turn *t;

	if (!a->started)
		return NULL;
	pthread_mutex_lock(&a->lock);
	t = &a->turns[a->now];
	for (size_t i = 0; i < t->n && !found; i++) {
		if (t->v[i].p != p || t->v[i].n != n)
			continue;
		while (t->done <= i)
			pthread_cond_wait(&a->changed, &a->lock);
		found = t->bytes + t->at[i];
	}
	pthread_mutex_unlock(&a->lock);
	return found;
}
