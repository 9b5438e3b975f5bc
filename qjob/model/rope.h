/* Rotary tables as Transformers computes them.  For block.c and tests. */
#ifndef QJOB_MODEL_ROPE_H
#define QJOB_MODEL_ROPE_H

#include <stdint.h>

#include "qjob/model/config.h"

void rope_frequencies(const struct config *c, float *inv);                               /* [rotary / 2] */
void rope_tables(const struct config *c, int64_t positions, float *cosines, float *sines);  /* [positions][rotary / 2] */

#endif
