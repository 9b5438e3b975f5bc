/* GPTQ as Babai's nearest plane.
 *
 *     H = U U^T;  for each block b:  W_b = W0_b + S_b inv(U_bb);  its columns one by one -> Q_b;  S = sum (W0 - Q) U
 *
 * which gives the codes of the usual elimination with the inverse of H, but needs no inverse.  A task is ROWS rows, held
 * with the rows side by side: element (row, position) lies at [position * ROWS + row], so that 16 rows go through the
 * columns together.  W0 - Q of the finished positions is kept in place of S: then the S of any range is one product, also that
 * of a group wider than a block, and is written once.  Where a block ends changes no code, only rounding. */
#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/grid.h"

enum {
	BLOCK = 128,     /* columns */
	ROWS  = 96,      /* a multiple of LANES */
};

struct block {
	int64_t start, end;
	int64_t fitted;          /* groups that begin here and end by then are fitted before its first column; 0: none are */
	const void *inverse;     /* inv(U_bb), [BLOCK][BLOCK] */
};

struct task {
	struct qmat *q;
	struct mat *loss;
	const struct mat *w, *u;
	const int32_t *order;
	const struct grid *g;
	const struct babai *how;
	int64_t n, nblocks, widest;
	struct block *blocks;
	int32_t *group_at;       /* group of each position */
	float *weight_at;        /* weight of each position; NULL: none */
};

/* Faults of several threads: the least one is that of the first row. */
static int64_t
fault_key(int64_t row, enum lane_fault fault)
{
	return row * 4 + fault;
}

/* The first position from `at` on where a group begins. */
static int64_t
first_group(int64_t at, int64_t group)
{
	return (at + group - 1) / group * group;
}

#define REAL float
#define OF(name) name##_f32
#define BLAS(name) cblas_s##name
#define BIG 0x1.8p23f
#include "kernels/cpu/babai_body.h"

#define REAL double
#define OF(name) name##_f64
#define BLAS(name) cblas_d##name
#define BIG 0x1.8p52
#include "kernels/cpu/babai_body.h"

/* The block from `start` on.  Groups fitted at their own first column lie within one block, or begin one. */
static struct block
next_block(int64_t start, const struct task *t)
{
	int64_t group = t->g->group, n = t->n, last;
	bool fresh = !t->how->static_groups && !t->how->stale;
	struct block b = {.start = start, .end = start + BLOCK};

	if (fresh && group <= BLOCK)
		b.end = start + BLOCK / group * group;
	else if (fresh && first_group(start + 1, group) < b.end)
		b.end = first_group(start + 1, group);
	if (b.end > n)
		b.end = n;
	last = (b.end - 1) / group * group;      /* where the last group of the block begins */
	if (!t->how->static_groups && last >= start && (t->how->stale || last + group > b.end))
		b.fitted = last + group < n ? last + group : n;
	if (fresh && b.fitted == b.end)
		b.fitted = 0;
	return b;
}

static void
plan(struct task *t, const struct mat *weight)
{
	int32_t *group_of = t->q->group_of.p;

	t->nblocks = 0;
	t->widest = BLOCK;
	for (int64_t at = 0; at < t->n; at = t->blocks[t->nblocks++].end) {
		t->blocks[t->nblocks] = next_block(at, t);
		if (t->blocks[t->nblocks].fitted - at > t->widest)
			t->widest = t->blocks[t->nblocks].fitted - at;
	}
	for (int64_t i = 0; i < t->n; i++) {
		if (!t->how->static_groups)
			group_of[t->order[i]] = (int32_t)(i / t->g->group);
		t->group_at[i] = group_of[t->order[i]];
		if (t->weight_at)
			t->weight_at[i] = ((const float *)weight->p)[t->order[i]];
	}
}

void
cpu_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u,
          const struct mat *order, const struct mat *weight, const struct grid *g, const struct babai *b)
{
	struct task t = {.q = q, .loss = loss, .w = w, .u = u, .order = order->p, .g = g, .how = b, .n = w->cols};
	size_t used = d->used, n = (size_t)t.n;

	t.blocks = cpu_take(d, (n / (BLOCK / 2) + 1 + n / (size_t)g->group + 1) * sizeof(*t.blocks));
	t.group_at = cpu_take(d, n * sizeof(*t.group_at));
	if (g->search == SEARCH_WEIGHTED && weight)
		t.weight_at = cpu_take(d, n * sizeof(*t.weight_at));
	if (d->status == 0) {
		plan(&t, weight);
		if (u->type == F64)
			babai_f64(d, &t);
		else
			babai_f32(d, &t);
	}
	d->used = used;
}
