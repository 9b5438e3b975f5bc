/* Order and factor of the statistics: u u^T = h in a given order, more on the diagonal, with u upper.
 *
 * Such a factor is Cholesky's of the reversed matrix, reversed.  cuSOLVER counts by columns: to it, the lower triangle of
 * u's rows is the upper one of a symmetric matrix A, and it leaves V, A = V^T V, in its place.  With A[c][r] = h[p[c]][p[r]]
 * and p the order reversed, U[i][j] = V[n-1-j][n-1-i], which lies at row n-1-i and column n-1-j of u: U is what potrf
 * leaves, the last element first.
 *
 * Bound by arithmetic, n^3 / 3 operations of potrf: 64 ms at n = 18944 on an H200.  What is around it is bound by memory, and
 * works inside u, without another matrix.  Bytes of a F32 u, in units of 4 n^2:
 *   mirror    reads 1/2, writes 1/2   the lower triangle of h to the upper one of u, so that a row of h can be read along
 *   gather    reads 1,   writes 1/2   A to the lower triangle of u; scattered reads, but within a row, which the L1 cache holds
 *   reverse   reads 1/2, writes 1     u, and zeros below its diagonal
 * or 5.7 GB at n = 18944, 1.4 ms at memory speed. */
#include "kernels/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>

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

/* u[c][r] = h[r][c] for c < r.  A block of TILE x TILE_ROWS threads a tile; those above the diagonal have nothing to do. */
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
			u[c * u_ld + r] = tile[threadIdx.x][y];
	}
}

/* Row c of the lower triangle of u = row p[c] of h at the columns p[0], ..., p[c]; what of it lies above h's diagonal is above
 * that of u (mirror), which is only read here.  order NULL: h's own.  A dead input has `dead` on the diagonal instead of
 * its 0.  A block a row, the longest first. */
template <typename REAL> __global__ static void
__launch_bounds__(GATHER_THREADS, 2)
gather(REAL *u, int64_t u_ld, const float *h, int64_t h_ld, const int32_t *order, int64_t n, double dead, double ridge)
{
	int last = (int)n - 1, c = last - (int)blockIdx.x, a = order ? order[last - c] : last - c;
	const float *left = h + a * h_ld;
	const REAL *right = u + a * u_ld;
	REAL *to = u + c * u_ld;

	for (int r = (int)threadIdx.x; r < c; r += GATHER_THREADS) {
		int b = order ? order[last - r] : last - r;

		to[r] = b < a ? (REAL)left[b] : right[b];
	}
	if (threadIdx.x == 0) {
		double x = left[a];

		to[c] = (REAL)((x == 0 ? dead : x) + ridge);
	}
}

/* Turns u from V, in its lower triangle, to U.  A block a row i of U: it alone reads and clears what of V becomes that row, and
 * of the two rows whose diagonal elements change places the upper one does it. */
