#include <string.h>

#include "qjob/model/qlinear.h"

static uint32_t
bits_of(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static float
float_of(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

float
f16_float(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;

	if (exponent == 31)
		return float_of(sign | 0x7f800000 | fraction << 13);
	if (exponent > 0)
		return float_of(sign | (exponent + 112) << 23 | fraction << 13);
	return float_of(sign | bits_of((float)fraction * 0x1p-24f));
}

/* u >> shift, rounded to nearest, ties to even. */
static uint32_t
shift_round(uint32_t u, uint32_t shift)
{
	uint32_t half = 1u << (shift - 1), odd = u >> shift & 1;

	return (u + half - 1 + odd) >> shift;
}

uint16_t
float_f16(float f)
{
	uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff, exponent = a >> 23;

	if (a > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
	if (a >= 0x477ff000)                    /* 65520 and above: infinite */
		return (uint16_t)(sign | 0x7c00);
	if (exponent >= 113)
		return (uint16_t)(sign | shift_round(a - (112u << 23), 13));
	if (exponent < 102)                     /* below half the smallest */
		return (uint16_t)sign;
	return (uint16_t)(sign | shift_round((a & 0x7fffff) | 0x800000, 126 - exponent));
}

float
bf16_float(uint16_t h)
{
	return float_of((uint32_t)h << 16);
}

uint16_t
float_bf16(float f)
{
	uint32_t u = bits_of(f);

	if ((u & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

void
floats_read(float *to, const void *from, enum dtype type, size_t n)
{
	const unsigned char *p = from;

	if (type == F32) {
		memcpy(to, from, n * sizeof(*to));
		return;
	}
	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, p + 2 * i, sizeof(h));
		to[i] = type == F16 ? f16_float(h) : bf16_float(h);
	}
}
