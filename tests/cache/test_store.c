#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/key.h"
#include "cache/store.h"
#include "qjob/base/fault.h"
#include "tests/t.h"

static char *root;
static char notes[8192];

static int
set_up(void **state)
{
	(void)state;
	root = t_dir();
	notes[0] = '\0';
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	fault_arm(-1);
	t_dir_end(root);
	return 0;
}

static void
hear(void *own, const char *text)
{
	size_t n = strlen(notes);

	(void)own;
	snprintf(notes + n, sizeof(notes) - n, "%s\n", text);
}

static struct store *
open_store(void)
{
	struct store *s;
	char *dir = path_join(root, "store");

	assert_ok(store_open(&s, dir));
	store_listen(s, hear, NULL);
	free(dir);
	return s;
}

static const char *
key_of(const char *fact)
{
	static char key[SHA256_HEX];
	struct buf in = {0}, out = {0};

	buf_puts(&in, fact);
	key_make(&in, &out, key);
	buf_release(&in);
	buf_release(&out);
	return key;
}

static int
write_output(const char *dir, const char *name, const char *text)
{
	char *path = path_join(dir, name);
	FILE *f = fopen(path, "w");

	free(path);
	if (!f)
		return err_sys("%s", name);
	fputs(text, f);
	return fclose(f) == 0 ? 0 : err_sys("%s", name);
}

static void
begin_record(struct record *r, const char *key)
{
	*r = (struct record){0};
	memcpy(r->key, key, SHA256_HEX);
	buf_puts(&r->manifest, "qjob-key 1\nset a 1\n");
}

/* One node with two files and a digest, as the engine makes it. */
static int
publish(struct store *s, const char *key)
{
	struct record r;
	char *dir;
	int rc = store_begin(s, key, &dir);

	if (rc < 0)
		return rc;
	begin_record(&r, key);
	record_add(&r, "activations", key);
	rc = write_output(dir, "weights", "0123456789");
	if (rc == 0)
		rc = write_output(dir, "report", "");
	if (rc == 0)
		rc = store_commit(s, &r, dir);
	if (rc < 0)
		store_abandon(s, dir);
	record_release(&r);
	free(dir);
	return rc;
}

static char *
blob_path(struct store *s, const char *text)
{
	char hex[SHA256_HEX];

	sha256_of(text, strlen(text), hex);
	return store_blob(s, hex);
}

static size_t
count_names(const char *folder)
{
	char *dir = mem_format("%s/store/%s", root, folder), **names;
	size_t n = 0;

	if (file_exists(dir)) {
		assert_ok(dir_names(&names, &n, dir));
		dir_names_free(names, n);
	}
	free(dir);
	return n;
}

static void
spoil(const char *path, long at, int c)
{
	FILE *f;

	assert_int_equal(chmod(path, 0644), 0);
	f = fopen(path, "r+");
	assert_non_null(f);
	fseek(f, at, SEEK_SET);
	fputc(c, f);
	fclose(f);
}

/* ---- */

static void
commits_and_finds(void **state)
{
	struct store *s = open_store();
	struct record r;
	struct buf text = {0};
	struct stat st;
	const char *key = key_of("a");
	char *path;

	(void)state;
	assert_int_equal(store_get(s, key, &r), 0);
	assert_ok(publish(s, key));
	assert_int_equal(store_get(s, key, &r), 1);
	assert_int_equal(r.n, 3);
	assert_string_equal(r.v[0].name, "activations");
	assert_false(r.v[0].file);
	assert_string_equal(r.v[0].sha256, key);
	assert_string_equal(r.v[1].name, "report");
	assert_int_equal(r.v[1].size, 0);
	assert_string_equal(r.v[2].name, "weights");
	assert_true(r.v[2].file);
	assert_int_equal(r.v[2].size, 10);
	assert_string_equal(buf_text(&r.manifest), "qjob-key 1\nset a 1\n");
	assert_ptr_equal(record_find(&r, "weights"), &r.v[2]);
	assert_null(record_find(&r, "weight"));
	path = store_blob(s, r.v[2].sha256);
	assert_ok(file_read(&text, path, 100));
	assert_string_equal(buf_text(&text), "0123456789");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0444);
	assert_int_equal(count_names("work"), 0);
	buf_release(&text);
	free(path);
	record_release(&r);
	store_close(s);
	assert_string_equal(notes, "");
}

