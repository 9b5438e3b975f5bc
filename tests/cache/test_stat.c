#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache/store.h"
#include "qjob/base/fault.h"
#include "tests/t.h"

static char *root, *file;
static struct store *s;

static void
write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void
reopen(void)
{
	char *dir = path_join(root, "store");

	store_close(s);
	assert_ok(store_open(&s, dir));
	free(dir);
}

static int
set_up(void **state)
{
	(void)state;
	root = t_dir();
	file = path_join(root, "input");
	s = NULL;
	reopen();
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	fault_arm(-1);
	store_close(s);
	free(file);
	t_dir_end(root);
	return 0;
}

/* An old enough file, and a store opened after it. */
static void
settled(const char *text)
{
	write_file(file, text);
	stat_settle(file);
	reopen();
}

static void
expect(const char *what, const char *text)
{
	struct buf b = {0};

	assert_int_equal(stat_get(s, file, what, &b), text != NULL);
	assert_string_equal(buf_text(&b), text ? text : "");
	buf_release(&b);
}

static void
remembers_by_file_and_question(void **state)
{
	(void)state;
	settled("one");
	expect("sha256", NULL);
	stat_put(s, file, "sha256", "abc");
	stat_put(s, file, "tensors 1", "");
	expect("sha256", "abc");
	expect("tensors 1", "");
	expect("tensors 2", NULL);
	stat_put(s, file, "sha256", "abcd");
	expect("sha256", "abcd");
	reopen();
	expect("sha256", NULL);    /* was not saved */
}

static void
survives_saving(void **state)
{
	char *moved = path_join(root, "moved"), *dir = path_join(root, "dir");

	(void)state;
	settled("one");
	stat_put(s, file, "sha256", "abc");
	assert_ok(stat_save(s));
	reopen();
	expect("sha256", "abc");
	/* Renaming the folder around it is no change. */
	assert_ok(dir_make(dir));
	free(file);
	file = path_join(dir, "input");
	write_file(file, "two");
	stat_settle(file);
	reopen();
	stat_put(s, file, "sha256", "def");
	assert_ok(stat_save(s));
	assert_int_equal(rename(dir, moved), 0);
	free(file);
	file = path_join(moved, "input");
	reopen();
	expect("sha256", "def");
	free(dir);
	free(moved);
}

static void
a_young_file_is_not_remembered(void **state)
{
	(void)state;
	write_file(file, "one");
	reopen();
	stat_put(s, file, "sha256", "abc");
	expect("sha256", NULL);
	stat_settle(file);
	stat_put(s, file, "sha256", "abc");
	expect("sha256", "abc");
}

static void
a_file_that_changed_since_opening_is_not_remembered(void **state)
{
	/* Times of files lag behind the clock by up to a tick. */
	static const struct timespec tick = {.tv_nsec = 20 * 1000 * 1000};

	(void)state;
	nanosleep(&tick, NULL);
	write_file(file, "one");
	stat_settle(file);
	stat_put(s, file, "sha256", "abc");
	expect("sha256", NULL);
	reopen();
	stat_put(s, file, "sha256", "abc");
	expect("sha256", "abc");
}

static void
our_own_file_is_remembered_and_saving_waits(void **state)
{
	struct file_id id;
	struct timespec now;

	(void)state;
	write_file(file, "one");
	stat_own(s, file, "sha256", "abc");
	expect("sha256", "abc");
	assert_ok(file_id(&id, file));
	assert_ok(stat_save(s));
	clock_gettime(CLOCK_REALTIME, &now);
	assert_true((int64_t)now.tv_sec * 1000000000 + now.tv_nsec - id.ctime_ns >= 20000000);
}

static void
any_change_is_a_miss(void **state)
{
	struct stat st;

	(void)state;
	settled("one");
	stat_put(s, file, "sha256", "abc");
	/* Same size, and the modification time set back: the change time still tells. */
	assert_int_equal(stat(file, &st), 0);
	write_file(file, "two");
	assert_int_equal(utimensat(AT_FDCWD, file, (struct timespec[2]){st.st_atim, st.st_mtim}, 0), 0);
	expect("sha256", NULL);
	stat_settle(file);
	reopen();
	stat_put(s, file, "sha256", "def");
	expect("sha256", "def");
	assert_int_equal(unlink(file), 0);
	expect("sha256", NULL);
}

