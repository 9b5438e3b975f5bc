/* SplitMix64's mixer: numbers that look random, each from its own count, so that any of them can be had alone and first. */
#ifndef QJOB_BASE_MIX_H
#define QJOB_BASE_MIX_H

#include <stdint.h>

static inline uint64_t
mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* The high 64 bits of u * n, n below 2^32: where u of 2^64 lies among n places. */
static inline uint64_t
mix_below(uint64_t u, uint64_t n)
{
	return ((u >> 32) * n + ((u & 0xffffffffu) * n >> 32)) >> 32;
}

#endif
