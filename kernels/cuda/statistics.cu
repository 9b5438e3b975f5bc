/* Second moments of activations: h += sum_t a_t^2 x_t x_t^T (lower triangle) and c += sum_t a_t^2 (f_t - x_t) x_t^T.
 *
 * Bound by arithmetic: 2 n^2 T operations for c and about 0.56 of that for h, in tensor cores under MATH_BF16.  Each chunk of
 * tokens is one product a panel that adds to what is there, so it also reads and writes the panel: 8 bytes for every 2 * CHUNK
 * operations, or 1.6 GB a chunk of n = 18944: 0.38 ms at memory speed beside 1.2 ms of arithmetic, partly at the same time.
 * More tokens a product would save that, but a tensor core truncates its sums, 16384 tokens at once lose ten times what
 * 2048 do, and the result would depend on how a caller cuts its tokens.
 *
 * Operands that have to be made (scaled, a difference, another type) are copied once and used by every panel; that, and
 * the token weights, are bound by memory. */
#include "kernels/cuda/cuda.h"

#include <cuda_bf16.h>

enum {
	CHUNK = 2048,             /* tokens of a product; decides the order of sums */
	SPAN = 4 * CHUNK,         /* tokens whose operands are held at once */
	THREADS = 256,
	VECTOR = 8,               /* elements that a thread takes at once: 16 bytes of bf16 */
	TILE = 256,               /* the longer side of a tile of cuBLAS, the shorter is half of it */
	MOST_PANELS = 128,
};

/* Panel k of h has the rows [begin[k], begin[k + 1]), and of a lower triangle the columns [0, begin[k + 1]). */
struct panels {
	int count;
	int64_t widest;           /* most rows of one */
	int64_t begin[MOST_PANELS + 1];
};

/* ---- kernels ---- */

template <typename T> struct alignas(16) vector_of {
	T v[VECTOR];
};

__device__ static float
widen(float v)
{
	return v;
}

__device__ static float
widen(__nv_bfloat16 v)
{
	return __bfloat162float(v);
}

template <typename T> __device__ static T narrow(float v);

template <> __device__ float
narrow<float>(float v)
{
	return v;
}

template <> __device__ __nv_bfloat16
narrow<__nv_bfloat16>(float v)
{
	return __float2bfloat16_rn(v);
}

template <typename T> __device__ static void
load_as(float (&v)[VECTOR], const T *from, int64_t n, bool aligned)
{
	if (aligned && n >= VECTOR) {
		vector_of<T> all = *reinterpret_cast<const vector_of<T> *>(from);

		for (int i = 0; i < VECTOR; i++)
			v[i] = widen(all.v[i]);
	} else {
		for (int i = 0; i < VECTOR; i++)
			v[i] = i < n ? widen(from[i]) : 0;
	}
}

/* VECTOR elements of m from there on, zeros past the end of the row.  aligned: every row begins at 16 bytes. */
__device__ static void
load(float (&v)[VECTOR], const struct mat &m, int64_t row, int64_t col, bool aligned)
{
	int64_t at = row * m.ld + col;

	if (m.type == BF16)
		load_as(v, (const __nv_bfloat16 *)m.p + at, m.cols - col, aligned);
	else
		load_as(v, (const float *)m.p + at, m.cols - col, aligned);
}

/* A block a token.  The order of the sum follows from the width alone, not from the alignment. */
__global__ static void
__launch_bounds__(THREADS)
weigh_tokens(float *a, struct mat x, bool aligned)
{
	__shared__ double part[THREADS / 32];
	double s = 0;

	for (int64_t i = threadIdx.x * VECTOR; i < x.cols; i += THREADS * VECTOR) {
		float v[VECTOR];

		load(v, x, blockIdx.x, i, aligned);
		for (int j = 0; j < VECTOR; j++)
			s += (double)v[j] * v[j];
	}
	for (int step = 16; step > 0; step /= 2)
		s += __shfl_xor_sync(0xffffffff, s, step);
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = s;
	__syncthreads();
	if (threadIdx.x > 0)
		return;
	for (int i = 1; i < THREADS / 32; i++)
		s += part[i];
	a[blockIdx.x] = s > 0 ? (float)(1 / sqrt(s / (double)x.cols)) : 0;
}

/* to = a (x - minus); minus.p and a may be NULL.  Rows of `to` are whole vectors: the last one is filled up with zeros. */
template <typename T> __global__ static void
__launch_bounds__(THREADS)
make_operands(struct mat to, struct mat x, struct mat minus, const float *a, bool aligned)
{
	int64_t t = blockIdx.y, i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * VECTOR;
	float v[VECTOR], w[VECTOR], by = a ? a[t] : 1;
	vector_of<T> out;

	if (i >= to.cols)
		return;
	load(v, x, t, i, aligned);
	if (minus.p) {
		load(w, minus, t, i, aligned);
		for (int j = 0; j < VECTOR; j++)
			v[j] -= w[j];
	}
	for (int j = 0; j < VECTOR; j++)
		out.v[j] = narrow<T>(v[j] * by);
	*reinterpret_cast<vector_of<T> *>((T *)to.p + t * to.ld + i) = out;
}

