/* GPTQ as Babai's nearest plane, the recursion of kernels/cpu/babai.c:
 *
 *     H = U U^T;  for each block b:  W_b = W0_b + S_b inv(U_bb);  its columns one by one -> Q_b;  S = sum (W0 - Q) U
 *
 * W0 is copied in the order of the walk, and W0 - Q takes its place.  Blocks are taken together in spans: S of a span is one
 * product over all finished columns (bound by math, 2 m n^2 / 2 operations in all, and S is written once), and within the span
 * each block's errors are added to what is left of it.  The walk of a block (babai_walk.cuh) is bound by latency.  Rows
 * know nothing of each other, so they are taken as many at a time as ROOM holds. */
#include "kernels/cuda/babai_plan.cuh"
#include "kernels/cuda/babai_product.cuh"
#include "kernels/cuda/fit.cuh"

enum {
	THREADS   = 256,
	FEW_ROWS  = 8192,          /* up to these, wider spans keep the card busier than narrow ones save work within them */
	WIDE_SPAN = 1024,
	SPAN      = 512,
};

static const size_t ROOM = (size_t)1536 << 20;

/* The matrices of one call on the device, by position. */
struct columns {
	int32_t *group_of;         /* by input */
	const int32_t *order;
	const float *weight;       /* by input; NULL: none */
	int32_t *group_at, *position;
	float *weight_at;
	int64_t n, group;          /* group: of dynamic groups, else 0 */
};

template <typename REAL> struct task {
	struct dev *d;
	struct plan plan;
	struct columns columns;
	struct qmat *q;
	const struct mat *w, *u, *target;
	double *loss, ridge;
	struct rule rule;
	REAL *inverse;             /* [blocks][pad][pad] */
	/* Of some rows. */
	struct product<REAL> product;
	REAL *sum, *wide;          /* [rows][span], [rows][widest] (NULL where no group is wider than a block) */
	uint8_t *code;             /* [rows][done_ld], by position */
	int64_t row, rows, span, widest;
};

__global__ static void
order_columns(const struct columns c)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, to;

	if (i >= c.n)
		return;
	to = c.order[i];
	if (c.group)
		c.group_of[to] = (int32_t)(i / c.group);
	c.group_at[i] = c.group_of[to];
	c.position[to] = (int32_t)i;
	if (c.weight)
		c.weight_at[i] = c.weight[to];
}

/* inverse = inv(U_bb) of every block: a thread a column, from its diagonal up. */
template <typename REAL> __global__ static void __launch_bounds__(BLOCK)
invert_blocks(REAL *inverse, const REAL *u, int64_t ld, const struct plan p)
{
	extern __shared__ __align__(32) char room[];
	REAL *x = (REAL *)room;
	struct block b = block_at(&p, blockIdx.x);
	const int width = (int)(b.end - b.start), pad = p.pad, j = threadIdx.x;

	u += b.start * (ld + 1);
	inverse += (int64_t)blockIdx.x * pad * pad;
	for (int k = j; k < pad * pad; k += BLOCK)
		x[k] = 0;
	__syncthreads();
	if (j < width)
		x[j * pad + j] = 1 / u[j * ld + j];
	/* All threads go through the rows together, so that a row of U is read once; those above come first to nought. */
	for (int i = width - 2; i >= 0; i--) {
		REAL sum = 0;

		#pragma unroll 8
		for (int k = i + 1; k < width; k++)
			sum += u[i * ld + k] * (j < pad ? x[k * pad + j] : (REAL)0);
		if (j < width && j > i)
			x[i * pad + j] = -sum / u[i * ld + i];
	}
	__syncthreads();
	for (int k = j; k < pad * pad; k += BLOCK)
		inverse[k] = x[k];
}

/* ---- rows in the order of the walk, and back ---- */

struct rows_job {
	const float *w, *target;   /* [rows][.._ld], by input */
	const int32_t *order, *position;
	uint8_t *code;             /* [rows][code_ld], by input */
	const uint8_t *walked;     /* [rows][ld], by position */
	int64_t n, ld, w_ld, target_ld, code_ld;
};

