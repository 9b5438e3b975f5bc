/* Where the blocks of babai.cu lie.  They are those of kernels/cpu/babai.c, but for groups that are fitted on the way and do not
 * end where a tile does: each of these is a block of its own, so that no block is left for a fit in the middle of a tile. */
#ifndef QJOB_KERNELS_CUDA_BABAI_PLAN_CUH
#define QJOB_KERNELS_CUDA_BABAI_PLAN_CUH

#include "kernels/cuda/babai_walk.cuh"

/* Blocks of `width` columns, beginning anew every `unit` columns. */
struct plan {
	int64_t n, group, unit, width, per;      /* per: blocks of a unit */
	int64_t blocks;
	int pad;                                 /* width in whole tiles */
	bool dynamic, stale;
};

struct block {
	int64_t start, end;
	int64_t fitted;      /* groups that begin here and end by then are fitted before its first column; 0: none are */
};

static inline struct plan
plan_of(int64_t n, int64_t group, const struct babai *how)
{
	bool fresh = !how->static_groups && !how->stale;
	struct plan p = {};

	p.n = n;
	p.group = group < n ? group : n;
	p.dynamic = !how->static_groups;
	p.stale = how->stale;
	p.width = BLOCK;
	p.unit = n;
	if (fresh && p.group <= BLOCK)
		p.unit = p.width = p.group % TILE == 0 ? BLOCK / p.group * p.group : p.group;
	else if (fresh)
		p.unit = p.group;
	p.per = (p.unit + p.width - 1) / p.width;
	p.blocks = n / p.unit * p.per + (n % p.unit + p.width - 1) / p.width;
	p.pad = (int)((p.width + TILE - 1) / TILE * TILE);
	return p;
}

__host__ __device__ static inline struct block
block_at(const struct plan *p, int64_t i)
{
	int64_t unit = i / p->per * p->unit, last;
	struct block b = {};

	b.start = unit + i % p->per * p->width;
	b.end = b.start + p->width < unit + p->unit ? b.start + p->width : unit + p->unit;
	b.end = b.end < p->n ? b.end : p->n;
	last = (b.end - 1) / p->group * p->group;      /* where the last group of the block begins */
	if (p->dynamic && last >= b.start)
		b.fitted = last + p->group < p->n ? last + p->group : p->n;
	return b;
}

#endif
