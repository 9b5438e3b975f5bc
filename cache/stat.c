/* The file is a head, rows sorted by (what, ino, dev), and the texts they point into.  It holds nothing that cannot be
 * learned again: whatever is wrong with it, it counts as empty. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>

#include "cache/inside.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"

static const int64_t FINE = 20 * 1000000LL;        /* ns: two ticks of the slowest kernel clock (100 Hz) */
static const int64_t COARSE = 2500 * 1000000LL;    /* ns: FAT's two seconds, attribute caches of networks */
enum { LIMIT = 200000 };                           /* rows; past it the oldest half goes */

/* File systems of this machine that stamp files with the kernel's own clock: ext4 xfs btrfs tmpfs overlay zfs f2fs bcachefs. */
static const uint32_t fine_systems[] = {
	0xef53, 0x58465342, 0x9123683e, 0x01021994, 0x794c7630, 0x2fc12fc1, 0xf2f52010, 0xca451a4e,
};

struct head {
	char magic[8];             /* "qjstat1" */
	uint32_t order, row;       /* 0x01020304 as this machine writes it; sizeof(struct row) */
	uint64_t n, bytes;         /* rows, and bytes of text after them */
	char sum[40];              /* XXH3 of rows and text */
};

struct row {
	uint64_t what;             /* first half of XXH3 of what was asked */
	uint64_t ino, dev, size;
	int64_t mtime_ns, ctime_ns;
	int64_t written;           /* seconds, to forget the oldest */
	uint32_t at, n;            /* of its text */
};

struct fresh {
	struct row row;
	char *text;
};

struct loaded {
	struct buf file;
	const struct row *v;
	size_t n;
	const char *text;
	size_t bytes;
};

struct stat_cache {
	struct loaded old;
	struct map by_id;          /* "what.ino.dev" -> index into v */
	struct fresh *v;           /* learned by this process */
	size_t n;
	bool dirty;
	int64_t settle;            /* ns: stat_save waits for this instant */
};

int64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void
sleep_until(int64_t ns)
{
	int64_t left = ns - now_ns();
	struct timespec t;

	if (left <= 0 || left > COARSE)
		return;
	t = (struct timespec){left / 1000000000, left % 1000000000};
	nanosleep(&t, NULL);
}

/* How old a file must be for its times to tell any later change. */
static int64_t
margin_of(const char *path)
{
	struct statfs fs;

	if (statfs(path, &fs) != 0)
		return COARSE;
	for (size_t i = 0; i < sizeof(fine_systems) / sizeof(fine_systems[0]); i++)
		if ((uint32_t)fs.f_type == fine_systems[i])
			return FINE;
	return COARSE;
}

static int64_t
youngest(const struct file_id *id)
{
	return id->mtime_ns > id->ctime_ns ? id->mtime_ns : id->ctime_ns;
}

static struct row
row_of(const struct file_id *id, const char *what)
{
	char hex[XXH3_HEX];

	xxh3_of(what, strlen(what), hex);
	hex[16] = '\0';
	return (struct row){
		.what = strtoull(hex, NULL, 16), .ino = id->ino, .dev = id->dev, .size = id->size,
		.mtime_ns = id->mtime_ns, .ctime_ns = id->ctime_ns,
	};
}

static int
by_id(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->what != y->what)
		return x->what < y->what ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return (x->dev > y->dev) - (x->dev < y->dev);
}

static int
newest_first(const void *a, const void *b)
{
	int64_t x = ((const struct fresh *)a)->row.written, y = ((const struct fresh *)b)->row.written;

	return (x < y) - (x > y);
}

static int
by_row(const void *a, const void *b)
{
	return by_id(&((const struct fresh *)a)->row, &((const struct fresh *)b)->row);
}

static bool
is_unchanged(const struct row *a, const struct row *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static void
load(struct loaded *l, const char *path)
{
	struct head h;
	char sum[XXH3_HEX];

	*l = (struct loaded){0};
	if (!file_exists(path) || file_read(&l->file, path, (size_t)1 << 30) < 0 || l->file.n < sizeof(h))
		return;
	memcpy(&h, l->file.p, sizeof(h));
	if (memcmp(h.magic, "qjstat1", 8) != 0 || h.order != 0x01020304 || h.row != sizeof(struct row))
		return;
	if (h.n > l->file.n / sizeof(struct row) || h.bytes != l->file.n - sizeof(h) - h.n * sizeof(struct row))
		return;
	xxh3_of(l->file.p + sizeof(h), l->file.n - sizeof(h), sum);
	if (memcmp(sum, h.sum, sizeof(sum)) != 0)
		return;
	l->v = (const struct row *)(const void *)(l->file.p + sizeof(h));
	l->n = h.n;
	l->text = l->file.p + sizeof(h) + h.n * sizeof(struct row);
	l->bytes = h.bytes;
}

struct stat_cache *
stats_open(const char *root)
{
	struct stat_cache *c = mem_new(1, sizeof(*c));
	char *path = path_join(root, "stat");

	load(&c->old, path);
	free(path);
	return c;
}

void
stats_close(struct stat_cache *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n; i++)
		free(c->v[i].text);
	free(c->v);
	map_release(&c->by_id);
	buf_release(&c->old.file);
	free(c);
}

static void
name_of(const struct row *r, char name[64])
{
	snprintf(name, 64, "%" PRIx64 ".%" PRIx64 ".%" PRIx64, r->what, r->ino, r->dev);
}

