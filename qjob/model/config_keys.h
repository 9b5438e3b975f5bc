/* The keys of config.json: used, harmless, or refused.  For config.c alone. */
#ifndef QJOB_MODEL_CONFIG_KEYS_H
#define QJOB_MODEL_CONFIG_KEYS_H

#include <stdint.h>

#include "qjob/base/json.h"
#include "qjob/model/family.h"

struct keys {
	const char *name;             /* of the file, for messages */
	const json_t *json, *usual;   /* as written, and the family's defaults */
	const char *within;           /* "rope_scaling." when json is an object inside; else "" */
};

/* The value of key, the default when absent; NULL when neither is there. */
const json_t *keys_get(const struct keys *k, const char *key);
/* 0, or E_DATA naming key, value and what was wanted.  null and absent: *out is left as it is when `optional`. */
int keys_whole(const struct keys *k, const char *key, int64_t min, int64_t max, bool optional, int64_t *out);
int keys_real(const struct keys *k, const char *key, double min, double max, bool optional, double *out);
int keys_flag(const struct keys *k, const char *key, bool *out);        /* absent: left as it is */
int keys_text(const struct keys *k, const char *key, const char **out); /* absent or null: left as it is */
/* "config.json: KEY is VALUE, ..." with E_DATA or E_USE. */
int keys_refuse(const struct keys *k, int code, const char *key, const char *why, ...) __attribute__((format(printf, 4, 5)));

/* Refuses every key that this family neither reads nor may ignore. */
int config_keys_check(const struct keys *k, const struct family *f);

#endif
