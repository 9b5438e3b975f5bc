/* Data sets: the text that a recipe names, as documents in a fixed order.
 *
 * The tree of a recipe's `dataset` is a path, a map {file: PATH, field: NAME, kind: NAME}, or a list of texts and such maps.  A
 * path is a file or a folder (all its files, sorted by name; hidden ones and folders in it are left out).  What a file holds is
 * told by its name or by `kind` (kind.h); .gz, .xz, .zst and .bz2 are unpacked, and the files of .zip, .tar and .7z archives are
 * read one by one.  Every function takes NULL for no data set.
 *
 * A plain text file is one document.  So is each line of JSONL, each row of Parquet and each text of a list; empty ones are left
 * out.  A field of JSONL (or input_ids, where a line lacks the field) may hold a list of token ids in place of a text: it is taken
 * as it is, so published calibration sets can be repeated to the token, and models without a tokenizer be calibrated.
 *
 * The path `synthetic:tokens?seed=S` (seed: 0 by default) is one list of made-up ids, uniform below the vocabulary: for benchmarks. */
#ifndef QJOB_STAGES_DATA_DATASET_H
#define QJOB_STAGES_DATA_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "qjob/base/buf.h"
#include "qjob/base/param.h"
#include "qjob/base/yaml.h"

/* Where documents go.  Positive ends the reading, which then succeeds; negative is an error and its result. */
struct document_sink {
	int (*document)(void *own, const char *text, size_t n);
	int (*ids)(void *own, const int32_t *ids, size_t n);
	void *own;
	int64_t vocabulary;      /* made-up ids are below this */
	size_t made_up;          /* so many of them, in one list */
};

/* Finds every file and says what is wrong, without reading content.  where: "calibration.dataset". */
void dataset_check(const struct yaml *tree, const char *where, struct diag *d);
/* Appends the absolute paths of its files, allocated; those that dataset_check refuses are left out. */
void dataset_files(const struct yaml *tree, struct texts *files);
/* Appends "data 0 text sha256:..." lines that name the content and how it is read, never a path. */
int dataset_facts(const struct yaml *tree, const char *field, struct buf *out);
/* 1: it holds a text, which needs a tokenizer; 0: only lists of ids; or an error. */
int dataset_needs_tokenizer(const struct yaml *tree, const char *field);
/* Is it made up? */
bool dataset_is_synthetic(const struct yaml *tree);
/* Passes on every document.  field: of JSONL, where the tree does not say it. */
int dataset_read(const struct yaml *tree, const char *field, struct document_sink to);

#endif
