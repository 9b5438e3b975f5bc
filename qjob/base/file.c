#define _GNU_SOURCE    /* copy_file_range */

#include "qjob/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"

enum { CHUNK = 1 << 20 };
static const size_t PIECE = (size_t)1 << 30;    /* the system moves at most 2 GiB a call */

/* A temporary beside its place, not yet visible under it. */
struct fresh {
	int fd;
	char *name;
};

static int
open_again(const char *path, int flags, mode_t mode)
{
	int fd;

	do
		fd = open(path, flags | O_CLOEXEC, mode);
	while (fd < 0 && errno == EINTR);
	return fd;
}

int
file_map(struct file_view *v, const char *path)
{
	struct stat st;
	int rc = 0, fd = fault("file.open") ? -1 : open_again(path, O_RDONLY | O_NONBLOCK, 0);
	void *p;

	*v = (struct file_view){0};
	if (fd < 0)
		return err_sys("%s", path);
	if (fault("file.stat") || fstat(fd, &st) != 0) {
		rc = err_sys("%s", path);
	} else if (!S_ISREG(st.st_mode)) {
		rc = err_set(E_DATA, "%s: not a regular file", path);
	} else if (st.st_size > 0) {
		p = fault("file.map") ? MAP_FAILED
		                      : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			rc = err_sys("%s: map", path);
		else
			*v = (struct file_view){p, (size_t)st.st_size};
	}
	close(fd);
	return rc;
}

void
file_unmap(struct file_view *v)
{
	if (v->p)
		munmap((void *)(uintptr_t)v->p, v->n);
	*v = (struct file_view){0};
}

void
file_forget(const void *p, size_t n)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)p / page * page, end = (uintptr_t)p + n;

	if (n > 0)
		madvise((void *)start, end - start, MADV_DONTNEED);
}