static void
finds_after_reopening_and_renaming(void **state)
{
	struct store *s = open_store();
	struct record r;
	struct buf known = {0};
	char *from = path_join(root, "store"), *to = path_join(root, "moved"), *path;

	(void)state;
	assert_ok(publish(s, key_of("a")));
	assert_ok(stat_save(s));
	store_close(s);
	assert_int_equal(rename(from, to), 0);
	assert_ok(store_open(&s, to));
	assert_int_equal(store_get(s, key_of("a"), &r), 1);
	path = blob_path(s, "0123456789");
	assert_int_equal(stat_get(s, path, "xxh3", &known), 1);
	assert_string_equal(buf_text(&known), r.v[2].xxh3);
	buf_release(&known);
	record_release(&r);
	store_close(s);
	free(path);
	free(from);
	free(to);
}

static void
a_missing_blob_is_a_miss(void **state)
{
	struct store *s = open_store();
	struct record r;
	char *path = blob_path(s, "0123456789"), *want = mem_format("%s: is missing; the work that made weights is done again\n", path);

	(void)state;
	assert_ok(publish(s, key_of("a")));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(store_get(s, key_of("a"), &r), 0);
	assert_string_equal(notes, want);
	assert_ok(publish(s, key_of("a")));
	assert_int_equal(store_get(s, key_of("a"), &r), 1);
	record_release(&r);
	store_close(s);
	free(want);
	free(path);
}

/* Expects the blob to be put aside with `why`, and the work to succeed again. */
static void
expect_quarantine(struct store *s, const char *path, const char *why)
{
	struct record r;
	char *want = mem_format("%s: %s; put aside as %s/quarantine/", path, why, store_root(s));

	assert_int_equal(store_get(s, key_of("a"), &r), 0);
	assert_int_equal(strncmp(notes, want, strlen(want)), 0);
	assert_false(file_exists(path));
	assert_int_equal(count_names("quarantine"), 1);
	assert_ok(publish(s, key_of("a")));
	assert_int_equal(store_get(s, key_of("a"), &r), 1);
	record_release(&r);
	free(want);
}

static void
a_truncated_blob_is_put_aside(void **state)
{
	struct store *s = open_store();
	char *path = blob_path(s, "0123456789");

	(void)state;
	assert_ok(publish(s, key_of("a")));
	assert_int_equal(truncate(path, 9), 0);
	expect_quarantine(s, path, "has 9 bytes instead of 10");
	store_close(s);
	free(path);
}

static void
a_flipped_bit_is_put_aside(void **state)
{
	struct store *s = open_store();
	char *path = blob_path(s, "0123456789");
	struct stat st;

	(void)state;
	assert_ok(publish(s, key_of("a")));
	assert_ok(stat_save(s));
	/* Even when somebody sets the times back: the change time tells. */
	assert_int_equal(stat(path, &st), 0);
	spoil(path, 3, '2');
	assert_int_equal(utimensat(AT_FDCWD, path, (struct timespec[2]){st.st_atim, st.st_mtim}, 0), 0);
	expect_quarantine(s, path, "has other content than was written");
	store_close(s);
	free(path);
}

static void
a_flipped_bit_is_found_without_a_stat_cache(void **state)
{
	struct store *s = open_store();
	char *path = blob_path(s, "0123456789");

	(void)state;
	assert_ok(publish(s, key_of("a")));
	spoil(path, 0, '1');
	store_close(s);
	s = open_store();
	expect_quarantine(s, path, "has other content than was written");
	store_close(s);
	free(path);
}

