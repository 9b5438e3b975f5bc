/* Order and factor of the statistics: u u^T = h in a given order, more on the diagonal, with u upper.
 *
 * Such a factor is Cholesky's of the reversed matrix, reversed.  With A[r][c] = h[p[r]][p[c]], p the order reversed, and
 * A = L L^T, it is U[i][j] = L[n-1-i][n-1-j].  cuSOLVER counts by columns, and is much faster in what it calls the lower triangle:
 * to us the upper one.  There potrf leaves M = L^T, so U[i][j] = M[n-1-j][n-1-i]: M mirrored along the other diagonal, which
 * is to transpose it in place when its columns are counted from the last one.
 *
 * The library's fp32 potrf is less exact than a CPU's, enough to change one code in a thousand, and no faster than its fp64 one, which
 * runs in tensor cores: so a F32 u is factored in fp64 and rounded, up to the width where cholesky.cu is faster and fp64 would
 * take too much room.
 *
 * Bound by arithmetic, n^3 / 3 operations of potrf: 8 ms at n = 8192 on an H100 in fp64, half its peak; 10 % more in the other
 * triangle.  What is around it is bound by memory, and works inside the matrix that is factored.  Bytes, in units of 4 n^2, twice
 * as many of what is written in fp64:
 *   mirror    reads 1/2, writes 1/2   the lower triangle of h, transposed, to that of u, so that a row of h can be read along
 *   gather    reads 1,   writes 1/2   A to the upper triangle of u; scattered reads, but within a row, which the L1 cache holds
 *   reverse   reads 1/2, writes 1     u, and zeros below its diagonal
 * or 5.7 GB in fp32 at n = 18944, 2 ms at memory speed. */
#include "kernels/cuda/cuda.h"

#include <cub/cub.cuh>
#include <math.h>
#include <stdlib.h>

#include "kernels/cuda/cholesky.h"
#include "qjob/base/err.h"

enum {
	THREADS = 256,
	GATHER_THREADS = 1024,       /* two rows of 18944 floats a multiprocessor: both stay in its L1 cache */
	TILE = 32,
	TILE_ROWS = 8,               /* of threads; each moves TILE / TILE_ROWS elements */
};

/* ---- kernels ---- */

/* A thread an element. */
template <typename REAL> __global__ static void
read_diagonal(double *to, const REAL *m, int64_t ld, int64_t n)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;

	if (i < n)
		to[i] = m[i * ld + i];
}

/* u[n-1-c][n-1-r] = h[r][c] for c < r: row a of h goes on, from column a + 1, in row n-1-a of u below its diagonal, backwards.
 * A block of TILE x TILE_ROWS threads a tile; those above the diagonal have nothing to do. */
template <typename REAL> __global__ static void
mirror(REAL *u, int64_t u_ld, const float *h, int64_t h_ld, int64_t n)
{
	__shared__ float tile[TILE][TILE + 1];
	int64_t row = (int64_t)blockIdx.y * TILE, col = (int64_t)blockIdx.x * TILE;

	if (col > row)
		return;
	for (int y = threadIdx.y; y < TILE; y += TILE_ROWS) {
		int64_t r = row + y, c = col + threadIdx.x;

		if (r < n && c < r)
			tile[y][threadIdx.x] = h[r * h_ld + c];
	}
	__syncthreads();
	for (int y = threadIdx.y; y < TILE; y += TILE_ROWS) {
		int64_t r = row + threadIdx.x, c = col + y;

		if (r < n && c < r)
			u[(n - 1 - c) * u_ld + n - 1 - r] = tile[threadIdx.x][y];
	}
}

/* Row r of the upper triangle of u = row p[r] of h at the columns p[r], ..., p[n-1]; what of it lies above h's diagonal is below
 * that of u (mirror), which is only read here.  order NULL: h's own.  A dead input has `dead` on the diagonal instead of
 * its 0.  A block a row, the longest first. */
