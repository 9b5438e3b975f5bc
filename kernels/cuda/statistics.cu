/* Second moments of activations: h += sum_t a_t^2 x_t x_t^T (lower triangle) and c += sum_t a_t^2 (f_t - x_t) x_t^T.
 *
 * Bound by arithmetic: 2 n^2 T operations for c and about 0.55 of that for h, in tensor cores unless MATH_F32.  Each chunk of
 * tokens is one product a panel of rows that adds to what is there, so it also reads and writes the panel: 8 bytes for every
 * 2 * CHUNK operations, or 1.6 GB a chunk of n = 18944: 0.5 ms at memory speed beside 1.2 ms of arithmetic.  More tokens a
 * product would save that, but a tensor core truncates its sums, 16384 tokens at once lose ten times what 2048 do, and
 * the result would depend on how a caller cuts its tokens.  Instead panels are dealt out to several streams, where one product's
 * sums are fetched and its last tiles finished while another multiplies.  A panel stays in one stream, so its chunks
 * are added in order.
 *
 * Operands that have to be made (scaled, a difference, another type) are copied once and used by every panel, chunk by chunk while
 * the chunk before is multiplied; that, and the token weights, are bound by memory. */
#include "kernels/cuda/sweep.cuh"

#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/lanes.h"
#include "qjob/base/err.h"

enum {
	CHUNK = 2048,             /* tokens of a product; decides the order of sums */
	CHUNKS = 4,
	SPAN = CHUNKS * CHUNK,    /* tokens whose operands are held at once */
	THREADS = 256,
	VECTOR = 8,               /* elements that a thread takes at once: 16 bytes of narrow ones */
	LANES = 4,
	LANE_WORKSPACE = 32 << 20,    /* what cuBLAS asks for on Hopper */
	PANEL = 1024,             /* rows of a panel, about: small ones follow the diagonal, large ones multiply faster */
	MOST_PANELS = 16,
};

/* One more stream of a device, and what products need there.  cuBLAS's results are the same every time where a stream has a
 * handle and a workspace of its own. */
struct lane {
	cudaStream_t stream;
	cublasHandle_t blas;
	void *workspace;
	cudaEvent_t done;
};

struct lanes {
	struct lane lane[LANES];
	cudaEvent_t made[CHUNKS]; /* the operands of a chunk */
};

/* Panel k of h has the rows [begin[k], begin[k + 1]), and of a lower triangle the columns [0, begin[k + 1]).  Lane l multiplies
 * the `shares[l]` panels share[l]. */
struct panels {
	int count;
	int64_t begin[MOST_PANELS + 1];
	int shares[LANES], share[LANES][MOST_PANELS];
};

/* What is computed: h += l^T r, where l is r for a lower triangle. */
struct moments {
	const char *op;
	const struct mat *h, *f, *x;      /* f NULL: x's own moments, a lower triangle */
	const float *a;                   /* NULL: all 1 */
	struct mat left, right;           /* operands of the span at hand; right of all tokens where x itself will do */
	bool ready;                       /* x itself is right */
	struct panels panels;
};

/* ---- kernels ---- */

template <typename T> struct alignas(16) vector_of {
	T v[VECTOR];
};

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

	switch (m.type) {
	case F16: load_as(v, (const __half *)m.p + at, m.cols - col, aligned); break;
	case BF16: load_as(v, (const __nv_bfloat16 *)m.p + at, m.cols - col, aligned); break;
	default: load_as(v, (const float *)m.p + at, m.cols - col, aligned); break;
	}
}

