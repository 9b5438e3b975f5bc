/* Numbers, one at a time, for loops that the compiler makes wide.
 *
 * Everything is spelled in IEEE operations that round once (fused multiply-add is off), so a loop gives the same bits
 * whatever vectors it runs in; and nothing asks libm, whose last bit is not the same everywhere. */
#ifndef QJOB_KERNELS_CPU_NUM_H
#define QJOB_KERNELS_CPU_NUM_H

#include <stdint.h>
#include <string.h>

/* A function compiled for several instruction sets, chosen when the library loads.  Sanitizers cannot look into the choosing. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
# define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
# define WIDE
#endif

static inline uint32_t
bits_of(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static inline float
float_of(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static inline float
from_bf16(uint16_t h)
{
	return float_of((uint32_t)h << 16);
}

/* To nearest even; NaN stays NaN. */
static inline uint16_t
to_bf16(float f)
{
	uint32_t u = bits_of(f), even = (u + 0x7fff + (u >> 16 & 1)) >> 16;

	return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : even);
}

static inline float
from_f16(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
	float f = float_of(rest) * 0x1p112f;    /* the exponent's bias, subnormals included */

	return float_of(((h & 0x7c00) == 0x7c00 ? rest | 0x7f800000 : bits_of(f)) | sign);
}

/* To nearest even; too large becomes infinite, NaN stays NaN. */
static inline uint16_t
to_f16(float f)
{
	uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
	uint32_t small = bits_of(float_of(a) + 0.5f) - 0x3f000000;             /* below 2^-14: the sum rounds at 2^-24 */
	uint32_t normal = (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13;
	uint32_t h = a < 0x38800000 ? small : normal;

	h = a >= 0x477ff000 ? 0x7c00 : h;
	h = a > 0x7f800000 ? 0x7e00 : h;
	return (uint16_t)(h | sign);
}

/* e^x within 1.5 ulp; 0 below -86.6, infinite above 88.7. */
static inline float
num_exp(float x)
{
	float t = x * 1.44269504088896341f + 12582912.f, n = t - 12582912.f;
	float r = x - n * 0.693359375f + n * 2.12194440e-4f;
	float p = 1.9875691500e-4f;
	float y;

	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * (r * r) + r + 1.f;
	/* 2^n in two steps, since 2^128 is no float. */
	y = p * float_of((bits_of(t) - 1 + 127) << 23) * 2.f;
	y = x < -86.6f ? 0.f : y;
	return x > 88.72f ? float_of(0x7f800000) : y;
}

static inline float
num_tanh(float x)
{
	float z = x * x, p = -5.70498872745e-3f, e, y, a = x < 0 ? -x : x;

	p = p * z + 2.06390887954e-2f;
	p = p * z - 5.37397155531e-2f;
	p = p * z + 1.33314422036e-1f;
	p = p * z - 3.33332819422e-1f;
	p = p * z * x + x;
	e = 1.f - 2.f / (num_exp(a + a) + 1.f);
	y = x < 0 ? -e : e;
	return a < 0.625f ? p : y;
}

static inline float
num_erf(float x)
{
	float t = x < 0 ? -x : x, s = x * x, r, u, p, y;

	r = -1.72853470e-5f * t + 3.83197126e-4f;
	u = -3.88396438e-3f * t + 2.42546219e-2f;
	r = r * s + u;
	r = r * t - 1.06777877e-1f;
	r = r * t - 6.34846687e-1f;
	r = r * t - 1.28717512e-1f;
	r = r * t - t;
	r = 1.f - num_exp(r);
	y = x < 0 ? -r : r;
	p = -5.96761703e-4f;
	p = p * s + 4.99119423e-3f;
	p = p * s - 2.67681349e-2f;
	p = p * s + 1.12819925e-1f;
	p = p * s - 3.76125336e-1f;
	p = p * s + 1.28379166e-1f;
	p = p * x + x;
	return t > 0.927734375f ? y : p;
}

/* Sums run in LANES partial sums, element i into lane i % LANES, and the lanes are added pairwise: the order is the
 * same for every vector length. */
enum { LANES = 16 };

static inline double
lanes_sum(double *lane)
{
	int n, i;

	for (n = LANES / 2; n > 0; n /= 2) {
		for (i = 0; i < n; i++)
			lane[i] += lane[i + n];
	}
	return lane[0];
}

#endif
