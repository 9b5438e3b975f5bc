/* Cholesky's factor of a large fp32 matrix, a = L L^T, in tensor cores at the accuracy of fp32.  Here columns are counted first, as
 * the libraries count them: element (row, col) is a[col * ld + row], and the lower triangle is used.
 *
 * Right-looking by WIDE columns: cuSOLVER factors the square on the diagonal, cuBLAS solves for what is below it, and all else is
 * products C -= P P^T.  Those run in tensor cores, both sides written as sums of two fp16 numbers (22 bits), and the product of the
 * small ones left out: 3 products where bf16 would take 6, for the same error, which is that of the sums.  fp16 has the bits and
 * lacks the range, so rows and columns are first scaled by powers of two, without any rounding, to a diagonal in [1/2, 2): then
 * |L| < sqrt(2) wherever a pivot can still be positive, and SHIFT puts that near the top of fp16, so that numbers 2^-16 of the
 * row's norm still keep all their bits.  A row that overflows has no positive pivot, and spoils only itself and what comes after.
 *
 * Tensor cores cut sums off instead of rounding them, which is what makes nearly all of the error, so the large products are summed
 * over no more than WIDE at a time, and the small ones before them.  Parts of a row lie as [high, low, high, high], WIDE each:
 * windows of three at 0 and at 1 pair them as high low, low high, high high, so a whole update is one product, 3 WIDE long, that
 * reads and writes C once.  With WIDE of 256 the codes that the factor leads to are as near to those of a factor in double as a
 * CPU's fp32 factor brings them; 512 takes four fifths of the time, and changes twice as many.
 *
 * Bound by math and by C alike.  At n = 18944, with what to expect of an H100:
 *   products           n^3 operations, three times those of one; 6.8 T     11 ms at 620 T a second, and a quarter more for idle tiles
 *   their C            8 n^3 / (6 WIDE) bytes, 35 G                        13 ms, in part beside the math
 *   solves             n^2 WIDE / 2 operations in fp32, 0.05 T             2 ms
 *   diagonal           n / WIDE small factors, bound by latency            8 ms
 *   scaling, parts     14 n^2 bytes, 5 G                                   2 ms
 * and 47 ms measured, against 60 of cuSOLVER in fp64 and 65 in fp32. */
#include "kernels/cuda/cholesky.h"

#include <cuda_fp16.h>
#include <math.h>

#include "kernels/cuda/cuda.h"

enum {
	WIDE = 256,
	TILE = 1024,                 /* squares of an update that the diagonal cuts; half of them is for nothing */
	SLOTS = 4,
	STRIDE = SLOTS * WIDE,       /* from row to row of parts */
	SHIFT = 14,                  /* of numbers below sqrt(2): to 23170, of 65504 */
	THREADS = 256,
	SPLIT_ROWS = 32, SPLIT_COLS = 64, SPLIT_LINES = 8,
	FIND_THREADS = 1024,
};

struct work {
	struct dev *d;
	const char *op;
	float *a;
	int64_t n, ld;
	float *scale;                /* [n] powers of two, for rows and columns */
	__half *part;                /* [n][STRIDE] of rows of a, in its WIDE present columns */
	float *room;                 /* [room_floats] potrf's */
	int room_floats;
	int *info;                   /* [squares on the diagonal] potrf's */
	int64_t *bad;                /* what cuda_cholesky returns */
};

/* ---- kernels ---- */

/* scale[i]^2 a[i][i] is in [1/2, 2); no scale for what is no pivot.  A thread an element. */
__global__ static void
take_scales(float *scale, const float *a, int64_t ld, int64_t n)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	int e = 0;
	float x;

	if (i >= n)
		return;
	x = a[i * (ld + 1)];
	if (x > 0 && x < INFINITY)
		frexpf(x, &e);
	scale[i] = ldexpf(1, -(e >> 1));
}

/* a = S a S; back: a = S^-1 a, for its factor.  A block a column, the longest first. */
__global__ static void
__launch_bounds__(THREADS)
scale_lower(float *a, int64_t ld, int64_t n, const float *scale, bool back)
{
	int64_t col = blockIdx.x;
	float *to = a + col * ld, mine = scale[col];

	#pragma unroll 4
	for (int64_t r = col + threadIdx.x; r < n; r += THREADS)
		to[r] = back ? to[r] / scale[r] : to[r] * scale[r] * mine;
}

/* part[r][slot WIDE + c] for a[c][r], r in [from, n): high, low, high, high.  A block of 32 x SPLIT_LINES threads for SPLIT_ROWS rows
 * and SPLIT_COLS columns, of which there is a whole number. */
