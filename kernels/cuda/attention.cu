/* Causal attention of each sequence, y = softmax(scale q k^T) v, in tiles of queries against tiles of keys with the softmax carried
 * along, so that no more than a tile of scores exists.
 *
 * With narrow operands it is bound by the tensor cores, and half as much by exponentials: on Hopper the values of a tile are summed by
 * wgmma while the scores of the next are made weights.  MATH_F32 is bound by fp32 arithmetic and by what shared memory feeds it. */
#include "kernels/cuda/cuda.h"

#include <limits.h>

#include "kernels/cuda/attention_f32.cuh"
#include "kernels/cuda/attention_narrow.cuh"
#include "qjob/base/err.h"

enum { LARGEST = 256 };              /* width of a head */

static struct floats
floats_of(const struct mat *m, int width)
{
	bool is_aligned = (uintptr_t)m->p % 16 == 0 && m->ld % 4 == 0 && width % 4 == 0;
	struct floats f = {(const float *)m->p, m->ld, is_aligned};

	return f;
}

static struct output
output_of(const struct mat *m, int width)
{
	size_t pair = 2 * cuda_size(m->type);
	struct output y = {m->p, m->ld, m->type, (uintptr_t)m->p % pair == 0 && m->ld % 2 == 0 && width % 2 == 0};

	return y;
}

static struct job
job_of(const struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v, const struct attention *a)
{
	struct job j = {};

	j.q = floats_of(q, a->width);
	j.k = floats_of(k, a->width);
	j.v = floats_of(v, a->width);
	j.y = output_of(y, a->width);
	j.tokens = q->rows;
	j.heads = a->heads;
	j.group = a->heads / a->kv_heads;
	j.width = a->width;
	j.seqlen = (int)a->seqlen;
	j.window = a->window > 0 && a->window < INT_MAX ? (int)a->window : INT_MAX;
	j.scale = a->scale;
	j.softcap = a->softcap;
	return j;
}

/* Blocks: a tile of queries of a head each.  256 threads. */
static void
launch_f32(struct dev *d, struct job j)
{
	static void (*const kernels[])(struct job) = {attend_f32<1>, attend_f32<2>, attend_f32<3>, attend_f32<4>};
	int64_t blocks;

	j.tiles = (j.seqlen + SQUARE - 1) / SQUARE;
	blocks = j.tokens / j.seqlen * j.heads * j.tiles;
	kernels[(j.width - 1) / 64]<<<(unsigned)blocks, 256, 0, cuda_gpu(d)->stream>>>(j);
	cuda_launched(d, "attention");
}

/* How narrow operands are met at a width, in order of preference among those that fit a card's shared memory: with 160 KiB and more a block
 * (A100, Hopper), or with the 99 of other cards. */
struct plan {
	int width, bytes;
	void (*kernel)(struct job);
};

template <class T, int WIDTH, int KEYS, int STAGES>
static constexpr struct plan
plan_of(void)
{
	return {WIDTH, ring<WIDTH, KEYS, STAGES>::BYTES, attend_narrow<T, WIDTH, KEYS, STAGES>};
}

template <class T>
static const struct plan plans[] = {
	plan_of<T, 64, 128, 2>(),
	plan_of<T, 128, 128, 2>(),
	plan_of<T, 128, 64, 2>(),
	plan_of<T, 192, 64, 2>(),
	plan_of<T, 192, 32, 2>(),
	plan_of<T, 256, 64, 2>(),
	plan_of<T, 256, 32, 1>(),
};

template <class T>
static const struct plan *
find_plan(struct dev *d, int width)
{
	int most = 0;

	if (!cuda_ok(d, "attention", cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, cuda_gpu(d)->ordinal)))
		return NULL;
	for (const struct plan &p : plans<T>) {
		if (width <= p.width && width > p.width - 64 && p.bytes <= most)
			return &p;
	}
	cuda_fail(d, E_USE, "attention: the card's %d bytes of shared memory do not hold heads of width %d", most, width);
	return NULL;
}

/* Images: a thread per 16 bytes, blocks (of 256, keys or values).  Attention: a block per tile of queries of a head. */
template <class T>
static void
launch_narrow(struct dev *d, struct job j, int kv_heads)
{
	const struct plan *p = find_plan<T>(d, j.width);
	const enum dtype type = cuda_operand(d);
	cudaStream_t stream = cuda_gpu(d)->stream;
	struct mat keys, values;
	int64_t chunks, blocks;
	size_t mark = cuda_mark(d);

	if (!p)
		return;
	keys = cuda_mat(d, type, j.tokens * kv_heads, p->width);
	values = cuda_mat(d, type, j.tokens * kv_heads, p->width);
	if (keys.p && values.p
	    && cuda_ok(d, "attention", cudaFuncSetAttribute(p->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p->bytes))) {
		j.keys = (const uint16_t *)keys.p;
		j.values = (const uint16_t *)values.p;
		j.tiles = (j.seqlen + QUERIES - 1) / QUERIES;
		chunks = j.tokens * kv_heads * (p->width / 8);
		blocks = j.tokens / j.seqlen * j.heads * j.tiles;
		make_images<T><<<dim3((unsigned)((chunks + 255) / 256), 2), 256, 0, stream>>>(j, kv_heads, p->width / 64);
		p->kernel<<<(unsigned)blocks, THREADS, p->bytes, stream>>>(j);
		cuda_launched(d, "attention");
	}
	cuda_back(d, mark);
}

void
cuda_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v,
               const struct attention *a)
{
	const struct job j = job_of(y, q, k, v, a);

	if (a->width > LARGEST || a->seqlen > INT_MAX / 2) {
		cuda_fail(d, E_USE, "attention: heads of width %d in sequences of %lld; %d and %d at most", a->width, (long long)a->seqlen,
		          LARGEST, INT_MAX / 2);
		return;
	}
	switch (cuda_operand(d)) {
	case F16: launch_narrow<__half>(d, j, a->kv_heads); break;
	case BF16: launch_narrow<__nv_bfloat16>(d, j, a->kv_heads); break;
	default: launch_f32(d, j); break;
	}
}
