#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/store.h"
#include "tests/t.h"

#define KEY "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static enum { REAL, ALWAYS, REFUSED } mode;
static char *root;
static struct store *s;

/* In place of the system's: some file systems let everybody through, or know no locks. */
int
flock(int fd, int op)
{
	if (mode == ALWAYS)
		return 0;
	if (mode == REFUSED) {
		errno = ENOLCK;
		return -1;
	}
	return (int)syscall(SYS_flock, fd, op);
}

static int
set_up(void **state)
{
	(void)state;
	mode = REAL;
	root = t_dir();
	return store_open(&s, root);
}

static int
tear_down(void **state)
{
	(void)state;
	store_close(s);
	t_dir_end(root);
	return 0;
}

static void
one_at_a_time(void **state)
{
	int a, b;
	long owner;
	char *path = path_join(root, "lock/" KEY);

	(void)state;
	assert_int_equal(store_lock(s, KEY, &a, &owner), 1);
	assert_int_equal(store_lock(s, KEY, &b, &owner), 0);
	assert_int_equal(owner, getpid());
	store_unlock(s, KEY, a);
	assert_false(file_exists(path));
	assert_int_equal(store_lock(s, KEY, &b, &owner), 1);
	store_unlock(s, KEY, b);
	free(path);
}

static void
the_dead_hold_nothing(void **state)
{
	int fd, ready[2], status;
	long owner;
	char c;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		if (!store_lock(s, KEY, &fd, &owner) || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(store_lock(s, KEY, &fd, &owner), 0);
	assert_int_equal(owner, pid);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	assert_int_equal(store_lock(s, KEY, &fd, &owner), 1);
	store_unlock(s, KEY, fd);
	close(ready[0]);
	close(ready[1]);
}

static void
never_blocks_where_locks_do_not_work(void **state)
{
	int a, b;
	long owner;
	char *path = path_join(root, "lock");

	(void)state;
	mode = REFUSED;
	assert_int_equal(store_lock(s, KEY, &a, &owner), 1);
	assert_int_equal(store_lock(s, KEY, &b, &owner), 1);
	store_unlock(s, KEY, a);
	store_unlock(s, KEY, b);
	mode = ALWAYS;
	assert_int_equal(store_lock(s, KEY, &a, &owner), 1);
	assert_int_equal(store_lock(s, KEY, &b, &owner), 1);
	store_unlock(s, KEY, a);
	store_unlock(s, KEY, b);
	mode = REAL;
	assert_ok(dir_remove(path));
	assert_ok(file_replace(path, "x", 1));    /* a file where the folder should be */
	assert_int_equal(store_lock(s, KEY, &a, &owner), 1);
	assert_int_equal(a, -1);
	store_unlock(s, KEY, a);
	free(path);
}

enum { THREADS = 8, TURNS = 300 };
static int inside, turns;

static void *
take_turns(void *own)
{
	(void)own;
	for (int i = 0; i < TURNS;) {
		int fd;
		long owner;

		if (!store_lock(s, KEY, &fd, &owner))
			continue;
		assert_int_equal(__atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST), 1);
		__atomic_add_fetch(&turns, 1, __ATOMIC_SEQ_CST);
		__atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
		store_unlock(s, KEY, fd);
		i++;
	}
	return NULL;
}

/* Removing the file at each release must never let two in. */
static void
excludes_threads(void **state)
{
	pthread_t t[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, take_turns, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(turns, THREADS * TURNS);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_at_a_time, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_dead_hold_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(never_blocks_where_locks_do_not_work, set_up, tear_down),
		cmocka_unit_test_setup_teardown(excludes_threads, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
