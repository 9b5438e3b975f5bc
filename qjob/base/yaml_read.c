#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "qjob/base/buf.h"
#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/map.h"
#include "qjob/base/mem.h"
#include "qjob/base/yaml.h"

enum {
	DEPTH = 64,
	FILE_MOST = 4 << 20,
	EXPANDED_MOST = 16 << 20,    /* bytes that aliases may add to a tree: ten lines can ask for 10^9 nodes */
	NODE_COST = sizeof(struct yaml) + 2 * sizeof(void *),
};

struct reader {
	yaml_parser_t parser;
	const char *name, *text;
	size_t n;
	struct diag *d;
	struct map anchors;          /* name -> finished node inside the tree */
	struct yaml *dropped;        /* values of doubled keys: an alias may still mean them */
	size_t expanded;
};

static struct yaml *read_node(struct reader *r, yaml_event_t *e, int depth);

static struct place
place_of(const struct reader *r, const yaml_mark_t *m)
{
	return (struct place){r->name, (int)m->line + 1, (int)m->column + 1};
}

static struct yaml *
node_new(enum yaml_kind kind, struct place at)
{
	struct yaml *y = mem_new(1, sizeof(*y));

	*y = (struct yaml){.kind = kind, .at = at};
	return y;
}

/* Doubling, without a capacity to store. */
static void
node_add(struct yaml *y, struct yaml *key, struct yaml *value)
{
	if ((y->n & (y->n - 1)) == 0) {
		size_t cap = y->n ? 2 * y->n : 1;

		y->v = mem_grow(y->v, cap, sizeof(*y->v));
		if (y->kind == YAML_MAP)
			y->keys = mem_grow(y->keys, cap, sizeof(*y->keys));
	}
	if (y->kind == YAML_MAP)
		y->keys[y->n] = key;
	y->v[y->n++] = value;
}

/* Where byte `offset` of the text is, counted in characters. */
static struct place
place_of_byte(const struct reader *r, size_t offset)
{
	struct place at = {r->name, 1, 1};

	for (size_t i = 0; i < offset && i < r->n; i++) {
		if (r->text[i] == '\n') {
			at.line++;
			at.column = 1;
		} else if (((unsigned char)r->text[i] & 0xc0) != 0x80) {
			at.column++;
		}
	}
	return at;
}

static void
syntax_error(struct reader *r)
{
	const yaml_parser_t *p = &r->parser;

	if (p->error == YAML_READER_ERROR && p->problem_value == -1)
		diag_add(r->d, place_of_byte(r, p->problem_offset), "not UTF-8 text: %s", p->problem);
	else if (p->error == YAML_READER_ERROR)
		diag_add(r->d, place_of_byte(r, p->problem_offset), "not UTF-8 text: %s (%#x)", p->problem,
		         (unsigned)p->problem_value);
	else if (p->context && p->context_mark.line != p->problem_mark.line)
		diag_add(r->d, place_of(r, &p->problem_mark), "not YAML: %s, %s that began in line %d",
		         p->problem, p->context, (int)p->context_mark.line + 1);
	else
		diag_add(r->d, place_of(r, &p->problem_mark), "not YAML: %s",
		         p->problem ? p->problem : "out of memory");
}

static bool
next(struct reader *r, yaml_event_t *e)
{
	if (yaml_parser_parse(&r->parser, e))
		return true;
	syntax_error(r);
	return false;
}

/* Reports what is refused on any node, and goes on without it. */
static void
refuse_tag(struct reader *r, const yaml_event_t *e, const yaml_char_t *tag)
{
	if (tag)
		diag_add(r->d, place_of(r, &e->start_mark), "tags are not supported, found '%s'",
		         (const char *)tag);
}

static void
remember(struct reader *r, const char *anchor, struct yaml *y)
{
	if (anchor)
		map_put(&r->anchors, anchor, NULL)->v.p = y;
}

