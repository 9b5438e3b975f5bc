/* A map from text to a pointer or number, iterated in the order of insertion.  Keys are copied.
 * {0} is empty.  An entry found or put stays where it is until the next one is added. */
#ifndef QJOB_BASE_MAP_H
#define QJOB_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_entry {
	char *key;
	union { void *p; int64_t i; } v;
};

struct map {
	struct map_entry *v;   /* v[0..n-1] in order of insertion */
	size_t n, cap;
	uint32_t *slots;       /* index + 1 into v; 0: free */
	size_t nslots;
};

struct map_entry *map_find(const struct map *m, const char *key);    /* NULL: absent */
/* The same with a key that need not end in NUL. */
struct map_entry *map_find_n(const struct map *m, const char *key, size_t n);
/* Finds, or adds with v zero; added may be NULL. */
struct map_entry *map_put(struct map *m, const char *key, bool *added);
void map_release(struct map *m);     /* values are the caller's */

#endif
