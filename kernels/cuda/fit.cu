/* Scales and zeros of groups.
 *
 * A search tries 35 to 160 ranges for every group, so it is bound by arithmetic: 12 (weighted) or 45 (mean square error)
 * instructions for each weight and range.  A thread tries one range of one group, over the group's weights in shared memory, which
 * all threads of a group read at once: no thread waits for another until the errors are compared, and sums run in the order of
 * the columns, as on the CPU.  Groups longer than CHUNK pass through shared memory piece by piece. */
#include "kernels/cuda/fit.cuh"

enum {
	CHUNK   = 256,             /* columns of a group in shared memory at once */
	STRIDE  = CHUNK + 4,       /* two groups read by one warp lie in different banks */
	THREADS = 256,
	WARP    = 32,
};

/* Groups of one block. */
struct slots {
	float *w, *weight;         /* [slots][STRIDE] */
	float *error;              /* [slots][tries] */
	struct range *range;
	int n;
};

/* Where a group lies. */
struct place {
	int64_t row, group, from, cols;
};

__device__ static struct place
locate(const struct fit_job *f, int64_t k)
{
	struct place p;

	p.row = k / f->groups;
	p.group = k % f->groups;
	p.from = p.group * f->rule.g.group;
	p.cols = f->cols - p.from < f->rule.g.group ? f->cols - p.from : f->rule.g.group;
	return p;
}

/* Columns [base, base + n) of a group to its slot, by one warp. */
__device__ static void
stage(const struct slots *s, int slot, const struct fit_job *f, const struct place *p, int64_t base)
{
	const char *w = (const char *)f->w;
	int64_t n = p->cols - base < CHUNK ? p->cols - base : CHUNK, at = p->row * f->ld + p->from + base;

	for (int j = threadIdx.x % WARP; j < n; j += WARP) {
		s->w[slot * STRIDE + j] = number_at(w, f->type, at + j);
		if (f->weight)
			s->weight[slot * STRIDE + j] = f->weight[p->from + base + j];
	}
}

/* Range of a group, by one warp; its first piece is staged on the way. */
__device__ static void
find_range(const struct slots *s, int slot, const struct fit_job *f, const struct place *p)
{
	int64_t at = p->row * f->ld + p->from;
	float lo = 0, hi = 0;
	bool bad = false;

	stage(s, slot, f, p, 0);
	__syncwarp();
	for (int64_t j = threadIdx.x % WARP; j < p->cols; j += WARP) {
		float w = j < CHUNK ? s->w[slot * STRIDE + j] : number_at(f->w, f->type, at + j);

		lo = w < lo ? w : lo;
		hi = w > hi ? w : hi;
		bad |= !(fabsf(w) <= FLT_MAX);
	}
	for (int k = WARP / 2; k > 0; k /= 2) {
		float other_lo = __shfl_xor_sync(~0u, lo, k), other_hi = __shfl_xor_sync(~0u, hi, k);

		lo = other_lo < lo ? other_lo : lo;
		hi = other_hi > hi ? other_hi : hi;
	}
	bad = __any_sync(~0u, bad);
	if (threadIdx.x % WARP == 0) {
		s->range[slot] = widen(lo, hi, &f->rule);
		if (bad)
			note_fault(f->fault, f->row + p->row, GRID_NOT_FINITE, &f->rule);
	}
}

/* Adds the error of n staged columns. */
__device__ static float
add_errors(float sum, const struct slots *s, int slot, int n, const struct trial *t, bool squares)
{
	const float *w = s->w + slot * STRIDE, *v = s->weight + slot * STRIDE;
	int j = 0;

	for (; j + 4 <= n; j += 4) {
		float4 a = *(const float4 *)(w + j);

		if (squares) {
			float4 b = *(const float4 *)(v + j);

			sum += square_term(a.x, b.x, t);
			sum += square_term(a.y, b.y, t);
			sum += square_term(a.z, b.z, t);
			sum += square_term(a.w, b.w, t);
		} else {
			sum += power_term(a.x, t);
			sum += power_term(a.y, t);
			sum += power_term(a.z, t);
			sum += power_term(a.w, t);
		}
	}
	for (; j < n; j++)
		sum += squares ? square_term(w[j], v[j], t) : power_term(w[j], t);
	return sum;
}