__global__ static void
__launch_bounds__(32 * SPLIT_LINES)
split_columns(__half *part, const float *a, int64_t ld, int64_t from, int64_t n)
{
	__shared__ float tile[SPLIT_COLS][SPLIT_ROWS + 1];
	int64_t row = from + (int64_t)blockIdx.x * SPLIT_ROWS, col = (int64_t)blockIdx.y * SPLIT_COLS;
	int lane = threadIdx.x;

	for (int y = threadIdx.y; y < SPLIT_COLS; y += SPLIT_LINES)
		if (row + lane < n)
			tile[y][lane] = a[(col + y) * ld + row + lane];
	__syncthreads();
	for (int y = threadIdx.y; y < SPLIT_ROWS && row + y < n; y += SPLIT_LINES) {
		const float2 x = {tile[2 * lane][y] * (1 << SHIFT), tile[2 * lane + 1][y] * (1 << SHIFT)};
		const __half2 high = __float22half2_rn(x);
		const float2 h = __half22float2(high);
		const __half2 low = __floats2half2_rn(x.x - h.x, x.y - h.y);
		__half2 *to = (__half2 *)(part + (row + y) * STRIDE + col) + lane;

		to[0] = to[2 * WIDE / 2] = to[3 * WIDE / 2] = high;
		to[WIDE / 2] = low;
	}
}

/* *bad = the first pivot, from 1, that a block's potrf refused, or that it left not positive and finite (it lets not-a-number pass); 0
 * without one.  One block. */
__global__ static void
__launch_bounds__(FIND_THREADS)
find_bad(int64_t *bad, const float *a, int64_t ld, int64_t n, const int *info)
{
	__shared__ int64_t first[FIND_THREADS];
	int64_t found = n + 1;

	for (int64_t i = threadIdx.x; i < n && found > n; i += FIND_THREADS) {
		float x = a[i * (ld + 1)];

		if (!(x > 0 && x < INFINITY))
			found = i + 1;
	}
	for (int64_t i = threadIdx.x; i * WIDE < n; i += FIND_THREADS)
		if (info[i] > 0 && i * WIDE + info[i] < found)
			found = i * WIDE + info[i];
	first[threadIdx.x] = found;
	for (int k = FIND_THREADS / 2; k > 0; k /= 2) {
		__syncthreads();
		if (threadIdx.x < k && first[threadIdx.x + k] < first[threadIdx.x])
			first[threadIdx.x] = first[threadIdx.x + k];
	}
	if (threadIdx.x == 0)
		*bad = first[0] > n ? 0 : first[0];
}

/* ---- products ---- */

/* Squares or less of a: count of them, each `step` further down the diagonal. */
struct area {
	int64_t row, col, rows, cols, step, count;
};

