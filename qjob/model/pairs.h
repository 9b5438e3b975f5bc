/* A map from two numbers to two numbers: merges by (left, right), a trie's edges by (node, byte). */
#ifndef QJOB_MODEL_PAIRS_H
#define QJOB_MODEL_PAIRS_H

#include <stddef.h>
#include <stdint.h>

struct pair {
	uint64_t key;            /* 0: free */
	uint32_t rank, id;
};

struct pairs {
	struct pair *slots;
	size_t n, nslots;
};

/* a and b are below UINT32_MAX. */
const struct pair *pairs_find(const struct pairs *p, uint32_t a, uint32_t b);     /* NULL: absent */
struct pair *pairs_put(struct pairs *p, uint32_t a, uint32_t b);                  /* finds or adds, values zero; valid until the next put */
void pairs_release(struct pairs *p);

#endif
