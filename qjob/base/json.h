/* JSON by jansson, with one reading and one writing convention.
 * Reading: duplicate keys refused, errors as file:line:column.  Writing: keys in the order they were
 * inserted, two spaces, a final newline, so equal trees give equal bytes. */
#ifndef QJOB_BASE_JSON_H
#define QJOB_BASE_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "qjob/base/buf.h"

/* The caller decrefs.  name is the file in errors; any value may stand at the top; max in bytes. */
int json_load_path(json_t **out, const char *path, size_t max);
int json_parse(json_t **out, const char *text, size_t n, const char *name);
void json_write(const json_t *j, struct buf *out);
void json_write_line(const json_t *j, struct buf *out);    /* compact, no newline */

#endif
