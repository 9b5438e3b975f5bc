/* Reads a golden file that lies compressed. */
#ifndef QJOB_TESTS_UNXZ_H
#define QJOB_TESTS_UNXZ_H

#include <archive.h>
#include <archive_entry.h>

#include "qjob/base/buf.h"
#include "tests/t.h"

/* Appends the content of tests/golden/NAME (an .xz). */
static inline void
t_unxz(struct buf *out, const char *name)
{
	char *path = mem_format("%s/golden/%s", QJOB_TESTS_DIR, name);
	struct archive *a = archive_read_new();
	struct archive_entry *entry;
	char part[1 << 14];
	la_ssize_t n;

	assert_int_equal(archive_read_support_filter_xz(a), ARCHIVE_OK);
	assert_int_equal(archive_read_support_format_raw(a), ARCHIVE_OK);
	if (archive_read_open_filename(a, path, sizeof(part)) != ARCHIVE_OK)
		fail_msg("%s: %s", path, archive_error_string(a));
	assert_int_equal(archive_read_next_header(a, &entry), ARCHIVE_OK);
	for (n = archive_read_data(a, part, sizeof(part)); n > 0; n = archive_read_data(a, part, sizeof(part)))
		buf_add(out, part, (size_t)n);
	assert_int_equal(n, 0);
	archive_read_free(a);
	free(path);
}

#endif