/* done[row][i] = w[row][order[i]] */
template <typename REAL> __global__ static void
gather_rows(REAL *done, const struct rows_job j)
{
	const float *w = j.w + blockIdx.x * j.w_ld;

	for (int64_t i = threadIdx.x; i < j.n; i += THREADS)
		done[blockIdx.x * j.ld + i] = w[j.order[i]];
}

/* code[row][i] = walked[row][position[i]]; four at a time would gain little: reads decide. */
__global__ static void
scatter_codes(const struct rows_job j)
{
	const uint8_t *from = j.walked + blockIdx.x * j.ld;

	for (int64_t i = threadIdx.x; i < j.n; i += THREADS)
		j.code[blockIdx.x * j.code_ld + i] = from[j.position[i]];
}

/* done, W0 - Q so far, becomes target - Q. */
template <typename REAL> __global__ static void
aim_rows(REAL *done, const struct rows_job j)
{
	const float *w = j.w + blockIdx.x * j.w_ld, *target = j.target + blockIdx.x * j.target_ld;

	for (int64_t i = threadIdx.x; i < j.n; i += THREADS) {
		int64_t k = j.order[i];

		done[blockIdx.x * j.ld + i] += (REAL)target[k] - (REAL)w[k];
	}
}

/* x += y, [rows][n]. */
template <typename REAL> __global__ static void
add_rows(REAL *x, int64_t x_ld, const REAL *y, int64_t y_ld, int64_t n)
{
	for (int64_t i = threadIdx.x; i < n; i += THREADS)
		x[blockIdx.x * x_ld + i] += y[blockIdx.x * y_ld + i];
}

/* loss[row] += scale * sum over x[row][0..n) of x^2, in a fixed order. */
template <typename REAL> __global__ static void __launch_bounds__(THREADS)
add_squares(double *loss, const REAL *x, int64_t ld, int64_t n, double scale)
{
	__shared__ double part[THREADS];
	double sum = 0;

	for (int64_t i = threadIdx.x; i < n; i += THREADS) {
		double v = (double)x[blockIdx.x * ld + i];

		sum += v * v;
	}
	part[threadIdx.x] = sum;
	for (int k = THREADS / 2; k > 0; k /= 2) {
		__syncthreads();
		if (threadIdx.x < k)
			part[threadIdx.x] += part[threadIdx.x + k];
	}
	if (threadIdx.x == 0)
		loss[blockIdx.x] += scale * part[0];
}

/* ---- blocks ---- */

template <typename REAL> static struct rows_job
rows_of(const struct task<REAL> *t)
{
	struct rows_job j = {};

	j.w = (const float *)t->w->p + t->row * t->w->ld;
	j.w_ld = t->w->ld;
	if (t->target) {
		j.target = (const float *)t->target->p + t->row * t->target->ld;
		j.target_ld = t->target->ld;
	}
	j.order = t->columns.order;
	j.position = t->columns.position;
	j.code = (uint8_t *)t->q->code.p + t->row * t->q->code.ld;
	j.code_ld = t->q->code.ld;
	j.walked = t->code;
	j.n = t->plan.n;
	j.ld = t->product.ld;
	return j;
}

/* Fits groups that are wider than the block.  What they span is corrected as far as the finished positions go, by a solution with
 * their own part of U. */
template <typename REAL> static void
fit_ahead(struct task<REAL> *t, const struct block *b)
{
	int64_t span = b->fitted - b->start, group = t->plan.group, first = (b->start + group - 1) / group, from = first * group;
	cudaStream_t stream = cuda_gpu(t->d)->stream;
	struct fit_job f = {};

	f.w = t->product.done + from;
	f.ld = t->product.ld;
	if (b->start > 0) {
		product_of(&t->product, t->wide, t->widest, b->start, b->start, span);
		product_solve(&t->product, t->wide, t->widest, b->start, span);
		/* Grid: a row a block. */
		add_rows<<<(unsigned)t->rows, THREADS, 0, stream>>>(t->wide, t->widest, t->product.done + b->start, t->product.ld, span);
		f.w = t->wide + (from - b->start);
		f.ld = t->widest;
	}
	f.type = sizeof(REAL) == 4 ? F32 : F64;
	f.rows = t->rows;
	f.cols = b->fitted - from;
	f.groups = (f.cols + group - 1) / group;
	f.weight = t->columns.weight ? t->columns.weight_at + from : NULL;
	f.scale_ld = t->q->scale.ld;
	f.zero_ld = t->q->zero.ld;
	f.scale = (float *)t->q->scale.p + t->row * f.scale_ld + first;
	f.zero = (uint8_t *)t->q->zero.p + t->row * f.zero_ld + first;
	f.row = t->row;
	f.rule = t->rule;
	f.fault = cuda_gpu(t->d)->fault;
	fit_groups(t->d, &f);
}

