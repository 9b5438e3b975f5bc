/* What the kernels of attention share: the work, a block's place in it, and how results are written. */
#ifndef QJOB_KERNELS_CUDA_ATTENTION_JOB_CUH
#define QJOB_KERNELS_CUDA_ATTENTION_JOB_CUH

#include <stdbool.h>
#include <stdint.h>

#include <cuda_bf16.h>

/* An input: heads side by side in a row. */
struct floats {
	const float *p;
	int64_t ld;
	bool vectors;                /* eight columns from a multiple of eight on can be read as two vectors */
};

struct output {
	void *p;
	int64_t ld;
	bool bf16, pairs;            /* pairs: two columns from an even one on can be written at once */
};

struct job {
	struct floats q, k, v;
	const __nv_bfloat16 *keys, *values;      /* images [K][panels][T][64] */
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

/* Columns col and col + 1, as far as the head has them. */
__device__ __forceinline__ void
write_pair(const struct job &j, const struct place &at, int query, int col, float a, float b)
{
	int64_t i = (at.start + query) * j.y.ld + (int64_t)at.head * j.width + col;
	float *f = (float *)j.y.p + i;
	__nv_bfloat16 *h = (__nv_bfloat16 *)j.y.p + i;

	if (j.y.pairs && col + 1 < j.width) {
		if (j.y.bf16)
			*(__nv_bfloat162 *)h = __floats2bfloat162_rn(a, b);
		else
			*(float2 *)f = make_float2(a, b);
		return;
	}
	for (int k = 0; k < 2; k++) {
		if (col + k < j.width && j.y.bf16)
			h[k] = __float2bfloat16_rn(k ? b : a);
		else if (col + k < j.width)
			f[k] = k ? b : a;
	}
}

#endif
