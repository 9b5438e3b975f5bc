/* The walk of babai.cu: the columns of one block, one after another, in all rows.
 *
 * Bound by the latency of its chain: a column's code needs the errors of all columns before it.  Four lanes (a quad) share a row
 * and eight rows a warp; a lane holds four columns of every tile of 16 in registers, which is where the column that is decided and
 * all later ones are corrected.  inv(U_bb) lies in shared memory, and a warp reads 64 bytes of it for 16 columns of 8 rows.
 * Registers cannot be indexed by a number that is not known beforehand, so they move down by a tile after each tile. */
#ifndef QJOB_KERNELS_CUDA_BABAI_WALK_CUH
#define QJOB_KERNELS_CUDA_BABAI_WALK_CUH

#include "kernels/cuda/grid.cuh"

enum {
	BLOCK = 128,               /* columns of a block */
	TILE  = 16,                /* columns that a quad holds four of each */
	TILES = BLOCK / TILE,
	QUAD  = 4,
	QUADS = 8,                 /* of a warp */
	RANGE = BLOCK + 4,         /* from one row to the next, so that eight rows lie in different banks */
	WALK_THREADS = 256,        /* at most */
};

/* One block in some rows; the pointers point at its first column. */
template <typename REAL> struct walk {
	REAL *done;                /* [rows][ld] W0 before, W0 - Q after */
	const REAL *sum;           /* [rows][sum_ld] S; NULL: zero */
	const REAL *inverse;       /* inv(U_bb), [pad][pad], zero below the diagonal and from width on */
	const REAL *u;             /* U_bb, rows u_ld apart */
	uint8_t *code;             /* [rows][code_ld] */
	double *loss;              /* [rows]; added to */
	const int32_t *group_at;   /* [width] */
	const float *weight_at;    /* [width]; NULL unless SEARCH_WEIGHTED */
	float *scale;              /* [rows][scale_ld] */
	uint8_t *zero;             /* [rows][zero_ld] */
	int64_t ld, sum_ld, u_ld, code_ld, scale_ld, zero_ld;
	int64_t rows, row;         /* row: number of the first one, for faults */
	int64_t start;             /* position of the first column */
	int width, pad;            /* columns; the same, in whole tiles */
	bool wide;                 /* four columns of done, sum and code are one aligned piece */
	bool stale;                /* groups are fitted at the block's start, else at their own first column */
	double ridge;
	struct rule rule;
	unsigned long long *fault;
};

/* Four neighbouring columns, a lane's share of a tile. */
template <typename REAL> struct alignas(4 * sizeof(REAL)) share {
	REAL v[4];
};

struct share_grid {
	float scale[4], zero[4];
};

/* Columns [at, at + 4) of a row; 0 from width on. */
template <typename REAL> __device__ static inline struct share<REAL>
load_share(const REAL *row, int at, const struct walk<REAL> *t)
{
	struct share<REAL> s;

	if (t->wide && at + 4 <= t->width)
		return *(const struct share<REAL> *)(row + at);
	#pragma unroll
	for (int c = 0; c < 4; c++)
		s.v[c] = at + c < t->width ? row[at + c] : (REAL)0;
	return s;
}

template <typename REAL> __device__ static inline void
store_share(REAL *row, int at, const struct share<REAL> *s, const struct walk<REAL> *t)
{
	if (t->wide && at + 4 <= t->width) {
		*(struct share<REAL> *)(row + at) = *s;
		return;
	}
	#pragma unroll
	for (int c = 0; c < 4; c++)
		if (at + c < t->width)
			row[at + c] = s->v[c];
}

template <typename REAL> __device__ static inline void
store_codes(uint8_t *row, int at, const float *code, const struct walk<REAL> *t)
{
	if (t->wide && at + 4 <= t->width) {
		*(uchar4 *)(row + at) = make_uchar4((unsigned char)code[0], (unsigned char)code[1], (unsigned char)code[2],
		                                    (unsigned char)code[3]);
		return;
	}
	#pragma unroll
	for (int c = 0; c < 4; c++)
		if (at + c < t->width)
			row[at + c] = (uint8_t)code[c];
}

