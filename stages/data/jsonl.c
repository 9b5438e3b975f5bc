#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/json.h"
#include "qjob/base/mem.h"
#include "stages/data/kind.h"

static int
no_field(const json_t *record, const char *field)
{
	if (json_object_get(record, "messages") != NULL || json_object_get(record, "conversations") != NULL)
		return err_set(E_USE, "chat messages are not read yet; write their text into a field '%s'", field);
	return err_set(E_USE, "no field '%s'; `field` names the one that holds the text", field);
}

static int
read_ids(const json_t *list, const char *field, struct document_sink to)
{
	size_t n = json_array_size(list);
	int32_t *ids = mem_new(n + 1, sizeof(*ids));
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		const json_t *id = json_array_get(list, i);
		json_int_t v = json_integer_value(id);

		if (!json_is_integer(id) || v < 0 || v > INT32_MAX)
			rc = err_set(E_DATA, "field '%s': item %zu is not a token id", field, i);
		ids[i] = (int32_t)v;
	}
	if (rc == 0 && n > 0)
		rc = to.ids(to.own, ids, n);
	free(ids);
	return rc;
}

static int
read_record(const json_t *record, const char *field, struct document_sink to)
{
	const json_t *text = json_object_get(record, field);

	if (!json_is_object(record))
		return err_set(E_DATA, "not a JSON object");
	if (text == NULL && json_is_array(json_object_get(record, "input_ids")))
		return read_ids(json_object_get(record, "input_ids"), "input_ids", to);
	if (text == NULL)
		return no_field(record, field);
	if (json_is_array(text))
		return read_ids(text, field, to);
	if (json_is_null(text) || (json_is_string(text) && json_string_length(text) == 0))
		return 0;
	if (!json_is_string(text))
		return err_set(E_DATA, "field '%s' is neither a text nor a list of token ids", field);
	return to.document(to.own, json_string_value(text), json_string_length(text));
}

static int
read_line(const char *line, size_t n, const char *field, struct document_sink to)
{
	json_error_t e;
	json_t *record;
	int rc;

	record = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
	if (record == NULL)
		return err_set(E_DATA, "no JSON: %s", e.text);
	rc = read_record(record, field, to);
	json_decref(record);
	return rc;
}

int
read_jsonl(const char *path, const char *content, size_t n, const char *field, struct document_sink to)
{
	size_t number = 1;
	int rc = 0;

	(void)path;
	for (size_t at = 0, len; at < n && rc == 0; at += len + 1, number++) {
		const char *end = memchr(content + at, '\n', n - at);
		size_t blank;

		len = end == NULL ? n - at : (size_t)(end - content) - at;
		for (blank = 0; blank < len && memchr(" \t\r", content[at + blank], 3) != NULL; blank++)
			;
		if (blank < len)
			rc = read_line(content + at, len, field, to);
	}
	return rc < 0 ? err_in(rc, "line %zu", number - 1) : rc;
}