static void
processes_merge_what_they_learned(void **state)
{
	struct store *other;
	char *dir = path_join(root, "store");

	(void)state;
	settled("one");
	assert_ok(store_open(&other, dir));
	stat_put(s, file, "a", "1");
	stat_put(other, file, "b", "2");
	stat_put(s, file, "c", "old");
	stat_put(other, file, "c", "new");
	assert_ok(stat_save(s));
	assert_ok(stat_save(other));
	store_close(other);
	reopen();
	expect("a", "1");
	expect("b", "2");
	expect("c", "new");
	free(dir);
}

/* Every truncation and every changed byte: nothing is remembered, nothing breaks. */
static void
a_broken_file_counts_as_empty(void **state)
{
	struct buf good = {0};
	char *path = path_join(root, "store/stat");

	(void)state;
	settled("one");
	stat_put(s, file, "sha256", "abc");
	assert_ok(stat_save(s));
	assert_ok(file_read(&good, path, 100000));
	for (size_t n = 0; n < good.n; n++) {
		write_file(path, "");
		assert_ok(file_replace(path, good.p, n));
		reopen();
		expect("sha256", NULL);
	}
	for (size_t n = 0; n < good.n; n++) {
		if (n >= 65 && n < 72)
			continue;    /* room behind the check sum */
		good.p[n] ^= 4;
		assert_ok(file_replace(path, good.p, good.n));
		reopen();
		good.p[n] ^= 4;
		expect("sha256", NULL);
	}
	assert_ok(file_replace(path, good.p, good.n));
	reopen();
	expect("sha256", "abc");
	stat_put(s, file, "more", "x");
	assert_ok(file_replace(path, "garbage", 7));
	assert_ok(stat_save(s));
	reopen();
	expect("more", "x");
	expect("sha256", NULL);
	buf_release(&good);
	free(path);
}

static void
saves_nothing_when_nothing_is_new(void **state)
{
	char *path = path_join(root, "store/stat");

	(void)state;
	assert_ok(stat_save(s));
	assert_false(file_exists(path));
	settled("one");
	stat_put(s, file, "sha256", "abc");
	fault_arm(2);
	assert_int_equal(stat_save(s), E_SYS);
	fault_arm(-1);
	assert_ok(stat_save(s));
	assert_true(file_exists(path));
	assert_int_equal(unlink(path), 0);
	assert_ok(stat_save(s));
	assert_false(file_exists(path));
	free(path);
}

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void
ten_thousand_entries_load_fast(void **state)
{
	double began;
	char what[32], want[80];

	(void)state;
	settled("one");
	for (int i = 0; i < 10000; i++) {
		snprintf(what, sizeof(what), "tensor %d", i);
		snprintf(want, sizeof(want), "%064d", i);
		stat_put(s, file, what, want);
	}
	assert_ok(stat_save(s));
	began = seconds();
	reopen();
	print_message("loaded 10000 entries in %.2f ms\n", 1e3 * (seconds() - began));
	for (int i = 0; i < 10000; i += 7) {
		snprintf(what, sizeof(what), "tensor %d", i);
		snprintf(want, sizeof(want), "%064d", i);
		expect(what, want);
	}
	expect("tensor 10000", NULL);
}

/* Most of a test's time is waiting for the disk; a folder in memory needs none.  Where there is none, the current one does. */
static void
in_memory(void)
{
	if (chdir("/dev/shm") != 0)
		print_message("no /dev/shm: on disk\n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		T(remembers_by_file_and_question),
		T(survives_saving),
		T(a_young_file_is_not_remembered),
		T(a_file_that_changed_since_opening_is_not_remembered),
		T(our_own_file_is_remembered_and_saving_waits),
		T(any_change_is_a_miss),
		T(processes_merge_what_they_learned),
		T(a_broken_file_counts_as_empty),
		T(saves_nothing_when_nothing_is_new),
		T(ten_thousand_entries_load_fast),
#undef T
	};

	in_memory();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