template <typename REAL> __global__ static void
__launch_bounds__(THREADS)
reverse(REAL *u, int64_t ld, int64_t n)
{
	int64_t i = blockIdx.x, k = n - 1 - i;
	REAL *to = u + i * ld, *from = u + k * ld;

	for (int64_t j = i + 1 + threadIdx.x; j < n; j += THREADS) {
		to[j] = from[n - 1 - j];
		from[n - 1 - j] = 0;
	}
	if (threadIdx.x == 0 && i < k) {
		REAL x = to[i];

		to[i] = from[k];
		from[k] = x;
	}
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

struct ranked {
	double h;
	int32_t i;
};

static int
compare_ranked(const void *a, const void *b)
{
	const struct ranked *x = (const struct ranked *)a, *y = (const struct ranked *)b;

	if (x->h != y->h)
		return x->h > y->h ? -1 : 1;
	return x->i < y->i ? -1 : 1;
}

/* The indices of the largest elements first, equal ones as they are; not-a-number is as large as can be. */
static bool
rank(struct dev *d, const char *op, int32_t *order, const double *diag, int64_t n)
{
	struct ranked *v = (struct ranked *)host_take(d, op, (size_t)n * sizeof(*v));

	if (!v)
		return false;
	for (int64_t i = 0; i < n; i++) {
		v[i].h = isnan(diag[i]) ? INFINITY : diag[i];
		v[i].i = (int32_t)i;
	}
	qsort(v, (size_t)n, sizeof(*v), compare_ranked);      /* a total order: stable by the index */
	for (int64_t i = 0; i < n; i++)
		order[i] = v[i].i;
	free(v);
	return true;
}

/* On the host: n is small, and the caller's next step, the factor, waits for the diagonal anyhow. */
void
cuda_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag)
{
	size_t bytes = (size_t)h->rows * sizeof(int32_t);
	int32_t *o = (int32_t *)host_take(d, "order", bytes);
	double *diag = by_diag ? diagonal(d, "order", h) : NULL;
	bool good = o && (diag || !by_diag);

	for (int64_t i = 0; good && i < h->rows; i++)
		o[i] = (int32_t)i;
	if (good && by_diag)
		good = rank(d, "order", o, diag, h->rows);
	if (good)
		copy(d, "order", order->p, o, bytes);
	free(diag);
	free(o);
}

/* ---- factor ---- */

/* The lower triangle of u = h in the given order reversed (order NULL: its own), `ridge` more on the diagonal. */
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

/* V from A in the lower triangle of u.  *info is the library's: the pivot, from 1, where it stopped, or 0.  Waits. */
static bool
potrf_with(struct dev *d, const char *op, struct mat *u, cusolverDnParams_t params, int *info)
{
	const cublasFillMode_t upper = CUBLAS_FILL_MODE_UPPER;
	cusolverDnHandle_t solver = cuda_gpu(d)->solver;
	cudaDataType type = u->type == F64 ? CUDA_R_64F : CUDA_R_32F;
	size_t mark = cuda_mark(d), bytes = 0, host_bytes = 0;
	void *room, *host;
	int *there;
	bool good;

	if (!cuda_solver_ok(d, op, cusolverDnXpotrf_bufferSize(solver, params, upper, u->rows, type, u->p, u->ld, type, &bytes,
	                                                       &host_bytes)))
		return false;
	there = (int *)cuda_take(d, sizeof(*there));
	room = cuda_take(d, bytes);
	host = host_take(d, op, host_bytes);
	good = there && room && host
	       && cuda_solver_ok(d, op, cusolverDnXpotrf(solver, params, upper, u->rows, type, u->p, u->ld, type, room, bytes, host,
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

/* Returns 0, or the pivot, from 1 and in the order, that is not positive: pivots are met from the last one on. */
template <typename REAL> static int64_t
factorize(struct dev *d, const char *op, struct mat *u, const struct mat *h, const struct mat *order, double dead, double ridge)
{
	int64_t n = h->rows, bad = 0;
	int info = 0;

	if (!lay_out<REAL>(d, op, u, h, order, dead, ridge) || !potrf(d, op, u, &info) || !first_bad(d, op, u, info, &bad))
		return 0;
	if (bad)
		return n + 1 - bad;
	reverse<<<(unsigned)n, THREADS, 0, cuda_gpu(d)->stream>>>((REAL *)u->p, u->ld, n);
	cuda_launched(d, op);
	return 0;
}

int64_t
cuda_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead)
{
	const int32_t *o = (const int32_t *)order->p;
	double mean = 0;
	int32_t input = 0;
	int64_t bad;

	if (!mean_diag(d, "factor", h, 1, &mean, dead))
		return 0;
	if (u->type == F64)
		bad = factorize<double>(d, "factor", u, h, order, 1, damp * mean);
	else
		bad = factorize<float>(d, "factor", u, h, order, 1, damp * mean);
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

	if (u.p && mean_diag(d, "solve", h, 0, &mean, &zeros)) {
		bad = factorize<float>(d, "solve", &u, h, NULL, 0, lambda * mean);
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
