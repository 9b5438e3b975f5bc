/*     qjob-record 1
 *     key <key>
 *     file <sha256> <size> <xxh3> <name>
 *     digest <sha256> <name>
 *     manifest <bytes>
 *     ...
 *     end <xxh3 of all before this line> */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/inside.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"

static const char FIRST[] = "qjob-record 1\n";
enum { END = 4 + XXH3_HEX };     /* "end ", the digest, and a newline in place of its NUL */

/* What is left of a text being read. */
struct text {
	const char *p, *end;
};

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const struct store_export *)a)->name, ((const struct store_export *)b)->name);
}

void
record_sort(struct record *r)
{
	if (r->n)
		qsort(r->v, r->n, sizeof(*r->v), by_name);
}

void
record_release(struct record *r)
{
	for (size_t i = 0; i < r->n; i++)
		free(r->v[i].name);
	free(r->v);
	buf_release(&r->manifest);
	*r = (struct record){0};
}

static struct store_export *
add(struct record *r, char *name)
{
	if ((r->n & (r->n - 1)) == 0)
		r->v = mem_grow(r->v, r->n ? 2 * r->n : 1, sizeof(*r->v));
	r->v[r->n] = (struct store_export){.name = name};
	return &r->v[r->n++];
}

void
record_add(struct record *r, const char *name, const char *sha256)
{
	snprintf(add(r, mem_text(name))->sha256, SHA256_HEX, "%s", sha256);
}

const struct store_export *
record_find(const struct record *r, const char *name)
{
	const struct store_export wanted = {.name = (char *)(uintptr_t)name};

	return r->n ? bsearch(&wanted, r->v, r->n, sizeof(*r->v), by_name) : NULL;
}

bool
record_same(const struct record *a, const struct record *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		const struct store_export *x = &a->v[i], *y = &b->v[i];

		if (x->file != y->file || strcmp(x->name, y->name) != 0 || strcmp(x->sha256, y->sha256) != 0)
			return false;
	}
	return true;
}

static bool
is_hex(const char *s, size_t n)
{
	return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

static int
check_export(const struct record *r, size_t i)
{
	const struct store_export *e = &r->v[i];

	if (!*e->name)
		return err_set(E_DATA, "an output without a name");
	for (const char *p = e->name; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return err_set(E_DATA, "the output named %.*s... has a control character in its name", (int)(p - e->name), e->name);
	if (i && strcmp(e->name, r->v[i - 1].name) <= 0)
		return err_set(E_DATA, "two outputs named %s", e->name);
	if (!is_hex(e->sha256, SHA256_HEX - 1) || (e->file && !is_hex(e->xxh3, XXH3_HEX - 1)))
		return err_set(E_DATA, "the output %s has no digest", e->name);
	return 0;
}

int
record_write(const struct record *r, struct buf *out)
{
	char sum[XXH3_HEX];

	buf_printf(out, "%skey %s\n", FIRST, r->key);
	for (size_t i = 0; i < r->n; i++) {
		const struct store_export *e = &r->v[i];
		int rc = check_export(r, i);

		if (rc < 0)
			return rc;
		if (e->file)
			buf_printf(out, "file %s %" PRIu64 " %s %s\n", e->sha256, e->size, e->xxh3, e->name);
		else
			buf_printf(out, "digest %s %s\n", e->sha256, e->name);
	}
	buf_printf(out, "manifest %zu\n", r->manifest.n);
	buf_add(out, r->manifest.p, r->manifest.n);
	xxh3_of(out->p, out->n, sum);
	buf_printf(out, "end %s\n", sum);
	return 0;
}

/* Steps over word if the text goes on with it. */
static bool
take(struct text *t, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(t->end - t->p) < n || memcmp(t->p, word, n) != 0)
		return false;
	t->p += n;
	return true;
}

static bool
take_hex(struct text *t, char *hex, size_t n)
{
	if ((size_t)(t->end - t->p) < n)
		return false;
	memcpy(hex, t->p, n);
	hex[n] = '\0';
	t->p += n;
	return is_hex(hex, n);
}

static bool
take_number(struct text *t, uint64_t *x)
{
	const char *first = t->p;

	*x = 0;
	for (; t->p < t->end && *t->p >= '0' && *t->p <= '9' && t->p - first < 19; t->p++)
		*x = *x * 10 + (uint64_t)(*t->p - '0');
	return t->p > first;
}

static char *
take_line(struct text *t)
{
	const char *stop = memchr(t->p, '\n', (size_t)(t->end - t->p));
	size_t n;
	char *s;

	if (!stop || stop == t->p)
		return NULL;
	n = (size_t)(stop - t->p);
	s = mem_new(n + 1, 1);
	memcpy(s, t->p, n);
	t->p = stop + 1;
	return s;
}

static bool
take_export(struct text *t, struct record *r, bool file)
{
	struct store_export e = {.file = file};

	if (!take_hex(t, e.sha256, SHA256_HEX - 1) || !take(t, " "))
		return false;
	if (file && (!take_number(t, &e.size) || !take(t, " ") || !take_hex(t, e.xxh3, XXH3_HEX - 1) || !take(t, " ")))
		return false;
	e.name = take_line(t);
	if (!e.name)
		return false;
	*add(r, e.name) = e;
	return check_export(r, r->n - 1) == 0;
}

static bool
take_record(struct text *t, struct record *r)
{
	uint64_t n;

	if (!take(t, FIRST) || !take(t, "key ") || !take_hex(t, r->key, SHA256_HEX - 1) || !take(t, "\n"))
		return false;
	for (;;) {
		bool file = take(t, "file ");

		if (!file && !take(t, "digest "))
			break;
		if (!take_export(t, r, file))
			return false;
	}
	if (!take(t, "manifest ") || !take_number(t, &n) || !take(t, "\n") || n != (uint64_t)(t->end - t->p))
		return false;
	buf_add(&r->manifest, t->p, n);
	return true;
}

int
record_parse(struct record *r, const char *key, const char *p, size_t n)
{
	struct text t = {p, p + n - (n < END ? n : END)};
	char sum[XXH3_HEX];

	*r = (struct record){0};
	xxh3_of(p, (size_t)(t.end - p), sum);
	if (n < END || memcmp(t.end, "end ", 4) != 0 || memcmp(t.end + 4, sum, XXH3_HEX - 1) != 0 || p[n - 1] != '\n')
		return err_set(E_DATA, "the record is not whole");
	if (!take_record(&t, r) || strcmp(r->key, key) != 0) {
		record_release(r);
		return err_set(E_DATA, "the record is not what its name says");
	}
	return 0;
}