template <typename REAL> static struct walk<REAL>
walk_of(const struct task<REAL> *t, const struct block *b, int64_t number, int64_t base)
{
	struct walk<REAL> k = {};

	k.ld = k.code_ld = t->product.ld;
	k.done = t->product.done + b->start;
	k.code = t->code + b->start;
	k.sum = b->start > 0 ? t->sum + (b->start - base) : NULL;
	k.sum_ld = t->span;
	k.inverse = t->inverse + number * t->plan.pad * t->plan.pad;
	k.u_ld = t->u->ld;
	k.u = (const REAL *)t->u->p + b->start * (k.u_ld + 1);
	k.loss = t->loss + t->row;
	k.group_at = t->columns.group_at + b->start;
	k.weight_at = t->columns.weight ? t->columns.weight_at + b->start : NULL;
	k.scale_ld = t->q->scale.ld;
	k.zero_ld = t->q->zero.ld;
	k.scale = (float *)t->q->scale.p + t->row * k.scale_ld;
	k.zero = (uint8_t *)t->q->zero.p + t->row * k.zero_ld;
	k.rows = t->rows;
	k.row = t->row;
	k.start = b->start;
	k.width = (int)(b->end - b->start);
	k.pad = t->plan.pad;
	k.wide = b->start % 4 == 0 && base % 4 == 0;
	k.stale = t->plan.stale;
	k.ridge = t->target ? 0 : t->ridge;
	k.rule = t->rule;
	k.fault = cuda_gpu(t->d)->fault;
	return k;
}

template <typename REAL, bool FITS> static void
launch_walk(struct task<REAL> *t, const struct walk<REAL> *k)
{
	/* Fewer rows a block where there would not be two blocks for each multiprocessor. */
	bool many = t->rows * QUAD >= 2 * WALK_THREADS * (int64_t)cuda_gpu(t->d)->sms;
	int threads = sizeof(REAL) == 4 && many ? WALK_THREADS : WALK_THREADS / 2;
	int64_t blocks = (t->rows * QUAD + threads - 1) / threads;

	/* Grid: four threads a row. */
	walk_block<REAL, FITS><<<(unsigned)blocks, threads, walk_room<REAL, FITS>(k->pad, threads), cuda_gpu(t->d)->stream>>>(*k);
	cuda_launched(t->d, "babai");
}

/* base: the first position of the block's span. */
template <typename REAL> static void
solve_block(struct task<REAL> *t, const struct block *b, int64_t number, int64_t base)
{
	struct walk<REAL> k = walk_of(t, b, number, base);

	if (b->fitted > b->end)
		fit_ahead(t, b);
	if (b->fitted && b->fitted <= b->end)
		launch_walk<REAL, true>(t, &k);
	else
		launch_walk<REAL, false>(t, &k);
}

/* The blocks from number `first` on that lie within one span, the first one at least; the number after the last one. */
template <typename REAL> static int64_t
solve_span(struct task<REAL> *t, int64_t first)
{
	int64_t base = block_at(&t->plan, first).start, end = base, next = first;

	for (; next < t->plan.blocks && block_at(&t->plan, next).end <= base + t->span; next++)
		end = block_at(&t->plan, next).end;
	if (base > 0)
		product_of(&t->product, t->sum, t->span, base, base, end - base);
	else
		cuda_ok(t->d, "babai", cudaMemsetAsync(t->sum, 0, (size_t)(t->rows * t->span) * sizeof(REAL), cuda_gpu(t->d)->stream));
	for (int64_t i = first; i < next && !cuda_failed(t->d); i++) {
		struct block b = block_at(&t->plan, i);

		solve_block(t, &b, i, base);
		if (b.end < end)
			product_add(&t->product, t->sum + (b.end - base), t->span, b.start, b.end, end);
		if (t->widest)      /* fit_ahead may want the block's product before the span is done */
			product_ready(&t->product, b.start, b.end);
	}
	if (!t->widest && end < t->plan.n)
		product_ready(&t->product, base, end);
	return next;
}

