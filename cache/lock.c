/* flock on lock/<key>: the system lets go of a dead process's lock by itself, so none is ever stale.  On a network file system
 * it may hold for one machine only, or for nobody: then work is done twice and published once.  Whoever lets go removes
 * the file; whoever gets a lock looks whether it still is the file under that name. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/inside.h"
#include "qjob/base/fault.h"

enum { TRIES = 100 };    /* to meet a file that is not just being removed */

static int
open_lock(struct store *s, const char *path)
{
	int fd = fault("lock.open") ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	char *dir;

	if (fd >= 0 || errno != ENOENT)
		return fd;
	dir = store_path(s, "lock");
	mkdir(dir, 0777);
	free(dir);
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
}

static bool
is_named(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void
write_owner(int fd)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());

	/* For the message of who waits; a failure leaves the owner unknown. */
	if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n)
		return;
}

static long
read_owner(int fd)
{
	char text[32] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	long pid;

	if (n <= 0)
		return 0;
	text[n] = '\0';
	pid = strtol(text, NULL, 10);
	return pid > 0 ? pid : 0;
}

/* 1: held, or locks do not work here; 0: somebody else's; -1: the file went away meanwhile. */
static int
try_once(struct store *s, const char *path, int *fd, long *owner)
{
	*fd = open_lock(s, path);
	if (*fd < 0)
		return 1;
	if (flock(*fd, LOCK_EX | LOCK_NB) == 0) {
		if (is_named(*fd, path)) {
			write_owner(*fd);
			return 1;
		}
		close(*fd);
		*fd = -1;
		return -1;
	}
	if (errno == EWOULDBLOCK) {
		*owner = read_owner(*fd);
		close(*fd);
		*fd = -1;
		return 0;
	}
	return 1;    /* no locks on this file system */
}

int
store_lock(struct store *s, const char *key, int *fd, long *owner)
{
	char *path = store_path(s, "lock/%s", key);
	int got = -1;

	*owner = 0;
	*fd = -1;
	for (int i = 0; i < TRIES && got < 0; i++)
		got = try_once(s, path, fd, owner);
	free(path);
	return got != 0;
}

void
store_unlock(struct store *s, const char *key, int fd)
{
	char *path;

	if (fd < 0)
		return;
	path = store_path(s, "lock/%s", key);
	if (is_named(fd, path))
		unlink(path);
	close(fd);
	free(path);
}
