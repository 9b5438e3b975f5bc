/* JSON Schema of the sections: the rows of all methods and formats, those of one choice required by its name. */
#include <string.h>

#include "stages/pack/format.h"
#include "stages/quant/method.h"
#include "stages/settings.h"

/* A method or format as the schema sees it. */
struct kind {
	const char *name, *help;
	const struct param *rows;
};

static void
set_text(json_t *o, const char *key, const char *text)
{
	json_object_set_new(o, key, json_string(text));
}

/* Properties of several choices under one roof: where two differ, only the words are kept, the values are left to `then`. */
static void
join(json_t *all, json_t *rows)
{
	const char *key;
	json_t *row, *have;

	json_object_foreach(rows, key, row) {
		have = json_object_get(all, key);
		if (!have) {
			json_object_set(all, key, row);
		} else if (!json_equal(have, row)) {
			json_t *words = json_object();

			if (json_object_get(have, "description"))
				json_object_set(words, "description", json_object_get(have, "description"));
			json_object_set_new(all, key, words);
		}
	}
}

/* {"if": {"properties": {KEY: {"const": NAME}}}, "then": {"properties": ROWS, "propertyNames": {"enum": [...]}}} */
static json_t *
rule(const char *key, const struct kind *kind, json_t *own, json_t *rows, bool usual)
{
	json_t *when = json_pack("{s:{s:{s:s}}}", "properties", key, "const", kind->name);
	json_t *names = json_array(), *then = json_object(), *value;
	const char *name;

	if (!usual)
		json_object_set_new(when, "required", json_pack("[s]", key));
	json_object_foreach(own, name, value)
		json_array_append_new(names, json_string(name));
	json_object_foreach(rows, name, value)
		json_array_append_new(names, json_string(name));
	json_object_set(then, "properties", rows);
	json_object_set_new(then, "propertyNames", json_pack("{s:o}", "enum", names));
	return json_pack("{s:o, s:o}", "if", when, "then", then);
}

static json_t *
object_schema(const char *help, json_t *properties)
{
	json_t *o = json_object();

	set_text(o, "description", help);
	json_object_set_new(o, "type", json_pack("[s, s]", "object", "null"));
	json_object_set_new(o, "properties", properties);
	json_object_set_new(o, "additionalProperties", json_false());
	return o;
}

/* A section whose further rows depend on the value of its first row. */
static json_t *
choice_schema(const struct section *section, const struct kind *kinds, size_t n)
{
	const char *key = section->params[0].name;
	json_t *own = json_object(), *all, *rules = json_array(), *words = json_array(), *schema;
	json_t *first;

	param_schema(section->params, own);
	first = json_object_get(own, key);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(words, json_string(kinds[i].name));
	json_object_set_new(first, "enum", words);
	all = json_copy(own);
	for (size_t i = 0; i < n; i++) {
		json_t *rows = json_object();

		if (kinds[i].rows)
			param_schema(kinds[i].rows, rows);
		join(all, rows);
		json_array_append_new(rules, rule(key, &kinds[i], own, rows, strcmp(kinds[i].name, section->params[0].usual) == 0));
		json_decref(rows);
	}
	json_decref(own);
	schema = object_schema(section->help, all);
	json_object_set_new(schema, "allOf", rules);
	return schema;
}

static json_t *
quantize_schema(const struct section *section)
{
	struct kind kinds[32];
	size_t n = 0;

	for (; methods[n] && n < 32; n++)
		kinds[n] = (struct kind){methods[n]->name, methods[n]->help, methods[n]->params};
	return choice_schema(section, kinds, n);
}

static json_t *
pack_schema(const struct section *section)
{
	struct kind kinds[32];
	size_t n = 0;

	for (; formats[n] && n < 32; n++)
		kinds[n] = (struct kind){formats[n]->name, formats[n]->help, formats[n]->params};
	return choice_schema(section, kinds, n);
}

json_t *
settings_schema(void)
{
	json_t *all = json_object();

	for (const struct section *s = sections; s->name; s++) {
		json_t *schema;

		if (strcmp(s->name, "quantize") == 0) {
			schema = quantize_schema(s);
		} else if (strcmp(s->name, "pack") == 0) {
			schema = pack_schema(s);
		} else {
			json_t *properties = json_object();

			param_schema(s->params, properties);
			schema = object_schema(s->help, properties);
		}
		json_object_set_new(all, s->name, schema);
	}
	return all;
}
