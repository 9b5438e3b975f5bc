/* What the kernels of attention share: the work, a block's place in it, and how results are written. */
#ifndef QJOB_KERNELS_CUDA_ATTENTION_JOB_CUH
#define QJOB_KERNELS_CUDA_ATTENTION_JOB_CUH

#include <stdbool.h>
#include <stdint.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/mat.h"

/* An input: heads side by side in a row. */
struct floats {
	const float *p;
	int64_t ld;
	bool vectors;                /* eight columns from a multiple of eight on can be read as two vectors */
};

struct output {
	void *p;
	int64_t ld;
	enum dtype type;             /* F32, F16 or BF16 */
	bool pairs;                  /* two columns from an even one on can be written at once */
};

struct job {
	struct floats q, k, v;
	const uint16_t *keys, *values;           /* images [K][panels][T][64], of narrow operands */
	struct output y;
	int64_t tokens;
	int heads, group, width;     /* group: heads that share keys */
	int seqlen, window;          /* window: at least 1; INT_MAX for all */
	int tiles;                   /* of queries in a sequence */
	float scale, softcap;
};

/* What a block computes. */
struct place {
	int64_t start;               /* the sequence's first token */
	int head;
	int first, count;            /* positions of queries */
};

/* Late tiles of a sequence, which are the long ones, come first; heads that share keys run side by side. */
__device__ __forceinline__ struct place
place_of(const struct job &j, int queries)
{
	int64_t per = j.tokens / j.seqlen * j.heads, rest = blockIdx.x % per;
	struct place at;

	at.first = (j.tiles - 1 - (int)(blockIdx.x / per)) * queries;
	at.count = min(queries, j.seqlen - at.first);
	at.head = (int)(rest % j.heads);
	at.start = rest / j.heads * j.seqlen;
	return at;
}

__device__ __forceinline__ bool
is_seen(int query, int key, int window)
{
	return (uint32_t)(query - key) < (uint32_t)window;
}

/* Two narrow numbers as they lie side by side in memory. */
template <class T> __device__ uint32_t pack_pair(float low, float high);

template <> __device__ __forceinline__ uint32_t
pack_pair<__nv_bfloat16>(float low, float high)
{
	__nv_bfloat162 pair = __floats2bfloat162_rn(low, high);

	return *(uint32_t *)&pair;
}

template <> __device__ __forceinline__ uint32_t
pack_pair<__half>(float low, float high)
{
	__half2 pair = __floats2half2_rn(low, high);

	return *(uint32_t *)&pair;
}

__device__ __forceinline__ uint32_t
pack_pair(enum dtype type, float low, float high)
{
	return type == F16 ? pack_pair<__half>(low, high) : pack_pair<__nv_bfloat16>(low, high);
}

/* Columns col and col + 1, as far as the head has them. */
__device__ __forceinline__ void
write_pair(const struct job &j, const struct place &at, int query, int col, float a, float b)
{
	int64_t i = (at.start + query) * j.y.ld + (int64_t)at.head * j.width + col;
	bool both = j.y.pairs && col + 1 < j.width;

	if (j.y.type == F32 && both) {
		*(float2 *)((float *)j.y.p + i) = make_float2(a, b);
	} else if (both) {
		*(uint32_t *)((uint16_t *)j.y.p + i) = pack_pair(j.y.type, a, b);
	} else {
		for (int k = 0; k < 2 && col + k < j.width; k++) {
			if (j.y.type == F32)
				((float *)j.y.p)[i + k] = k ? b : a;
			else
				((uint16_t *)j.y.p)[i + k] = (uint16_t)(pack_pair(j.y.type, a, b) >> 16 * k);
		}
	}
}

#endif