/* Scales and zeros of four columns of a row; of columns past the end, those of the last one. */
template <typename REAL> __device__ static inline struct share_grid
load_grid(const struct walk<REAL> *t, int64_t row, int at)
{
	struct share_grid s;

	#pragma unroll
	for (int c = 0; c < 4; c++) {
		int32_t g = t->group_at[at + c < t->width ? at + c : t->width - 1];

		s.scale[c] = t->scale[row * t->scale_ld + g];
		s.zero[c] = (float)t->zero[row * t->zero_ld + g];
	}
	return s;
}

/* now[k] += factor inverse[i][k] in the tiles from `from` on; at: the lane's columns of row i of the inverse in now's first tile. */
template <typename REAL> __device__ static inline void
spread(REAL *now, REAL factor, const REAL *at, int from, int to)
{
	#pragma unroll
	for (int j = 0; j < TILES; j++)
		if (j >= from && j < to) {
			struct share<REAL> v = *(const struct share<REAL> *)(at + j * TILE);

			#pragma unroll
			for (int c = 0; c < 4; c++)
				now[4 * j + c] += factor * v.v[c];
		}
}

/* now += S inv(U_bb): the weights as the finished blocks leave them. */
template <typename REAL> __device__ static inline void
add_sum(REAL *now, const struct walk<REAL> *t, const REAL *inverse, int64_t row, int lane)
{
	const REAL *sum = t->sum + row * t->sum_ld;
	int tiles = t->pad / TILE;

	for (int k = 0; k < tiles; k++) {
		struct share<REAL> s = load_share(sum, k * TILE + 4 * lane, t);

		for (int l = 0; l < QUAD; l++) {
			#pragma unroll
			for (int c = 0; c < 4; c++) {
				REAL factor = __shfl_sync(~0u, s.v[c], l, QUAD);

				spread(now, factor, inverse + (k * TILE + 4 * l + c) * t->pad + 4 * lane, k, tiles);
			}
		}
	}
}

/* ---- groups that are fitted on the way ---- */

/* The range of n weights, by a quad. */
__device__ static inline struct range
quad_range(const float *w, int n, const struct rule *r, int lane, bool *bad)
{
	float lo = 0, hi = 0;

	*bad = false;
	for (int j = lane; j < n; j += QUAD) {
		lo = w[j] < lo ? w[j] : lo;
		hi = w[j] > hi ? w[j] : hi;
		*bad |= !(fabsf(w[j]) <= FLT_MAX);
	}
	for (int k = QUAD / 2; k > 0; k /= 2) {
		float other_lo = __shfl_xor_sync(~0u, lo, k), other_hi = __shfl_xor_sync(~0u, hi, k);
		int other_bad = __shfl_xor_sync(~0u, (int)*bad, k);

		lo = other_lo < lo ? other_lo : lo;
		hi = other_hi > hi ? other_hi : hi;
		*bad |= other_bad != 0;
	}
	return widen(lo, hi, r);
}

/* The candidate of least error, the first of equal ones; every lane of the quad tries its share. */
__device__ static inline int
quad_search(const float *w, const float *weight, int n, const struct range *a, const struct rule *r, int lane)
{
	float least = INFINITY;
	int best = 0;

	for (int k = lane; k < r->tries && r->tries > 1; k += QUAD) {
		struct cell c = candidate(a, r, k);
		struct trial t = trial_of(&c, r);
		float sum = 0;

		if (r->g.search == SEARCH_WEIGHTED)
			#pragma unroll 4
			for (int j = 0; j < n; j++)
				sum += square_term(w[j], weight[j], &t);
		else
			#pragma unroll 2
			for (int j = 0; j < n; j++)
				sum += power_term(w[j], &t);
		if (sum < least) {
			least = sum;
			best = k;
		}
	}
	__syncwarp();
	return least_trial<QUAD>(least, best);
}

