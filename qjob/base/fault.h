/* Fault points: places where a test may make the system refuse.
 *
 * Write `if (fault("store.rename") || rename(a, b) != 0)`.  They are compiled
 * into every build, so what is tested is what is shipped; unarmed, one costs a
 * comparison beside a system call.
 *
 * The environment arms them too, for tests of whole programs: QJOB_FAULT=7 lets the eighth
 * point fail, QJOB_FAULT=7! kills the process there, as kill -9 would.  It is read once. */
#ifndef QJOB_BASE_FAULT_H
#define QJOB_BASE_FAULT_H

#include <stdbool.h>

void fault_arm(int nth);      /* the nth fault point from now on fails, once; 0: the next one; -1: none */
bool fault_fired(void);       /* since the last fault_arm */
bool fault(const char *name); /* when it fires, sets errno to EIO */

#endif