int
stat_get(struct store *s, const char *path, const char *what, struct buf *text)
{
	struct stat_cache *c = s->stats;
	const struct map_entry *e;
	const struct row *old;
	struct file_id id;
	struct row want;
	char name[64];
	int found = 0;

	if (file_id(&id, path) < 0)
		return 0;
	want = row_of(&id, what);
	name_of(&want, name);
	pthread_mutex_lock(&s->lock);
	e = map_find(&c->by_id, name);
	if (e) {
		found = is_unchanged(&c->v[e->v.i].row, &want);
		if (found)
			buf_puts(text, c->v[e->v.i].text);
	} else {
		old = c->old.n ? bsearch(&want, c->old.v, c->old.n, sizeof(want), by_id) : NULL;
		found = old && is_unchanged(old, &want) && old->at <= c->old.bytes && old->n <= c->old.bytes - old->at;
		if (found)
			buf_add(text, c->old.text + old->at, old->n);
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

static void
put(struct store *s, const struct file_id *id, const char *what, const char *text, int64_t settle)
{
	struct stat_cache *c = s->stats;
	struct fresh f = {.row = row_of(id, what), .text = mem_text(text)};
	struct map_entry *e;
	bool added;
	char name[64];

	name_of(&f.row, name);
	f.row.written = now_ns() / 1000000000;
	pthread_mutex_lock(&s->lock);
	e = map_put(&c->by_id, name, &added);
	if (added) {
		if ((c->n & (c->n - 1)) == 0)
			c->v = mem_grow(c->v, c->n ? 2 * c->n : 1, sizeof(*c->v));
		e->v.i = (int64_t)c->n++;
	} else {
		free(c->v[e->v.i].text);
	}
	c->v[e->v.i] = f;
	c->dirty = true;
	if (settle > c->settle)
		c->settle = settle;
	pthread_mutex_unlock(&s->lock);
}

void
stat_put(struct store *s, const char *path, const char *what, const char *text)
{
	struct file_id id;

	if (file_id(&id, path) == 0 && youngest(&id) <= s->opened && youngest(&id) + margin_of(path) <= now_ns())
		put(s, &id, what, text, 0);
}

void
stat_own(struct store *s, const char *path, const char *what, const char *text)
{
	struct file_id id;

	if (file_id(&id, path) == 0 && (margin_of(path) == FINE || youngest(&id) + COARSE <= now_ns()))
		put(s, &id, what, text, youngest(&id) + FINE);
}

void
stat_settle(const char *path)
{
	struct file_id id;

	if (file_id(&id, path) == 0 && youngest(&id) + FINE > now_ns() && margin_of(path) == FINE)
		sleep_until(youngest(&id) + FINE);
}

/* What the file will hold: the rows of this process, and those of `now` that they do not replace. */
static struct fresh *
merge(const struct stat_cache *c, const struct loaded *now, size_t *n)
{
	struct fresh *all = mem_new(c->n + now->n + 1, sizeof(*all));
	char name[64];

	*n = 0;
	for (size_t i = 0; i < c->n; i++)
		all[(*n)++] = (struct fresh){c->v[i].row, mem_text(c->v[i].text)};
	for (size_t i = 0; i < now->n; i++) {
		const struct row *r = &now->v[i];
		char *text;

		name_of(r, name);
		if (map_find(&c->by_id, name) || r->at > now->bytes || r->n > now->bytes - r->at)
			continue;
		text = mem_new((size_t)r->n + 1, 1);
		memcpy(text, now->text + r->at, r->n);
		all[(*n)++] = (struct fresh){*r, text};
	}
	if (*n > LIMIT) {
		qsort(all, *n, sizeof(*all), newest_first);
		for (size_t i = LIMIT / 2; i < *n; i++)
			free(all[i].text);
		*n = LIMIT / 2;
	}
	qsort(all, *n, sizeof(*all), by_row);
	return all;
}

static void
compose(struct fresh *all, size_t n, struct buf *out)
{
	struct head h = {.magic = "qjstat1", .order = 0x01020304, .row = sizeof(struct row), .n = n};
	char sum[XXH3_HEX];

	for (size_t i = 0; i < n; i++) {
		all[i].row.at = (uint32_t)h.bytes;
		all[i].row.n = (uint32_t)strlen(all[i].text);
		h.bytes += all[i].row.n;
	}
	buf_add(out, &h, sizeof(h));
	for (size_t i = 0; i < n; i++)
		buf_add(out, &all[i].row, sizeof(all[i].row));
	for (size_t i = 0; i < n; i++)
		buf_puts(out, all[i].text);
	xxh3_of(out->p + sizeof(h), out->n - sizeof(h), sum);
	memcpy(h.sum, sum, sizeof(sum));
	memcpy(out->p, &h, sizeof(h));
}

int
stat_save(struct store *s)
{
	struct stat_cache *c = s->stats;
	struct loaded now;
	struct fresh *all;
	struct buf out = {0};
	char *path;
	size_t n;
	int rc;

	pthread_mutex_lock(&s->lock);
	if (!c->dirty) {
		pthread_mutex_unlock(&s->lock);
		return 0;
	}
	sleep_until(c->settle);
	path = store_path(s, "stat");
	load(&now, path);
	all = merge(c, &now, &n);
	compose(all, n, &out);
	rc = file_replace(path, out.p, out.n);
	c->dirty = rc < 0;
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < n; i++)
		free(all[i].text);
	free(all);
	buf_release(&now.file);
	buf_release(&out);
	free(path);
	return rc;
}