static size_t
cost_of(const struct yaml *y)
{
	size_t cost = NODE_COST + (y->text ? strlen(y->text) : 0);

	for (size_t i = 0; i < y->n && cost <= EXPANDED_MOST; i++)
		cost += cost_of(y->v[i]) + (y->keys ? cost_of(y->keys[i]) : 0);
	return cost;
}

static int
height_of(const struct yaml *y)
{
	int height = 0;

	for (size_t i = 0; i < y->n; i++) {
		int h = height_of(y->v[i]) + 1;

		height = h > height ? h : height;
	}
	return height;
}

static struct yaml *
too_deep(struct reader *r, struct place at)
{
	diag_add(r->d, at, "more than %d levels deep", DEPTH);
	return NULL;
}

static struct yaml *
read_alias(struct reader *r, const yaml_event_t *e, int depth)
{
	const char *name = (const char *)e->data.alias.anchor;
	const struct map_entry *found = map_find(&r->anchors, name);
	struct place at = place_of(r, &e->start_mark);

	if (!found) {
		diag_add(r->d, at, "alias '*%s' has no anchor before it", name);
		return NULL;
	}
	r->expanded += cost_of(found->v.p);
	if (r->expanded > EXPANDED_MOST) {
		diag_add(r->d, at, "aliases expand to more than %d MiB", EXPANDED_MOST >> 20);
		return NULL;
	}
	if (depth + height_of(found->v.p) > DEPTH)
		return too_deep(r, at);
	return yaml_copy(found->v.p);
}

static struct yaml *
read_text(struct reader *r, const yaml_event_t *e)
{
	const char *text = (const char *)e->data.scalar.value;
	struct yaml *y;

	refuse_tag(r, e, e->data.scalar.tag);
	if (memchr(text, '\0', e->data.scalar.length)) {
		diag_add(r->d, place_of(r, &e->start_mark), "a text must not hold a NUL character");
		return NULL;
	}
	y = node_new(YAML_TEXT, place_of(r, &e->start_mark));
	y->text = mem_text(text);
	y->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	remember(r, (const char *)e->data.scalar.anchor, y);
	return y;
}

static struct yaml *
read_list(struct reader *r, const yaml_event_t *open, int depth)
{
	struct yaml *y = node_new(YAML_LIST, place_of(r, &open->start_mark)), *item;
	yaml_event_t e;

	refuse_tag(r, open, open->data.sequence_start.tag);
	for (;;) {
		if (!next(r, &e))
			goto fail;
		if (e.type == YAML_SEQUENCE_END_EVENT)
			break;
		item = read_node(r, &e, depth + 1);
		if (!item)
			goto fail;
		node_add(y, NULL, item);
	}
	yaml_event_delete(&e);
	remember(r, (const char *)open->data.sequence_start.anchor, y);
	return y;
fail:
	yaml_free(y);
	return NULL;
}

/* Consumes the event. */
static struct yaml *
read_key(struct reader *r, yaml_event_t *e)
{
	struct place at = place_of(r, &e->start_mark);
	struct yaml *key = NULL;

	if (e->type == YAML_SCALAR_EVENT) {
		key = read_text(r, e);
		if (key && !*key->text && !key->quoted) {
			diag_add(r->d, at, "a name before ':' is missing");
			yaml_free(key);
			key = NULL;
		}
	} else {
		diag_add(r->d, at, "a name before ':' must be a plain text");
	}
	yaml_event_delete(e);
	return key;
}

/* Adds key and value, or reports why not; consumes both. */
static void
add_pair(struct reader *r, struct yaml *y, struct map *seen, struct yaml *key, struct yaml *value)
{
	bool added;
	struct map_entry *e = map_put(seen, key->text, &added);

	if (added && (key->quoted || strcmp(key->text, "<<") != 0)) {
		e->v.i = (int64_t)y->n;
		node_add(y, key, value);
		return;
	}
	if (added || strcmp(key->text, "<<") == 0)
		diag_add(r->d, key->at, "merge keys (<<) are not supported; write the keys out");
	else
		diag_add(r->d, key->at, "'%s' stands here again; it was already given in line %d, column %d",
		         key->text, y->keys[e->v.i]->at.line, y->keys[e->v.i]->at.column);
	node_add(r->dropped, key, value);
}