static void
a_spoilt_blob_is_mended_by_an_equal_one(void **state)
{
	struct store *s = open_store();
	struct record r;
	char *path = blob_path(s, "0123456789");

	(void)state;
	assert_ok(publish(s, key_of("a")));
	spoil(path, 0, '1');
	assert_ok(publish(s, key_of("b")));
	assert_int_equal(store_get(s, key_of("a"), &r), 1);
	record_release(&r);
	store_close(s);
	free(path);
}

/* Every truncation and every changed byte of a record is a miss, and one that is not whole says so. */
static void
a_broken_record_is_a_miss(void **state)
{
	struct store *s = open_store();
	struct record r;
	struct buf good = {0};
	const char *key = key_of("a");
	char *path = mem_format("%s/ac/%.2s/%s", store_root(s), key, key);
	char *want = mem_format("%s: the record is not whole; put aside as ", path);

	(void)state;
	assert_ok(publish(s, key));
	assert_ok(file_read(&good, path, 10000));
	for (size_t n = 0; n < good.n; n++) {
		notes[0] = '\0';
		assert_ok(file_replace(path, good.p, n));
		assert_int_equal(store_get(s, key, &r), 0);
		assert_int_equal(strncmp(notes, want, strlen(want)), 0);
	}
	for (size_t n = 0; n < good.n; n++) {
		good.p[n] ^= 1;
		assert_ok(file_replace(path, good.p, good.n));
		assert_int_equal(store_get(s, key, &r), 0);
		good.p[n] ^= 1;
	}
	assert_ok(file_replace(path, good.p, good.n));
	assert_int_equal(store_get(s, key, &r), 1);
	record_release(&r);
	buf_release(&good);
	store_close(s);
	free(want);
	free(path);
}

/* A record under another key's name is whole, and still not an answer. */
static void
a_record_of_another_key_is_a_miss(void **state)
{
	struct store *s = open_store();
	struct record r;
	struct buf other = {0};
	char *dir, *path;
	const char *key = key_of("a");

	(void)state;
	assert_ok(publish(s, key));
	path = mem_format("%s/ac/%.2s/%s", store_root(s), key, key);
	assert_ok(file_read(&other, path, 10000));
	free(path);
	key = key_of("b");
	dir = mem_format("%s/ac/%.2s", store_root(s), key);
	path = path_join(dir, key);
	assert_ok(dir_make(dir));
	assert_ok(file_replace(path, other.p, other.n));
	assert_int_equal(store_get(s, key, &r), 0);
	assert_non_null(strstr(notes, "the record is not what its name says; put aside as "));
	buf_release(&other);
	store_close(s);
	free(path);
	free(dir);
}

static void
refuses_strange_outputs(void **state)
{
	static const struct {
		const char *name;
		int kind;          /* 'f' file, 'd' folder, 'l' link */
		const char *want;
	} rows[] = {
		{"sub",         'd', "the output sub is not a plain file"},
		{"link",        'l', "the output link is not a plain file"},
		{"a\nb",        'f', "the output named a... has a control character in its name"},
		{"activations", 'f', "two outputs named activations"},
	};
	struct store *s = open_store();

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct record r, found;
		char *dir, *path;

		assert_ok(store_begin(s, key_of("a"), &dir));
		begin_record(&r, key_of("a"));
		record_add(&r, "activations", r.key);
		path = path_join(dir, rows[i].name);
		if (rows[i].kind == 'd')
			assert_int_equal(mkdir(path, 0777), 0);
		else if (rows[i].kind == 'l')
			assert_int_equal(symlink("/etc/passwd", path), 0);
		else
			assert_ok(write_output(dir, rows[i].name, "x"));
		assert_int_equal(store_commit(s, &r, dir), E_DATA);
		assert_string_equal(err_text(), rows[i].want);
		store_abandon(s, dir);
		assert_int_equal(store_get(s, key_of("a"), &found), 0);
		record_release(&r);
		free(path);
		free(dir);
	}
	assert_int_equal(count_names("work"), 0);
	store_close(s);
}

