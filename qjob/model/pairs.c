#include "qjob/model/pairs.h"

#include <stdlib.h>

#include "qjob/base/mem.h"

static uint64_t
key_of(uint32_t a, uint32_t b)
{
	return ((uint64_t)a << 32 | b) + 1;
}

static size_t
slot_of(const struct pairs *p, uint64_t key)
{
	uint64_t h = key;
	size_t i;

	h ^= h >> 33;
	h *= 0xff51afd7ed558ccdull;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ull;
	h ^= h >> 33;
	for (i = h & (p->nslots - 1); p->slots[i].key != 0 && p->slots[i].key != key;)
		i = (i + 1) & (p->nslots - 1);
	return i;
}

static void
grow(struct pairs *p)
{
	struct pairs wide = {.n = p->n, .nslots = p->nslots == 0 ? 64 : p->nslots * 2};

	wide.slots = mem_new(wide.nslots, sizeof(*wide.slots));
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i].key != 0)
			wide.slots[slot_of(&wide, p->slots[i].key)] = p->slots[i];
	free(p->slots);
	*p = wide;
}

const struct pair *
pairs_find(const struct pairs *p, uint32_t a, uint32_t b)
{
	const struct pair *found;

	if (p->n == 0)
		return NULL;
	found = &p->slots[slot_of(p, key_of(a, b))];
	return found->key != 0 ? found : NULL;
}

struct pair *
pairs_put(struct pairs *p, uint32_t a, uint32_t b)
{
	struct pair *found;

	if ((p->n + 1) * 2 > p->nslots)
		grow(p);
	found = &p->slots[slot_of(p, key_of(a, b))];
	if (found->key == 0) {
		found->key = key_of(a, b);
		p->n++;
	}
	return found;
}

void
pairs_release(struct pairs *p)
{
	free(p->slots);
	*p = (struct pairs){0};
}