/* What panels hold above the diagonal of h, to `kept` or back from there: row i of both is row i, and column 0 of kept is
 * the first of the panel's rows.  A block a row and THREADS columns. */
__global__ static void
__launch_bounds__(THREADS)
keep_above(struct mat h, struct mat kept, const __grid_constant__ struct panels p, bool back)
{
	int64_t i = blockIdx.x, j = i + 1 + (int64_t)blockIdx.y * THREADS + threadIdx.x;
	float *here = (float *)h.p + i * h.ld, *there = (float *)kept.p + i * kept.ld;
	int k = 0;

	while (p.begin[k + 1] <= i)
		k++;
	if (j >= p.begin[k + 1])
		return;
	if (back)
		here[j] = there[j - p.begin[k]];
	else
		there[j - p.begin[k]] = here[j];
}

/* ---- operands ---- */

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static unsigned
blocks_of(int64_t n, int64_t each)
{
	return (unsigned)((n + each - 1) / each);
}

static struct mat
part(const struct mat *m, int64_t row, int64_t col, int64_t rows, int64_t cols)
{
	struct mat v = *m;

	v.p = (char *)m->p + (row * m->ld + col) * (int64_t)cuda_size(m->type);
	v.rows = rows;
	v.cols = cols;
	return v;
}

static bool
is_aligned(const struct mat *m)
{
	return (uintptr_t)m->p % 16 == 0 && (size_t)m->ld * cuda_size(m->type) % 16 == 0;
}

static enum dtype
operand_type(const struct dev *d)
{
	return cuda_math(d) == MATH_BF16 ? BF16 : F32;
}

/* Room for the operands of a span; rows begin at 16 bytes, as the fast products of cuBLAS want it. */
static struct mat
take_operands(struct dev *d, const struct mat *x)
{
	struct mat m = cuda_mat(d, operand_type(d), least(SPAN, x->rows), (x->cols + VECTOR - 1) / VECTOR * VECTOR);

	m.cols = x->cols;
	return m;
}

/* to = a (x - minus), token by token; minus and a may be NULL. */
static void
fill(struct dev *d, const char *op, const struct mat *to, const struct mat *x, const struct mat *minus, const float *a)
{
	dim3 grid(blocks_of(to->cols, THREADS * VECTOR), (unsigned)to->rows);
	bool aligned = is_aligned(x) && (!minus || is_aligned(minus));
	struct mat less = {};

	if (minus)
		less = *minus;
	if (to->type == BF16)
		make_operands<__nv_bfloat16><<<grid, THREADS, 0, cuda_gpu(d)->stream>>>(*to, *x, less, a, aligned);
	else
		make_operands<float><<<grid, THREADS, 0, cuda_gpu(d)->stream>>>(*to, *x, less, a, aligned);
	cuda_launched(d, op);
}

/* ---- panels ---- */

/* Cuts the rows of a lower triangle so that the panels' tiles take the fewest waves over the multiprocessors: a panel
 * costs its waves, and a quarter of one to begin.  On 132 multiprocessors n = 18944 takes nine panels and 47 waves, where 16
 * even panels take 52, all of h 83, and the triangle's tiles alone 42; up to 3584 all of h is one panel. */
static struct panels
cut_rows(int64_t n, int sms)
{
	int64_t step = (n + TILE * MOST_PANELS - 1) / (TILE * MOST_PANELS) * TILE, tiles = 2 * (step / TILE) * (step / TILE);
	int64_t cost[MOST_PANELS + 1] = {}, i;
	int from[MOST_PANELS + 1] = {}, count = (int)blocks_of(n, step), to;
	struct panels p = {};

	for (to = 1; to <= count; to++)
		for (i = 0; i < to; i++) {
			int64_t waves = ((to - i) * to * tiles + sms - 1) / sms, all = cost[i] + 4 * waves + 1;

			if (i == 0 || all <= cost[to]) {
				cost[to] = all;
				from[to] = (int)i;
			}
		}
	for (to = count; to > 0; to = from[to])
		p.count++;
	for (to = count, i = p.count; i >= 0; to = from[to], i--)
		p.begin[i] = least(to * step, n);
	for (i = 0; i < p.count; i++)
		p.widest = p.widest > p.begin[i + 1] - p.begin[i] ? p.widest : p.begin[i + 1] - p.begin[i];
	return p;
}

