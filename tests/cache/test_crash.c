/* The store under kill -9 at every fault point, under many writers at once, on a full disk and on a read-only one. */
#define _GNU_SOURCE    /* unshare */

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/key.h"
#include "cache/store.h"
#include "tests/t.h"

enum { WRITERS = 16, ROUNDS = 20 };

static const char *self;       /* this program, for exec */
static char notes[4096];

static void
hear(void *own, const char *text)
{
	(void)own;
	snprintf(notes, sizeof(notes), "%s", text);
}

static void
key_of(const char *fact, char key[SHA256_HEX])
{
	struct buf in = {0}, out = {0};

	buf_puts(&in, fact);
	key_make(&in, &out, key);
	buf_release(&in);
	buf_release(&out);
}

static int
write_output(const char *dir, const char *name, const void *p, size_t n)
{
	char *path = path_join(dir, name);
	FILE *f = fopen(path, "w");
	bool wrote;
	int rc = 0;

	if (!f) {
		rc = err_sys("%s", path);
	} else {
		wrote = fwrite(p, 1, n, f) == n;
		if (fclose(f) != 0 || !wrote)
			rc = err_sys("%s", path);
	}
	free(path);
	return rc;
}

static int
publish(struct store *s, const char *fact, const char *text)
{
	struct record r = {0};
	char *dir;
	int rc;

	key_of(fact, r.key);
	buf_puts(&r.manifest, "qjob-key 1\n");
	rc = store_begin(s, r.key, &dir);
	if (rc < 0)
		return rc;
	record_add(&r, "digest", r.key);
	rc = write_output(dir, "one", text, strlen(text));
	if (rc == 0)
		rc = write_output(dir, "two", "two", 3);
	if (rc == 0)
		rc = store_commit(s, &r, dir);
	if (rc < 0) {
		char *said = mem_text(err_text());

		store_abandon(s, dir);
		err_set(rc, "%s", said);
		free(said);
	}
	record_release(&r);
	free(dir);
	return rc;
}

