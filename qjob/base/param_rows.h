/* What the files of param share: one row and its field. */
#ifndef QJOB_BASE_PARAM_ROWS_H
#define QJOB_BASE_PARAM_ROWS_H

#include "qjob/base/param.h"

static inline void *
param_field(const struct param *row, void *values)
{
	return (char *)values + row->at;
}

static inline const void *
param_field_of(const struct param *row, const void *values)
{
	return (const char *)values + row->at;
}

/* The next of space-separated words, from *at on, which it moves; NULL at the end. */
const char *param_word(const char **at, size_t *n);
bool param_is_unset(const struct param *row, const void *values);

#endif
