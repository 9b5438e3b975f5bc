#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/key.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/engine/inside.h"

static int
by_export(const void *a, const void *b)
{
	return strcmp(((const struct store_export *)a)->name, ((const struct store_export *)b)->name);
}

void
exports_sort(struct record *r)
{
	if (r->n)
		qsort(r->v, r->n, sizeof(*r->v), by_export);
}

const struct store_export *
need_find(const struct need *d, const struct record *records, const struct record *early)
{
	const struct store_export *e = early ? record_find(&early[d->node->number], d->what) : NULL;

	return e ? e : record_find(&records[d->node->number], d->what);
}

int
node_key(const struct node *n, const struct record *records, const struct record *early, struct buf *manifest,
         char key[SHA256_HEX])
{
	struct buf facts = {0};
	int rc = 0;

	buf_add(&facts, n->facts.p, n->facts.n);
	for (size_t i = 0; i < n->nneeds && rc == 0; i++) {
		const struct need *d = &n->needs[i];
		const struct store_export *e;

		if (!d->keyed)
			continue;
		e = need_find(d, records, early);
		if (!e)
			rc = err_set(E_DATA, "it needs %s of %s, which has none", d->what, d->node->name);
		else
			buf_printf(&facts, "in %s sha256:%s\n", d->label, e->sha256);
	}
	if (rc == 0)
		key_make(&facts, manifest, key);
	buf_release(&facts);
	return rc;
}

/* The version of the stage is in the name, so another way of digesting asks for something else. */
static char *
source_name(const struct node *n)
{
	return mem_format("exports %s %d", n->stage->name, n->stage->version);
}

int
source_get(struct store *s, const struct node *n, struct record *r)
{
	struct buf text = {0};
	char *what = source_name(n), *p, *next;
	int found = stat_get(s, n->source, what, &text);

	*r = (struct record){0};
	/* <sha256> <name>, tabs between them */
	for (p = text.p; found && p && *p; p = next) {
		next = strchr(p, '\t');
		if (next)
			*next++ = '\0';
		if (strlen(p) <= SHA256_HEX || p[SHA256_HEX - 1] != ' ') {
			found = 0;
			break;
		}
		p[SHA256_HEX - 1] = '\0';
		record_add(r, p + SHA256_HEX, p);
	}
	if (!found)
		record_release(r);
	buf_release(&text);
	free(what);
	return found;
}

void
source_put(struct store *s, const struct node *n, const struct record *r)
{
	struct buf text = {0};
	char *what = source_name(n);
	bool fits = true;

	for (size_t i = 0; i < r->n; i++) {
		for (const char *p = r->v[i].name; *p; p++)
			fits = fits && (unsigned char)*p >= 0x20;
		buf_printf(&text, "%s%s %s", i ? "\t" : "", r->v[i].sha256, r->v[i].name);
	}
	if (fits)
		stat_put(s, n->source, what, buf_text(&text));
	buf_release(&text);
	free(what);
}

bool
is_plain_name(const char *name)
{
	return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

const char *
graph_project(const struct graph *g)
{
	return g->project ? g->project : "";
}
