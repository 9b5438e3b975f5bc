#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/mem.h"
#include "qjob/base/number.h"
#include "qjob/base/param.h"
#include "qjob/base/param_rows.h"

enum { HELP_COLUMN = 36 };
enum { WITH_HELP = 1 << 0, SET_ONLY = 1 << 1 };    /* how rows are written as YAML */

bool
param_is_unset(const struct param *row, const void *values)
{
	const void *field = param_field_of(row, values);

	switch (row->type) {
	case PARAM_INT:  return !row->usual && *(const int *)field == 0;
	case PARAM_BOOL: return !row->usual && !*(const bool *)field;
	case PARAM_REAL: return isnan(*(const double *)field);
	case PARAM_WORD:
	case PARAM_TEXT: return !*(const char *const *)field;
	case PARAM_TREE: return !*(const struct yaml *const *)field;
	default:         return false;
	}
}

/* ---- keys ---- */

/* A text on one line that no other text can look like. */
static void
escape(const char *s, struct buf *out)
{
	for (; *s; s++) {
		if (*s == '\\')
			buf_puts(out, "\\\\");
		else if (*s == '\n')
			buf_puts(out, "\\n");
		else if ((unsigned char)*s < 0x20 || *s == 0x7f)
			buf_printf(out, "\\x%02x", (unsigned char)*s);
		else
			buf_add(out, s, 1);
	}
}

static void
key_line(const char *where, const char *name, const char *value, struct buf *out)
{
	buf_printf(out, "set %s%s%s ", where, *where ? "." : "", name);
	escape(value, out);
	buf_puts(out, "\n");
}

static void
key_texts(const struct texts *t, const char *path, struct buf *out)
{
	for (size_t i = 0; i < t->n; i++) {
		char *name = mem_format("%zu", i);

		key_line(path, name, t->v[i], out);
		free(name);
	}
}

static void
key_maps(const struct param *row, const struct param_list *list, const char *path, struct buf *out)
{
	for (size_t i = 0; i < list->n; i++) {
		struct param_block b = {.table = row->sub, .values = (char *)list->v + i * row->sub_size};
		char *inner = mem_format("%s.%zu", path, i);

		param_key(&b, inner, out);
		free(inner);
	}
}

static void
key_scalar(const struct param *row, const void *field, const char *path, struct buf *out)
{
	char text[REAL_TEXT];

	switch (row->type) {
	case PARAM_INT:  buf_printf(out, "set %s %d\n", path, *(const int *)field); break;
	case PARAM_BOOL: buf_printf(out, "set %s %s\n", path, *(const bool *)field ? "true" : "false"); break;
	case PARAM_REAL:
		real_text(*(const double *)field, text);
		buf_printf(out, "set %s %s\n", path, text);
		break;
	case PARAM_WORD:
	case PARAM_TEXT: key_line("", path, *(const char *const *)field, out); break;
	default: break;
	}
}

void
param_key(const struct param_block *b, const char *where, struct buf *out)
{
	for (const struct param *p = b->table; p && p->type != PARAM_END; p++) {
		void *field = param_field(p, b->values);
		struct param_block inner = {.table = p->sub, .values = field};
		char *path;

		if ((p->flags & PARAM_UNKEYED) || p->type == PARAM_TREE || param_is_unset(p, b->values))
			continue;
		path = mem_format("%s%s%s", where, *where ? "." : "", p->name);
		if (p->type == PARAM_TEXTS)
			key_texts(field, path, out);
		else if (p->type == PARAM_MAP)
			param_key(&inner, path, out);
		else if (p->type == PARAM_MAPS)
			key_maps(p, field, path, out);
		else
			key_scalar(p, field, path, out);
		free(path);
	}
}

/* ---- values on one line ---- */

static void
flow_map(const struct param *table, const void *values, struct buf *out)
{
	const char *before = "{";

	for (const struct param *p = table; p && p->type != PARAM_END; p++) {
		buf_printf(out, "%s%s: ", before, p->name);
		if ((p->type == PARAM_WORD || p->type == PARAM_TEXT) && !param_is_unset(p, values))
			yaml_scalar(out, *(const char *const *)param_field_of(p, values));
		else
			param_value(p, values, out);
		before = ", ";
	}
	buf_puts(out, *before == '{' ? "{}" : "}");
}