/* loss = what the target misses, in place of what w misses. */
template <typename REAL> static void
measure(struct task<REAL> *t)
{
	cudaStream_t stream = cuda_gpu(t->d)->stream;
	double *loss = t->loss + t->row;
	int64_t n = t->plan.n;

	/* Grids: a row a block. */
	aim_rows<<<(unsigned)t->rows, THREADS, 0, stream>>>(t->product.done, rows_of(t));
	product_ready(&t->product, 0, n);
	cuda_ok(t->d, "babai", cudaMemsetAsync(loss, 0, (size_t)t->rows * sizeof(*loss), stream));
	for (int64_t i = 0; i < n && !cuda_failed(t->d); i += t->span) {
		int64_t cols = n - i < t->span ? n - i : t->span;

		product_of(&t->product, t->sum, t->span, i + cols, i, cols);
		add_squares<<<(unsigned)t->rows, THREADS, 0, stream>>>(loss, t->sum, t->span, cols, 1.);
	}
	if (t->ridge != 0)
		add_squares<<<(unsigned)t->rows, THREADS, 0, stream>>>(loss, t->product.done, t->product.ld, n, -t->ridge);
	cuda_launched(t->d, "babai");
}

/* The rows [t->row, t->row + t->rows). */
template <typename REAL> static void
solve_rows(struct task<REAL> *t)
{
	cudaStream_t stream = cuda_gpu(t->d)->stream;

	t->product.rows = t->rows;
	/* Grids: a row a block. */
	gather_rows<<<(unsigned)t->rows, THREADS, 0, stream>>>(t->product.done, rows_of(t));
	for (int64_t i = 0; i < t->plan.blocks && !cuda_failed(t->d);)
		i = solve_span(t, i);
	scatter_codes<<<(unsigned)t->rows, THREADS, 0, stream>>>(rows_of(t));
	cuda_launched(t->d, "babai");
	if (t->target)
		measure(t);
}

/* ---- the whole ---- */

/* Columns of the widest group that is fitted ahead and needs room, 0 without one. */
static int64_t
widest_of(const struct plan *p)
{
	int64_t widest = 0;

	for (int64_t i = 0; i < p->blocks; i++) {
		struct block b = block_at(p, i);

		if (b.start > 0 && b.fitted > b.end && b.fitted - b.start > widest)
			widest = b.fitted - b.start;
	}
	return widest;
}

/* Room of as many rows as ROOM holds. */
template <typename REAL> static bool
take_rows(struct task<REAL> *t)
{
	int64_t n = t->plan.n, ld = (n + 15) / 16 * 16, m = t->w->rows;
	int64_t each = ld * (int64_t)(sizeof(REAL) + 1) + (WIDE_SPAN + t->widest) * (int64_t)sizeof(REAL) + product_room<REAL>(n);
	int64_t most = (int64_t)ROOM / each / BLOCK * BLOCK, pieces;

	most = most > BLOCK ? most : (int64_t)BLOCK;
	pieces = (m + most - 1) / most;
	t->rows = ((m + pieces - 1) / pieces + 31) / 32 * 32;      /* of nearly equal size */
	t->rows = t->rows < m ? t->rows : m;
	t->span = t->rows <= FEW_ROWS ? WIDE_SPAN : SPAN;
	t->product.ld = ld;
	t->product.done = (REAL *)cuda_take(t->d, (size_t)(t->rows * ld) * sizeof(REAL));
	t->code = (uint8_t *)cuda_take(t->d, (size_t)(t->rows * ld));
	t->sum = (REAL *)cuda_take(t->d, (size_t)(t->rows * t->span) * sizeof(REAL));
	if (t->widest)
		t->wide = (REAL *)cuda_take(t->d, (size_t)(t->rows * t->widest) * sizeof(REAL));
	return product_take(&t->product, t->rows, n, t->span) && !cuda_failed(t->d);
}

