/* Settings: a recipe's sections as structs, filled by the tables of the stages.
 *
 * The engine reads YAML and knows no parameter; each stage's file holds its table and says here what struct it fills.
 * Paths are absolute after reading: a relative one is taken from the folder of the recipe that wrote it, or from
 * the current folder when it came from --set. */
#ifndef QJOB_STAGES_SETTINGS_H
#define QJOB_STAGES_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/dev.h"
#include "qjob/base/param.h"

struct method;
struct format;

struct model_params {
	const char *source;          /* folder (absolute); hub ids and URLs as written */
	const char *revision;
};

struct calibration_params {
	const struct yaml *dataset;  /* a file, a folder, or a list of texts (and maps {file, field}) */
	const char *field;           /* of JSONL and of maps */
	const char *windows;         /* "random" (by seed), "concat" (in order) */
	int samples, seqlen, seed;
	const char *dtype;           /* "auto" or what math_find knows: arithmetic of the calibration pass */
};

struct override {
	const char *match;           /* glob over linear names, or "re:..." */
	int bits;                    /* 0: as the section says */
	int group_size;              /* 0: as the section says; -1: one group a row */
	const char *sym;             /* NULL: as the section says; "true", "false" */
	bool skip;                   /* left in full precision */
};

struct quantize_params {
	const char *method;
	struct param_list overrides; /* struct override; later ones win */
};

struct pack_params {
	const char *format;          /* "gptq", "compressed-tensors" */
	const char *kernel;          /* "any", "marlin", ... */
	int tensor_parallel;
	const char *max_shard_size;  /* "5GB" */
};

struct perplexity_params {
	const struct yaml *dataset;  /* NULL: none */
	const char *field;
	const char *split;
	int seqlen;
	int windows;                 /* first so many; 0: all */
};

struct validate_params {
	struct perplexity_params perplexity;
	double max_perplexity_increase;    /* relative, 0.10 = 10 %; NAN: no gate */
	const char *dtype;                 /* arithmetic of the evaluation: "auto" or what math_find knows */
};

/* Paths and data sets with their paths made absolute. */
struct settings_own {
	char *source;
	struct yaml *calibration, *perplexity;
};

struct settings {
	struct model_params model;
	struct calibration_params calibration;
	struct quantize_params quantize;
	struct pack_params pack;
	struct validate_params validate;
	const struct method *method;
	void *method_params;         /* owned */
	const struct format *format;
	void *format_params;         /* owned */
	const char *output;          /* absolute; set by the owner of the recipe */
	struct param_pool *pool;     /* owns every text above */
	struct settings_own *own;    /* owned */
};

/* One section of a recipe.  stages/settings.c has them all, in the order they are written. */
struct section {
	const char *name, *help;
	const struct param *params;
	size_t at;                   /* offsetof in struct settings */
};

extern const struct section sections[];      /* ends with name NULL */

/* The blocks (own rows, then those of the method or format) that a section consists of in these settings; at most 2. */
int settings_blocks(const struct settings *s, const struct section *section, struct param_block blocks[2]);

/* Reads the sections of tree (a map; other keys are ignored) and checks what needs no model.  All errors go to d.
 * tree must outlive s. */
void settings_read(struct settings *s, const struct yaml *tree, struct diag *d);
void settings_release(struct settings *s);
/* Where a parameter was written, for messages: the place of section.name in tree, or that of the section, or of tree. */
struct place settings_place(const struct yaml *tree, const char *section, const char *name);

/* Makes the paths of s absolute, each from the folder of the recipe that wrote it; part of settings_read. */
void settings_resolve(struct settings *s, const struct yaml *tree);

/* Does the method need calibration text? */
bool settings_learns(const struct settings *s);

/* JSON Schema of all sections with every method and format: an object of properties; caller decrefs. */
json_t *settings_schema(void);

/* The settings without paths of this machine: source and data sets named by their last component.  The copy borrows
 * everything else from s; release it before s with settings_release. */
void settings_portable(struct settings *to, const struct settings *s);

/* "5GB", "200 MB", "24G", "1GiB", "5000000": bytes; E_USE for anything else, and for 0. */
int settings_bytes(const char *text, uint64_t *bytes);

#endif
