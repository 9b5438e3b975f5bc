/* Added tokens: texts that are one id wherever they stand, found before anything else cuts the text. */
#ifndef QJOB_MODEL_ADDED_H
#define QJOB_MODEL_ADDED_H

#include <stdbool.h>

#include "qjob/base/json.h"
#include "qjob/model/bpe.h"
#include "qjob/model/normalize.h"

struct added;

/* A part of a text: id of an added token, or -1 for what lies between; at is where it starts. */
struct part_sink {
	int (*part)(void *own, const char *p, size_t n, int32_t id, size_t at);
	void *own;
};

/* "added_tokens": NULL or null for none.  Ids must be those that the library would give. */
int added_parse(struct added **a, const json_t *list, const struct bpe *b, const struct normalizer *n, const char *name);
void added_free(struct added *a);
int32_t added_top(const struct added *a);        /* the highest id; -1: none */
/* Cuts text at the tokens that are matched before (normalized false) or after the normalizer; leftmost, then longest. */
int added_split(const struct added *a, bool normalized, const char *text, size_t n, struct part_sink to);

#endif
