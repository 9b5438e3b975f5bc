#include "qjob/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qjob/base/fault.h"
#include "tests/t.h"

static void
assert_content(const char *path, const char *want)
{
	struct buf b = {0};

	assert_ok(file_read(&b, path, 1 << 20));
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
}

static size_t
count_names(const char *dir)
{
	char **names;
	size_t n;

	assert_ok(dir_names(&names, &n, dir));
	dir_names_free(names, n);
	return n;
}

static void
maps_and_reads(void **state)
{
	char *dir = t_dir(), *path = path_join(dir, "f");
	struct file_view v;
	struct buf b = {0};

	(void)state;
	assert_ok(file_replace(path, "hello", 5));
	assert_ok(file_map(&v, path));
	assert_int_equal(v.n, 5);
	assert_memory_equal(v.p, "hello", 5);
	file_unmap(&v);
	assert_null(v.p);
	buf_puts(&b, "> ");
	assert_ok(file_read(&b, path, 5));
	assert_string_equal(buf_text(&b), "> hello");
	assert_int_equal(file_read(&b, path, 4), E_DATA);
	assert_string_equal(err_text() + strlen(path), ": larger than 4 bytes");
	assert_string_equal(buf_text(&b), "> hello");
	assert_ok(file_replace(path, "", 0));
	assert_ok(file_map(&v, path));
	assert_null(v.p);
	assert_int_equal(v.n, 0);
	file_unmap(&v);
	buf_release(&b);
	free(path);
	t_dir_end(dir);
}

static void
refuses_what_is_no_file(void **state)
{
	char *dir = t_dir(), *pipe = path_join(dir, "pipe"), *copy = path_join(dir, "copy");
	struct file_view v;
	struct buf b = {0};
	struct file_id id;

	(void)state;
	assert_int_equal(file_map(&v, "absent"), E_SYS);
	assert_string_equal(err_text(), "absent: No such file or directory");
	assert_int_equal(file_map(&v, "/"), E_DATA);
	assert_string_equal(err_text(), "/: not a regular file");
	assert_int_equal(file_read(&b, "/", 10), E_SYS);
	assert_string_equal(err_text(), "/: Is a directory");
	assert_int_equal(file_id(&id, "absent"), E_SYS);
	assert_int_equal(mkfifo(pipe, 0600), 0);
	assert_int_equal(file_map(&v, pipe), E_DATA);    /* and does not wait for a writer */
	assert_int_equal(file_copy(pipe, copy), E_DATA);
	assert_false(file_exists(copy));
	buf_release(&b);
	free(pipe);
	free(copy);
	t_dir_end(dir);
}

static void
names_a_file_by_its_id(void **state)
{
	char *dir = t_dir(), *path = path_join(dir, "f");
	struct file_id a, b, c;

	(void)state;
	assert_ok(file_replace(path, "1", 1));
	assert_ok(file_id(&a, path));
	assert_ok(file_id(&b, path));
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(a.size, 1);
	assert_ok(file_replace(path, "22", 2));
	assert_ok(file_id(&c, path));
	assert_memory_not_equal(&a, &c, sizeof(a));
	free(path);
	t_dir_end(dir);
}

static void
respects_umask(void **state)
{
	char *dir = t_dir(), *path = path_join(dir, "f");
	mode_t was = umask(027);
	struct stat st;

	(void)state;
	assert_ok(file_replace(path, "x", 1));
	umask(was);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	free(path);
	t_dir_end(dir);
}

/* Fails the first, second, ... fallible call: the file is then the old one or the new one, and nothing else is left. */
static void
replaces_all_or_nothing(void **state)
{
	char *dir = t_dir(), *path = path_join(dir, "f");
	int failed = 0;

	(void)state;
	for (int nth = 0;; nth++) {
		struct buf b = {0};
		int rc;

		assert_ok(file_replace(path, "old", 3));
		fault_arm(nth);
		rc = file_replace(path, "new text", 8);
		if (!fault_fired())
			break;
		fault_arm(-1);
		failed++;
		assert_int_equal(rc, E_SYS);
		assert_ok(file_read(&b, path, 100));
		if (strcmp(buf_text(&b), "new text") != 0)
			assert_string_equal(buf_text(&b), "old");
		buf_release(&b);
		assert_int_equal(count_names(dir), 1);
	}
	fault_arm(-1);
	assert_content(path, "new text");
	assert_int_equal(failed, 6);    /* create, write, sync, rename, open and sync of the folder */
	free(path);
	t_dir_end(dir);
}

static void
copies_all_or_nothing(void **state)
{
	size_t n = 2 * 1048576 + 5, ways = 0;
	char *dir = t_dir(), *from = path_join(dir, "from"), *to = path_join(dir, "to"), *big = mem_new(n, 1);
	struct file_view v;

	(void)state;
	for (size_t i = 0; i < n; i++)
		big[i] = (char)(i * 31 >> 3);
	assert_ok(file_replace(from, big, n));
	for (int nth = 0;; nth++) {
		int rc;

		assert_ok(file_replace(to, "old", 3));
		fault_arm(nth);
		rc = file_copy(from, to);
		if (rc == 0 && fault_fired())
			ways++;    /* clone or range refused, another way taken */
		if (rc == 0) {
			bool fired = fault_fired();

			fault_arm(-1);
			assert_ok(file_map(&v, to));
			assert_int_equal(v.n, n);
			assert_memory_equal(v.p, big, n);
			file_unmap(&v);
			if (!fired)
				break;
		} else {
			fault_arm(-1);
			assert_ok(file_map(&v, to));
			assert_true(v.n == 3 || v.n == n);
			file_unmap(&v);
		}
		assert_int_equal(count_names(dir), 2);
	}
	assert_true(ways >= 1);
	free(big);
	free(from);
	free(to);
	t_dir_end(dir);
}