template <typename REAL> __global__ static void
__launch_bounds__(GATHER_THREADS, 2)
gather(REAL *u, int64_t u_ld, const float *h, int64_t h_ld, const int32_t *order, int64_t n, double dead, double ridge)
{
	int last = (int)n - 1, r = (int)blockIdx.x, a = order ? order[last - r] : last - r;
	const float *left = h + a * h_ld;
	const REAL *right = u + (last - a) * u_ld + last;
	REAL *to = u + r * u_ld;

	for (int c = r + 1 + (int)threadIdx.x; c <= last; c += GATHER_THREADS) {
		int b = order ? order[last - c] : last - c;

		to[c] = b < a ? (REAL)left[b] : right[-b];
	}
	if (threadIdx.x == 0) {
		double x = left[a];

		to[r] = (REAL)((x == 0 ? dead : x) + ridge);
	}
}

/* The tile at row and col, columns counted from the last one; zeros where it lies below the diagonal. */
template <typename REAL> __device__ static void
read_tile(REAL (&tile)[TILE][TILE + 1], const REAL *u, int64_t ld, int64_t n, int64_t row, int64_t col)
{
	for (int y = threadIdx.y; y < TILE; y += TILE_ROWS) {
		int64_t r = row + y, c = col + threadIdx.x;

		tile[y][threadIdx.x] = r + c < n ? u[r * ld + n - 1 - c] : (REAL)0;
	}
}

/* tile, transposed, to there. */
template <typename TO, typename FROM> __device__ static void
write_tile(TO *u, int64_t ld, int64_t n, int64_t row, int64_t col, const FROM (&tile)[TILE][TILE + 1])
{
	for (int y = threadIdx.y; y < TILE; y += TILE_ROWS) {
		int64_t r = row + y, c = col + threadIdx.x;

		if (r < n && c < n)
			u[r * ld + n - 1 - c] = (TO)tile[threadIdx.x][y];
	}
}

/* u = U, zeros below its diagonal, from M in the upper triangle of m, which may be u.  A block of TILE x TILE_ROWS threads a tile and
 * the one that it changes places with; those of the other half of all tiles have nothing to do. */
template <typename TO, typename FROM> __global__ static void
reverse(TO *u, int64_t u_ld, const FROM *m, int64_t m_ld, int64_t n)
{
	__shared__ FROM one[TILE][TILE + 1], other[TILE][TILE + 1];
	int64_t row = (int64_t)blockIdx.y * TILE, col = (int64_t)blockIdx.x * TILE;

	if (col > row)
		return;
	read_tile(one, m, m_ld, n, row, col);
	if (col < row)
		read_tile(other, m, m_ld, n, col, row);
	__syncthreads();
	write_tile(u, u_ld, n, col, row, one);
	if (col < row)
		write_tile(u, u_ld, n, row, col, other);
}

/* ---- to the host and back ---- */

static unsigned
blocks_of(int64_t n, int64_t each)
{
	return (unsigned)((n + each - 1) / each);
}

/* Waits. */
static bool
copy(struct dev *d, const char *op, void *to, const void *from, size_t bytes)
{
	cudaStream_t stream = cuda_gpu(d)->stream;

	return cuda_ok(d, op, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream))
	       && cuda_ok(d, op, cudaStreamSynchronize(stream));
}

/* Host memory, the caller's to free; NULL after marking the device failed. */
static void *
host_take(struct dev *d, const char *op, size_t bytes)
{
	void *p = malloc(bytes > 0 ? bytes : 1);

	if (!p)
		cuda_fail(d, E_SYS, "%s: out of host memory", op);
	return p;
}