static struct yaml *
read_map(struct reader *r, const yaml_event_t *open, int depth)
{
	struct yaml *y = node_new(YAML_MAP, place_of(r, &open->start_mark)), *key, *value;
	struct map seen = {0};
	yaml_event_t e;

	refuse_tag(r, open, open->data.mapping_start.tag);
	for (;;) {
		if (!next(r, &e))
			goto fail;
		if (e.type == YAML_MAPPING_END_EVENT)
			break;
		key = read_key(r, &e);
		if (!key)
			goto fail;
		value = next(r, &e) ? read_node(r, &e, depth + 1) : NULL;
		if (!value) {
			yaml_free(key);
			goto fail;
		}
		add_pair(r, y, &seen, key, value);
	}
	yaml_event_delete(&e);
	map_release(&seen);
	remember(r, (const char *)open->data.mapping_start.anchor, y);
	return y;
fail:
	map_release(&seen);
	yaml_free(y);
	return NULL;
}

/* Consumes the event that opens the node.  NULL ends the parse: anchors may then mean freed nodes. */
static struct yaml *
read_node(struct reader *r, yaml_event_t *e, int depth)
{
	struct yaml *y = NULL;

	if (depth > DEPTH)
		too_deep(r, place_of(r, &e->start_mark));
	else if (e->type == YAML_ALIAS_EVENT)
		y = read_alias(r, e, depth);
	else if (e->type == YAML_SCALAR_EVENT)
		y = read_text(r, e);
	else if (e->type == YAML_SEQUENCE_START_EVENT)
		y = read_list(r, e, depth);
	else if (e->type == YAML_MAPPING_START_EVENT)
		y = read_map(r, e, depth);
	yaml_event_delete(e);
	return y;
}

/* The next event, when it is of that type. */
static bool
expect(struct reader *r, yaml_event_type_t type, const char *otherwise)
{
	yaml_event_t e;
	bool ok;

	if (!next(r, &e))
		return false;
	ok = e.type == type;
	if (!ok)
		diag_add(r->d, place_of(r, &e.start_mark), "%s", otherwise);
	yaml_event_delete(&e);
	return ok;
}

static struct yaml *
read_stream(struct reader *r)
{
	struct yaml *y = NULL;
	yaml_event_t e;

	if (!expect(r, YAML_STREAM_START_EVENT, "not YAML") ||
	    !expect(r, YAML_DOCUMENT_START_EVENT, "nothing is written here"))
		return NULL;
	if (next(r, &e))
		y = read_node(r, &e, 0);
	if (!y)
		return NULL;
	if (expect(r, YAML_DOCUMENT_END_EVENT, "not YAML") &&
	    expect(r, YAML_STREAM_END_EVENT, "a second document begins here; only one is read"))
		return y;
	yaml_free(y);
	return NULL;
}

struct yaml *
yaml_parse(const char *text, size_t n, const char *name, struct diag *d)
{
	/* libyaml, told the encoding, would take the mark for a column of the first line. */
	size_t mark = n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
	struct reader r = {.name = name, .text = text + mark, .n = n - mark, .d = d};
	struct yaml *y;

	if (!yaml_parser_initialize(&r.parser)) {
		diag_add(d, (struct place){.file = name}, "out of memory");
		return NULL;
	}
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)r.text, r.n);
	r.dropped = node_new(YAML_MAP, (struct place){0});
	y = read_stream(&r);
	yaml_free(r.dropped);
	map_release(&r.anchors);
	yaml_parser_delete(&r.parser);
	return y;
}

struct yaml *
yaml_load(const char *path, struct diag *d)
{
	struct yaml *y = NULL;
	struct buf b = {0};

	if (file_read(&b, path, FILE_MOST) < 0)
		diag_add(d, (struct place){0}, "%s", err_text());
	else
		y = yaml_parse(buf_text(&b), b.n, path, d);
	buf_release(&b);
	return y;
}
