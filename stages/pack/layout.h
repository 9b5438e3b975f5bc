/* What formats share: words, groups, labels, and the rules of a stranger's configuration. */
#ifndef QJOB_STAGES_PACK_LAYOUT_H
#define QJOB_STAGES_PACK_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qjob/base/json.h"
#include "qjob/model/family.h"
#include "qjob/model/qlinear.h"
#include "qjob/model/weights.h"

struct buf;
struct choice;
struct project;

/* 32-bit words turned from rows to columns: to[c][r] = from[r][c], r < rows, c < cols.  Neither need be aligned. */
void words_turn(void *to, const void *from, int64_t rows, int64_t cols);

/* The largest group_size of stock kernels (powers of two, 16 .. 1024) that divides in_features and is nearest to
 * `want`; -1 when none does. */
int64_t group_nearest(int64_t cols, int64_t want);
/* 0, or E_USE naming the linear, its in_features and a group_size that does divide it. */
int group_check(const struct choice *c);

/* How a linear is labelled: group -1 says one group a row. */
struct label {
	int bits;
	int64_t group;
	bool sym;
};

bool label_fits(const struct label *l, const struct choice *c);
/* The label that fits the most quantized linears of p; the first such one.  Bits 0 when there is none. */
struct label label_common(const struct project *p);
struct label label_of(const struct choice *c);

/* A setting of the method by its name as text, appended ("0.05", "true"); false when the method has none of that name. */
bool method_setting(const struct project *p, const char *name, struct buf *out);

/* What follows the block's number in the names of a part: ".mlp.up_proj". */
const char *part_suffix(const struct family *f, enum part part);

/* Does the (Python) regular expression match a start of name, as re.match?  Malformed or too costly ones do not. */
bool regex_match(const char *pattern, const char *name);
/* name with all that is special in a regular expression escaped, appended. */
void regex_quote(const char *name, struct buf *out);

/* The tensor LINEAR.suffix of w, of this type (or of any float type: DTYPES) and shape (rank 1 or 2; -1: any size); E_DATA
 * says what is missing or differs. */
int need_tensor(const struct tensor **t, const struct weights *w, const char *linear, const char *suffix,
                enum dtype type, int rank, int64_t d0, int64_t d1);
/* Elements of a float tensor (F32, F16, BF16) as fp32; E_DATA at the first NaN or infinity. */
int read_scales(float *to, const struct tensor *t);

#endif
