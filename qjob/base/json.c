#include "qjob/base/json.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/number.h"

int
json_parse(json_t **out, const char *text, size_t n, const char *name)
{
	json_error_t e;

	*out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
	if (*out)
		return 0;
	for (char *p = e.text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	/* jansson has no words for the lack of memory. */
	return err_set(E_DATA, "%s:%d:%d: %s", name, e.line < 1 ? 1 : e.line,
	               e.column < 1 ? 1 : e.column, e.text[0] ? e.text : "out of memory");
}

int
json_load_path(json_t **out, const char *path, size_t max)
{
	struct buf b = {0};
	int rc;

	*out = NULL;
	rc = file_read(&b, path, max);
	if (rc == 0)
		rc = json_parse(out, buf_text(&b), b.n, path);
	buf_release(&b);
	return rc;
}

static void
write_text(const char *s, size_t n, struct buf *out)
{
	static const char plain[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
	size_t done = 0;

	buf_puts(out, "\"");
	for (size_t i = 0; i < n; i++) {
		const char *at = s[i] ? strchr(plain, s[i]) : NULL;

		if (!at && (unsigned char)s[i] >= 0x20)
			continue;
		buf_add(out, s + done, i - done);
		done = i + 1;
		if (at)
			buf_printf(out, "\\%c", letters[at - plain]);
		else
			buf_printf(out, "\\u%04x", (unsigned char)s[i]);
	}
	buf_add(out, s + done, n - done);
	buf_puts(out, "\"");
}

static void
write_real(double x, struct buf *out)
{
	char text[REAL_TEXT];

	real_text(x, text);
	buf_puts(out, text);
	if (!strpbrk(text, ".e"))
		buf_puts(out, ".0");    /* so that it reads back as a real */
}

/* depth < 0: all on one line. */
static void
new_line(int depth, struct buf *out)
{
	if (depth >= 0)
		buf_printf(out, "\n%*s", 2 * depth, "");
}

static void write_value(const json_t *j, int depth, struct buf *out);

static void
write_object(const json_t *j, int depth, struct buf *out)
{
	int inner = depth < 0 ? -1 : depth + 1;
	bool first = true;
	const char *key;
	json_t *v;

	if (json_object_size(j) == 0) {
		buf_puts(out, "{}");
		return;
	}
	buf_puts(out, "{");
	json_object_foreach((json_t *)j, key, v) {
		if (!first)
			buf_puts(out, ",");
		first = false;
		new_line(inner, out);
		write_text(key, strlen(key), out);
		buf_puts(out, depth < 0 ? ":" : ": ");
		write_value(v, inner, out);
	}
	new_line(depth, out);
	buf_puts(out, "}");
}

static void
write_array(const json_t *j, int depth, struct buf *out)
{
	int inner = depth < 0 ? -1 : depth + 1;
	size_t n = json_array_size(j);

	if (n == 0) {
		buf_puts(out, "[]");
		return;
	}
	buf_puts(out, "[");
	for (size_t i = 0; i < n; i++) {
		if (i)
			buf_puts(out, ",");
		new_line(inner, out);
		write_value(json_array_get(j, i), inner, out);
	}
	new_line(depth, out);
	buf_puts(out, "]");
}

static void
write_value(const json_t *j, int depth, struct buf *out)
{
	switch (json_typeof(j)) {
	case JSON_OBJECT:  write_object(j, depth, out); break;
	case JSON_ARRAY:   write_array(j, depth, out); break;
	case JSON_STRING:  write_text(json_string_value(j), json_string_length(j), out); break;
	case JSON_INTEGER: buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(j)); break;
	case JSON_REAL:    write_real(json_real_value(j), out); break;
	case JSON_TRUE:    buf_puts(out, "true"); break;
	case JSON_FALSE:   buf_puts(out, "false"); break;
	case JSON_NULL:    buf_puts(out, "null"); break;
	}
}

void
json_write(const json_t *j, struct buf *out)
{
	write_value(j, 0, out);
	buf_puts(out, "\n");
}

void
json_write_line(const json_t *j, struct buf *out)
{
	write_value(j, -1, out);
}
