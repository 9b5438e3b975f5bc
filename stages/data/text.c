#include <string.h>

#include "stages/data/kind.h"

int
read_text_file(const char *path, const char *content, size_t n, const char *field, struct document_sink to)
{
	(void)path;
	(void)field;
	return n == 0 ? 0 : to.document(to.own, content, n);
}

static bool
is_blank(const char *line, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strchr(" \t\r\v\f", line[i]) == NULL || line[i] == '\0')
			return false;
	return true;
}

/* A WikiText file as published results read it: its lines are the rows of the hub's data set, which has blank ones as
 * empty texts and keeps the newline of the others; rows are joined by two newlines into one document. */
int
read_wikitext(const char *path, const char *content, size_t n, const char *field, struct document_sink to)
{
	struct buf joined = {0};
	int rc;

	(void)path;
	(void)field;
	for (size_t at = 0, len; at < n; at += len + 1) {
		const char *end = memchr(content + at, '\n', n - at);

		len = end == NULL ? n - at : (size_t)(end - content) - at;
		if (at > 0)
			buf_puts(&joined, "\n\n");
		if (is_blank(content + at, len))
			continue;
		buf_add(&joined, content + at, len);
		buf_puts(&joined, "\n");
	}
	rc = joined.n == 0 ? 0 : to.document(to.own, joined.p, joined.n);
	buf_release(&joined);
	return rc;
}