template <typename REAL> static bool
take_columns(struct task<REAL> *t)
{
	size_t n = (size_t)t->plan.n;

	t->columns.group_at = (int32_t *)cuda_take(t->d, n * sizeof(int32_t));
	t->columns.position = (int32_t *)cuda_take(t->d, n * sizeof(int32_t));
	t->columns.weight_at = (float *)cuda_take(t->d, n * sizeof(float));
	t->inverse = (REAL *)cuda_take(t->d, (size_t)t->plan.blocks * t->plan.pad * t->plan.pad * sizeof(REAL));
	return !cuda_failed(t->d);
}

template <typename KERNEL> static bool
allow_room(struct dev *d, KERNEL *kernel, size_t bytes)
{
	return cuda_ok(d, "babai", cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

template <typename REAL> static void
solve(struct task<REAL> *t)
{
	cudaStream_t stream = cuda_gpu(t->d)->stream;
	int64_t n = t->plan.n, m = t->w->rows, each;
	size_t square = (size_t)t->plan.pad * t->plan.pad * sizeof(REAL);
	int threads = sizeof(REAL) == 4 ? WALK_THREADS : WALK_THREADS / 2;

	t->widest = widest_of(&t->plan);
	if (!allow_room(t->d, walk_block<REAL, false>, walk_room<REAL, false>(t->plan.pad, threads))
	    || !allow_room(t->d, walk_block<REAL, true>, walk_room<REAL, true>(t->plan.pad, threads))
	    || !allow_room(t->d, invert_blocks<REAL>, square) || !take_columns(t) || !take_rows(t))
		return;
	/* Grids: a thread a column; a block a block. */
	order_columns<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, stream>>>(t->columns);
	invert_blocks<<<(unsigned)t->plan.blocks, BLOCK, square, stream>>>(t->inverse, (const REAL *)t->u->p, t->u->ld, t->plan);
	cuda_launched(t->d, "babai");
	cuda_ok(t->d, "babai", cudaMemsetAsync(t->loss, 0, (size_t)m * sizeof(*t->loss), stream));
	each = t->rows;
	for (t->row = 0; t->row < m && !cuda_failed(t->d); t->row += each) {
		t->rows = m - t->row < each ? m - t->row : each;
		solve_rows(t);
	}
}

/* What cuda_babai was called with. */
struct call {
	struct qmat *q;
	struct mat *loss;
	const struct mat *w, *u, *order, *weight;
	const struct grid *g;
	const struct babai *how;
};

template <typename REAL> static void
solve_in(struct dev *d, const struct call *c)
{
	struct task<REAL> t = {};
	size_t mark = cuda_mark(d);

	t.d = d;
	t.plan = plan_of(c->w->cols, c->g->group, c->how);
	t.q = c->q;
	t.w = c->w;
	t.u = c->u;
	t.target = c->how->target;
	t.loss = (double *)c->loss->p;
	t.ridge = c->how->ridge;
	t.rule = rule_of(c->g, F32);
	t.rule.g.group = t.plan.group;
	t.columns.group_of = (int32_t *)c->q->group_of.p;
	t.columns.order = (const int32_t *)c->order->p;
	if (c->g->search == SEARCH_WEIGHTED && c->weight)
		t.columns.weight = (const float *)c->weight->p;
	t.columns.n = t.plan.n;
	t.columns.group = t.plan.dynamic ? t.plan.group : 0;
	t.product.d = d;
	t.product.u = (const REAL *)c->u->p;
	t.product.u_ld = c->u->ld;
	solve(&t);
	cuda_back(d, mark);
}

extern "C" void
cuda_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u, const struct mat *order,
           const struct mat *weight, const struct grid *g, const struct babai *b)
{
	struct call c = {q, loss, w, u, order, weight, g, b};

	if (u->type == F64)
		solve_in<double>(d, &c);
	else
		solve_in<float>(d, &c);
}
