/* Parameters: one table says how a block of a recipe is read.
 *
 * The same rows parse and range-check the YAML, fill defaults, write the canonical text that goes
 * into cache keys, print `qjob plan` and `qjob init`, and make the JSON Schema.  Values live in a
 * plain struct of the owner; `at` is the offset of the field:
 *
 *     PARAM_INT int (0 without a default: unset) · PARAM_REAL double (NAN: unset) ·
 *     PARAM_BOOL bool (false without a default: unset) · PARAM_WORD, PARAM_TEXT
 *     const char * (NULL: unset) · PARAM_TEXTS struct texts · PARAM_MAP nested struct ·
 *     PARAM_MAPS struct param_list · PARAM_TREE const struct yaml * (checked by its owner)
 *
 * Texts are owned by the struct param_pool given to param_read and live as long as it. */
#ifndef QJOB_BASE_PARAM_H
#define QJOB_BASE_PARAM_H

#include <stdbool.h>
#include <stddef.h>

#include "qjob/base/buf.h"
#include "qjob/base/diag.h"
#include "qjob/base/json.h"
#include "qjob/base/yaml.h"

enum param_type {
	PARAM_END, PARAM_INT, PARAM_REAL, PARAM_BOOL, PARAM_WORD, PARAM_TEXT, PARAM_TEXTS,
	PARAM_MAP, PARAM_MAPS, PARAM_TREE,
};

enum param_flag {
	PARAM_UNKEYED  = 1 << 0,   /* cannot change bytes: left out of keys (threads, output, limits) */
	PARAM_REQUIRED = 1 << 1,   /* must be in the recipe */
};

struct texts {
	const char **v;
	size_t n;
};

struct param_list {            /* PARAM_MAPS: n structs of the sub table's size */
	void *v;
	size_t n;
};

struct param {
	const char *name;
	enum param_type type;
	size_t at;                 /* offsetof the field */
	const char *usual;         /* default as YAML text, scalars need no quotes; NULL: unset (NAN, NULL, 0) */
	double min, max;           /* PARAM_INT, PARAM_REAL; both 0: any */
	const char *words;         /* the choices, space-separated: PARAM_WORD, or PARAM_INT "2 3 4 8" */
	const char *help;          /* one line, shown in schema, init and plan */
	const struct param *sub;   /* PARAM_MAP, PARAM_MAPS: the rows inside */
	size_t sub_size;           /* sizeof the struct of sub */
	unsigned flags;
};

/* A setting that changes another's default: {"preset", "compat", "damp_percent", "0.01"}.
 * The recipe's own values win.  Conditions are looked at in the order of their parameters in the table, with the final
 * value of each, so one may set another's; the last that matches wins. */
struct param_when {
	const char *name, *is;     /* when this (PARAM_WORD or PARAM_BOOL) parameter has this value */
	const char *then, *usual;  /* the default of that one becomes this */
};

/* A table with the struct it fills; a section of a recipe is one or two of them
 * (the stage's own rows, then those of the chosen method or format). */
struct param_block {
	const struct param *table;
	const struct param_when *when;   /* ends with name NULL; may be NULL */
	void *values;
	const char *note;                /* "for method gptq", said after a refused value; may be NULL */
};

struct param_pool;                       /* owns the texts and lists */

struct param_pool *param_pool_new(void);
void param_pool_free(struct param_pool *p);

/* Reads map (NULL: all defaults) into blocks[0..n-1].  where is "quantize".  Unknown names (with the
 * nearest known one), wrong types and values outside the rows go to d, all of them.  map must outlive values that are
 * trees.  A null is a value that was not given, and refused where the row has a default. */
void param_read(const struct param_block *blocks, size_t n, const struct yaml *map,
                const char *where, struct param_pool *pool, struct diag *d);

/* "set quantize.bits 4\n" for every keyed row that is set, in the order of the table.  Rows of PARAM_TREE are left out:
 * their owner keys what they mean. */
void param_key(const struct param_block *b, const char *where, struct buf *out);
/* YAML lines with every value written out, null where unset (maps in lists: what is set only); reads back as the same
 * values.  with_help adds the rows' comments; indent in spaces. */
void param_yaml(const struct param_block *b, int indent, bool with_help, struct buf *out);
/* Adds a JSON Schema property for each row to `properties`. */
void param_schema(const struct param *table, json_t *properties);
/* The value of one row as text ("4", "true", "auto"), appended; used by error messages and why. */
void param_value(const struct param *row, const void *values, struct buf *out);

#endif
