#include "qjob/cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "qjob/cli/commands.h"

/* A signal reaches nothing but a global. */
static volatile int stop;

static void *
wait_for_signals(void *own)
{
	static const char words[] = "\nqjob: stopping; what is finished is kept (again to stop at once)\n";
	const sigset_t *set = own;
	int number;

	sigwait(set, &number);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	if (write(STDERR_FILENO, words, sizeof(words) - 1) >= 0)
		sigwait(set, &number);
	_exit(EXIT_INTERRUPTED);
}

/* A signal that the caller ignores, as a shell does for what it runs behind its back, stays ignored. */
static void
add_unless_ignored(sigset_t *set, int number)
{
	struct sigaction a;

	if (sigaction(number, NULL, &a) == 0 && a.sa_handler != SIG_IGN)
		sigaddset(set, number);
}

void
interrupt_catch(void)
{
	static sigset_t set;
	pthread_t thread;

	sigemptyset(&set);
	add_unless_ignored(&set, SIGINT);
	add_unless_ignored(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (pthread_create(&thread, NULL, wait_for_signals, &set) == 0)
		pthread_detach(thread);
	else
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);   /* then they end the process, as they would have */
}

bool
interrupted(void)
{
	return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

volatile const int *
interrupt_flag(void)
{
	return &stop;
}
