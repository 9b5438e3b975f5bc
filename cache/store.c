#include "cache/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/inside.h"
#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"

static const char FORMAT[] = "qjob-store 1\n";

static const struct {
	int number;
	const char *try;
} hints[] = {
	{ENOSPC, "free some space there, or set QJOB_CACHE to a folder on another disk"},
	{EDQUOT, "free some space there, or set QJOB_CACHE to a folder on another disk"},
	{EROFS,  "make it writable, or set QJOB_CACHE to a folder that is"},
	{EACCES, "make it writable, or set QJOB_CACHE to a folder that is"},
	{EPERM,  "make it writable, or set QJOB_CACHE to a folder that is"},
	{EIO,    "the disk reports an error: check it, or set QJOB_CACHE to a folder on another disk"},
};

char *
store_path(const struct store *s, const char *fmt, ...)
{
	char name[512], *path;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	path = mem_format("%s/%s", s->root, name);
	return path;
}

int
store_refused(const char *did, const char *path)
{
	int number = errno;

	for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
		if (hints[i].number == number)
			return err_set(E_SYS, "%s %s: %s; %s", did, path, strerror(number), hints[i].try);
	return err_set(E_SYS, "%s %s: %s", did, path, strerror(number));
}

void
store_note(struct store *s, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	if (!s->note)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->note(s->own, text);
}

void
store_listen(struct store *s, void (*note)(void *own, const char *text), void *own)
{
	s->note = note;
	s->own = own;
}

/* Names the process well enough to tell whether it lives: a container has process ids of its own. */
static char *
host_name(void)
{
	char name[65] = "host";
	struct stat st = {0};

	if (gethostname(name, sizeof(name) - 1) != 0)
		memcpy(name, "host", 5);
	for (char *p = name; *p; p++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-", *p))
			*p = '-';
	if (stat("/proc/self/ns/pid", &st) != 0)
		st.st_ino = 0;
	return mem_format("%s-%lu", name, (unsigned long)st.st_ino);
}

static char *
default_root(void)
{
	const char *p = getenv("QJOB_CACHE"), *home = getenv("HOME");

	if (p && *p)
		return mem_text(p);
	p = getenv("XDG_CACHE_HOME");
	if (p && *p == '/')
		return path_join(p, "qjob");
	return home && *home ? mem_format("%s/.cache/qjob", home) : NULL;
}

/* Reads a small file whole; 1 read, 0 absent. */
static int
read_small(const char *path, struct buf *b)
{
	char chunk[16384];
	ssize_t n;
	int fd = fault("store.open") ? -1 : open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? 0 : store_refused("read", path);
	for (;;) {
		n = fault("store.read") ? -1 : read(fd, chunk, sizeof(chunk));
		if (n > 0)
			buf_add(b, chunk, (size_t)n);
		else if (n == 0 || errno != EINTR)
			break;
	}
	if (n < 0)
		store_refused("read", path);
	close(fd);
	return n < 0 ? E_SYS : 1;
}

/* 1: ours, 0: absent. */
static int
check_format(const struct store *s)
{
	char *path = store_path(s, "format");
	struct buf b = {0};
	int rc = read_small(path, &b);

	if (rc == 1 && strcmp(buf_text(&b), FORMAT) != 0)
		rc = err_set(E_USE, "%s: not a store of a kind this qjob knows (%.*s); set QJOB_CACHE to another folder",
			s->root, (int)sizeof(FORMAT) - 2, FORMAT);
	buf_release(&b);
	free(path);
	return rc;
}

/* A folder becomes a store by its format file, which comes first: a crash leaves its temporaries, nothing else. */
static int
check_unused(const struct store *s)
{
	char **names;
	size_t n;
	bool strange = false;
	int rc = dir_names(&names, &n, s->root);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++)
		strange = strange || strncmp(names[i], "format.", 7) != 0;
	dir_names_free(names, n);
	return strange ? err_set(E_USE, "%s: has files, but is not a store; set QJOB_CACHE to another folder", s->root) : 0;
}

