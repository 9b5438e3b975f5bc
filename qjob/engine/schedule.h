/* Which node may start next.  Call with run->lock held, except open, close, start and what runs before any thread does. */
#ifndef QJOB_ENGINE_SCHEDULE_H
#define QJOB_ENGINE_SCHEDULE_H

#include "qjob/engine/inside.h"

void schedule_open(struct run *run);       /* edges, lanes, locks */
void schedule_close(struct run *run);      /* drops what lanes still carry */
void schedule_start(struct run *run);      /* everything that waits for nothing is ready */
/* n has given its digests (run->early): the next of its lane, and who needs only those, may be taken. */
void schedule_early(struct run *run, const struct node *n);
/* n ended well; start: those who waited for it may be taken. */
void schedule_end(struct run *run, const struct node *n, bool start);
/* n failed and has ended: ends all that stand behind it, and returns how many; skipped has room for every node.  Who is at work
 * already, on what n gave early, is told that it is in vain, and ends by itself. */
size_t schedule_skip(struct run *run, const struct node *n, size_t *skipped);
void schedule_park(struct run *run, const struct node *n);    /* ready again after a short while */
/* n has ended: nothing is left to do for it. */
void schedule_leave(struct run *run, const struct node *n);
/* The first ready node of the resources (a bit each); waits for one.  NULL: all of them have ended, or the run is to be stopped. */
const struct node *schedule_take(struct run *run, unsigned resources);

#endif
