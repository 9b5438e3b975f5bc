#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"

enum { DEPTH = 128 };    /* of folders that dir_remove follows; each holds a descriptor */

int
dir_sync(const char *path)
{
	int rc = 0, fd = fault("dir.open") ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys("%s", path);
	/* EINVAL: a file system that keeps no folders of its own, such as some network ones. */
	if (fault("dir.sync") || (fsync(fd) != 0 && errno != EINVAL))
		rc = err_sys("%s: sync", path);
	close(fd);
	return rc;
}

static bool
is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int
make_one(const char *path)
{
	if (!fault("dir.make") && mkdir(path, 0777) == 0)
		return 0;
	if (errno != EEXIST)
		return err_sys("%s", path);
	return is_dir(path) ? 0 : err_set(E_SYS, "%s: exists and is not a folder", path);
}

int
dir_make(const char *path)
{
	char *p = mem_text(path);
	int rc = 0;

	if (is_dir(path)) {
		free(p);
		return 0;
	}
	for (char *s = p + 1; *path && *s && rc == 0; s++) {
		if (*s != '/' || s[-1] == '/')
			continue;
		*s = '\0';
		if (!is_dir(p))
			rc = make_one(p);
		*s = '/';
	}
	if (rc == 0)
		rc = make_one(path);
	free(p);
	return rc;
}

static int remove_at(int at, const char *name, const char *path, int depth);

static int
empty_dir(DIR *dir, const char *path, int depth)
{
	struct dirent *e;
	int rc = 0;

	while (rc == 0) {
		errno = 0;
		e = fault("dir.read") ? NULL : readdir(dir);
		if (!e)
			return errno ? err_sys("%s", path) : 0;
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = remove_at(dirfd(dir), e->d_name, path, depth + 1);
	}
	return rc;
}

/* Removes at/name, never through a symbolic link; path is for messages. */
static int
remove_at(int at, const char *name, const char *path, int depth)
{
	DIR *dir;
	int fd, rc;

	if (!fault("dir.unlink") && unlinkat(at, name, 0) == 0)
		return 0;
	if (errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return err_sys("%s: remove %s", path, name);
	if (depth > DEPTH)
		return err_set(E_SYS, "%s: more than %d folders deep", path, DEPTH);
	fd = fault("dir.open") ? -1 : openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		rc = err_sys("%s: remove %s", path, name);
		if (fd >= 0)
			close(fd);
		return rc;
	}
	rc = empty_dir(dir, path, depth);
	closedir(dir);
	if (rc == 0 && (fault("dir.rmdir") || unlinkat(at, name, AT_REMOVEDIR) != 0) && errno != ENOENT)
		rc = err_sys("%s: remove %s", path, name);
	return rc;
}

int
dir_remove(const char *path)
{
	return remove_at(AT_FDCWD, path, path, 0);
}

static int
by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int
dir_names(char ***names, size_t *n, const char *path)
{
	DIR *dir = fault("dir.open") ? NULL : opendir(path);
	struct dirent *e;
	char **v = NULL;
	size_t count = 0, cap = 0;
	int rc;

	*names = NULL;
	*n = 0;
	if (!dir)
		return err_sys("%s", path);
	for (;;) {
		errno = 0;
		e = fault("dir.read") ? NULL : readdir(dir);
		if (!e)
			break;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (count == cap) {
			cap = cap ? 2 * cap : 16;
			v = mem_grow(v, cap, sizeof(*v));
		}
		v[count++] = mem_text(e->d_name);
	}
	rc = errno ? err_sys("%s", path) : 0;
	closedir(dir);
	if (rc < 0) {
		dir_names_free(v, count);
		return rc;
	}
	if (count)
		qsort(v, count, sizeof(*v), by_bytes);
	*names = v;
	*n = count;
	return 0;
}

void
dir_names_free(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}