/* By an intrinsic: left to itself, the compiler splits the store into elements. */
template <typename T> __device__ static void
store(T *to, const vector_of<T> &v)
{
	uint4 w[sizeof(v) / sizeof(uint4)];

	memcpy(w, &v, sizeof(v));
	for (int i = 0; i < (int)(sizeof(v) / sizeof(uint4)); i++)
		__stwb(reinterpret_cast<uint4 *>(to) + i, w[i]);
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
		round_into(out.v[j], v[j] * by);
	store((T *)to.p + t * to.ld + i, out);
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

static bool
is_aligned(const struct mat *m)
{
	return (uintptr_t)m->p % 16 == 0 && (size_t)m->ld * cuda_size(m->type) % 16 == 0;
}

/* Room for the operands of a span; rows begin at 16 bytes, as the fast products of cuBLAS want it. */
static struct mat
take_operands(struct dev *d, const struct mat *x)
{
	struct mat m = cuda_mat(d, cuda_operand(d), least(SPAN, x->rows), (x->cols + VECTOR - 1) / VECTOR * VECTOR);

	m.cols = x->cols;
	return m;
}

/* to = a (x - minus), token by token; minus and a may be NULL. */
static void
fill(struct dev *d, const char *op, const struct mat *to, const struct mat *x, const struct mat *minus, const float *a)
{
	dim3 grid(blocks_of(to->cols, THREADS * VECTOR), (unsigned)to->rows);
	bool aligned = is_aligned(x) && (!minus || is_aligned(minus));
	cudaStream_t stream = cuda_gpu(d)->stream;
	struct mat less = {};

	if (minus)
		less = *minus;
	switch (to->type) {
	case F16: make_operands<__half><<<grid, THREADS, 0, stream>>>(*to, *x, less, a, aligned); break;
	case BF16: make_operands<__nv_bfloat16><<<grid, THREADS, 0, stream>>>(*to, *x, less, a, aligned); break;
	default: make_operands<float><<<grid, THREADS, 0, stream>>>(*to, *x, less, a, aligned); break;
	}
	cuda_launched(d, op);
}

/* ---- lanes ---- */

static bool
open_lane(struct dev *d, struct lane *l)
{
	return cuda_ok(d, "stream", cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking))
	       && cuda_ok(d, "workspace", cudaMalloc(&l->workspace, LANE_WORKSPACE))
	       && cuda_ok(d, "event", cudaEventCreateWithFlags(&l->done, cudaEventDisableTiming))
	       && cuda_blas_ok(d, "cuBLAS", cublasCreate(&l->blas)) && cuda_blas_ok(d, "cuBLAS", cublasSetStream(l->blas, l->stream))
	       && cuda_blas_ok(d, "cuBLAS", cublasSetWorkspace(l->blas, l->workspace, LANE_WORKSPACE))
	       && cuda_blas_ok(d, "cuBLAS", cublasSetMathMode(l->blas, CUBLAS_DEFAULT_MATH));
}

/* The device's, opened at first need; NULL after marking the device failed. */
static struct lanes *
lanes_of(struct dev *d)
{
	struct gpu *gpu = cuda_gpu(d);
	bool good = true;

	if (gpu->lanes)
		return gpu->lanes;
	gpu->lanes = (struct lanes *)calloc(1, sizeof(*gpu->lanes));
	if (!gpu->lanes) {
		cuda_fail(d, E_SYS, "out of host memory");
		return NULL;
	}
	for (int i = 0; good && i < LANES; i++)
		good = open_lane(d, &gpu->lanes->lane[i]);
	for (int i = 0; good && i < CHUNKS; i++)
		good = cuda_ok(d, "event", cudaEventCreateWithFlags(&gpu->lanes->made[i], cudaEventDisableTiming));
	return good ? gpu->lanes : NULL;
}

static void
close_lane(struct lane *l)
{
	if (l->stream)
		cudaStreamSynchronize(l->stream);
	if (l->blas)
		cublasDestroy(l->blas);
	if (l->done)
		cudaEventDestroy(l->done);
	cudaFree(l->workspace);
	if (l->stream)
		cudaStreamDestroy(l->stream);
}

void
lanes_close(struct lanes *l)
{
	if (!l)
		return;
	for (int i = 0; i < LANES; i++)
		close_lane(&l->lane[i]);
	for (int i = 0; i < CHUNKS; i++)
		if (l->made[i])
			cudaEventDestroy(l->made[i]);
	free(l);
}

/* ---- panels ---- */

/* Deals the panels out, the longest first, each to the lane that has least so far. */
static void
deal(struct panels *p, bool lower)
{
	int64_t load[LANES] = {};

	for (int k = p->count - 1; k >= 0; k--) {
		int to = 0;

		for (int l = 1; l < LANES; l++)
			if (load[l] < load[to])
				to = l;
		load[to] += (p->begin[k + 1] - p->begin[k]) * (lower ? p->begin[k + 1] : 1);
		p->share[to][p->shares[to]++] = k;
	}
}

/* Even panels of whole tiles of cuBLAS, whose sides are 128 and 256; where panels are few, that they are even matters more than
 * that half a tile is wasted. */
static struct panels
cut_rows(int64_t n, bool lower)
{
	int64_t tile = n < 8 * PANEL ? 128 : 256, tiles = (n + tile - 1) / tile, count = least(MOST_PANELS, (n + PANEL - 1) / PANEL);
	struct panels p = {};

	p.count = (int)count;
	for (int64_t k = 0; k <= count; k++)
		p.begin[k] = least(k * tiles / count * tile, n);
	deal(&p, lower);
	return p;
}

/* ---- products ---- */

/* c[M,N] += l[T,M]^T r[T,N].  cuBLAS counts by columns, and so sees c^T += r l^T. */
static bool
add_product(struct dev *d, const char *op, cublasHandle_t blas, const struct mat *c, const struct mat *l, const struct mat *r)
{
	int m = (int)c->cols, n = (int)c->rows, k = (int)r->rows;
	const float one = 1;

	if (r->type == F32)
		return cuda_blas_ok(d, op, cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_T, m, n, k, &one, (const float *)r->p, (int)r->ld,
		                                       (const float *)l->p, (int)l->ld, &one, (float *)c->p, (int)c->ld));
	return cuda_blas_ok(d, op, cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_T, m, n, k, &one, r->p, cuda_type(r->type), (int)r->ld, l->p,
	                                        cuda_type(l->type), (int)l->ld, &one, c->p, CUDA_R_32F, (int)c->ld, CUBLAS_COMPUTE_32F,
	                                        CUBLAS_GEMM_DEFAULT));
}

