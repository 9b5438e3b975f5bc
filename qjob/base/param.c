#include "qjob/base/param.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/map.h"
#include "qjob/base/mem.h"
#include "qjob/base/number.h"
#include "qjob/base/param_rows.h"

struct param_pool {
	void **v;
	size_t n, cap;
	struct yaml **trees;
	size_t ntrees;
};

/* One call of param_read, or of one of its maps inside. */
struct reading {
	const struct param_block *blocks;
	size_t n;
	const char *where;
	struct param_pool *pool;
	struct diag *d;
};

/* One value on its way into its field; path is "quantize.bits". */
struct setting {
	const struct param *row;
	void *field;
	const struct yaml *value;
	const char *path, *note;
};

struct param_pool *
param_pool_new(void)
{
	return mem_new(1, sizeof(struct param_pool));
}

void
param_pool_free(struct param_pool *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n; i++)
		free(p->v[i]);
	for (size_t i = 0; i < p->ntrees; i++)
		yaml_free(p->trees[i]);
	free(p->v);
	free(p->trees);
	free(p);
}

static void *
pool_keep(struct param_pool *p, void *what)
{
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 16;
		p->v = mem_grow(p->v, p->cap, sizeof(*p->v));
	}
	p->v[p->n++] = what;
	return what;
}

static struct yaml *
pool_keep_tree(struct param_pool *p, struct yaml *tree)
{
	p->trees = mem_grow(p->trees, p->ntrees + 1, sizeof(struct yaml *));
	p->trees[p->ntrees++] = tree;
	return tree;
}

const char *
param_word(const char **at, size_t *n)
{
	const char *p = *at + strspn(*at, " ");

	*n = strcspn(p, " ");
	*at = p + *n;
	return *n ? p : NULL;
}

static bool
is_listed(const char *words, const char *s)
{
	size_t n;

	for (const char *w = param_word(&words, &n); w; w = param_word(&words, &n))
		if (strncmp(w, s, n) == 0 && s[n] == '\0')
			return true;
	return false;
}

static char *
join(const char *where, const char *name)
{
	return mem_format("%s%s%s", where, *where ? "." : "", name);
}

/* ---- one value ---- */

static void
not_a(const struct setting *s, struct diag *d, const char *what)
{
	const struct yaml *y = s->value;
	const char *colon = *s->path ? ": " : "";
	const char *quoted = y->quoted ? " (it is quoted)" : "";

	if (y->kind == YAML_LIST)
		diag_add(d, y->at, "%s%sa list is not %s", s->path, colon, what);
	else if (y->kind == YAML_MAP)
		diag_add(d, y->at, "%s%sa map is not %s", s->path, colon, what);
	else if (yaml_is_null(y))
		diag_add(d, y->at, "%s%snull is not %s", s->path, colon, what);
	else
		diag_add(d, y->at, "%s%s'%s' is not %s%s", s->path, colon, y->text, what, quoted);
}

/* "a, b, c" */
static void
list_words(const char *words, struct buf *out)
{
	const char *before = "";
	size_t n;

	for (const char *w = param_word(&words, &n); w; w = param_word(&words, &n)) {
		buf_puts(out, before);
		buf_add(out, w, n);
		before = ", ";
	}
}

/* "quantize.bits: 5 is WHY for method gptq" */
static void
refuse(const struct setting *s, struct diag *d, const char *why)
{
	const char *quote = s->row->type == PARAM_INT || s->row->type == PARAM_REAL ? "" : "'";
	const char *blank = s->note ? " " : "", *note = s->note ? s->note : "";

	diag_add(d, s->value->at, "%s: %s%s%s is %s%s%s", s->path, quote, s->value->text, quote, why, blank, note);
}

static void
not_listed(const struct setting *s, struct diag *d)
{
	struct buf b = {0};

	buf_puts(&b, "not one of ");
	list_words(s->row->words, &b);
	refuse(s, d, buf_text(&b));
	buf_release(&b);
}

static bool
is_in_range(const struct setting *s, double x, struct diag *d)
{
	const struct param *row = s->row;
	char min[REAL_TEXT], max[REAL_TEXT];
	struct buf b = {0};

	if ((row->min == 0 && row->max == 0) || (x >= row->min && x <= row->max))
		return true;
	real_text(row->min, min);
	real_text(row->max, max);
	if (isinf(row->max))
		buf_printf(&b, "less than %s", min);
	else if (isinf(row->min))
		buf_printf(&b, "more than %s", max);
	else
		buf_printf(&b, "outside %s..%s", min, max);
	refuse(s, d, buf_text(&b));
	buf_release(&b);
	return false;
}

static bool
is_bare(const struct yaml *y)
{
	return y->kind == YAML_TEXT && !y->quoted;
}

static void
set_int(const struct setting *s, struct diag *d)
{
	const struct yaml *y = s->value;
	char canonical[24];
	int64_t x;

	if (!is_bare(y) || !whole_parse(y->text, &x)) {
		not_a(s, d, "a whole number");
		return;
	}
	snprintf(canonical, sizeof(canonical), "%" PRId64, x);
	if (x < INT_MIN || x > INT_MAX)
		not_a(s, d, "a number that fits in 32 bits");
	else if (s->row->words && !is_listed(s->row->words, canonical))
		not_listed(s, d);
	else if (is_in_range(s, (double)x, d))
		*(int *)s->field = (int)x;
}

