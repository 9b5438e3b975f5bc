/* An output format: one file, one line in formats.c, one table.  Formats re-pack a qlinear; they choose no code. */
#ifndef QJOB_STAGES_PACK_FORMAT_H
#define QJOB_STAGES_PACK_FORMAT_H

#include "qjob/base/param.h"
#include "qjob/model/qlinear.h"
#include "qjob/model/weights.h"

enum { FORMAT_TENSORS = 5 };

struct choice;
struct project;

struct format {
	const char *name;
	int version;
	const char *help;
	const struct param *params;
	const struct param_when *when;
	size_t params_size;
	/* Type of the stored scale for a model of this dtype, and the least zero point that can be written. */
	enum dtype (*scale_type)(const void *params, enum dtype model);
	int (*zero_min)(const void *params, bool sym);
	/* Can this linear be written without loss?  0, or err_set.  has_order: its groups follow no order (g_idx). */
	int (*check)(const void *params, const struct choice *c, bool has_order);
	/* The tensors that replace NAME.weight, full names (the caller frees them), types, shapes and bytes: known before any
	 * work.  Returns how many. */
	int (*tensors)(const void *params, const struct choice *c, enum dtype scale, bool has_order, struct tensor out[FORMAT_TENSORS]);
	/* Writes the k-th of them, tensor_bytes(t) bytes at `to`. */
	int (*pack)(const void *params, const struct qlinear *q, int k, const struct tensor *t, void *to);
	/* config.json's quantization_config (caller adds it), and extra small files: name and content, or NULL. */
	json_t *(*config)(const struct project *p);
	const char *(*extra_file)(const struct project *p, struct buf *content);
	/* What loaders will not do with this result, a sentence each, appended to an array: for the log and the report. */
	void (*notes)(const struct project *p, json_t *notes);
	/* Reading a folder as a stranger: does its quantization_config belong to this format, and one linear of it.
	 * decode (weights.h) also checks shapes, ranges and label against content (v1 zeros under a v2 label). */
	bool (*owns)(const json_t *quantization_config);
	int (*decode)(const struct weights *w, const char *linear, struct qlinear *q, int64_t rows, int64_t cols);
};

extern const struct format *const formats[];   /* ends with NULL; see formats.c */
const struct format *format_find(const char *name);
const char *format_names(void);

/* Sets w->decode when config.json has a quantization_config of a known format; E_DATA for an unknown one. 0 for a plain model. */
int format_attach(struct weights *w);

#endif