/* Panel k += its product of the tokens [t, t + n) of the span. */
static bool
add_panel(struct dev *d, const struct moments *m, cublasHandle_t blas, int k, int64_t t, int64_t n)
{
	int64_t row = m->panels.begin[k], rows = m->panels.begin[k + 1] - row, cols = m->f ? m->h->cols : row + rows;
	struct mat c = part_of(m->h, row, 0, rows, cols), right = part_of(&m->right, t, 0, n, cols);
	struct mat left = part_of(m->f ? &m->left : &m->right, t, row, n, rows);

	return add_product(d, m->op, blas, &c, &left, &right);
}

/* Step s of a lane: panel by panel, so that what a chunk left of a small panel is still in the cache when the next one adds to it.
 * A lane's first panel waits for each chunk's operands. */
static bool
step(struct dev *d, const struct moments *m, struct lanes *lanes, int l, int s)
{
	int chunks = (int)blocks_of(m->right.rows, CHUNK), which = s / chunks, chunk = s % chunks;
	int64_t t = (int64_t)chunk * CHUNK;
	struct lane *lane = &lanes->lane[l];

	if (which >= m->panels.shares[l])
		return true;
	if (which == 0 && !cuda_ok(d, m->op, cudaStreamWaitEvent(lane->stream, lanes->made[chunk], 0)))
		return false;
	return add_panel(d, m, lane->blas, m->panels.share[l][which], t, least(CHUNK, m->right.rows - t));
}

/* The products of a span, from when its operands are made; what follows in the device's stream waits for them. */
static void
add_span(struct dev *d, const struct moments *m, struct lanes *lanes)
{
	int chunks = (int)blocks_of(m->right.rows, CHUNK), most = 0;

	for (int l = 0; l < LANES; l++)
		most = most > m->panels.shares[l] ? most : m->panels.shares[l];
	/* Lanes take turns, for they shall begin together. */
	for (int s = 0; s < most * chunks; s++)
		for (int l = 0; l < LANES; l++)
			if (!step(d, m, lanes, l, s))
				return;
	for (int l = 0; l < LANES; l++)
		if (m->panels.shares[l] > 0
		    && (!cuda_ok(d, m->op, cudaEventRecord(lanes->lane[l].done, lanes->lane[l].stream))
		        || !cuda_ok(d, m->op, cudaStreamWaitEvent(cuda_gpu(d)->stream, lanes->lane[l].done, 0))))
			return;
}

/* Makes the operands of a span's tokens, from token `from` of all, chunk by chunk. */
static bool
make_span(struct dev *d, const struct moments *m, struct lanes *lanes, int64_t from)
{
	for (int64_t t = 0; t < m->right.rows; t += CHUNK) {
		int64_t n = least(CHUNK, m->right.rows - t), cols = m->x->cols;
		struct mat x = part_of(m->x, from + t, 0, n, cols), right = part_of(&m->right, t, 0, n, cols);
		const float *a = m->a ? m->a + from + t : NULL;

		if (!m->ready)
			fill(d, m->op, &right, &x, NULL, a);
		if (m->f) {
			struct mat f = part_of(m->f, from + t, 0, n, cols), left = part_of(&m->left, t, 0, n, cols);

			fill(d, m->op, &left, &f, &x, a);
		}
		if (!cuda_ok(d, m->op, cudaEventRecord(lanes->made[t / CHUNK], cuda_gpu(d)->stream)))
			return false;
	}
	return !cuda_failed(d);
}

static void
add_moments(struct dev *d, struct moments *m)
{
	size_t mark = cuda_mark(d);
	struct lanes *lanes = lanes_of(d);

	m->ready = m->x->type == cuda_operand(d) && !m->a && is_aligned(m->x);
	m->panels = cut_rows(m->h->rows, !m->f);
	if (!m->ready)
		m->right = take_operands(d, m->x);
	if (m->f)
		m->left = take_operands(d, m->x);
	for (int64_t from = 0; from < m->x->rows && !cuda_failed(d); from += SPAN) {
		if (m->ready)
			m->right = part_of(m->x, from, 0, 0, m->x->cols);
		m->right.rows = least(SPAN, m->x->rows - from);
		if (make_span(d, m, lanes, from))
			add_span(d, m, lanes);
	}
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
	struct moments m = {};

	m.op = "gram";
	m.h = h;
	m.x = x;
	m.a = a ? (const float *)a->p : NULL;
	add_moments(d, &m);
}

void
cuda_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a)
{
	struct moments m = {};

	m.op = "cross";
	m.h = c;
	m.f = f;
	m.x = x;
	m.a = a ? (const float *)a->p : NULL;
	add_moments(d, &m);
}
