#include "stages/graph.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "qjob/base/mem.h"
#include "stages/stage.h"

static char *
format_text(const char *fmt, va_list ap)
{
	va_list again;
	char *s;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	assert(n >= 0);
	s = mem_new((size_t)n + 1, 1);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	return s;
}

/* A tensor may be named anything, yet a fact is one line: control characters and the escape itself are written \xNN. */
static void
add_escaped(struct buf *b, const char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c < 0x20 || c == 0x7f || c == '\\')
			buf_printf(b, "\\x%02x", c);
		else
			buf_add(b, s, 1);
	}
}

static char *
escaped(const char *fmt, va_list ap)
{
	struct buf b = {0};
	char *raw = format_text(fmt, ap);

	add_escaped(&b, raw);
	free(raw);
	return buf_detach(&b);
}

struct node *
graph_add(struct graph *g, const struct stage *s, int index, const char *name_fmt, ...)
{
	struct node *n = mem_new(1, sizeof(*n));
	bool added;
	va_list ap;

	va_start(ap, name_fmt);
	n->name = format_text(name_fmt, ap);
	va_end(ap);
	n->stage = s;
	n->index = index;
	n->number = g->n;
	map_put(&g->by_name, n->name, &added)->v.p = n;
	assert(added);
	if (g->n == g->cap) {
		g->cap = g->cap ? 2 * g->cap : 64;
		g->v = mem_grow(g->v, g->cap, sizeof(*g->v));
	}
	g->v[g->n++] = n;
	node_fact(n, "stage %s %d", s->name, s->version);
	return n;
}

struct node *
graph_find(const struct graph *g, const char *name)
{
	const struct map_entry *e = map_find(&g->by_name, name);

	return e ? e->v.p : NULL;
}

void
node_fact(struct node *n, const char *fmt, ...)
{
	char *line;
	va_list ap;

	va_start(ap, fmt);
	line = escaped(fmt, ap);
	va_end(ap);
	buf_puts(&n->facts, line);
	buf_puts(&n->facts, "\n");
	free(line);
}

static struct need *
add_need(struct node *n, struct node *from, const char *what)
{
	struct need *d;

	assert(from && from->number < n->number);
	if (n->nneeds == n->capneeds) {
		n->capneeds = n->capneeds ? 2 * n->capneeds : 8;
		n->needs = mem_grow(n->needs, n->capneeds, sizeof(*n->needs));
	}
	d = &n->needs[n->nneeds++];
	*d = (struct need){ .node = from, .what = mem_text(what) };
	return d;
}

void
node_need(struct node *n, struct node *from, const char *what, const char *label_fmt, ...)
{
	struct need *d = add_need(n, from, what);
	va_list ap;

	d->keyed = true;
	va_start(ap, label_fmt);
	d->label = escaped(label_fmt, ap);
	va_end(ap);
}

void
node_after(struct node *n, struct node *from, const char *what)
{
	add_need(n, from, what);
}

void
node_publish(struct node *n, const char *file)
{
	n->publish = mem_grow(n->publish, n->npublish + 1, sizeof(*n->publish));
	n->publish[n->npublish++] = mem_text(file);
}

static void
node_free(struct node *n)
{
	for (size_t i = 0; i < n->nneeds; i++) {
		free(n->needs[i].label);
		free(n->needs[i].what);
	}
	for (size_t i = 0; i < n->npublish; i++)
		free(n->publish[i]);
	free(n->needs);
	free(n->publish);
	free(n->name);
	free(n->source);
	free(n->unit);
	buf_release(&n->facts);
	free(n);
}

void
graph_release(struct graph *g)
{
	for (size_t i = 0; i < g->n; i++)
		node_free(g->v[i]);
	free(g->v);
	free(g->project);
	map_release(&g->by_name);
	*g = (struct graph){0};
}