/* The diagonal of a F32 or F64 matrix; as host_take.  Waits. */
static double *
diagonal(struct dev *d, const char *op, const struct mat *m)
{
	size_t mark = cuda_mark(d), bytes = (size_t)m->rows * sizeof(double);
	cudaStream_t stream = cuda_gpu(d)->stream;
	double *room = (double *)cuda_take(d, bytes), *diag;
	unsigned blocks = blocks_of(m->rows, THREADS);

	if (!room)
		return NULL;
	if (m->type == F64)
		read_diagonal<<<blocks, THREADS, 0, stream>>>(room, (const double *)m->p, m->ld, m->rows);
	else
		read_diagonal<<<blocks, THREADS, 0, stream>>>(room, (const float *)m->p, m->ld, m->rows);
	diag = (double *)host_take(d, op, bytes);
	if (diag && !(cuda_launched(d, op) && copy(d, op, diag, room, bytes))) {
		free(diag);
		diag = NULL;
	}
	cuda_back(d, mark);
	return diag;
}

/* *mean of the diagonal; a zero counts as `dead`, and in *zeros. */
static bool
mean_diag(struct dev *d, const char *op, const struct mat *h, double dead, double *mean, int64_t *zeros)
{
	double *diag = diagonal(d, op, h), sum = 0;

	if (!diag)
		return false;
	*zeros = 0;
	for (int64_t i = 0; i < h->rows; i++) {
		*zeros += diag[i] == 0;
		sum += diag[i] == 0 ? dead : diag[i];
	}
	free(diag);
	*mean = sum / (double)h->rows;
	return true;
}

/* ---- order ---- */

/* Keys that rise as elements fall; not-a-number is as large as can be, and both zeros are one.  A thread an element. */
__global__ static void
make_keys(uint32_t *key, const float *h, int64_t ld, int64_t n)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	float x;
	uint32_t bits;

	if (i >= n)
		return;
	x = h[i * ld + i];
	bits = __float_as_uint(isnan(x) ? INFINITY : x + 0.f);
	key[i] = bits & 0x80000000 ? bits : ~bits & 0x7fffffff;
}

__global__ static void
number_inputs(int32_t *to, int64_t n)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;

	if (i < n)
		to[i] = (int32_t)i;
}

/* order = the inputs by rising keys, equal ones as they are: a radix sort is stable. */
static void
sort_inputs(struct dev *d, struct mat *order, const struct mat *h)
{
	int n = (int)h->rows;
	cudaStream_t stream = cuda_gpu(d)->stream;
	size_t bytes = 0, each = (size_t)n * sizeof(uint32_t);
	uint32_t *key = (uint32_t *)cuda_take(d, each), *sorted = (uint32_t *)cuda_take(d, each);
	int32_t *input = (int32_t *)cuda_take(d, each), *to = (int32_t *)order->p;
	void *room;

	if (!input || !cuda_ok(d, "order", cub::DeviceRadixSort::SortPairs(NULL, bytes, key, sorted, input, to, n, 0, 32, stream)))
		return;
	room = cuda_take(d, bytes);
	if (!room)
		return;
	make_keys<<<blocks_of(n, THREADS), THREADS, 0, stream>>>(key, (const float *)h->p, h->ld, n);
	number_inputs<<<blocks_of(n, THREADS), THREADS, 0, stream>>>(input, n);
	if (cuda_launched(d, "order"))
		cuda_ok(d, "order", cub::DeviceRadixSort::SortPairs(room, bytes, key, sorted, input, to, n, 0, 32, stream));
}

void
cuda_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag)
{
	size_t mark = cuda_mark(d);

	if (by_diag) {
		sort_inputs(d, order, h);
		cuda_back(d, mark);
		return;
	}
	number_inputs<<<blocks_of(h->rows, THREADS), THREADS, 0, cuda_gpu(d)->stream>>>((int32_t *)order->p, h->rows);
	cuda_launched(d, "order");
}

/* ---- factor ---- */