/* The area -= P P^T. */
static bool
subtract(const struct work *w, const struct area *r)
{
	const float minus = -ldexpf(1, -2 * SHIFT), one = 1;
	const __half *rows = w->part + r->row * STRIDE, *cols = w->part + r->col * STRIDE + WIDE;
	float *c = w->a + r->col * w->ld + r->row;

	if (r->count < 1 || r->rows < 1)
		return true;
	return cuda_blas_ok(w->d, w->op,
	                    cublasGemmStridedBatchedEx(cuda_gpu(w->d)->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)r->rows, (int)r->cols, 3 * WIDE,
	                                               &minus, rows, CUDA_R_16F, STRIDE, r->step * STRIDE, cols, CUDA_R_16F, STRIDE,
	                                               r->step * STRIDE, &one, c, CUDA_R_32F, (int)w->ld, r->step * (w->ld + 1),
	                                               (int)r->count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

/* Squares of `side` every `step` of the diagonal from `at` on, `below` it, and what the last row leaves of one. */
static bool
subtract_squares(const struct work *w, int64_t at, int64_t side, int64_t below, int64_t step)
{
	int64_t whole = (w->n - at + step - side - below) / step, end = at + whole * step;
	struct area all = {at + below, at, side, side, step, whole};
	struct area rest = {end + below, end, w->n - end - below, below > 0 ? side : w->n - end, 0, 1};

	return subtract(w, &all) && subtract(w, &rest);
}

/* Rows and columns from `at` on, by squares that double from the diagonal down: few products, each large enough to fill the card, and
 * little above the diagonal. */
static bool
update_rest(const struct work *w, int64_t at)
{
	bool good = subtract_squares(w, at, TILE, 0, TILE);

	for (int64_t side = TILE; good && side < w->n - at; side *= 2)
		good = subtract_squares(w, at, side, side, 2 * side);
	return good;
}

/* ---- steps ---- */

/* Columns [at, at + cols), all that is left of them to do. */
static bool
factor_columns(const struct work *w, int64_t at, int64_t cols)
{
	int64_t rows = w->n - at - cols;
	float *diagonal = w->a + at * (w->ld + 1);
	const float one = 1;

	return cuda_solver_ok(w->d, w->op, cusolverDnSpotrf(cuda_gpu(w->d)->solver, CUBLAS_FILL_MODE_LOWER, (int)cols, diagonal, (int)w->ld,
	                                                    w->room, w->room_floats, w->info + at / WIDE))
	       && (rows == 0
	           || cuda_blas_ok(w->d, w->op, cublasStrsm(cuda_gpu(w->d)->blas, CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_LOWER,
	                                                    CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT, (int)rows, (int)cols, &one, diagonal,
	                                                    (int)w->ld, diagonal + cols, (int)w->ld)));
}

/* Parts of the WIDE columns from `at` on, below their square. */
static bool
split(const struct work *w, int64_t at)
{
	int64_t from = at + WIDE;
	unsigned blocks = (unsigned)((w->n - from + SPLIT_ROWS - 1) / SPLIT_ROWS);

	split_columns<<<dim3(blocks, WIDE / SPLIT_COLS), dim3(32, SPLIT_LINES), 0, cuda_gpu(w->d)->stream>>>(w->part, w->a + at * w->ld,
	                                                                                                    w->ld, from, w->n);
	return cuda_launched(w->d, w->op);
}

/* The WIDE columns from `at` on, then what is right of them.  The last ones may be fewer; nothing is below them. */
static bool
step(const struct work *w, int64_t at)
{
	int64_t end = at + WIDE;

	if (end >= w->n)
		return factor_columns(w, at, w->n - at);
	return factor_columns(w, at, WIDE) && split(w, at) && update_rest(w, end);
}

static bool
scale(const struct work *w, bool back)
{
	/* Grid: a column a block. */
	scale_lower<<<(unsigned)w->n, THREADS, 0, cuda_gpu(w->d)->stream>>>(w->a, w->ld, w->n, w->scale, back);
	return cuda_launched(w->d, w->op);
}

static bool
factor_by_steps(const struct work *w)
{
	bool good;

	take_scales<<<(unsigned)((w->n + THREADS - 1) / THREADS), THREADS, 0, cuda_gpu(w->d)->stream>>>(w->scale, w->a, w->ld, w->n);
	good = cuda_launched(w->d, w->op) && scale(w, false);
	for (int64_t at = 0; good && at < w->n; at += WIDE)
		good = step(w, at);
	return good && scale(w, true);
}

/* ---- the whole ---- */

static bool
take_room(struct work *w)
{
	int64_t squares = (w->n + WIDE - 1) / WIDE;

	if (!cuda_solver_ok(w->d, w->op, cusolverDnSpotrf_bufferSize(cuda_gpu(w->d)->solver, CUBLAS_FILL_MODE_LOWER, WIDE, w->a, (int)w->ld,
	                                                             &w->room_floats)))
		return false;
	w->room = (float *)cuda_take(w->d, (size_t)w->room_floats * sizeof(*w->room));
	w->info = (int *)cuda_take(w->d, (size_t)squares * sizeof(*w->info));
	w->bad = (int64_t *)cuda_take(w->d, sizeof(*w->bad));
	w->scale = (float *)cuda_take(w->d, (size_t)w->n * sizeof(*w->scale));
	w->part = (__half *)cuda_take(w->d, (size_t)w->n * STRIDE * sizeof(*w->part));
	return !cuda_failed(w->d);
}

/* Waits. */
static int64_t
first_bad(const struct work *w)
{
	cudaStream_t stream = cuda_gpu(w->d)->stream;
	int64_t bad = 0;

	find_bad<<<1, FIND_THREADS, 0, stream>>>(w->bad, w->a, w->ld, w->n, w->info);
	if (!cuda_launched(w->d, w->op)
	    || !cuda_ok(w->d, w->op, cudaMemcpyAsync(&bad, w->bad, sizeof(bad), cudaMemcpyDeviceToHost, stream))
	    || !cuda_ok(w->d, w->op, cudaStreamSynchronize(stream)))
		return 0;
	return bad;
}

int64_t
cuda_cholesky(struct dev *d, const char *op, struct mat *a)
{
	size_t mark = cuda_mark(d);
	struct work w = {};
	int64_t bad = 0;

	w.d = d;
	w.op = op;
	w.a = (float *)a->p;
	w.n = a->rows;
	w.ld = a->ld;
	if (take_room(&w) && factor_by_steps(&w))
		bad = first_bad(&w);
	cuda_back(d, mark);
	return bad;
}