static void
refuses_what_is_no_store(void **state)
{
	struct store *s;
	char *want;

	(void)state;
	assert_ok(write_output(root, "thesis.tex", "x"));
	assert_int_equal(store_open(&s, root), E_USE);
	want = mem_format("%s: has files, but is not a store; set QJOB_CACHE to another folder", root);
	assert_string_equal(err_text(), want);
	free(want);
	assert_null(s);
	assert_ok(write_output(root, "format", "qjob-store 2\n"));
	assert_int_equal(store_open(&s, root), E_USE);
	want = mem_format("%s: not a store of a kind this qjob knows (qjob-store 1); set QJOB_CACHE to another folder", root);
	assert_string_equal(err_text(), want);
	free(want);
}

static void
finds_its_place(void **state)
{
	struct store *s;
	char *want;

	(void)state;
	unsetenv("QJOB_CACHE");
	unsetenv("XDG_CACHE_HOME");
	setenv("HOME", root, 1);
	assert_ok(store_open(&s, NULL));
	want = path_join(root, ".cache/qjob");
	assert_string_equal(store_root(s), want);
	store_close(s);
	free(want);
	want = path_join(root, "xdg/qjob");
	setenv("XDG_CACHE_HOME", "relative", 1);
	assert_ok(store_open(&s, NULL));
	store_close(s);
	free(want);
	want = path_join(root, "xdg");
	setenv("XDG_CACHE_HOME", want, 1);
	assert_ok(store_open(&s, NULL));
	free(want);
	want = path_join(root, "xdg/qjob");
	assert_string_equal(store_root(s), want);
	store_close(s);
	free(want);
	want = path_join(root, "own");
	setenv("QJOB_CACHE", want, 1);
	assert_ok(store_open(&s, NULL));
	assert_string_equal(store_root(s), want);
	store_close(s);
	free(want);
	unsetenv("QJOB_CACHE");
	unsetenv("XDG_CACHE_HOME");
	unsetenv("HOME");
	assert_int_equal(store_open(&s, NULL), E_USE);
	assert_string_equal(err_text(), "no place for the store: neither QJOB_CACHE nor HOME is set");
}

static void
compares_records_by_content(void **state)
{
	struct store *s = open_store();
	struct record a, b;

	(void)state;
	assert_ok(publish(s, key_of("a")));
	assert_ok(publish(s, key_of("b")));
	assert_int_equal(store_get(s, key_of("a"), &a), 1);
	assert_int_equal(store_get(s, key_of("b"), &b), 1);
	assert_false(record_same(&a, &b));    /* the digest is the key here */
	memcpy(b.v[0].sha256, a.v[0].sha256, SHA256_HEX);
	assert_true(record_same(&a, &b));
	b.v[2].sha256[5] ^= 1;
	assert_false(record_same(&a, &b));
	record_release(&a);
	record_release(&b);
	store_close(s);
}