/* The upper triangle of u = h in the given order reversed (order NULL: its own), `ridge` more on the diagonal. */
template <typename REAL> static bool
lay_out(struct dev *d, const char *op, struct mat *u, const struct mat *h, const struct mat *order, double dead, double ridge)
{
	cudaStream_t stream = cuda_gpu(d)->stream;
	unsigned tiles = blocks_of(h->rows, TILE);
	const float *from = (const float *)h->p;

	mirror<<<dim3(tiles, tiles), dim3(TILE, TILE_ROWS), 0, stream>>>((REAL *)u->p, u->ld, from, h->ld, h->rows);
	if (!cuda_launched(d, op))
		return false;
	gather<<<(unsigned)h->rows, GATHER_THREADS, 0, stream>>>((REAL *)u->p, u->ld, from, h->ld,
	                                                         order ? (const int32_t *)order->p : NULL, h->rows, dead, ridge);
	return cuda_launched(d, op);
}

/* M from A in the upper triangle of u.  *info is the library's: the pivot, from 1, where it stopped, or 0.  Waits. */
static bool
potrf_with(struct dev *d, const char *op, struct mat *u, cusolverDnParams_t params, int *info)
{
	const cublasFillMode_t fill = CUBLAS_FILL_MODE_LOWER;      /* by columns */
	cusolverDnHandle_t solver = cuda_gpu(d)->solver;
	cudaDataType type = u->type == F64 ? CUDA_R_64F : CUDA_R_32F;
	size_t mark = cuda_mark(d), bytes = 0, host_bytes = 0;
	void *room, *host;
	int *there;
	bool good;

	if (!cuda_solver_ok(d, op, cusolverDnXpotrf_bufferSize(solver, params, fill, u->rows, type, u->p, u->ld, type, &bytes,
	                                                       &host_bytes)))
		return false;
	there = (int *)cuda_take(d, sizeof(*there));
	room = cuda_take(d, bytes);
	host = host_take(d, op, host_bytes);
	good = there && room && host
	       && cuda_solver_ok(d, op, cusolverDnXpotrf(solver, params, fill, u->rows, type, u->p, u->ld, type, room, bytes, host,
	                                                 host_bytes, there))
	       && copy(d, op, info, there, sizeof(*info));
	free(host);
	cuda_back(d, mark);
	return good;
}

static bool
potrf(struct dev *d, const char *op, struct mat *u, int *info)
{
	cusolverDnParams_t params = NULL;
	bool good;

	if (!cuda_solver_ok(d, op, cusolverDnCreateParams(&params)))
		return false;
	good = potrf_with(d, op, u, params, info);
	cusolverDnDestroyParams(params);
	if (good && *info < 0)
		cuda_fail(d, E_SYS, "%s: cuSOLVER refuses argument %d of potrf", op, -*info);
	return good && *info >= 0;
}

/* The first pivot, from 1, that is not positive and finite, or 0; the library lets not-a-number pass. */
static bool
first_bad(struct dev *d, const char *op, const struct mat *u, int info, int64_t *bad)
{
	double *diag = diagonal(d, op, u);
	int64_t done = info > 0 ? info - 1 : u->rows, i;

	if (!diag)
		return false;
	for (i = 0; i < done && diag[i] > 0 && isfinite(diag[i]); i++)
		;
	*bad = i < u->rows ? i + 1 : 0;
	free(diag);
	return true;
}

/* What is factored: h in an order, with numbers for its diagonal. */
struct task {
	const char *op;
	const struct mat *h, *order;     /* order NULL: h's own */
	double dead, ridge;
};

/* M in the upper triangle of m.  Returns 0, or the first pivot of A, from 1, that is not positive. */
static int64_t
factor_inside(struct dev *d, const struct task *t, struct mat *m)
{
	int64_t bad = 0;
	int info = 0;

	if (m->type == F64) {
		if (!lay_out<double>(d, t->op, m, t->h, t->order, t->dead, t->ridge) || !potrf(d, t->op, m, &info)
		    || !first_bad(d, t->op, m, info, &bad))
			return 0;
	} else if (lay_out<float>(d, t->op, m, t->h, t->order, t->dead, t->ridge)) {
		bad = cuda_cholesky(d, t->op, m);
	}
	return cuda_failed(d) ? 0 : bad;
}