static int
create(const struct store *s)
{
	char *path;
	int rc;

	if (dir_make(s->root) < 0)
		return store_refused("make the store", s->root);
	rc = check_unused(s);
	if (rc < 0) {
		/* Perhaps another process made the store since we looked. */
		char *said = mem_text(err_text());
		int now = check_format(s);

		if (now == 0)
			err_set(rc, "%s", said);
		free(said);
		return now == 1 ? 0 : rc;
	}
	path = store_path(s, "format");
	if (file_replace(path, FORMAT, sizeof(FORMAT) - 1) < 0)
		rc = store_refused("write", path);
	free(path);
	return rc;
}

int
store_open(struct store **out, const char *root)
{
	char *dir = root ? mem_text(root) : default_root();
	struct store *s;
	int rc;

	*out = NULL;
	if (!dir)
		return err_set(E_USE, "no place for the store: neither QJOB_CACHE nor HOME is set");
	s = mem_new(1, sizeof(*s));
	s->root = dir;
	s->host = host_name();
	s->opened = now_ns();
	pthread_mutex_init(&s->lock, NULL);
	rc = check_format(s);
	if (rc == 0)
		rc = create(s);
	if (rc < 0) {
		store_close(s);
		return rc;
	}
	dir = path_real(s->root);
	if (dir) {
		free(s->root);
		s->root = dir;
	}
	s->stats = stats_open(s->root);
	*out = s;
	return 0;
}

void
store_close(struct store *s)
{
	if (!s)
		return;
	stats_close(s->stats);
	lasts_free(s->lasts);
	for (size_t i = 0; i < s->checked.n; i++)
		free(s->checked.v[i].v.p);
	map_release(&s->checked);
	pthread_mutex_destroy(&s->lock);
	free(s->host);
	free(s->root);
	free(s);
}

const char *
store_root(const struct store *s)
{
	return s->root;
}

char *
store_blob(const struct store *s, const char *sha256)
{
	return store_path(s, "cas/%.2s/%s", sha256, sha256);
}

/* Out of the way, and kept for whoever wants to know what the disk did. */
static void
quarantine(struct store *s, const char *path, const char *name, const char *why)
{
	char *dir = store_path(s, "quarantine");
	char *to = store_path(s, "quarantine/%.64s.%ld.%u", name, (long)getpid(), atomic_fetch_add(&s->serial, 1));

	if (mkdir(dir, 0777) != 0 && errno != EEXIST)
		store_note(s, "%s: %s; it cannot be put aside", path, why);
	else if (fault("store.quarantine") || (rename(path, to) != 0 && errno != ENOENT))
		store_note(s, "%s: %s; it cannot be put aside", path, why);
	else
		store_note(s, "%s: %s; put aside as %s", path, why, to);
	free(to);
	free(dir);
}

static bool
is_same_file(const struct file_id *a, const struct file_id *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns
		&& a->ctime_ns == b->ctime_ns;
}

static bool
was_checked(struct store *s, const char *sha256, const struct file_id *id)
{
	const struct map_entry *e;
	bool was;

	pthread_mutex_lock(&s->lock);
	e = map_find(&s->checked, sha256);
	was = e && is_same_file(e->v.p, id);
	pthread_mutex_unlock(&s->lock);
	return was;
}

static void
remember_checked(struct store *s, const char *sha256, const struct file_id *id)
{
	struct map_entry *e;

	pthread_mutex_lock(&s->lock);
	e = map_put(&s->checked, sha256, NULL);
	if (!e->v.p)
		e->v.p = mem_new(1, sizeof(*id));
	memcpy(e->v.p, id, sizeof(*id));
	pthread_mutex_unlock(&s->lock);
}

