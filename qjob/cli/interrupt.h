/* Interrupts: SIGINT and SIGTERM ask a run to stop, a second one ends the process at once.
 *
 * They are waited for by a thread of their own and blocked in all others, so no signal frame is ever pushed onto the stack of
 * a thread that computes: generated kernels (oneDNN's fp32 products) may use the stack pointer for other ends, and a frame
 * would then land in the heap. */
#ifndef QJOB_CLI_INTERRUPT_H
#define QJOB_CLI_INTERRUPT_H

#include <stdbool.h>

/* Called once, before any thread is started. */
void interrupt_catch(void);
bool interrupted(void);
/* What engine_run watches: becomes nonzero. */
volatile const int *interrupt_flag(void);

#endif