template <typename TO, typename FROM> static void
turn(struct dev *d, const char *op, struct mat *u, const struct mat *m)
{
	unsigned tiles = blocks_of(u->rows, TILE);

	reverse<<<dim3(tiles, tiles), dim3(TILE, TILE_ROWS), 0, cuda_gpu(d)->stream>>>((TO *)u->p, u->ld, (const FROM *)m->p, m->ld,
	                                                                              u->rows);
	cuda_launched(d, op);
}

/* Returns 0, or the pivot, from 1 and in the order, that is not positive: pivots are met from the last one on. */
static int64_t
factorize(struct dev *d, struct mat *u, const struct task *t)
{
	size_t mark = cuda_mark(d);
	bool apart = u->type == F32 && u->rows < CHOLESKY_LEAST;
	struct mat m = apart ? cuda_mat(d, F64, u->rows, u->rows) : *u;
	int64_t bad = m.p ? factor_inside(d, t, &m) : 0;

	if (bad == 0 && !cuda_failed(d)) {
		if (apart)
			turn<float, double>(d, t->op, u, &m);
		else if (u->type == F64)
			turn<double, double>(d, t->op, u, &m);
		else
			turn<float, float>(d, t->op, u, &m);
	}
	cuda_back(d, mark);
	return bad ? u->rows + 1 - bad : 0;
}

int64_t
cuda_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead)
{
	const int32_t *o = (const int32_t *)order->p;
	struct task t = {"factor", h, order, 1, 0};
	double mean = 0;
	int32_t input = 0;
	int64_t bad;

	if (!mean_diag(d, t.op, h, 1, &mean, dead))
		return 0;
	t.ridge = damp * mean;
	bad = factorize(d, u, &t);
	if (bad == 0 || !copy(d, "factor", &input, o + bad - 1, sizeof(input)))
		return 0;
	return input + 1;
}

/* ---- solve ---- */

/* x = x (u u^T)^-1.  By columns: x^T, and W = u^T is lower, so W^T W x'^T = x^T. */
static void
solve_rows(struct dev *d, struct mat *x, const struct mat *u)
{
	cublasHandle_t blas = cuda_gpu(d)->blas;
	const cublasOperation_t turned[] = {CUBLAS_OP_T, CUBLAS_OP_N};
	const float one = 1;

	for (int i = 0; i < 2 && !cuda_failed(d); i++)
		cuda_blas_ok(d, "solve", cublasStrsm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, turned[i], CUBLAS_DIAG_NON_UNIT,
		                                     (int)x->cols, (int)x->rows, &one, (const float *)u->p, (int)u->ld,
		                                     (float *)x->p, (int)x->ld));
}

int64_t
cuda_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda)
{
	size_t mark = cuda_mark(d), size = sizeof(float);
	int64_t bad = 0, zeros;
	double mean = 0;
	struct mat u = cuda_mat(d, F32, h->rows, h->rows);
	struct task t = {"solve", h, NULL, 0, 0};

	if (u.p && mean_diag(d, "solve", h, 0, &mean, &zeros)) {
		t.ridge = lambda * mean;
		bad = factorize(d, &u, &t);
		if (bad == 0 && !cuda_failed(d) && out->p != b->p)
			cuda_ok(d, "solve", cudaMemcpy2DAsync(out->p, (size_t)out->ld * size, b->p, (size_t)b->ld * size,
			                                      (size_t)b->cols * size, (size_t)b->rows, cudaMemcpyDeviceToDevice,
			                                      cuda_gpu(d)->stream));
		if (bad == 0)
			solve_rows(d, out, &u);
	}
	cuda_back(d, mark);
	return bad;
}