/* 1: has the content the record promises, 0: has not, negative: cannot be read. */
static int
check_content(struct store *s, const struct store_export *e, const char *path, const struct file_id *id)
{
	struct buf known = {0};
	char sum[XXH3_HEX];
	int same, rc;

	if (was_checked(s, e->sha256, id))
		return 1;
	same = stat_get(s, path, "xxh3", &known) && strcmp(buf_text(&known), e->xxh3) == 0;
	buf_release(&known);
	if (same)
		return 1;
	stat_settle(path);
	rc = xxh3_file(path, sum);
	if (rc < 0)
		return rc;
	if (strcmp(sum, e->xxh3) != 0)
		return 0;
	remember_checked(s, e->sha256, id);
	stat_put(s, path, "xxh3", sum);
	return 1;
}

static int
check_blob(struct store *s, const struct store_export *e)
{
	char *path = store_blob(s, e->sha256), *why;
	struct file_id id;
	int rc = 1;

	if (file_id(&id, path) < 0) {
		rc = errno == ENOENT ? 0 : store_refused("read", path);
		if (rc == 0)
			store_note(s, "%s: is missing; the work that made %s is done again", path, e->name);
	} else if (id.size != e->size) {
		why = mem_format("has %llu bytes instead of %llu", (unsigned long long)id.size, (unsigned long long)e->size);
		quarantine(s, path, e->sha256, why);
		free(why);
		rc = 0;
	} else {
		rc = check_content(s, e, path, &id);
		if (rc == 0)
			quarantine(s, path, e->sha256, "has other content than was written");
	}
	free(path);
	return rc;
}

int
store_get(struct store *s, const char *key, struct record *r)
{
	char *path = store_path(s, "ac/%.2s/%s", key, key);
	struct buf b = {0};
	int rc = read_small(path, &b);

	*r = (struct record){0};
	if (rc == 1 && record_parse(r, key, buf_text(&b), b.n) < 0) {
		quarantine(s, path, key, err_text());
		rc = 0;
	}
	for (size_t i = 0; rc == 1 && i < r->n; i++)
		if (r->v[i].file)
			rc = check_blob(s, &r->v[i]);
	if (rc != 1)
		record_release(r);
	buf_release(&b);
	free(path);
	return rc;
}

/* <key>.<host>.<pid>.<n> of a process of this machine that is no more. */
static bool
is_litter(const struct store *s, const char *name)
{
	size_t n = strlen(s->host);
	char *end;
	long pid;

	if (strlen(name) < SHA256_HEX + n + 2 || strncmp(name + SHA256_HEX, s->host, n) != 0 || name[SHA256_HEX + n] != '.')
		return false;
	pid = strtol(name + SHA256_HEX + n + 1, &end, 10);
	return *end == '.' && pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

/* What killed processes left behind, once a process. */
static void
sweep(struct store *s)
{
	char *dir, **names;
	size_t n;

	if (atomic_exchange(&s->swept, true))
		return;
	dir = store_path(s, "work");
	if (dir_names(&names, &n, dir) == 0) {
		for (size_t i = 0; i < n; i++) {
			char *path = path_join(dir, names[i]);

			if (is_litter(s, names[i]))
				dir_remove(path);
			free(path);
		}
		dir_names_free(names, n);
	}
	free(dir);
}

int
store_begin(struct store *s, const char *key, char **dir)
{
	char *work = store_path(s, "work");
	int rc = 0;

	sweep(s);
	do {
		*dir = store_path(s, "work/%s.%s.%ld.%u", key, s->host, (long)getpid(), atomic_fetch_add(&s->serial, 1));
		if (!fault("store.mkdir") && mkdir(*dir, 0777) == 0)
			break;
		if (errno == ENOENT && mkdir(work, 0777) != 0 && errno != EEXIST)
			rc = store_refused("make", work);
		else if (errno != ENOENT && errno != EEXIST)
			rc = store_refused("make", *dir);
		free(*dir);
		*dir = NULL;
	} while (rc == 0);
	free(work);
	return rc;
}

void
store_abandon(struct store *s, const char *dir)
{
	(void)s;
	if (dir)
		dir_remove(dir);
}