/* The error of every candidate of every slot. */
__device__ static void
try_ranges(const struct slots *s, const struct fit_job *f, int64_t first)
{
	const int tries = f->rule.tries, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
	const int slot = threadIdx.x / tries;
	const bool mine = slot < s->n, squares = f->rule.g.search == SEARCH_WEIGHTED;
	struct place p = {};
	struct trial t = {};
	float sum = 0;

	if (mine) {
		struct cell c = candidate(&s->range[slot], &f->rule, threadIdx.x % tries);

		p = locate(f, first + slot);
		t = trial_of(&c, &f->rule);
	}
	for (int64_t base = 0; base < f->rule.g.group && base < f->cols; base += CHUNK) {
		int64_t n = p.cols - base < CHUNK ? p.cols - base : CHUNK;

		if (base > 0) {
			__syncthreads();
			for (int k = warp; k < s->n; k += warps) {
				struct place other = locate(f, first + k);

				stage(s, k, f, &other, base);
			}
			__syncthreads();
		}
		if (mine)
			sum = add_errors(sum, s, slot, (int)n, &t, squares);
	}
	if (mine)
		s->error[threadIdx.x] = sum;
	__syncthreads();
}

/* The candidate of least error, the first of equal ones; 0 where no error is a number.  By one warp. */
__device__ static int
best_of(const float *error, int tries)
{
	float least = INFINITY;
	int best = 0;

	for (int k = threadIdx.x % WARP; k < tries; k += WARP)
		if (error[k] < least) {
			least = error[k];
			best = k;
		}
	return least_trial<WARP>(least, best);
}

__global__ static void __launch_bounds__(THREADS)
fit_kernel(const struct fit_job f, int per_block)
{
	extern __shared__ __align__(16) float room[];
	const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
	const int64_t first = (int64_t)blockIdx.x * per_block, all = f.rows * f.groups;
	struct slots s;

	s.n = (int)(all - first < per_block ? all - first : per_block);
	s.w = room;
	s.weight = s.w + per_block * STRIDE;
	s.error = s.weight + per_block * STRIDE;
	s.range = (struct range *)(s.error + per_block * f.rule.tries);
	for (int k = warp; k < s.n; k += warps) {
		struct place p = locate(&f, first + k);

		find_range(&s, k, &f, &p);
	}
	__syncthreads();
	if (f.rule.g.search != SEARCH_MINMAX)
		try_ranges(&s, &f, first);
	for (int k = warp; k < s.n; k += warps) {
		int best = f.rule.g.search == SEARCH_MINMAX ? 0 : best_of(s.error + k * f.rule.tries, f.rule.tries);
		struct place p = locate(&f, first + k);
		struct cell c;

		if (threadIdx.x % WARP != 0)
			continue;
		c = candidate(&s.range[k], &f.rule, best);
		f.scale[p.row * f.scale_ld + p.group] = c.scale;
		f.zero[p.row * f.zero_ld + p.group] = (uint8_t)c.zero;
		if (fault_of(&c, &f.rule) != GRID_FINE)
			note_fault(f.fault, f.row + p.row, GRID_OVERFLOW, &f.rule);
	}
}

void
fit_groups(struct dev *d, const struct fit_job *job)
{
	int tries = job->rule.tries, per_block = tries == 1 ? THREADS / WARP : tries < THREADS ? THREADS / tries : 1;
	int threads = tries == 1 ? THREADS : (per_block * tries + WARP - 1) / WARP * WARP;
	size_t room = (size_t)per_block * ((2 * STRIDE + (size_t)tries) * sizeof(float) + sizeof(struct range));
	int64_t blocks = (job->rows * job->groups + per_block - 1) / per_block;

	/* Grid: per_block groups a block.  Block: a thread a candidate, or a warp a group where there is one. */
	fit_kernel<<<(unsigned)blocks, threads, room, cuda_gpu(d)->stream>>>(*job, per_block);
	cuda_launched(d, "fit");
}

/* group_of[i] = i / group */
__global__ static void
number_groups(int32_t *group_of, int64_t n, int64_t group)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		group_of[i] = (int32_t)(i / group);
}

extern "C" void
cuda_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g)
{
	struct fit_job job = {};
	struct gpu *gpu = cuda_gpu(d);
	unsigned blocks = (unsigned)((w->cols + THREADS - 1) / THREADS);

	job.w = w->p;
	job.type = w->type;
	job.rows = w->rows;
	job.cols = w->cols;
	job.ld = w->ld;
	job.groups = (w->cols + g->group - 1) / g->group;
	job.weight = g->search == SEARCH_WEIGHTED ? (const float *)weight->p : NULL;
	job.scale = (float *)q->scale.p;
	job.scale_ld = q->scale.ld;
	job.zero = (uint8_t *)q->zero.p;
	job.zero_ld = q->zero.ld;
	job.rule = rule_of(g, w->type);
	job.fault = gpu->fault;
	/* Grid: a thread a column. */
	number_groups<<<blocks, THREADS, 0, gpu->stream>>>((int32_t *)q->group_of.p, w->cols, g->group);
	fit_groups(d, &job);
}
