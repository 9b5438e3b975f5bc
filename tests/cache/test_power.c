/* Power cuts: a file system of its own is shut down by ioctl while a child publishes, mounted again, and asked.
 * What the child was told is kept must be there and whole; nothing may be visible and torn.
 *
 * usage: test.cache.power [cuts]      needs root, loop devices and mkfs.ext4; else it is skipped */
#define _GNU_SOURCE    /* unshare */

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/key.h"
#include "cache/store.h"
#include "tests/t.h"

#define SHUTDOWN _IOR('X', 125, uint32_t)    /* of ext4 and xfs: 1 with, 2 without writing the journal first */

static int cuts = 10;
static int notes;

static void
hear(void *own, const char *text)
{
	(void)own;
	print_error("%s\n", text);
	notes++;
}

static int
run_tool(const char *a, const char *b, const char *c, const char *d, const char *e)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, 1);
		dup2(null, 2);
		execlp(a, a, b, c, d, e, (char *)NULL);
		_exit(127);
	}
	return waitpid(pid, &status, 0) == pid ? status : -1;
}

static void
key_of(int i, char key[SHA256_HEX], struct buf *manifest)
{
	struct buf in = {0};

	buf_printf(&in, "set i %d\n", i);
	key_make(&in, manifest, key);
	buf_release(&in);
}

/* Some pages of text that the number tells. */
static char *
content_of(int i)
{
	struct buf b = {0};

	for (int k = 0; k < 500 + 300 * (i % 5); k++)
		buf_printf(&b, "%d %d\n", i, k);
	return buf_detach(&b);
}

static int
publish(struct store *s, int i)
{
	struct record r = {0};
	char *dir, *path, *text = content_of(i);
	FILE *f;
	int rc;

	key_of(i, r.key, &r.manifest);
	rc = store_begin(s, r.key, &dir);
	if (rc == 0) {
		path = path_join(dir, "out");
		f = fopen(path, "w");
		if (!f || fputs(text, f) < 0)
			rc = -1;
		if (f && fclose(f) != 0)
			rc = -1;
		free(path);
	}
	if (rc == 0)
		rc = store_commit(s, &r, dir);
	record_release(&r);
	free(text);
	return rc;
}

/* Says each number once it is kept. */
static void
publish_for_ever(const char *root, int first, int tell)
{
	struct store *s;

	if (store_open(&s, root) < 0)
		_exit(0);
	for (int i = first; publish(s, i) == 0; i++)
		if (write(tell, &i, sizeof(i)) != sizeof(i))
			break;
	_exit(0);
}

static void
check(const char *root, int kept, int seen)
{
	struct store *s;

	assert_ok(store_open(&s, root));
	store_listen(s, hear, NULL);
	for (int i = 0; i < seen; i++) {
		struct record r;
		struct buf manifest = {0}, text = {0};
		char key[SHA256_HEX], *path, *want = content_of(i);
		int found;

		key_of(i, key, &manifest);
		found = store_get(s, key, &r);
		assert_true(found == 1 || (found == 0 && i >= kept));
		if (found) {
			path = store_blob(s, record_find(&r, "out")->sha256);
			assert_ok(file_read(&text, path, 1 << 20));
			assert_string_equal(buf_text(&text), want);
			free(path);
		}
		record_release(&r);
		buf_release(&manifest);
		buf_release(&text);
		free(want);
	}
	store_close(s);
	assert_int_equal(notes, 0);
}

/* One cut after some milliseconds; returns how many were kept by then. */
static int
cut(const char *disk, const char *mnt, const char *root, int first, int ms, uint32_t mode)
{
	int pipes[2], fd, status, last = first - 1, i;
	pid_t pid;

	assert_int_equal(run_tool("mount", "-o", "loop", disk, mnt), 0);
	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	if (pid == 0)
		publish_for_ever(root, first, pipes[1]);
	close(pipes[1]);
	usleep((useconds_t)ms * 1000);
	fd = open(mnt, O_RDONLY | O_DIRECTORY);
	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, SHUTDOWN, &mode), 0);
	close(fd);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	while (read(pipes[0], &i, sizeof(i)) == sizeof(i))
		last = i;
	close(pipes[0]);
	assert_int_equal(umount(mnt), 0);
	assert_int_equal(run_tool("mount", "-o", "loop", disk, mnt), 0);
	check(root, last + 1, last + 3);
	assert_int_equal(umount(mnt), 0);
	return last + 1;
}

static bool
can_mount(const char *disk, const char *mnt)
{
	int fd;

	if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return false;
	fd = open(disk, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || ftruncate(fd, 96 << 20) != 0)
		return false;
	close(fd);
	if (run_tool("mkfs.ext4", "-q", "-F", disk, NULL) != 0 || run_tool("mount", "-o", "loop", disk, mnt) != 0)
		return false;
	return umount(mnt) == 0;
}

static void
survives_power_cuts(void **state)
{
	char *dir = t_dir(), *disk = path_join(dir, "disk"), *mnt = path_join(dir, "mnt"), *root = path_join(mnt, "store");
	unsigned random = 1;
	int kept = 0;
	bool can;

	(void)state;
	assert_ok(dir_make(mnt));
	can = can_mount(disk, mnt);
	for (int i = 0; can && i < cuts; i++) {
		random = random * 1103515245 + 12345;
		kept = cut(disk, mnt, root, kept, 20 + (int)(random >> 16) % 200, 1 + (uint32_t)(i & 1));
	}
	t_dir_end(dir);
	free(disk);
	free(mnt);
	free(root);
	if (!can) {
		print_message("skipped: it needs root, loop devices and mkfs.ext4\n");
		skip();
	}
	print_message("%d cuts, %d keys kept\n", cuts, kept);
	assert_true(kept > 0);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(survives_power_cuts),
	};

	if (argc > 1)
		cuts = (int)strtol(argv[1], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
