#include "kernels/cuda/ahead.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/pinned.h"

enum {
	MOST = 64, ALIGN = 256,
	SLICE = 16 << 20,            /* bytes copied between two looks at what is wanted: the longest that a new list waits */
};

struct list {
	unsigned long number;        /* of lists that were to be read, from 1 */
	struct span v[MOST];
	size_t at[MOST];             /* in bytes */
	size_t n;                    /* 0: nothing is wanted (any more) */
	size_t size;                 /* of all copies */
	size_t done, part;           /* so many are copied, and so much of the next one */
};

/* Under the lock, but for what is the thread's alone.  While it reads, the list stays what it is except that n may become 0. */
struct ahead {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	int ordinal;
	bool started, over;
	bool reading;                /* the thread, from what was announced */
	struct list list;            /* the latest */
	cudaEvent_t put;             /* recorded when a list came: the card has read what was put before */
	/* The thread's.  Others take addresses in bytes, of pieces that are done: it changes them while there are none. */
	unsigned long prepared;      /* the memory is ready for this list */
	char *bytes;                 /* pinned */
	size_t size;
};

/* ---- the thread ---- */

/* Memory for so many bytes, which nobody reads any more.  Lists of a model's blocks are alike, so this allocates once in a run.  A
 * failure leaves no trace: the runtime keeps the last error of each thread apart. */
static bool
has_room(struct ahead *a, size_t bytes)
{
	if (a->size >= bytes)
		return true;
	pinned_back(a->bytes, a->size);
	a->size = pinned_take((void **)&a->bytes, bytes) == cudaSuccess ? bytes : 0;
	return a->size > 0;
}

/* Makes the memory ready for the list, without the lock: it takes as long as the card takes to get to the event, and pinning takes
 * its time.  Another list may have come since; then its event may not have been waited for, and it is prepared in turn. */
static void
prepare(struct ahead *a)
{
	unsigned long number = a->list.number;
	size_t size = a->list.size;
	bool good;

	pthread_mutex_unlock(&a->lock);
	good = cudaEventSynchronize(a->put) == cudaSuccess && has_room(a, size);
	pthread_mutex_lock(&a->lock);
	if (good)
		a->prepared = number;
	else if (a->list.number == number)
		a->list.n = 0;
	pthread_cond_broadcast(&a->changed);
}

static void
copy_slice(struct ahead *a)
{
	struct list *l = &a->list;
	size_t i = l->done, part = l->part, left = l->v[i].n - part, n = left < SLICE ? left : SLICE;

	a->reading = true;
	pthread_mutex_unlock(&a->lock);
	memcpy(a->bytes + l->at[i] + part, (const char *)l->v[i].p + part, n);
	pthread_mutex_lock(&a->lock);
	a->reading = false;
	l->part = n < left ? part + n : 0;
	l->done = n < left ? i : i + 1;
	pthread_cond_broadcast(&a->changed);
}

/* Waits until there is something to do; false: it is over. */
static bool
is_wanted(struct ahead *a)
{
	while (!a->over && a->list.done >= a->list.n)
		pthread_cond_wait(&a->changed, &a->lock);
	return !a->over;
}

static void *
work(void *own)
{
	struct ahead *a = own;

	cudaSetDevice(a->ordinal);      /* each thread has its own */
	pthread_mutex_lock(&a->lock);
	while (is_wanted(a)) {
		if (a->prepared != a->list.number)
			prepare(a);
		else
			copy_slice(a);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* ---- the caller ---- */

struct ahead *
ahead_open(int ordinal)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	a->ordinal = ordinal;
	if (cudaEventCreateWithFlags(&a->put, cudaEventDisableTiming | cudaEventBlockingSync) == cudaSuccess)
		a->started = pthread_create(&a->thread, NULL, work, a) == 0;
	else
		cudaGetLastError();      /* nothing that later calls should hear of */
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
	pinned_back(a->bytes, a->size);
	if (a->put)
		cudaEventDestroy(a->put);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static size_t
aligned(size_t n)
{
	return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static void
fill(struct list *l, const struct span *v, size_t n)
{
	l->number++;
	l->n = n < MOST ? n : MOST;
	l->size = l->done = l->part = 0;
	for (size_t i = 0; i < l->n; i++) {
		l->v[i] = v[i];
		l->at[i] = l->size;
		l->size += aligned(v[i].n);
	}
}

/* Every copy out of the memory was put into the stream by the caller, before this: the event comes after them all, and the thread
 * waits for it before it writes. */
void
ahead_announce(struct ahead *a, const struct span *v, size_t n, cudaStream_t stream)
{
	bool recorded;

	if (!a->started)
		return;
	recorded = n > 0 && cudaEventRecord(a->put, stream) == cudaSuccess;
	if (n > 0 && !recorded)
		cudaGetLastError();
	pthread_mutex_lock(&a->lock);
	a->list.n = 0;                  /* else the thread would go on to the next slice before this one wakes */
	while (a->reading)
		pthread_cond_wait(&a->changed, &a->lock);
	if (recorded)
		fill(&a->list, v, n);
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
}

const void *
ahead_find(struct ahead *a, const void *p, size_t n)
{
	struct list *l = &a->list;
	const void *found = NULL;

	if (!a->started)
		return NULL;
	pthread_mutex_lock(&a->lock);
	for (size_t i = 0; i < l->n && !found; i++) {
		if (l->v[i].p != p || l->v[i].n != n)
			continue;
		while (i < l->n && l->done <= i)
			pthread_cond_wait(&a->changed, &a->lock);
		if (i < l->n)
			found = a->bytes + l->at[i];
	}
	pthread_mutex_unlock(&a->lock);
	return found;
}
