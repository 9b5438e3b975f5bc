#include "qjob/base/fault.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/t.h"

/* The number of the point that fails in a process with that environment; 100 + signal when it is killed, 99: none. */
static int
point_of_child(const char *armed)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setenv("QJOB_FAULT", armed, 1);
		for (int i = 0; i < 20; i++)
			if (fault("test"))
				_exit(i);
		_exit(99);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? 100 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* First, while this process has not asked for a fault yet. */
static void
is_armed_by_the_environment(void **state)
{
	(void)state;
	assert_int_equal(point_of_child("3"), 3);
	assert_int_equal(point_of_child("0"), 0);
	assert_int_equal(point_of_child("3!"), 100 + SIGKILL);
	assert_int_equal(point_of_child("50!"), 99);
	assert_int_equal(point_of_child(""), 99);
	assert_int_equal(point_of_child("-1"), 99);
	assert_int_equal(point_of_child("x"), 99);
}

static void
fires_once_at_its_turn(void **state)
{
	(void)state;
	fault_arm(2);
	assert_false(fault("a"));
	assert_false(fault("b"));
	assert_false(fault_fired());
	errno = 0;
	assert_true(fault("c"));
	assert_int_equal(errno, EIO);
	assert_true(fault_fired());
	for (int i = 0; i < 5; i++)
		assert_false(fault("d"));
	assert_true(fault_fired());
	fault_arm(-1);
	assert_false(fault_fired());
	assert_false(fault("e"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_armed_by_the_environment),
		cmocka_unit_test(fires_once_at_its_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
