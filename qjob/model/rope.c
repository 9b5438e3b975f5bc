/* Frequencies and angles are rounded to fp32 where Transformers' modeling_rope_utils.py rounds them: at position 2047
 * exact arithmetic would turn the fastest dimensions by 1e-4 otherwise.  cos and sin are taken in double. */
#include "qjob/model/rope.h"

#include <math.h>
#include <stdlib.h>

#include "qjob/base/mem.h"

/* Llama 3: long waves are divided by the factor, short ones kept, those between mixed. */
static float
scale_llama3(const struct config *c, float inv)
{
	const float factor = (float)c->rope_factor, low = (float)c->rope_low, original = (float)c->rope_original;
	const double long_wave = c->rope_original / c->rope_low, short_wave = c->rope_original / c->rope_high;
	float wave = (float)(2 * 3.14159265358979323846) / inv, smooth;

	if (wave > (float)long_wave)
		return inv / factor;
	if (wave < (float)short_wave)
		return inv;
	smooth = (original / wave - low) / (float)(c->rope_high - c->rope_low);
	return (1 - smooth) * inv / factor + smooth * inv;
}

void
rope_frequencies(const struct config *c, float *inv)
{
	for (int i = 0; i < c->rotary / 2; i++) {
		float exponent = (float)(2 * i) / (float)c->rotary;

		inv[i] = 1.0f / (float)pow((double)(float)c->rope_theta, (double)exponent);
		if (c->rope == ROPE_LINEAR)
			inv[i] /= (float)c->rope_factor;
		if (c->rope == ROPE_LLAMA3)
			inv[i] = scale_llama3(c, inv[i]);
	}
}

void
rope_tables(const struct config *c, int64_t positions, float *cosines, float *sines)
{
	const int n = c->rotary / 2;
	float *inv = mem_new((size_t)n, sizeof(*inv));

	rope_frequencies(c, inv);
	for (int64_t t = 0; t < positions; t++)
		for (int i = 0; i < n; i++) {
			double angle = (double)(inv[i] * (float)t);

			cosines[t * n + i] = (float)cos(angle);
			sines[t * n + i] = (float)sin(angle);
		}
	free(inv);
}
