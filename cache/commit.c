#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/inside.h"
#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"

/* What it opens is synced by `sync`; the folder of a rename is as much a part of it as the file. */
static int
sync_path(const char *path, int flags, int (*sync)(int fd))
{
	int rc = 0, fd = fault("store.open") ? -1 : open(path, flags | O_CLOEXEC);

	if (fd < 0)
		return store_refused("open", path);
	/* EINVAL: a file system that keeps no folders of its own, such as some network ones. */
	if (fault("store.sync") || (sync(fd) != 0 && errno != EINVAL))
		rc = store_refused("sync", path);
	close(fd);
	return rc;
}

/* A new folder lasts once the one that holds it is synced. */
static int
make_folder(struct store *s, const char *dir)
{
	char *up;
	int rc;

	if (!fault("store.mkdir") && mkdir(dir, 0777) == 0) {
		up = mem_text(dir);
		*strrchr(up, '/') = '\0';
		rc = sync_path(up, O_RDONLY | O_DIRECTORY, fsync);
		free(up);
		return rc;
	}
	if (errno == EEXIST)
		return 0;
	if (errno != ENOENT)
		return store_refused("make", dir);
	up = mem_text(dir);
	*strrchr(up, '/') = '\0';
	rc = strlen(up) <= strlen(s->root) ? store_refused("make", dir) : make_folder(s, up);
	free(up);
	return rc < 0 ? rc : make_folder(s, dir);
}

int
store_place(struct store *s, const char *from, const char *to)
{
	char *dir = mem_text(to);
	int rc;

	*strrchr(dir, '/') = '\0';
	rc = sync_path(from, O_RDONLY, fdatasync);
	if (rc == 0)
		rc = make_folder(s, dir);
	if (rc == 0 && (fault("store.rename") || rename(from, to) != 0))
		rc = store_refused("write", to);
	if (rc == 0)
		rc = sync_path(dir, O_RDONLY | O_DIRECTORY, fsync);
	free(dir);
	return rc;
}

static int
digest(struct store_export *e, const char *path)
{
	struct file_view v;
	struct stat st;
	int rc;

	if (lstat(path, &st) != 0)
		return store_refused("read", path);
	if (!S_ISREG(st.st_mode))
		return err_set(E_DATA, "the output %s is not a plain file", e->name);
	rc = file_map(&v, path);
	if (rc < 0)
		return rc;
	e->file = true;
	e->size = v.n;
	sha256_of(v.p, v.n, e->sha256);
	xxh3_of(v.p, v.n, e->xxh3);
	file_unmap(&v);
	return 0;
}

/* A blob that is there already is replaced by its equal, which also mends one that the disk has spoilt. */
static int
commit_file(struct store *s, struct record *r, const char *dir, const char *name)
{
	char *from = path_join(dir, name), *to = NULL;
	struct store_export *e;
	int rc;

	record_add(r, name, "");
	e = &r->v[r->n - 1];
	rc = digest(e, from);
	if (rc == 0) {
		to = store_blob(s, e->sha256);
		chmod(from, 0444);
		rc = store_place(s, from, to);
	}
	if (rc == 0)
		stat_own(s, to, "xxh3", e->xxh3);
	free(to);
	free(from);
	return rc;
}

static int
write_file(const char *path, const struct buf *b)
{
	size_t done = 0;
	int rc = 0, fd = fault("store.create") ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);

	if (fd < 0)
		return store_refused("write", path);
	while (rc == 0 && done < b->n) {
		ssize_t n = fault("store.write") ? -1 : write(fd, b->p + done, b->n - done);

		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR)
			rc = store_refused("write", path);
	}
	if (close(fd) != 0 && rc == 0)
		rc = store_refused("write", path);
	return rc;
}

static int
commit_record(struct store *s, struct record *r, const char *dir)
{
	char *from = path_join(dir, "record"), *to = store_path(s, "ac/%.2s/%s", r->key, r->key);
	struct buf text = {0};
	int rc;

	record_sort(r);
	rc = record_write(r, &text);
	if (rc == 0)
		rc = write_file(from, &text);
	if (rc == 0)
		rc = store_place(s, from, to);
	buf_release(&text);
	free(to);
	free(from);
	return rc;
}

int
store_commit(struct store *s, struct record *r, const char *dir)
{
	char **names;
	size_t n;
	int rc = dir_names(&names, &n, dir);

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = commit_file(s, r, dir, names[i]);
	/* The folder is empty now, so the record is written in it: a crash leaves no litter elsewhere. */
	if (rc == 0)
		rc = commit_record(s, r, dir);
	if (rc == 0)
		rmdir(dir);
	dir_names_free(names, n);
	return rc;
}
