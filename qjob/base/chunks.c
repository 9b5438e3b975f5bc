#include "qjob/base/chunks.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "qjob/base/hash.h"
#include "qjob/base/mem.h"
#include "qjob/base/pool.h"

struct chunk {
	const unsigned char *p;
	size_t n;
	char hex[SHA256_HEX];
};

/* Chunks while they are digested. */
struct digesting {
	struct chunks *c;
	atomic_size_t bytes;      /* done */
	int (*watch)(void *own, size_t bytes);
	void *own;
};

static void
add_chunk(struct chunks *c, const unsigned char *p, size_t n)
{
	if (c->n == c->cap) {
		c->cap = c->cap ? 2 * c->cap : 64;
		c->v = mem_grow(c->v, c->cap, sizeof(*c->v));
	}
	c->v[c->n++] = (struct chunk){.p = p, .n = n};
}

void
chunks_add(struct chunks *c, const void *p, size_t n)
{
	for (size_t at = 0; at < n; at += CHUNK_BYTES)
		add_chunk(c, (const unsigned char *)p + at, n - at < CHUNK_BYTES ? n - at : CHUNK_BYTES);
	/* Room for a power of two of them. */
	if ((c->ranges & (c->ranges - 1)) == 0)
		c->ends = mem_grow(c->ends, c->ranges ? 2 * c->ranges : 1, sizeof(*c->ends));
	c->ends[c->ranges++] = c->n;
	c->bytes += n;
}

static int
digest_chunk(void *own, size_t i)
{
	struct digesting *d = own;
	struct chunk *chunk = &d->c->v[i];

	sha256_of(chunk->p, chunk->n, chunk->hex);
	atomic_fetch_add(&d->bytes, chunk->n);
	return 0;
}

static int
watch_bytes(void *own, size_t done)
{
	struct digesting *d = own;

	(void)done;
	return d->watch(d->own, atomic_load(&d->bytes));
}

int
chunks_digest(struct chunks *c, int threads, int (*watch)(void *own, size_t bytes), void *own)
{
	struct digesting d = {.c = c, .watch = watch, .own = own};

	return pool_watch(c->n, threads, digest_chunk, &d, watch ? watch_bytes : NULL);
}

void
chunks_list(const struct chunks *c, size_t range, struct buf *out)
{
	for (size_t i = range ? c->ends[range - 1] : 0; i < c->ends[range]; i++) {
		buf_puts(out, c->v[i].hex);
		buf_puts(out, "\n");
	}
}

void
chunks_release(struct chunks *c)
{
	free(c->v);
	free(c->ends);
	*c = (struct chunks){0};
}