static void
copies_over_and_says_what_is_absent(void **state)
{
	char *dir = t_dir(), *from = path_join(dir, "from"), *to = path_join(dir, "to");

	(void)state;
	assert_int_equal(file_copy("absent", to), E_SYS);
	assert_string_equal(err_text(), "absent: No such file or directory");
	assert_ok(file_replace(from, "", 0));
	assert_ok(file_copy(from, to));
	assert_content(to, "");
	assert_ok(file_replace(from, "abc", 3));
	assert_ok(file_copy(from, to));
	assert_content(to, "abc");
	assert_ok(file_sync(to));
	free(from);
	free(to);
	t_dir_end(dir);
}

static void
steps_over_litter_of_a_crash(void **state)
{
	char *dir = t_dir(), *path = path_join(dir, "f");
	char *litter = mem_format("%s.tmp.%ld.0", path, (long)getpid());

	(void)state;
	assert_ok(file_replace(litter, "torn", 4));
	assert_ok(file_replace(path, "whole", 5));
	assert_content(path, "whole");
	assert_content(litter, "torn");
	free(litter);
	free(path);
	t_dir_end(dir);
}

static void
makes_and_removes_folders(void **state)
{
	char *dir = t_dir(), *deep = path_join(dir, "a/b//c/"), *file = path_join(deep, "f"), *top = path_join(dir, "a");
	char *inside = path_join(file, "x"), *kept = path_join(dir, "kept"), *link = path_join(deep, "link");

	(void)state;
	assert_ok(dir_make(deep));
	assert_ok(dir_make(deep));
	assert_ok(dir_make(dir));
	assert_ok(file_replace(file, "x", 1));
	assert_int_equal(dir_make(file), E_SYS);
	assert_string_equal(err_text() + strlen(file), ": exists and is not a folder");
	assert_int_equal(dir_make(inside), E_SYS);
	assert_int_equal(dir_make(""), E_SYS);
	assert_ok(dir_make(kept));
	assert_int_equal(symlink(kept, link), 0);
	assert_ok(dir_remove(top));
	assert_false(file_exists(top));
	assert_true(file_exists(kept));    /* links are removed, not followed */
	assert_ok(dir_remove(top));
	free(deep);
	free(file);
	free(top);
	free(inside);
	free(kept);
	free(link);
	t_dir_end(dir);
}

static void
removing_survives_refusals(void **state)
{
	char *dir = t_dir(), *a = path_join(dir, "a"), *b = path_join(dir, "a/b"), *f = path_join(dir, "a/b/f");
	int failed = 0;

	(void)state;
	for (int nth = 0;; nth++) {
		int rc;

		assert_ok(dir_make(b));
		assert_ok(file_replace(f, "x", 1));
		fault_arm(nth);
		rc = dir_remove(a);
		if (!fault_fired())
			break;
		fault_arm(-1);
		failed += rc == E_SYS;
		assert_int_equal(rc, E_SYS);
	}
	fault_arm(-1);
	assert_true(failed > 5);
	assert_false(file_exists(a));
	free(a);
	free(b);
	free(f);
	t_dir_end(dir);
}

static void
lists_names_by_byte_value(void **state)
{
	static const char *const names[] = {"b", "B", "a10", "a9", "_", "\xc3\xa9", ".hidden"};
	static const char *const sorted[] = {".hidden", "B", "_", "a10", "a9", "b", "\xc3\xa9"};
	char *dir = t_dir(), **found;
	size_t n;

	(void)state;
	for (size_t i = 0; i < 7; i++) {
		char *path = path_join(dir, names[i]);

		assert_ok(file_replace(path, "", 0));
		free(path);
	}
	assert_ok(dir_names(&found, &n, dir));
	assert_int_equal(n, 7);
	for (size_t i = 0; i < 7; i++)
		assert_string_equal(found[i], sorted[i]);
	dir_names_free(found, n);
	fault_arm(3);
	assert_int_equal(dir_names(&found, &n, dir), E_SYS);
	fault_arm(-1);
	assert_null(found);
	assert_int_equal(n, 0);
	assert_int_equal(dir_names(&found, &n, "absent"), E_SYS);
	assert_string_equal(err_text(), "absent: No such file or directory");
	t_dir_end(dir);
}

static void
joins_paths(void **state)
{
	static const char *const rows[][3] = {
		{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"a", "/b", "/b"}, {"/", "b", "/b"}, {"a b", "c d", "a b/c d"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *p = path_join(rows[i][0], rows[i][1]);

		assert_string_equal(p, rows[i][2]);
		free(p);
	}
	assert_null(path_real("absent"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_and_reads),
		cmocka_unit_test(refuses_what_is_no_file),
		cmocka_unit_test(names_a_file_by_its_id),
		cmocka_unit_test(respects_umask),
		cmocka_unit_test(replaces_all_or_nothing),
		cmocka_unit_test(copies_all_or_nothing),
		cmocka_unit_test(copies_over_and_says_what_is_absent),
		cmocka_unit_test(steps_over_litter_of_a_crash),
		cmocka_unit_test(makes_and_removes_folders),
		cmocka_unit_test(removing_survives_refusals),
		cmocka_unit_test(lists_names_by_byte_value),
		cmocka_unit_test(joins_paths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