static void
set_real(const struct setting *s, struct diag *d)
{
	double x;

	if (!is_bare(s->value) || !real_parse(s->value->text, &x))
		not_a(s, d, "a number");
	else if (is_in_range(s, x, d))
		*(double *)s->field = x == 0 ? 0 : x;    /* no -0: it would be another key */
}

static void
set_bool(const struct setting *s, struct diag *d)
{
	static const char *const words[] = {"false", "False", "FALSE", "true", "True", "TRUE"};

	for (size_t i = 0; is_bare(s->value) && i < 6; i++)
		if (strcmp(s->value->text, words[i]) == 0) {
			*(bool *)s->field = i >= 3;
			return;
		}
	not_a(s, d, "true or false");
}

static void
set_text(const struct setting *s, struct param_pool *pool, struct diag *d)
{
	const struct yaml *y = s->value;

	if (y->kind != YAML_TEXT || yaml_is_null(y))
		not_a(s, d, "a text");
	else if (s->row->words && !is_listed(s->row->words, y->text))
		not_listed(s, d);
	else
		*(const char **)s->field = pool_keep(pool, mem_text(y->text));
}

/* A single text is a list of one. */
static void
set_texts(const struct setting *s, struct param_pool *pool, struct diag *d)
{
	const struct yaml *y = s->value;
	size_t n = y->kind == YAML_LIST ? y->n : 1;
	const char **v = pool_keep(pool, mem_new(n, sizeof(*v)));
	size_t good = 0;

	for (size_t i = 0; i < n; i++) {
		struct setting item = {s->row, &v[good], y->kind == YAML_LIST ? y->v[i] : y, s->path, s->note};

		if (item.value->kind == YAML_MAP)
			not_a(&item, d, y->kind == YAML_LIST ? "a text" : "a list of texts");
		else
			set_text(&item, pool, d);
		good += v[good] != NULL;
	}
	*(struct texts *)s->field = (struct texts){good ? v : NULL, good};
}

static void read_map(const struct reading *r, const struct yaml *map);

static void
set_map(const struct setting *s, const struct reading *r)
{
	struct param_block block = {s->row->sub, NULL, s->field, s->note};
	struct reading inner = {&block, 1, s->path, r->pool, r->d};

	if (s->value->kind != YAML_MAP)
		not_a(s, r->d, "a map");
	else
		read_map(&inner, s->value);
}

static void
set_maps(const struct setting *s, const struct reading *r)
{
	struct param_list *list = s->field;
	const struct yaml *y = s->value;

	if (y->kind != YAML_LIST) {
		not_a(s, r->d, "a list of maps");
		return;
	}
	if (!y->n)
		return;
	*list = (struct param_list){pool_keep(r->pool, mem_new(y->n, s->row->sub_size)), y->n};
	for (size_t i = 0; i < y->n; i++) {
		char *path = mem_format("%s[%zu]", s->path, i);
		struct setting item = {s->row, (char *)list->v + i * s->row->sub_size, y->v[i], path, s->note};

		set_map(&item, r);
		free(path);
	}
}

static void
set_value(const struct setting *s, const struct reading *r)
{
	switch (s->row->type) {
	case PARAM_INT:   set_int(s, r->d); break;
	case PARAM_REAL:  set_real(s, r->d); break;
	case PARAM_BOOL:  set_bool(s, r->d); break;
	case PARAM_WORD:
	case PARAM_TEXT:  set_text(s, r->pool, r->d); break;
	case PARAM_TEXTS: set_texts(s, r->pool, r->d); break;
	case PARAM_MAP:   set_map(s, r); break;
	case PARAM_MAPS:  set_maps(s, r); break;
	case PARAM_TREE:
		if (yaml_is_null(s->value))
			not_a(s, r->d, "a value");
		else
			*(const struct yaml **)s->field = s->value;
		break;
	case PARAM_END:   break;
	}
}

/* ---- a whole map ---- */

static void
clear(const struct param *row, void *field)
{
	switch (row->type) {
	case PARAM_INT:   *(int *)field = 0; break;
	case PARAM_REAL:  *(double *)field = NAN; break;
	case PARAM_BOOL:  *(bool *)field = false; break;
	case PARAM_WORD:
	case PARAM_TEXT:  *(const char **)field = NULL; break;
	case PARAM_TEXTS: *(struct texts *)field = (struct texts){0}; break;
	case PARAM_MAPS:  *(struct param_list *)field = (struct param_list){0}; break;
	case PARAM_TREE:  *(const struct yaml **)field = NULL; break;
	case PARAM_MAP:
	case PARAM_END:   break;
	}
}