static void
sweeps_what_dead_processes_left(void **state)
{
	struct store *s;
	char *dir, c;
	int status, ready[2];
	pid_t dead, alive;

	(void)state;
	dead = fork();
	if (dead == 0) {
		s = open_store();
		_exit(store_begin(s, key_of("a"), &dir) < 0 || write_output(dir, "half", "x") < 0);
	}
	assert_int_equal(waitpid(dead, &status, 0), dead);
	assert_int_equal(status, 0);
	assert_int_equal(count_names("work"), 1);
	assert_int_equal(pipe(ready), 0);
	alive = fork();
	if (alive == 0) {
		s = open_store();    /* sweeps the dead one's */
		if (store_begin(s, key_of("b"), &dir) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(count_names("work"), 1);
	s = open_store();
	assert_ok(store_begin(s, key_of("c"), &dir));
	assert_int_equal(count_names("work"), 2);    /* ours, and that of the living one */
	kill(alive, SIGKILL);
	waitpid(alive, &status, 0);
	free(dir);
	store_close(s);
	close(ready[0]);
	close(ready[1]);
}

static void
remembers_last_keys(void **state)
{
	struct store *s = open_store();
	char key[SHA256_HEX];

	(void)state;
	assert_int_equal(last_get(s, "p", "quantize/3", key), 0);
	last_put(s, "p", "quantize/3", key_of("a"));
	last_put(s, "p", "fetch/odd name", key_of("b"));
	last_put(s, "q", "quantize/3", key_of("c"));
	assert_ok(last_save(s));
	store_close(s);
	s = open_store();
	assert_int_equal(last_get(s, "p", "quantize/3", key), 1);
	assert_string_equal(key, key_of("a"));
	assert_int_equal(last_get(s, "p", "fetch/odd name", key), 1);
	assert_string_equal(key, key_of("b"));
	assert_int_equal(last_get(s, "q", "quantize/3", key), 1);
	assert_string_equal(key, key_of("c"));
	assert_int_equal(last_get(s, "q", "quantize/4", key), 0);
	assert_int_equal(count_names("last"), 2);
	store_close(s);
}

/* Fails the first fault point, then the second, ... until a publication meets none. */
static void
survives_every_fault(void **state)
{
	int n = 0, refused = 0;

	(void)state;
	for (bool met = true; met; n++) {
		char *dir = mem_format("%s/%d", root, n);
		struct store *s = NULL;
		struct record r;
		int rc;

		fault_arm(n);
		rc = store_open(&s, dir);
		if (rc == 0)
			rc = publish(s, key_of("a"));
		met = fault_fired();
		fault_arm(-1);
		if (rc < 0) {
			refused++;
			assert_true(met);
			assert_int_equal(rc, E_SYS);
			assert_non_null(strstr(err_text(), dir));
		}
		store_close(s);
		assert_ok(store_open(&s, dir));
		store_listen(s, hear, NULL);
		if (rc < 0)
			assert_in_range(store_get(s, key_of("a"), &r), 0, 1);
		else
			assert_int_equal(store_get(s, key_of("a"), &r), 1);
		record_release(&r);
		assert_ok(publish(s, key_of("a")));
		assert_int_equal(store_get(s, key_of("a"), &r), 1);
		assert_int_equal(r.n, 3);
		record_release(&r);
		store_close(s);
		free(dir);
	}
	assert_string_equal(notes, "");    /* nothing torn was ever visible */
	assert_in_range(refused, 20, n);
}

static void
says_what_to_try(void **state)
{
	struct store *s = open_store();
	char *dir, *want = mem_format("make %s/work/", store_root(s));

	(void)state;
	fault_arm(1);    /* dir.open of the sweep is the first */
	assert_int_equal(store_begin(s, key_of("a"), &dir), E_SYS);
	assert_null(dir);
	assert_int_equal(strncmp(err_text(), want, strlen(want)), 0);
	assert_non_null(strstr(err_text(),
		": Input/output error; the disk reports an error: check it, or set QJOB_CACHE to a folder on another disk"));
	store_close(s);
	free(want);
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
		T(commits_and_finds),
		T(finds_after_reopening_and_renaming),
		T(a_missing_blob_is_a_miss),
		T(a_truncated_blob_is_put_aside),
		T(a_flipped_bit_is_put_aside),
		T(a_flipped_bit_is_found_without_a_stat_cache),
		T(a_spoilt_blob_is_mended_by_an_equal_one),
		T(a_broken_record_is_a_miss),
		T(a_record_of_another_key_is_a_miss),
		T(refuses_strange_outputs),
		T(refuses_what_is_no_store),
		T(finds_its_place),
		T(compares_records_by_content),
		T(sweeps_what_dead_processes_left),
		T(remembers_last_keys),
		T(survives_every_fault),
		T(says_what_to_try),
#undef T
	};

	in_memory();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
