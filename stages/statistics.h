/* Statistics as a file: what calibrate leaves for quantize, one safetensors file a block.
 *
 *     SITE.gram    F32 [I,I]   lower triangle of sum a^2 x x^T (the rest zero)
 *     SITE.cross   F32 [I,I]   only when a method asks
 *     SITE.tokens  I64 [1] */
#ifndef QJOB_STAGES_STATISTICS_H
#define QJOB_STAGES_STATISTICS_H

#include "stages/stream.h"

/* On their way: on the host, not yet written. */
struct taken_site {
	float *gram, *cross;          /* [width,width]; NULL: none */
	int64_t width, tokens;
};
struct taken {
	struct taken_site site[SITES];
};
int statistics_take(struct taken *t, struct dev *d, const struct stats st[SITES]);
void statistics_release(struct taken *t);
/* Writes statistics.safetensors into the folder; what the file has zeroes for is zeroed in t. */
int statistics_write(const char *folder, struct taken *t);
/* Reads those of one site onto a device. */
int statistics_read(const struct safetensors *file, struct dev *d, enum site site, const struct config *c, struct stats *st);

#endif
