#include "qjob/base/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { UNARMED = -1, UNREAD = -2 };

static atomic_int left = UNREAD;
static atomic_bool fired, kills;

void
fault_arm(int nth)
{
	atomic_store(&fired, false);
	atomic_store(&kills, false);
	atomic_store(&left, nth < 0 ? UNARMED : nth);
}

bool
fault_fired(void)
{
	return atomic_load(&fired);
}

static void
read_environment(void)
{
	const char *s = getenv("QJOB_FAULT");
	int seen = UNREAD, nth = UNARMED;
	char *end;
	long n;

	if (s) {
		n = strtol(s, &end, 10);
		if (end != s && n >= 0 && n < 1 << 30)
			nth = (int)n;
		if (*end == '!')
			atomic_store(&kills, true);
	}
	atomic_compare_exchange_strong(&left, &seen, nth);
}

bool
fault(const char *name)
{
	int n = atomic_load_explicit(&left, memory_order_relaxed);

	(void)name;  /* for the reader, and for grep */
	if (n == UNREAD) {
		read_environment();
		n = atomic_load(&left);
	}
	while (n >= 0 && !atomic_compare_exchange_weak(&left, &n, n - 1))
		;
	if (n != 0)
		return false;
	if (atomic_load(&kills))
		raise(SIGKILL);
	atomic_store(&fired, true);
	errno = EIO;
	return true;
}