static void
flow_maps(const struct param *row, const struct param_list *list, struct buf *out)
{
	buf_puts(out, "[");
	for (size_t i = 0; i < list->n; i++) {
		buf_puts(out, i ? ", " : "");
		flow_map(row->sub, (const char *)list->v + i * row->sub_size, out);
	}
	buf_puts(out, "]");
}

static void
flow_texts(const struct texts *t, struct buf *out)
{
	buf_puts(out, "[");
	for (size_t i = 0; i < t->n; i++) {
		buf_puts(out, i ? ", " : "");
		yaml_scalar(out, t->v[i]);
	}
	buf_puts(out, "]");
}

void
param_value(const struct param *row, const void *values, struct buf *out)
{
	const void *field = param_field_of(row, values);
	char text[REAL_TEXT];

	if (param_is_unset(row, values)) {
		buf_puts(out, "null");
		return;
	}
	switch (row->type) {
	case PARAM_INT:   buf_printf(out, "%d", *(const int *)field); break;
	case PARAM_BOOL:  buf_puts(out, *(const bool *)field ? "true" : "false"); break;
	case PARAM_REAL:
		real_text(*(const double *)field, text);
		buf_puts(out, text);
		break;
	case PARAM_WORD:
	case PARAM_TEXT:  buf_puts(out, *(const char *const *)field); break;
	case PARAM_TEXTS: flow_texts(field, out); break;
	case PARAM_MAP:   flow_map(row->sub, field, out); break;
	case PARAM_MAPS:  flow_maps(row, field, out); break;
	case PARAM_TREE:  yaml_write(out, *(const struct yaml *const *)field); break;
	case PARAM_END:   break;
	}
}

/* ---- YAML ---- */

/* "# help (a, b, c)" from HELP_COLUMN of the line that begins at `start`. */
static void
add_help(const struct param *row, size_t start, struct buf *out)
{
	const char *words = row->words, *before = " (";
	size_t n = out->n - start;

	if (!row->help && !words)
		return;
	buf_printf(out, "%*s#", n + 2 < HELP_COLUMN ? (int)(HELP_COLUMN - n) : 2, "");
	if (row->help)
		buf_printf(out, " %s", row->help);
	if (!words)
		return;
	for (const char *w = param_word(&words, &n); w; w = param_word(&words, &n)) {
		buf_puts(out, before);
		buf_add(out, w, n);
		before = ", ";
	}
	buf_puts(out, ")");
}

static void write_rows(const struct param_block *b, int indent, unsigned how, struct buf *out);

static void
yaml_maps(const struct param *row, const struct param_list *list, int indent, struct buf *out)
{
	for (size_t i = 0; i < list->n; i++) {
		struct param_block b = {.table = row->sub, .values = (char *)list->v + i * row->sub_size};
		size_t start = out->n;

		write_rows(&b, indent + 4, SET_ONLY, out);
		if (out->n == start)
			buf_printf(out, "%*s- {}\n", indent + 2, "");
		else
			out->p[start + (size_t)indent + 2] = '-';
	}
}

static void
write_rows(const struct param_block *b, int indent, unsigned how, struct buf *out)
{
	for (const struct param *p = b->table; p && p->type != PARAM_END; p++) {
		void *field = param_field(p, b->values);
		struct param_block inner = {.table = p->sub, .values = field};
		bool nested = p->type == PARAM_MAP || (p->type == PARAM_MAPS && ((struct param_list *)field)->n);
		size_t start = out->n;

		if ((how & SET_ONLY) && param_is_unset(p, b->values))
			continue;
		buf_printf(out, "%*s%s:", indent, "", p->name);
		if (!nested) {
			buf_puts(out, " ");
			if ((p->type == PARAM_WORD || p->type == PARAM_TEXT) && !param_is_unset(p, b->values))
				yaml_scalar(out, *(const char *const *)field);
			else
				param_value(p, b->values, out);
		}
		if (how & WITH_HELP)
			add_help(p, start, out);
		buf_puts(out, "\n");
		if (p->type == PARAM_MAP)
			write_rows(&inner, indent + 2, how, out);
		else if (nested)
			yaml_maps(p, field, indent, out);
	}
}

void
param_yaml(const struct param_block *b, int indent, bool with_help, struct buf *out)
{
	write_rows(b, indent, with_help ? WITH_HELP : 0, out);
}
