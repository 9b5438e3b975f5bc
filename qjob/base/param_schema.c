#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/mem.h"
#include "qjob/base/number.h"
#include "qjob/base/param.h"
#include "qjob/base/param_rows.h"

/* Schemas of JSON Schema draft 2020-12. */

static json_t *
number(const struct param *row, double x)
{
	return row->type == PARAM_INT ? json_integer((json_int_t)x) : json_real(x);
}

/* A scalar that stands in a table as text, as the JSON value that a YAML reader makes of it. */
static json_t *
scalar(const struct param *row, const char *s, size_t n)
{
	char *text = mem_format("%.*s", (int)n, s);
	json_t *j = NULL;
	int64_t whole;
	double real;

	if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
		j = json_boolean(*text == 't');
	else if (row->type == PARAM_INT && whole_parse(text, &whole))
		j = json_integer(whole);
	else if (row->type == PARAM_REAL && real_parse(text, &real))
		j = json_real(real);
	else
		j = json_string(text);
	free(text);
	return j;
}

static const char *
type_of(const struct param *row)
{
	switch (row->type) {
	case PARAM_INT:   return "integer";
	case PARAM_REAL:  return "number";
	case PARAM_BOOL:  return "boolean";
	case PARAM_WORD:
	case PARAM_TEXT:  return "string";
	case PARAM_TEXTS:
	case PARAM_MAPS:  return "array";
	case PARAM_MAP:   return "object";
	default:          return NULL;
	}
}

/* "enum", or "type": one name or a list of them. */
static void
add_type(const struct param *row, json_t *j)
{
	bool nullable = !row->usual && !(row->flags & PARAM_REQUIRED);
	const char *words = row->words, *type = type_of(row);
	json_t *list = json_array();
	size_t n;

	if (words) {
		for (const char *w = param_word(&words, &n); w; w = param_word(&words, &n))
			json_array_append_new(list, scalar(row, w, n));
		if (nullable)
			json_array_append_new(list, json_null());
	} else if (type) {
		json_array_append_new(list, json_string(type));
		if (row->type == PARAM_TEXTS)
			json_array_append_new(list, json_string("string"));
		if (nullable)
			json_array_append_new(list, json_string("null"));
	}
	if (words)
		json_object_set(j, "enum", list);
	else if (type)
		json_object_set(j, "type", json_array_size(list) > 1 ? list : json_array_get(list, 0));
	json_decref(list);
}

static json_t *
object_of(const struct param *table)
{
	json_t *properties = json_object(), *required = json_array(), *j;

	param_schema(table, properties);
	for (const struct param *p = table; p && p->type != PARAM_END; p++)
		if (p->flags & PARAM_REQUIRED)
			json_array_append_new(required, json_string(p->name));
	j = json_pack("{s:o,s:b}", "properties", properties, "additionalProperties", 0);
	if (json_array_size(required))
		json_object_set(j, "required", required);
	json_decref(required);
	return j;
}

static void
add_inside(const struct param *row, json_t *j)
{
	json_t *inside;

	if (row->type == PARAM_TEXTS)
		json_object_set_new(j, "items", json_pack("{s:s}", "type", "string"));
	if (row->type != PARAM_MAP && row->type != PARAM_MAPS)
		return;
	inside = object_of(row->sub);
	if (row->type == PARAM_MAPS) {
		json_object_set_new(inside, "type", json_string("object"));
		json_object_set_new(j, "items", inside);
		return;
	}
	json_object_update(j, inside);
	json_decref(inside);
}

void
param_schema(const struct param *table, json_t *properties)
{
	for (const struct param *p = table; p && p->type != PARAM_END; p++) {
		json_t *j = json_object();

		if (p->help)
			json_object_set_new(j, "description", json_string(p->help));
		add_type(p, j);
		add_inside(p, j);
		if ((p->min != 0 || p->max != 0) && isfinite(p->min))
			json_object_set_new(j, "minimum", number(p, p->min));
		if ((p->min != 0 || p->max != 0) && isfinite(p->max))
			json_object_set_new(j, "maximum", number(p, p->max));
		if (p->usual && p->type <= PARAM_TEXT)
			json_object_set_new(j, "default", scalar(p, p->usual, strlen(p->usual)));
		json_object_set_new(properties, p->name, j);
	}
}
