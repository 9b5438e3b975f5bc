#include "qjob/base/map.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "qjob/base/mem.h"

/* Open addressing: slots is a power of two, at most half full, probed one by one. */
static size_t
slot_of(const struct map *m, const char *key, size_t n)
{
	size_t i = (size_t)XXH3_64bits(key, n) & (m->nslots - 1);

	for (; m->slots[i]; i = (i + 1) & (m->nslots - 1)) {
		const char *k = m->v[m->slots[i] - 1].key;

		if (strncmp(k, key, n) == 0 && k[n] == '\0')
			break;
	}
	return i;
}

static void
grow(struct map *m)
{
	m->cap = m->cap ? 2 * m->cap : 8;
	if (m->cap > UINT32_MAX / 2)
		m->cap = SIZE_MAX;    /* mem_grow says so and aborts */
	m->v = mem_grow(m->v, m->cap, sizeof(*m->v));
	free(m->slots);
	m->nslots = 2 * m->cap;
	m->slots = mem_new(m->nslots, sizeof(*m->slots));
	for (size_t i = 0; i < m->n; i++)
		m->slots[slot_of(m, m->v[i].key, strlen(m->v[i].key))] = (uint32_t)i + 1;
}

struct map_entry *
map_find_n(const struct map *m, const char *key, size_t n)
{
	uint32_t i;

	if (!m->n || (n && memchr(key, '\0', n)))
		return NULL;
	i = m->slots[slot_of(m, key, n)];
	return i ? &m->v[i - 1] : NULL;
}

struct map_entry *
map_find(const struct map *m, const char *key)
{
	return map_find_n(m, key, strlen(key));
}

struct map_entry *
map_put(struct map *m, const char *key, bool *added)
{
	struct map_entry *e = map_find(m, key);

	if (added)
		*added = !e;
	if (e)
		return e;
	if (m->n == m->cap)
		grow(m);
	m->slots[slot_of(m, key, strlen(key))] = (uint32_t)m->n + 1;
	e = &m->v[m->n++];
	*e = (struct map_entry){.key = mem_text(key)};
	return e;
}

void
map_release(struct map *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->v[i].key);
	free(m->v);
	free(m->slots);
	*m = (struct map){0};
}