/* The default as a value.  A scalar need not be quoted for YAML, so that "*.bin" can be one. */
static const struct yaml *
usual_value(const struct param *row, const char *usual, struct param_pool *pool, struct diag *d)
{
	bool scalar = row->type <= PARAM_TEXT && *usual != '\'' && *usual != '"';
	struct yaml *y;

	if (!scalar) {
		y = yaml_parse(usual, strlen(usual), NULL, d);
		return y ? pool_keep_tree(pool, y) : NULL;
	}
	y = pool_keep_tree(pool, mem_new(1, sizeof(*y)));
	*y = (struct yaml){.kind = YAML_TEXT, .text = mem_text(usual)};
	return y;
}

static void
set_usual(const struct reading *r, const struct param_block *b, const struct param *row,
          const char *usual)
{
	void *field = param_field(row, b->values);
	char *path = join(r->where, row->name);
	const struct yaml *value = usual ? usual_value(row, usual, r->pool, r->d) : NULL;
	struct setting s = {row, field, value, path, b->note};
	struct param_block block = {row->sub, NULL, field, b->note};
	struct reading inner = {&block, 1, path, r->pool, r->d};

	clear(row, field);
	if (value)
		set_value(&s, r);
	else if (row->type == PARAM_MAP)
		read_map(&inner, NULL);
	free(path);
}

static bool
is_given(const struct yaml *map, const struct param *row)
{
	return !yaml_is_null(yaml_get(map, row->name));
}

static const struct param *
find_row(const struct reading *r, const char *name, const struct param_block **block)
{
	for (size_t i = 0; i < r->n; i++)
		for (const struct param *p = r->blocks[i].table; p && p->type != PARAM_END; p++)
			if (strcmp(p->name, name) == 0) {
				*block = &r->blocks[i];
				return p;
			}
	return NULL;
}

static void
unknown(const struct reading *r, const struct yaml *key)
{
	const char **names = NULL, *near;
	char *path = join(r->where, key->text);
	struct buf b = {0};
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++)
		for (const struct param *p = r->blocks[i].table; p && p->type != PARAM_END; p++) {
			names = mem_grow(names, n + 1, sizeof(*names));
			names[n++] = p->name;
			buf_printf(&b, "%s%s", n > 1 ? ", " : "", p->name);
		}
	near = nearest_name(key->text, names, n);
	if (near)
		diag_add(r->d, key->at, "%s: unknown; did you mean '%s'?", path, near);
	else
		diag_add(r->d, key->at, "%s: unknown; known are %s", path, buf_text(&b));
	buf_release(&b);
	free(names);
	free(path);
}

static void
read_given(const struct reading *r, const struct yaml *map)
{
	for (size_t i = 0; i < map->n; i++) {
		const struct param_block *b = NULL;
		const struct param *row = find_row(r, map->keys[i]->text, &b);
		struct setting s = {.row = row, .value = map->v[i]};
		char *path;

		if (!row) {
			unknown(r, map->keys[i]);
			continue;
		}
		path = join(r->where, row->name);
		s.field = param_field(row, b->values);
		s.path = path;
		s.note = b->note;
		if (!yaml_is_null(map->v[i]) || row->usual)
			set_value(&s, r);
		free(path);
	}
}

static void
require(const struct reading *r, const struct yaml *map, const struct param *row)
{
	const struct yaml *null = yaml_get(map, row->name);
	char *path;

	if (!map || !(row->flags & PARAM_REQUIRED) || is_given(map, row))
		return;
	path = join(r->where, row->name);
	diag_add(r->d, null ? null->at : map->at, "%s: is missing", path);
	free(path);
}

/* Sets the defaults that hang on the value of `row`. */
static void
apply_when(const struct reading *r, const struct yaml *map, const struct param *row,
           const struct param_block *of)
{
	struct buf is = {0};

	for (size_t i = 0; i < r->n; i++)
		for (const struct param_when *w = r->blocks[i].when; w && w->name; w++) {
			const struct param_block *b = NULL;
			const struct param *then;

			if (strcmp(w->name, row->name) != 0)
				continue;
			buf_clear(&is);
			param_value(row, of->values, &is);
			then = find_row(r, w->then, &b);
			if (then && strcmp(buf_text(&is), w->is) == 0 && !is_given(map, then))
				set_usual(r, b, then, w->usual);
		}
	buf_release(&is);
}

/* map NULL: all defaults. */
static void
read_map(const struct reading *r, const struct yaml *map)
{
	for (size_t i = 0; i < r->n; i++)
		for (const struct param *p = r->blocks[i].table; p && p->type != PARAM_END; p++) {
			require(r, map, p);
			set_usual(r, &r->blocks[i], p, p->usual);
		}
	if (map)
		read_given(r, map);
	for (size_t i = 0; i < r->n; i++)
		for (const struct param *p = r->blocks[i].table; p && p->type != PARAM_END; p++)
			apply_when(r, map, p, &r->blocks[i]);
}

void
param_read(const struct param_block *blocks, size_t n, const struct yaml *map,
           const char *where, struct param_pool *pool, struct diag *d)
{
	struct reading r = {blocks, n, where, pool, d};

	if (map && map->kind != YAML_MAP && !yaml_is_null(map)) {
		struct setting s = {.value = map, .path = where};

		not_a(&s, d, "a map");
		map = NULL;
	}
	read_map(&r, map && map->kind == YAML_MAP ? map : NULL);
}
