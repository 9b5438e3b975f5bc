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
#include "qjob/base/pool.h"

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

/* The files of a folder while they are digested, each for identity and for the quick check: both walk the whole of it, and
 * what the larger files take decides how long a commit lasts. */
struct files {
	struct store_export *e;        /* of the record */
	struct file_view *view;
	size_t n;
};

static const uint64_t SMALL = 1 << 20;     /* bytes in all for which threads are not worth starting */

static int
map_plain(struct file_view *v, const char *dir, const char *name)
{
	char *path = path_join(dir, name);
	struct stat st;
	int rc;

	if (lstat(path, &st) != 0)
		rc = store_refused("read", path);
	else if (!S_ISREG(st.st_mode))
		rc = err_set(E_DATA, "the output %s is not a plain file", name);
	else
		rc = file_map(v, path);
	free(path);
	return rc;
}

static int
digest(void *own, size_t i)
{
	const struct files *f = own;
	const struct file_view *v = &f->view[i % f->n];

	if (i < f->n)
		sha256_of(v->p, v->n, f->e[i].sha256);
	else
		xxh3_of(v->p, v->n, f->e[i - f->n].xxh3);
	return 0;
}

static int
digest_all(struct files *f, const char *dir)
{
	uint64_t bytes = 0;
	int rc = 0;

	for (size_t i = 0; i < f->n && rc == 0; i++) {
		rc = map_plain(&f->view[i], dir, f->e[i].name);
		f->e[i].file = true;
		f->e[i].size = f->view[i].n;
		bytes += f->view[i].n;
	}
	if (rc == 0)
		rc = pool_run(2 * f->n, bytes > SMALL ? pool_threads() : 1, digest, f);
	for (size_t i = 0; i < f->n; i++)
		file_unmap(&f->view[i]);
	return rc;
}

/* A blob that is there already is replaced by its equal, which also mends one that the disk has spoilt. */
static int
place_file(struct store *s, const struct store_export *e, const char *dir)
{
	char *from = path_join(dir, e->name), *to = store_blob(s, e->sha256);
	int rc;

	chmod(from, 0444);
	rc = store_place(s, from, to);
	if (rc == 0)
		stat_own(s, to, "xxh3", e->xxh3);
	free(to);
	free(from);
	return rc;
}

static int
commit_files(struct store *s, struct record *r, const char *dir)
{
	struct files f = {0};
	size_t before = r->n;
	char **names;
	int rc = dir_names(&names, &f.n, dir);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < f.n; i++)
		record_add(r, names[i], "");
	dir_names_free(names, f.n);
	f.e = r->v + before;
	f.view = mem_new(f.n + 1, sizeof(*f.view));
	rc = digest_all(&f, dir);
	for (size_t i = 0; i < f.n && rc == 0; i++)
		rc = place_file(s, &f.e[i], dir);
	free(f.view);
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
	int rc = commit_files(s, r, dir);

	/* The folder is empty now, so the record is written in it: a crash leaves no litter elsewhere. */
	if (rc == 0)
		rc = commit_record(s, r, dir);
	if (rc == 0)
		rmdir(dir);
	return rc;
}
