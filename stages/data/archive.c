/* Archives of data files: each file in one is read as its name says, in the archive's order. */
#include <archive.h>
#include <archive_entry.h>
#include <string.h>
#include <sys/stat.h>

#include "qjob/base/err.h"
#include "stages/data/kind.h"

enum { MEMBER_MAX = 1 << 30 };       /* unpacked bytes of a file; guards against those that unpack without end */

struct reading {
	const char *path, *field;
	struct document_sink to;
	struct buf content;              /* of a member */
};

static int
failed(struct archive *a)
{
	const char *why = archive_error_string(a);

	return err_set(E_DATA, "%s", why ? why : "it cannot be unpacked");
}

static int
take_content(struct archive *a, struct buf *to)
{
	char part[1 << 16];
	la_ssize_t n;

	buf_clear(to);
	for (n = archive_read_data(a, part, sizeof(part)); n > 0; n = archive_read_data(a, part, sizeof(part))) {
		buf_add(to, part, (size_t)n);
		if (to->n > MEMBER_MAX)
			return err_set(E_DATA, "more than %d bytes unpacked; use smaller files", MEMBER_MAX);
	}
	return n < 0 ? failed(a) : 0;
}

/* Hidden files are left out, as in folders, and what some systems add beside each file. */
static bool
is_wanted(struct archive_entry *e, const char *name)
{
	const char *last = name ? strrchr(name, '/') : NULL;

	return name && archive_entry_filetype(e) == S_IFREG && (last ? last[1] : name[0]) != '.' && !strstr(name, "__MACOSX/");
}

static int
read_member(struct reading *r, struct archive *a, const char *name)
{
	const struct data_kind *kind = data_kind_of(name);
	size_t stem;
	int rc;

	if (is_packed(name, &stem))
		return err_set(E_USE, "a packed file in an archive is not read; unpack it");
	if (!kind->read || strcmp(kind->name, "archive") == 0)
		return err_set(E_USE, "%s files are not read there; %s", kind->name,
		               kind->instead ? kind->instead : "unpack it and name the folder");
	rc = take_content(a, &r->content);
	return rc == 0 ? kind->read(name, buf_text(&r->content), r->content.n, r->field, r->to) : rc;
}

static int
read_members(struct reading *r, struct archive *a)
{
	struct archive_entry *e;
	int rc = 0, got = archive_read_next_header(a, &e);

	for (; rc == 0 && got == ARCHIVE_OK; got = rc == 0 ? archive_read_next_header(a, &e) : got) {
		const char *name = archive_entry_pathname(e);

		if (!is_wanted(e, name))
			continue;
		rc = read_member(r, a, name);
		if (rc < 0)
			return err_in(rc, "%s", name);
	}
	return rc != 0 || got == ARCHIVE_EOF ? rc : failed(a);
}

int
read_archive(const char *path, const char *content, size_t n, const char *field, struct document_sink to)
{
	struct reading r = {.path = path, .field = field, .to = to};
	struct archive *a = archive_read_new();
	int rc;

	if (!a)
		return err_set(E_SYS, "no memory to unpack it");
	archive_read_support_filter_all(a);
	archive_read_support_format_tar(a);
	archive_read_support_format_zip(a);
	archive_read_support_format_7zip(a);
	rc = archive_read_open_memory(a, content, n) == ARCHIVE_OK ? read_members(&r, a) : failed(a);
	archive_read_free(a);
	buf_release(&r.content);
	return rc;
}
