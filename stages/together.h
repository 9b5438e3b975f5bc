/* Linears that share their input and their settings are solved together, stacked.  For quantize.c, and for memory.c, which rehearses it. */
#ifndef QJOB_STAGES_TOGETHER_H
#define QJOB_STAGES_TOGETHER_H

#include "stages/project.h"

bool choice_same(const struct choice *a, const struct choice *b);      /* site and settings */
/* How many of v[n], from the first on, go together; n > 0. */
size_t together_count(const struct choice *v, size_t n);
int64_t together_rows(const struct choice *v, size_t n);
/* Their grid, but for what the method sets. */
struct grid together_grid(const struct project *p, const struct choice *c);
/* Matrices of a device for the solution of so many rows. */
struct solved together_take(struct dev *d, const struct choice *c, int64_t rows);

#endif
