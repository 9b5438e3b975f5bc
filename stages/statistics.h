/* Statistics as a file: what calibrate leaves for quantize, one safetensors file a block.
 *
 *     SITE.gram    F32 [I,I]   lower triangle of sum a^2 x x^T (the rest zero)
 *     SITE.cross   F32 [I,I]   only when a method asks
 *     SITE.tokens  I64 [1] */
#ifndef QJOB_STAGES_STATISTICS_H
#define QJOB_STAGES_STATISTICS_H

#include "stages/stream.h"

/* Writes statistics.safetensors into job->out. */
int statistics_write(struct job *job, struct stream *s, const struct stats st[SITES]);
/* Reads those of one site onto a device. */
int statistics_read(const struct safetensors *file, struct dev *d, enum site site, const struct config *c, struct stats *st);

#endif
