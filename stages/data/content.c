#include <archive.h>
#include <archive_entry.h>
#include <string.h>

#include "qjob/base/err.h"
#include "stages/data/kind.h"

enum { CONTENT_MAX = 1 << 30 };      /* unpacked; guards against files that unpack without end */

static int
failed(struct archive *a, const char *path)
{
	const char *why = archive_error_string(a);

	return err_set(E_DATA, "%s: %s", path, why == NULL ? "cannot be unpacked" : why);
}

static int
unpack_from(struct archive *a, const char *path, struct buf *out)
{
	struct archive_entry *entry;
	char part[1 << 16];
	la_ssize_t n;
	int rc;

	rc = archive_read_open_filename(a, path, sizeof(part));
	if (rc != ARCHIVE_OK)
		return failed(a, path);
	rc = archive_read_next_header(a, &entry);
	if (rc != ARCHIVE_OK && rc != ARCHIVE_EOF)
		return failed(a, path);
	if (archive_filter_count(a) < 2)          /* one stands for the file itself */
		return err_set(E_DATA, "%s: not packed as its name says", path);
	if (rc == ARCHIVE_EOF)
		return 0;
	for (n = archive_read_data(a, part, sizeof(part)); n > 0; n = archive_read_data(a, part, sizeof(part))) {
		buf_add(out, part, (size_t)n);
		if (out->n > CONTENT_MAX)
			return err_set(E_DATA, "%s: more than %d bytes unpacked; use smaller files", path, CONTENT_MAX);
	}
	return n < 0 ? failed(a, path) : 0;
}

static int
unpack(const char *path, struct buf *out)
{
	struct archive *a = archive_read_new();
	int rc;

	if (a == NULL)
		return err_set(E_SYS, "%s: no memory to unpack it", path);
	archive_read_support_filter_gzip(a);
	archive_read_support_filter_xz(a);
	archive_read_support_filter_zstd(a);
	archive_read_support_filter_bzip2(a);
	archive_read_support_format_raw(a);
	archive_read_support_format_empty(a);
	rc = unpack_from(a, path, out);
	archive_read_free(a);
	return rc;
}

int
content_open(struct content *c, const char *path)
{
	size_t stem;
	int rc;

	*c = (struct content){0};
	if (is_packed(path, &stem)) {
		rc = unpack(path, &c->unpacked);
		c->p = buf_text(&c->unpacked);
		c->n = c->unpacked.n;
	} else {
		rc = file_map(&c->view, path);
		c->p = c->view.n == 0 ? "" : (const char *)c->view.p;
		c->n = c->view.n;
	}
	if (rc != 0)
		content_close(c);
	return rc;
}

void
content_close(struct content *c)
{
	if (c->view.p != NULL)
		file_unmap(&c->view);
	buf_release(&c->unpacked);
	*c = (struct content){0};
}