static int
publish_at(const char *root)
{
	struct store *s;
	int rc = store_open(&s, root);

	if (rc == 0)
		rc = publish(s, "a", "the first output");
	if (rc == 0)
		rc = stat_save(s);
	last_put(s, "p", "n", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
	if (rc == 0)
		rc = last_save(s);
	store_close(s);
	return rc;
}

/* A hit must be whole: both files with their content. */
static void
expect_whole(struct store *s, const char *fact, const char *text)
{
	struct record r;
	struct buf b = {0};
	char key[SHA256_HEX], *path;

	key_of(fact, key);
	assert_int_equal(store_get(s, key, &r), 1);
	assert_int_equal(r.n, 3);
	path = store_blob(s, record_find(&r, "one")->sha256);
	assert_ok(file_read(&b, path, 1000));
	assert_string_equal(buf_text(&b), text);
	free(path);
	buf_release(&b);
	record_release(&r);
}

static void
survives_kill_at_every_fault_point(void **state)
{
	char *root = t_dir();
	int kills = 0;

	(void)state;
	for (int n = 0;; n++) {
		char *dir = mem_format("%s/%d", root, n), arm[16], key[SHA256_HEX];
		struct store *s;
		struct record r;
		int status, found;
		pid_t pid;

		snprintf(arm, sizeof(arm), "%d!", n);
		pid = fork();
		if (pid == 0) {
			setenv("QJOB_FAULT", arm, 1);
			execl(self, self, "publish", dir, (char *)NULL);
			_exit(127);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_ok(store_open(&s, dir));
		store_listen(s, hear, NULL);
		key_of("a", key);
		found = store_get(s, key, &r);
		assert_in_range(found, 0, 1);
		record_release(&r);
		assert_ok(publish(s, "a", "the first output"));
		expect_whole(s, "a", "the first output");
		store_close(s);
		free(dir);
		if (WIFEXITED(status)) {
			assert_int_equal(WEXITSTATUS(status), 0);
			assert_int_equal(found, 1);
			break;
		}
		assert_int_equal(WTERMSIG(status), SIGKILL);
		kills++;
	}
	assert_string_equal(notes, "");
	assert_in_range(kills, 25, 1000);
	t_dir_end(root);
}

/* Every writer makes the same keys, with no lock between them. */
static int
write_many(const char *dir)
{
	struct store *s;
	int rc = store_open(&s, dir);

	for (int i = 0; i < ROUNDS && rc == 0; i++) {
		char fact[16];

		snprintf(fact, sizeof(fact), "set i %d", i);
		rc = publish(s, fact, fact);
	}
	if (rc == 0)
		rc = stat_save(s);
	store_close(s);
	return rc;
}

static void
equal_writers_do_not_disturb_each_other(void **state)
{
	char *root = t_dir();
	struct store *s;
	pid_t pids[WRITERS];
	int status;

	(void)state;
	for (int i = 0; i < WRITERS; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(write_many(root) != 0);
	}
	for (int i = 0; i < WRITERS; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_ok(store_open(&s, root));
	store_listen(s, hear, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		char fact[16];

		snprintf(fact, sizeof(fact), "set i %d", i);
		expect_whole(s, fact, fact);
	}
	assert_string_equal(notes, "");
	store_close(s);
	t_dir_end(root);
}

/* In a child with a file system of its own; the exit status says how it went: 0, 77 skipped, else the line. */
#define WANT(cond) do { if (!(cond)) _exit(__LINE__ & 0x3f ? __LINE__ & 0x3f : 1); } while (0)

static void
mount_small(const char *dir)
{
	char map[32];
	int n = snprintf(map, sizeof(map), "0 %ld 1\n", (long)getuid()), fd;

	if (unshare(CLONE_NEWNS) != 0) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
			_exit(77);
		fd = open("/proc/self/uid_map", O_WRONLY);
		if (fd < 0 || write(fd, map, (size_t)n) != n)
			_exit(77);
		close(fd);
	}
	mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
	if (mount("tmpfs", dir, "tmpfs", 0, "size=256k") != 0)
		_exit(77);
}

static void
on_full_disk(const char *dir)
{
	struct store *s;
	struct record r;
	static char zeros[4096];
	char *work, *filler = path_join(dir, "work/filler"), key[SHA256_HEX];
	int fd;

	mount_small(dir);
	WANT(store_open(&s, dir) == 0 && publish(s, "a", "kept") == 0);
	key_of("b", r.key);
	WANT(store_begin(s, r.key, &work) == 0 && write_output(work, "one", "x", 1) == 0);
	fd = open(filler, O_WRONLY | O_CREAT, 0666);
	WANT(fd >= 0);
	while (write(fd, zeros, sizeof(zeros)) > 0)
		;
	r = (struct record){0};
	key_of("b", r.key);
	WANT(store_commit(s, &r, work) == E_SYS);
	WANT(strstr(err_text(), ": No space left on device; free some space there, or set QJOB_CACHE to a folder on another disk"));
	WANT(strstr(err_text(), dir));
	store_abandon(s, work);
	record_release(&r);
	key_of("b", key);
	WANT(store_get(s, key, &r) == 0);
	key_of("a", key);
	WANT(store_get(s, key, &r) == 1);
	record_release(&r);
	WANT(close(fd) == 0 && unlink(filler) == 0 && publish(s, "b", "now it fits") == 0);
	key_of("b", key);
	WANT(store_get(s, key, &r) == 1);
	_exit(0);
}

static void
on_read_only_disk(const char *dir)
{
	struct store *s;
	struct record r;
	char key[SHA256_HEX], *work;

	mount_small(dir);
	WANT(store_open(&s, dir) == 0 && publish(s, "a", "kept") == 0);
	store_close(s);
	if (mount("none", dir, NULL, MS_REMOUNT | MS_RDONLY, NULL) != 0)
		_exit(77);
	WANT(store_open(&s, dir) == 0);
	key_of("a", key);
	WANT(store_get(s, key, &r) == 1);
	WANT(store_begin(s, key, &work) == E_SYS);
	WANT(strstr(err_text(), ": Read-only file system; make it writable, or set QJOB_CACHE to a folder that is"));
	WANT(stat_save(s) <= 0);
	_exit(0);
}

static void
in_a_child(void (*what)(const char *dir))
{
	char *root = t_dir();
	int status;
	pid_t pid = fork();

	if (pid == 0)
		what(root);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	t_dir_end(root);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("skipped: this user may not mount a file system of its own\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void
a_full_disk_leaves_the_store_as_it_was(void **state)
{
	(void)state;
	in_a_child(on_full_disk);
}

static void
a_read_only_store_still_answers(void **state)
{
	(void)state;
	in_a_child(on_read_only_disk);
}

/* Most of a test's time is waiting for the disk; a folder in memory needs none.  Where there is none, the current one does. */
static void
in_memory(void)
{
	if (chdir("/dev/shm") != 0)
		print_message("no /dev/shm: on disk\n");
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(survives_kill_at_every_fault_point),
		cmocka_unit_test(equal_writers_do_not_disturb_each_other),
		cmocka_unit_test(a_full_disk_leaves_the_store_as_it_was),
		cmocka_unit_test(a_read_only_store_still_answers),
	};

	self = path_real("/proc/self/exe");
	if (argc == 3 && strcmp(argv[1], "publish") == 0)
		return publish_at(argv[2]) != 0;
	in_memory();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
