/* Kinds of data files: one row in kinds.c, and its reader. */
#ifndef QJOB_STAGES_DATA_KIND_H
#define QJOB_STAGES_DATA_KIND_H

#include <stdbool.h>

#include "qjob/base/file.h"
#include "stages/data/dataset.h"

struct data_kind {
	const char *name;            /* what `kind` in a recipe says */
	const char *suffixes;        /* of file names, space-separated; "": only when `kind` says so */
	bool by_field;               /* reads one field of each record */
	/* The documents of content, n bytes of the file called path.  NULL: known, and refused. */
	int (*read)(const char *path, const char *content, size_t n, const char *field, struct document_sink to);
	const char *instead;         /* of a refused kind: what to do */
};

extern const struct data_kind data_kinds[];      /* ends with name NULL; the first is for names that no row knows */

const struct data_kind *data_kind_of(const char *path);          /* by suffix, after that of a compression; never NULL */
const struct data_kind *data_kind_named(const char *name);       /* NULL: unknown */

int read_text_file(const char *path, const char *content, size_t n, const char *field, struct document_sink to);
int read_wikitext(const char *path, const char *content, size_t n, const char *field, struct document_sink to);
int read_jsonl(const char *path, const char *content, size_t n, const char *field, struct document_sink to);
int read_archive(const char *path, const char *content, size_t n, const char *field, struct document_sink to);
int read_parquet(const char *path, const char *content, size_t n, const char *field, struct document_sink to);

/* ---- content.c ---- */

/* The bytes of a file: mapped as they lie, or unpacked. */
struct content {
	const char *p;
	size_t n;
	struct file_view view;       /* of a plain file */
	struct buf unpacked;
};

int content_open(struct content *c, const char *path);
void content_close(struct content *c);
bool is_packed(const char *path, size_t *stem);      /* stem: length of the name without the compression's suffix */

#endif
