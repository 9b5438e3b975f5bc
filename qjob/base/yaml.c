#include "qjob/base/yaml.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/map.h"
#include "qjob/base/mem.h"

void
yaml_free(struct yaml *y)
{
	if (!y)
		return;
	for (size_t i = 0; i < y->n; i++) {
		yaml_free(y->v[i]);
		if (y->keys)
			yaml_free(y->keys[i]);
	}
	free(y->v);
	free(y->keys);
	free(y->text);
	free(y);
}

bool
yaml_is_null(const struct yaml *y)
{
	if (!y)
		return true;
	if (y->kind != YAML_TEXT || y->quoted)
		return false;
	return !*y->text || strcmp(y->text, "~") == 0 || strcmp(y->text, "null") == 0 ||
	       strcmp(y->text, "Null") == 0 || strcmp(y->text, "NULL") == 0;
}

static size_t
index_of(const struct yaml *map, const char *key)
{
	size_t i = 0;

	while (i < map->n && strcmp(map->keys[i]->text, key) != 0)
		i++;
	return i;
}

struct yaml *
yaml_get(const struct yaml *map, const char *key)
{
	size_t i;

	if (!map || map->kind != YAML_MAP)
		return NULL;
	i = index_of(map, key);
	return i < map->n ? map->v[i] : NULL;
}

const struct yaml *
yaml_key(const struct yaml *map, const char *key)
{
	size_t i;

	if (!map || map->kind != YAML_MAP)
		return NULL;
	i = index_of(map, key);
	return i < map->n ? map->keys[i] : NULL;
}

struct yaml *
yaml_copy(const struct yaml *y)
{
	struct yaml *c;

	if (!y)
		return NULL;
	c = mem_new(1, sizeof(*c));
	*c = (struct yaml){.kind = y->kind, .at = y->at, .quoted = y->quoted, .n = y->n};
	c->text = mem_text(y->text);
	if (y->n)
		c->v = mem_new(y->n, sizeof(*c->v));
	if (y->n && y->keys)
		c->keys = mem_new(y->n, sizeof(*c->keys));
	for (size_t i = 0; i < y->n; i++) {
		c->v[i] = yaml_copy(y->v[i]);
		if (y->keys)
			c->keys[i] = yaml_copy(y->keys[i]);
	}
	return c;
}

static void
append(struct yaml *map, struct yaml *key, struct yaml *value)
{
	map->v = mem_grow(map->v, map->n + 1, sizeof(*map->v));
	map->keys = mem_grow(map->keys, map->n + 1, sizeof(*map->keys));
	map->v[map->n] = value;
	map->keys[map->n++] = key;
}

static void
replace(struct yaml *map, size_t i, struct yaml *key, struct yaml *value)
{
	yaml_free(map->keys[i]);
	yaml_free(map->v[i]);
	map->keys[i] = key;
	map->v[i] = value;
}

/* Consumes key and value. */
static void
put(struct yaml *map, struct yaml *key, struct yaml *value)
{
	size_t i = index_of(map, key->text);

	if (i == map->n)
		append(map, key, value);
	else
		replace(map, i, key, value);
}

void
yaml_merge(struct yaml *base, struct yaml *over)
{
	struct map places = {0};

	for (size_t i = 0; i < base->n; i++)
		map_put(&places, base->keys[i]->text, NULL)->v.i = (int64_t)i;
	for (size_t i = 0; i < over->n; i++) {
		const struct map_entry *e = map_find(&places, over->keys[i]->text);
		struct yaml *old = e ? base->v[e->v.i] : NULL;

		if (!old) {
			append(base, over->keys[i], over->v[i]);
		} else if (old->kind == YAML_MAP && over->v[i]->kind == YAML_MAP) {
			yaml_merge(old, over->v[i]);
			yaml_free(over->keys[i]);
		} else {
			replace(base, (size_t)e->v.i, over->keys[i], over->v[i]);
		}
	}
	map_release(&places);
	over->n = 0;
	yaml_free(over);
}

static void
place_all(struct yaml *y, struct place at)
{
	y->at = at;
	for (size_t i = 0; i < y->n; i++) {
		place_all(y->v[i], at);
		if (y->keys)
			y->keys[i]->at = at;
	}
}

static struct yaml *
new_node(enum yaml_kind kind, const char *text, size_t n, struct place at)
{
	struct yaml *y = mem_new(1, sizeof(*y));

	*y = (struct yaml){.kind = kind, .at = at};
	if (kind == YAML_TEXT) {
		y->text = mem_new(n + 1, 1);
		memcpy(y->text, text, n);
	}
	return y;
}

static int
parse_value(struct yaml **value, const char *text, const char *origin)
{
	struct place at = {.file = origin};
	struct diag d = {0};
	int rc = 0;

	if (!text[strspn(text, " \t\n")])
		*value = new_node(YAML_TEXT, "", 0, at);
	else
		*value = yaml_parse(text, strlen(text), origin, &d);
	if (d.n) {
		rc = err_set(E_USE, "%s", d.v[0]);
		yaml_free(*value);
		*value = NULL;
	} else {
		place_all(*value, at);
	}
	diag_release(&d);
	return rc;
}

int
yaml_set(struct yaml *map, const char *path, const char *value, const char *origin)
{
	struct place at = {.file = origin};
	struct yaml *tree;
	const char *rest = path;
	size_t n = strcspn(path, ".");

	if (parse_value(&tree, value, origin) < 0)
		return E_USE;
	for (; n && rest[n] == '.'; rest += n + 1, n = strcspn(rest, ".")) {
		struct yaml *key = new_node(YAML_TEXT, rest, n, at), *next = yaml_get(map, key->text);

		if (yaml_is_null(next)) {
			next = new_node(YAML_MAP, NULL, 0, at);
			put(map, key, next);
		} else {
			yaml_free(key);
		}
		if (next->kind != YAML_MAP) {
			yaml_free(tree);
			return err_set(E_USE, "%s: '%.*s' is not a map", origin, (int)(rest + n - path), path);
		}
		map = next;
	}
	if (!n) {
		yaml_free(tree);
		return err_set(E_USE, "%s: '%s' is not a name like quantize.bits", origin, path);
	}
	put(map, new_node(YAML_TEXT, rest, n, at), tree);
	return 0;
}