/* What a warp fits in: room of the block, and of its rows. */
struct fitting {
	float *range;              /* [QUADS][RANGE] */
	const float *weight;       /* [BLOCK] */
};

/* Fits the group at the block's column `at` in the rows of the warp. */
template <typename REAL> __device__ static inline void
fit_at(const struct walk<REAL> *t, const struct fitting *f, int64_t row, int at, int lane)
{
	const float *w = f->range + threadIdx.x % 32 / QUAD * RANGE + at;
	int64_t group = t->rule.g.group;
	int n = t->width - at < group ? t->width - at : (int)group;
	bool bad, real = row < t->rows;
	struct range a = quad_range(w, n, &t->rule, lane, &bad);
	struct cell c = candidate(&a, &t->rule, quad_search(w, f->weight + at, n, &a, &t->rule, lane));
	int64_t g = (t->start + at) / group;

	if (!real || lane != 0)
		return;
	if (bad)
		note_fault(t->fault, t->row + row, GRID_NOT_FINITE, &t->rule);
	else if (fault_of(&c, &t->rule) != GRID_FINE)
		note_fault(t->fault, t->row + row, GRID_OVERFLOW, &t->rule);
	t->scale[row * t->scale_ld + g] = c.scale;
	t->zero[row * t->zero_ld + g] = (uint8_t)c.zero;
}

/* Fits what is to be fitted before the tile; now's first tile is this one.  True where a group was. */
template <typename REAL> __device__ static inline bool
fit_tile(const REAL *now, const struct walk<REAL> *t, const struct fitting *f, int64_t row, int tile, int lane)
{
	int64_t group = t->rule.g.group, past = (t->start + tile * TILE) % group;
	float *range = f->range + threadIdx.x % 32 / QUAD * RANGE + tile * TILE + 4 * lane;
	int at = (int)(tile * TILE + (past ? group - past : 0)), end = t->width;

	if (!t->stale && tile * TILE + 1 < end)
		end = tile * TILE + 1;      /* only one that begins right here */
	if ((t->stale && tile > 0) || at >= end)
		return false;
	__syncwarp();
	#pragma unroll
	for (int j = 0; j < TILES; j++)
		if (j < t->pad / TILE - tile)
			#pragma unroll
			for (int c = 0; c < 4; c++)
				range[j * TILE + c] = (float)now[4 * j + c];
	__syncwarp();
	for (; at < end; at += (int)group)
		fit_at(t, f, row, at, lane);
	__syncwarp();
	return true;
}

/* ---- the walk ---- */

/* What a tile leaves: the lane's own columns. */
template <typename REAL> struct outcome {
	struct share<REAL> done;
	REAL error[4];
	float code[4];
};

/* Codes and errors of one tile, and the correction of what comes after each column. */
template <typename REAL> __device__ static inline void
walk_tile(struct outcome<REAL> *out, REAL *now, const struct share_grid *grid, const struct walk<REAL> *t, const REAL *inverse,
          const REAL *diag, int tile, int lane)
{
	const int left = t->pad / TILE - tile;

	#pragma unroll 1
	for (int l = 0; l < QUAD; l++) {
		#pragma unroll
		for (int c = 0; c < 4; c++) {
			int i = tile * TILE + 4 * l + c;
			/* Each lane decides a column of its own; only that of lane l is ripe, and is kept. */
			struct choice<REAL> q = choose<REAL>(now[c], grid->scale[c], grid->zero[c], &t->rule);
			REAL mine = i < t->width ? times(now[c] - q.value, diag[i]) : (REAL)0, e = __shfl_sync(~0u, mine, l, QUAD);

			if (lane == l) {
				out->error[c] = mine;
				out->done.v[c] -= q.value;
				out->code[c] = q.code;
			}
			spread(now, -e, inverse + i * t->pad + tile * TILE + 4 * lane, 0, left);
		}
	}
}