/* Panels reach above the diagonal, and what is there is the caller's: kept aside while products are added.  Nothing to
 * do where all of a matrix is wanted. */
static void
keep(struct dev *d, const char *op, const struct mat *h, const struct mat *kept, const struct panels *p, bool back)
{
	dim3 grid((unsigned)h->rows, blocks_of(p->widest, THREADS));

	if (!kept->p || cuda_failed(d))
		return;
	keep_above<<<grid, THREADS, 0, cuda_gpu(d)->stream>>>(*h, *kept, *p, back);
	cuda_launched(d, op);
}

/* ---- products ---- */

/* c[M,N] += l[T,M]^T r[T,N].  cuBLAS counts by columns, and so sees c^T += r l^T. */
static bool
add_product(struct dev *d, const char *op, const struct mat *c, const struct mat *l, const struct mat *r)
{
	cublasHandle_t blas = cuda_gpu(d)->blas;
	int m = (int)c->cols, n = (int)c->rows, k = (int)r->rows;
	const float one = 1;

	if (r->type == F32)
		return cuda_blas_ok(d, op, cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_T, m, n, k, &one, (const float *)r->p, (int)r->ld,
		                                       (const float *)l->p, (int)l->ld, &one, (float *)c->p, (int)c->ld));
	return cuda_blas_ok(d, op, cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_T, m, n, k, &one, r->p, CUDA_R_16BF, (int)r->ld, l->p,
	                                        CUDA_R_16BF, (int)l->ld, &one, c->p, CUDA_R_32F, (int)c->ld, CUBLAS_COMPUTE_32F,
	                                        CUBLAS_GEMM_DEFAULT));
}

/* The products of a span, chunk by chunk.  Panel by panel, so that what a chunk left of a small panel is still in the cache
 * when the next one adds to it: a tile waits for that, while its operands come ahead of their use. */
static void
add_span(struct dev *d, const char *op, const struct mat *h, const struct mat *l, const struct mat *r, const struct panels *p)
{
	bool lower = l == r;

	for (int k = 0; k < p->count; k++) {
		int64_t row = p->begin[k], rows = p->begin[k + 1] - row, cols = lower ? p->begin[k + 1] : h->cols;
		struct mat c = part(h, row, 0, rows, cols);

		for (int64_t t = 0; t < r->rows; t += CHUNK) {
			int64_t n = least(CHUNK, r->rows - t);
			struct mat left = part(l, t, row, n, rows), right = part(r, t, 0, n, cols);

			if (!add_product(d, op, &c, &left, &right))
				return;
		}
	}
}

/* f NULL: the lower triangle of x^T x, else (f - x)^T x. */
static void
moments(struct dev *d, const char *op, const struct mat *h, const struct mat *f, const struct mat *x, const float *a)
{
	size_t mark = cuda_mark(d);
	bool ready = x->type == operand_type(d) && !a && is_aligned(x);
	struct mat left_room = {}, right_room = {}, kept = {};
	struct panels p = {};

	p.count = 1;
	p.begin[1] = h->rows;
	if (!f) {
		p = cut_rows(h->rows, cuda_gpu(d)->sms);
		kept = cuda_mat(d, F32, h->rows, p.widest);
	}
	if (!ready)
		right_room = take_operands(d, x);
	if (f)
		left_room = take_operands(d, x);
	keep(d, op, h, &kept, &p, false);
	for (int64_t from = 0; from < x->rows && !cuda_failed(d); from += SPAN) {
		int64_t n = least(SPAN, x->rows - from);
		struct mat xs = part(x, from, 0, n, x->cols), right = ready ? xs : part(&right_room, 0, 0, n, x->cols), left = {};

		if (!ready)
			fill(d, op, &right, &xs, NULL, a ? a + from : NULL);
		if (f) {
			struct mat fs = part(f, from, 0, n, x->cols);

			left = part(&left_room, 0, 0, n, x->cols);
			fill(d, op, &left, &fs, &xs, a ? a + from : NULL);
		}
		add_span(d, op, h, f ? &left : &right, &right, &p);
	}
	keep(d, op, h, &kept, &p, true);
	cuda_back(d, mark);
}

/* ---- operations ---- */

void
cuda_token_weight(struct dev *d, struct mat *a, const struct mat *x)
{
	weigh_tokens<<<(unsigned)x->rows, THREADS, 0, cuda_gpu(d)->stream>>>((float *)a->p, *x, is_aligned(x));
	cuda_launched(d, "token_weight");
}

void
cuda_gram(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a)
{
	moments(d, "gram", h, NULL, x, a ? (const float *)a->p : NULL);
}

void
cuda_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a)
{
	moments(d, "cross", c, f, x, a ? (const float *)a->p : NULL);
}
