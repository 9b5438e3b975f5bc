/* YAML as a tree that remembers where each value stood.  libyaml events; aliases are followed
 * (bounded), doubled keys are reported; tags, merge keys (<<), several documents, keys that are not
 * plain texts, NUL characters and bytes that are not UTF-8 are refused. */
#ifndef QJOB_BASE_YAML_H
#define QJOB_BASE_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "qjob/base/diag.h"

struct buf;

/* libyaml exports a yaml_free of its own, which ours would replace inside it. */
#define yaml_free yaml_tree_free

enum yaml_kind { YAML_TEXT, YAML_LIST, YAML_MAP };

struct yaml {
	enum yaml_kind kind;
	struct place at;
	char *text;              /* YAML_TEXT: the scalar as written */
	bool quoted;             /* '..', "..", | or >: always text, never a number, bool or null */
	struct yaml **v;         /* YAML_LIST: items; YAML_MAP: values */
	struct yaml **keys;      /* YAML_MAP: scalars; same length as v */
	size_t n;
};

/* Parses one document.  name appears in places and must outlive the tree.  Problems go to d (with
 * line and column); returns NULL when no tree could be built.  Doubled keys, tags and merge keys are
 * reported all, and a tree without them is returned: whoever goes on looks at d first. */
struct yaml *yaml_parse(const char *text, size_t n, const char *name, struct diag *d);
struct yaml *yaml_load(const char *path, struct diag *d);          /* at most 4 MiB */
void yaml_free(struct yaml *y);

bool yaml_is_null(const struct yaml *y);                           /* NULL, or null, ~ or nothing, unquoted */
struct yaml *yaml_get(const struct yaml *map, const char *key);    /* NULL: absent or not a map */
const struct yaml *yaml_key(const struct yaml *map, const char *key);
/* Sets map.key, path with dots: quantize.bits, making the maps on the way.  value is YAML; nothing is null.  All that
 * is set gets the place {origin}, which must outlive the tree. */
int yaml_set(struct yaml *map, const char *path, const char *value, const char *origin);
/* over's entries replace or join those of base, maps merged key by key, lists replaced; consumes over.
 * Both are maps. */
void yaml_merge(struct yaml *base, struct yaml *over);
struct yaml *yaml_copy(const struct yaml *y);
/* A scalar as YAML text, quoted when it would otherwise read as another type. */
void yaml_scalar(struct buf *b, const char *text);
/* A tree on one line, [a, {b: c}]; reads back as an equal tree.  NULL is null. */
void yaml_write(struct buf *b, const struct yaml *y);

#endif