/* Loss of a tile's columns: e^2 less ridge (w0 - q)^2. */
template <typename REAL> __device__ static inline double
loss_of(const struct outcome<REAL> *out, const struct walk<REAL> *t, int at)
{
	double loss = 0;

	#pragma unroll
	for (int c = 0; c < 4; c++)
		if (at + c < t->width)
			loss += (double)out->error[c] * (double)out->error[c]
			        - t->ridge * (double)out->done.v[c] * (double)out->done.v[c];
	return loss;
}

/* inverse, the diagonal, and the weights of the columns to shared memory. */
template <typename REAL> __device__ static inline void
furnish(REAL *inverse, REAL *diag, float *weight, const struct walk<REAL> *t)
{
	for (int k = threadIdx.x * 4; k < t->pad * t->pad; k += blockDim.x * 4)
		*(struct share<REAL> *)(inverse + k) = *(const struct share<REAL> *)(t->inverse + k);
	for (int k = threadIdx.x; k < BLOCK; k += blockDim.x) {
		diag[k] = k < t->width ? t->u[k * t->u_ld + k] : (REAL)0;
		if (weight)
			weight[k] = t->weight_at && k < t->width ? t->weight_at[k] : 0;
	}
	__syncthreads();
}

template <typename REAL, bool FITS> __host__ __device__ static inline size_t
walk_room(int pad, int threads)
{
	return ((size_t)pad * pad + BLOCK) * sizeof(REAL) + (FITS ? (BLOCK + (size_t)threads / 32 * QUADS * RANGE) * sizeof(float) : 0);
}

template <typename REAL, bool FITS> __global__ static void __launch_bounds__(sizeof(REAL) == 4 ? WALK_THREADS : WALK_THREADS / 2)
walk_block(const struct walk<REAL> t)
{
	extern __shared__ __align__(32) char room[];
	REAL *inverse = (REAL *)room, *diag = inverse + t.pad * t.pad;
	float *weight = FITS ? (float *)(diag + BLOCK) : NULL;
	struct fitting f = {FITS ? weight + BLOCK + threadIdx.x / 32 * (QUADS * RANGE) : NULL, weight};
	const int lane = threadIdx.x % QUAD, tiles = t.pad / TILE;
	const int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / QUAD, near = row < t.rows ? row : t.rows - 1;
	REAL *done = t.done + near * t.ld, now[4 * TILES];
	struct share<REAL> first;
	struct share_grid grid;
	double loss = 0;

	furnish(inverse, diag, weight, &t);
	#pragma unroll
	for (int j = 0; j < TILES; j++) {
		struct share<REAL> s = load_share(done, j * TILE + 4 * lane, &t);

		#pragma unroll
		for (int c = 0; c < 4; c++)
			now[4 * j + c] = s.v[c];
	}
	/* Read a tile ahead: the walk of one takes longer than memory. */
	first = load_share(done, 4 * lane, &t);
	grid = load_grid(&t, near, 4 * lane);
	if (t.sum)
		add_sum(now, &t, inverse, near, lane);
	for (int tile = 0; tile < tiles; tile++) {
		const int at = tile * TILE + 4 * lane;
		struct share_grid here = grid;
		struct outcome<REAL> out = {first, {}, {}};

		if (FITS && fit_tile(now, &t, &f, row, tile, lane))
			here = load_grid(&t, near, at);
		if (tile + 1 < tiles) {
			first = load_share(done, at + TILE, &t);
			grid = load_grid(&t, near, at + TILE);
		}
		walk_tile(&out, now, &here, &t, inverse, diag, tile, lane);
		loss += loss_of(&out, &t, at);
		if (row < t.rows) {
			store_share(done, at, &out.done, &t);
			store_codes(t.code + row * t.code_ld, at, out.code, &t);
		}
		#pragma unroll
		for (int k = 0; k < 4 * (TILES - 1); k++)
			now[k] = now[k + 4];
	}
	for (int k = QUAD / 2; k > 0; k /= 2)
		loss += __shfl_xor_sync(~0u, loss, k);
	if (row < t.rows && lane == 0)
		t.loss[row] += loss;
}

#endif
