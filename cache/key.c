#include "cache/key.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/mem.h"

static const char FIRST[] = "qjob-key 1\n";

struct line {
	const char *p;
	size_t n;          /* without the newline */
};

static int
by_bytes(const void *a, const void *b)
{
	const struct line *x = a, *y = b;
	size_t n = x->n < y->n ? x->n : y->n;
	int c = n ? memcmp(x->p, y->p, n) : 0;

	return c ? c : (x->n > y->n) - (x->n < y->n);
}

/* v has room for every newline of facts, and one more. */
static size_t
split(const struct buf *facts, struct line *v)
{
	const char *p = facts->p, *end = p + facts->n;
	size_t n = 0;

	while (p < end) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));

		if (!stop)
			stop = end;
		if (stop > p)
			v[n++] = (struct line){p, (size_t)(stop - p)};
		p = stop + 1;
	}
	return n;
}

void
key_make(const struct buf *facts, struct buf *manifest, char key[SHA256_HEX])
{
	struct line *v;
	size_t n = 1;

	for (size_t i = 0; i < facts->n; i++)
		n += facts->p[i] == '\n';
	v = mem_new(n, sizeof(*v));
	n = facts->n ? split(facts, v) : 0;
	qsort(v, n, sizeof(*v), by_bytes);
	buf_clear(manifest);
	buf_puts(manifest, FIRST);
	for (size_t i = 0; i < n; i++) {
		if (i && by_bytes(&v[i], &v[i - 1]) == 0)
			continue;
		buf_add(manifest, v[i].p, v[i].n);
		buf_puts(manifest, "\n");
	}
	free(v);
	sha256_of(manifest->p, manifest->n, key);
}
