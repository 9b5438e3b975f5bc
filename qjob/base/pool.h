/* Pool: a list of independent pieces, done by several threads.
 *
 *     pool_run(n, pool_threads(), digest_one, &all);
 *
 * runs digest_one(&all, i) for every i below n and returns when all have ended.  Pieces start in order, each on whichever
 * thread is free, the caller's among them; a piece writes only what is its own, so results do not depend on how many
 * threads there are.  After a failure no further piece starts, and the failure of the smallest i is returned with its
 * sentence: what the caller sees does not depend on threads either.  Where no thread can be had the caller does it all. */
#ifndef QJOB_BASE_POOL_H
#define QJOB_BASE_POOL_H

#include <stddef.h>

/* Processors that this process may use, at least 1. */
int pool_threads(void);
/* Threads for work that goes on beside arithmetic and may not starve it: one processor is left, and there is a most. */
int pool_threads_beside(void);

/* 0, or the failure of the smallest i; piece returns 0 or a negative code with its sentence set. */
int pool_run(size_t n, int threads, int (*piece)(void *own, size_t i), void *own);

/* The same, with somebody who watches: called on the caller's thread, between its own pieces and several times a second once
 * it has none left, with the number of pieces that have ended.  A negative result stops as a failure does, and is what is returned,
 * unless a piece failed. */
int pool_watch(size_t n, int threads, int (*piece)(void *own, size_t i), void *own, int (*watch)(void *own, size_t done));

#endif