int
file_read(struct buf *b, const char *path, size_t max)
{
	size_t before = b->n;
	char *chunk;
	ssize_t n;
	int rc = 0, fd = fault("file.open") ? -1 : open_again(path, O_RDONLY, 0);

	if (fd < 0)
		return err_sys("%s", path);
	chunk = mem_new(CHUNK, 1);
	for (;;) {
		n = fault("file.read") ? -1 : read(fd, chunk, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = err_sys("%s", path);
		else if ((size_t)n > max - (b->n - before))
			rc = err_set(E_DATA, "%s: larger than %zu bytes", path, max);
		if (rc < 0 || n == 0)
			break;
		buf_add(b, chunk, (size_t)n);
	}
	free(chunk);
	close(fd);
	if (rc < 0 && b->p) {
		b->n = before;
		b->p[before] = '\0';
	}
	return rc;
}

int
file_id(struct file_id *id, const char *path)
{
	struct stat st;

	if (fault("file.stat") || stat(path, &st) != 0)
		return err_sys("%s", path);
	*id = (struct file_id){
		.dev = st.st_dev, .ino = st.st_ino, .size = (uint64_t)st.st_size,
		.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
		.ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec,
	};
	return 0;
}

bool
file_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

/* The folder that holds path; "." when it names none. */
static char *
parent_of(const char *path)
{
	char *dir = mem_text(path), *slash;
	size_t n = strlen(dir);

	while (n > 1 && dir[n - 1] == '/')
		dir[--n] = '\0';
	slash = strrchr(dir, '/');
	if (!slash) {
		free(dir);
		return mem_text(".");
	}
	slash[slash == dir] = '\0';
	return dir;
}

static int
sync_parent(const char *path)
{
	char *dir = parent_of(path);
	int rc = dir_sync(dir);

	free(dir);
	return rc;
}

static int
fresh_open(struct fresh *f, const char *path)
{
	for (int n = 0;; n++) {
		f->name = mem_format("%s.tmp.%ld.%d", path, (long)getpid(), n);
		f->fd = fault("file.create") ? -1 : open_again(f->name, O_WRONLY | O_CREAT | O_EXCL, 0666);
		if (f->fd >= 0)
			return 0;
		if (errno != EEXIST)
			break;
		free(f->name);
	}
	err_sys("%s", path);
	free(f->name);
	return E_SYS;
}

/* Ends f: rc >= 0 makes it visible as path, else it is removed and rc returned. */
static int
fresh_close(struct fresh *f, const char *path, int rc)
{
	if (rc >= 0 && (fault("file.sync") || fdatasync(f->fd) != 0))
		rc = err_sys("%s: sync", path);
	if (close(f->fd) != 0 && rc >= 0)
		rc = err_sys("%s", path);
	if (rc >= 0 && (fault("file.rename") || rename(f->name, path) != 0))
		rc = err_sys("%s: rename", path);
	if (rc < 0)
		unlink(f->name);
	else
		rc = sync_parent(path);
	free(f->name);
	return rc;
}

static int
write_all(int fd, const char *path, const void *p, size_t n)
{
	const char *at = p;

	while (n) {
		ssize_t k = fault("file.write") ? -1 : write(fd, at, n < PIECE ? n : PIECE);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys("%s: write", path);
		at += k;
		n -= (size_t)k;
	}
	return 0;
}

int
file_replace(const char *path, const void *p, size_t n)
{
	struct fresh f;

	if (fresh_open(&f, path) < 0)
		return E_SYS;
	return fresh_close(&f, path, write_all(f.fd, path, p, n));
}

int
file_sync(const char *path)
{
	int rc = 0, fd = fault("file.open") ? -1 : open_again(path, O_RDONLY, 0);

	if (fd < 0)
		return err_sys("%s", path);
	if (fault("file.sync") || fdatasync(fd) != 0)
		rc = err_sys("%s: sync", path);
	close(fd);
	return rc;
}

static int
copy_through(int from, int to, const char *source, const char *place)
{
	char *chunk = mem_new(CHUNK, 1);
	ssize_t n;
	int rc = 0;

	for (;;) {
		n = fault("file.read") ? -1 : read(from, chunk, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = err_sys("%s", source);
		if (n > 0)
			rc = write_all(to, place, chunk, (size_t)n);
		if (n <= 0 || rc < 0)
			break;
	}
	free(chunk);
	return rc;
}

/* Shares the blocks where the file system can, else lets the kernel copy, else copies through memory.
 * Every way goes on from where the one before stopped: all of them move both file offsets. */
static int
copy_content(int from, int to, const char *source, const char *place)
{
	ssize_t n = 0;

	if (!fault("file.clone") && ioctl(to, FICLONE, from) == 0)
		return 0;
	do
		n = fault("file.range") ? -1 : copy_file_range(from, NULL, to, NULL, PIECE, 0);
	while (n > 0);
	/* Some systems answer 0 at once for files they cannot copy; reading settles it. */
	return copy_through(from, to, source, place);
}

int
file_copy(const char *from, const char *to)
{
	struct fresh f;
	struct stat st;
	int rc, fd = fault("file.open") ? -1 : open_again(from, O_RDONLY | O_NONBLOCK, 0);

	if (fd < 0)
		return err_sys("%s", from);
	if (fault("file.stat") || fstat(fd, &st) != 0)
		rc = err_sys("%s", from);
	else if (!S_ISREG(st.st_mode))
		rc = err_set(E_DATA, "%s: not a regular file", from);
	else
		rc = fresh_open(&f, to);
	if (rc == 0)
		rc = fresh_close(&f, to, copy_content(fd, f.fd, from, to));
	close(fd);
	return rc;
}

char *
path_join(const char *dir, const char *name)
{
	size_t n = strlen(dir);

	if (name[0] == '/' || n == 0)
		return mem_text(name);
	return mem_format("%s%s%s", dir, dir[n - 1] == '/' ? "" : "/", name);
}

char *
path_real(const char *path)
{
	return realpath(path, NULL);
}
