/* Normalizers: what is done to a text before it is cut into words. */
#ifndef QJOB_MODEL_NORMALIZE_H
#define QJOB_MODEL_NORMALIZE_H

#include <stdbool.h>

#include "qjob/base/buf.h"
#include "qjob/base/json.h"

struct normalizer;

int normalizer_parse(struct normalizer **n, const json_t *j, const char *name);      /* j: NULL or null for none */
void normalizer_free(struct normalizer *n);
bool normalizer_is_empty(const struct normalizer *n);                                /* apply would copy */
int normalizer_apply(const struct normalizer *n, const char *text, size_t size, struct buf *out);   /* replaces out */

#endif
