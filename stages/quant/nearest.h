/* Rounding to nearest, shared by the methods that are it or fall back on it. */
#ifndef QJOB_STAGES_QUANT_NEAREST_H
#define QJOB_STAGES_QUANT_NEAREST_H

#include "stages/quant/method.h"

/* Scales of w's ranges, codes nearest to w, loss sum dW^2 a row; g complete, its search not SEARCH_WEIGHTED. */
int nearest_solve(struct dev *d, struct solved *out, const struct mat *w, const struct grid *g);

/* "auto" becomes what suits the preset and the format. */
const char *rounding_settle(const char *rounding, const char *preset, const char *format);
enum rounding rounding_of(const char *word);
enum search search_of(const char *word);

#endif
