/* What a decoder does to rows between its matrix products: conversions, embedding, norms, rope, activations, residuals.  All of
 * it is bound by memory: every element is read once and written once, and norms read a row again while the first cache has it. */
#include "kernels/cuda/sweep.cuh"

#include "kernels/cuda/words.h"

/* ---- conversion ---- */

template <class Y, class X, int N> struct conversion {
	static constexpr int W = N;
	typedef pack<X, W> in;
	view<Y> y;
	view<X> x;

	__device__ in load(int64_t row, int64_t col) const
	{
		return x.template get<W>(row, col);
	}

	__device__ void store(int64_t row, int64_t col, const in &from) const
	{
		pack<Y, W> to;

		#pragma unroll
		for (int i = 0; i < W; i++)
			round_into(to.v[i], widen(from.v[i]));
		y.template put<W>(row, col, to);
	}
};

template <class Y, class X> static void
convert_from(struct dev *d, struct mat *y, const struct mat *x)
{
	const struct mat *both[] = {y, x};
	const struct sweep s = sweep_of(both, 2);

	if (s.wide)
		sweep_run(d, "convert", conversion<Y, X, WIDE>{view_of<Y>(y), view_of<X>(x)}, &s);
	else
		sweep_run(d, "convert", conversion<Y, X, 1>{view_of<Y>(y), view_of<X>(x)}, &s);
}

template <class Y> static void
convert_to(struct dev *d, struct mat *y, const struct mat *x)
{
	switch (x->type) {
	case F32: convert_from<Y, float>(d, y, x); break;
	case F16: convert_from<Y, __half>(d, y, x); break;
	case BF16: convert_from<Y, __nv_bfloat16>(d, y, x); break;
	default: convert_from<Y, double>(d, y, x); break;
	}
}

static void
copy(struct dev *d, struct mat *y, const struct mat *x)
{
	size_t size = cuda_size(x->type), row = (size_t)x->cols * size;
	cudaStream_t stream = cuda_gpu(d)->stream;

	/* The pitch of a copy in two dimensions has a limit, which one long row may exceed. */
	if (x->rows == 1 || (x->ld == x->cols && y->ld == y->cols))
		cuda_ok(d, "convert", cudaMemcpyAsync(y->p, x->p, row * (size_t)x->rows, cudaMemcpyDeviceToDevice, stream));
	else
		cuda_ok(d, "convert", cudaMemcpy2DAsync(y->p, (size_t)y->ld * size, x->p, (size_t)x->ld * size, row, (size_t)x->rows,
		                                        cudaMemcpyDeviceToDevice, stream));
}

void
cuda_convert(struct dev *d, struct mat *y, const struct mat *x)
{
	if (x->type == y->type) {
		copy(d, y, x);
		return;
	}
	switch (y->type) {
	case F32: convert_to<float>(d, y, x); break;
	case F16: convert_to<__half>(d, y, x); break;
	case BF16: convert_to<__nv_bfloat16>(d, y, x); break;
	default: convert_to<double>(d, y, x); break;
	}
}

/* ---- embedding ---- */

template <class X, int N> struct lookup {
	static constexpr int W = N;
	typedef pack<X, W> in;
	view<float> y;
	view<X> table;
	view<int32_t> ids;

	__device__ in load(int64_t row, int64_t col) const
	{
		return table.template get<W>(ids.get<1>(0, row).v[0], col);
	}

	__device__ void store(int64_t row, int64_t col, const in &from) const
	{
		pack<float, W> to;

		#pragma unroll
		for (int i = 0; i < W; i++)
			to.v[i] = widen(from.v[i]);
		y.template put<W>(row, col, to);
	}
};

template <class X> static void
embed_from(struct dev *d, struct mat *y, const struct mat *table, const struct mat *ids)
{
	const struct sweep s = {y->rows, y->cols, y->cols % WIDE == 0 && is_wide(y) && is_wide(table)};
	const view<float> to = view_of<float>(y);
	const view<X> from = view_of<X>(table);
	const view<int32_t> id = view_of<int32_t>(ids);

	if (s.wide)
		sweep_run(d, "embed", lookup<X, WIDE>{to, from, id}, &s);
	else
		sweep_run(d, "embed", lookup<X, 1>{to, from, id}, &s);
}

void
cuda_embed(struct dev *d, struct mat *y, const struct mat *table, const struct mat *ids)
{
	if (!words_exist(d, "embed", "table", ids, table->rows))
		return;
	switch (table->type) {
	case F32: embed_from<float>(d, y, table, ids); break;
	case F16: embed_from<__half>(d, y, table, ids); break;
	default: embed_from<__nv_bfloat16>(d, y, table, ids); break;
	}
}

/* ---- norms ---- */

enum { WARP = 32, NORM_THREADS = 256, NARROW = 1024, MOST_BLOCKS = 1 << 30 };

template <class Y> struct norming {
	view<Y> y;
	view<float> x, w, b;
	int64_t rows;             /* a row is a head of a token */
	int width, heads;
	float eps, w_add;
	bool layer;
};

/* The sum of v over the THREADS threads of a row, the same bits in all of them: pairs across a warp, then warps in order. */
template <int THREADS> __device__ inline double
row_sum(double v)
{
	#pragma unroll
	for (int apart = WARP / 2; apart > 0; apart /= 2)
		v += __shfl_xor_sync(~0u, v, apart);
	if constexpr (THREADS > WARP) {
		__shared__ double part[THREADS / WARP];

		__syncthreads();          /* the last sum has been read */
		if (threadIdx.x % WARP == 0)
			part[threadIdx.x / WARP] = v;
		__syncthreads();
		v = 0;
		for (int i = 0; i < THREADS / WARP; i++)
			v += part[i];
	}
	return v;
}

/* The mean of (x - mean)^POWER over a row, in double: the conversions cost less than the row's bytes do. */
template <int THREADS, int W, int POWER, class Y> __device__ inline double
row_mean(const norming<Y> &n, int64_t token, int64_t from, double mean)
{
	double sum = 0;

	#pragma unroll 4
	for (int c = threadIdx.x % THREADS * W; c < n.width; c += THREADS * W) {
		const pack<float, W> x = n.x.template get<W>(token, from + c);

		#pragma unroll
		for (int i = 0; i < W; i++) {
			const double v = x.v[i] - mean;

			sum += POWER == 1 ? v : v * v;
		}
	}
	return row_sum<THREADS>(sum) / (double)n.width;
}

template <int W> struct norm_in {
	pack<float, W> x, w, b;
};

template <int W, class Y> __device__ inline norm_in<W>
norm_load(const norming<Y> &n, int64_t token, int64_t from, int c)
{
	norm_in<W> in;

	in.x = n.x.template get<W>(token, from + c);
	in.w = n.w.template get<W>(0, c);
	if (n.b.p) {
		in.b = n.b.template get<W>(0, c);
	} else {
		#pragma unroll
		for (int i = 0; i < W; i++)
			in.b.v[i] = 0;
	}
	return in;
}

template <int W, class Y> __device__ inline void
norm_store(const norming<Y> &n, int64_t token, int64_t at, const norm_in<W> &in, float mean, float inverse)
{
	pack<Y, W> y;

	#pragma unroll
	for (int i = 0; i < W; i++)
		round_into(y.v[i], (in.x.v[i] - mean) * inverse * (in.w.v[i] + n.w_add) + in.b.v[i]);
	n.y.template put<W>(token, at, y);
}

/* One row by THREADS threads of a block of 256: which thread adds what follows from the width alone. */
template <int THREADS, int W, class Y> __global__ void __launch_bounds__(NORM_THREADS)
norm_rows(const norming<Y> n)
{
	constexpr int ROWS = NORM_THREADS / THREADS, AHEAD = 2;
	const int lane = threadIdx.x % THREADS;

	for (int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.x / THREADS; r < n.rows; r += (int64_t)gridDim.x * ROWS) {
		const int64_t token = r / n.heads, from = r % n.heads * n.width;
		const double mean = n.layer ? row_mean<THREADS, W, 1>(n, token, from, 0) : 0;
		const float inverse = (float)rsqrt(row_mean<THREADS, W, 2>(n, token, from, mean) + (double)n.eps);

		for (int c = lane * W; c < n.width; c += AHEAD * THREADS * W) {
			norm_in<W> in[AHEAD];

			#pragma unroll
			for (int k = 0; k < AHEAD; k++)
				if (c + k * THREADS * W < n.width)
					in[k] = norm_load<W>(n, token, from, c + k * THREADS * W);
			#pragma unroll
			for (int k = 0; k < AHEAD; k++) {
				if (c + k * THREADS * W < n.width)
					norm_store<W>(n, token, from + c + k * THREADS * W, in[k], (float)mean, inverse);
			}
		}
	}
}

/* Blocks of 256 threads, of a row each, or of eight rows where these are narrow. */
template <int W, class Y> static void
norm_run(struct dev *d, const norming<Y> &n)
{
	const int64_t rows = n.width <= NARROW ? NORM_THREADS / WARP : 1, need = (n.rows + rows - 1) / rows;
	const unsigned blocks = need < MOST_BLOCKS ? (unsigned)need : (unsigned)MOST_BLOCKS;

	if (n.width <= NARROW)
		norm_rows<WARP, W, Y><<<blocks, NORM_THREADS, 0, cuda_gpu(d)->stream>>>(n);
	else
		norm_rows<NORM_THREADS, W, Y><<<blocks, NORM_THREADS, 0, cuda_gpu(d)->stream>>>(n);
	cuda_launched(d, "norm");
}

template <class Y> static void
norm_to(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *p)
{
	const int64_t width = x->cols / heads;
	const norming<Y> n = {view_of<Y>(y), view_of<float>(x), view_of<float>(&p->w), view_of<float>(&p->b), x->rows * heads,
	                      (int)width, heads, p->eps, p->w_add, p->layer};

	if (width % WIDE == 0 && is_wide(y) && is_wide(x) && is_wide(&p->w) && (!p->b.p || is_wide(&p->b)))
		norm_run<WIDE>(d, n);
	else
		norm_run<1>(d, n);
}

void
cuda_norm(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n)
{
	switch (y->type) {
	case F16: norm_to<__half>(d, y, x, heads, n); break;
	case BF16: norm_to<__nv_bfloat16>(d, y, x, heads, n); break;
	default: norm_to<float>(d, y, x, heads, n); break;
	}
}

/* ---- rope ---- */

/* A column of the sweep is a pair: pair i of head h is column h * half + i. */
template <bool INTERLEAVED, int N> struct rotation {
	static constexpr int W = N;
	struct in {
		pack<float, W> part[2], cosine, sine;
	};
	view<float> x, cosines, sines;
	int64_t seqlen;
	unsigned half, width;

	/* Where the two parts of the pairs from col on lie. */
	__device__ int64_t place(int64_t col, int part) const
	{
		const unsigned head = (unsigned)col / half, i = (unsigned)col % half;

		return (int64_t)head * width + (INTERLEAVED ? 2 * i + (unsigned)(part * W) : i + (unsigned)part * half);
	}

	__device__ in load(int64_t row, int64_t col) const
	{
		const int64_t position = row % seqlen;
		const unsigned i = (unsigned)col % half;
		in from;

		from.part[0] = x.get<W>(row, place(col, 0));
		from.part[1] = x.get<W>(row, place(col, 1));
		from.cosine = cosines.get<W>(position, i);
		from.sine = sines.get<W>(position, i);
		return from;
	}

	__device__ void store(int64_t row, int64_t col, const in &from) const
	{
		pack<float, W> to[2];

		#pragma unroll
		for (int i = 0; i < W; i++) {
			const int first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? 2 * i + 1 : i + W;
			const float a = from.part[first / W].v[first % W], b = from.part[second / W].v[second % W];

			to[first / W].v[first % W] = a * from.cosine.v[i] - b * from.sine.v[i];
			to[second / W].v[second % W] = b * from.cosine.v[i] + a * from.sine.v[i];
		}
		x.put<W>(row, place(col, 0), to[0]);
		x.put<W>(row, place(col, 1), to[1]);
	}
};

template <bool INTERLEAVED> static void
rotate(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen)
{
	const int64_t half = r->cos.cols, width = x->cols / heads;
	const bool wide = half % WIDE == 0 && width % WIDE == 0 && is_wide(x) && is_wide(&r->cos) && is_wide(&r->sin);
	const struct sweep s = {x->rows, heads * half, wide};
	const view<float> to = view_of<float>(x), cosines = view_of<float>(&r->cos), sines = view_of<float>(&r->sin);

	if (wide)
		sweep_run(d, "rope", rotation<INTERLEAVED, WIDE>{to, cosines, sines, seqlen, (unsigned)half, (unsigned)width}, &s);
	else
		sweep_run(d, "rope", rotation<INTERLEAVED, 1>{to, cosines, sines, seqlen, (unsigned)half, (unsigned)width}, &s);
}

void
cuda_rope(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen)
{
	if (r->interleaved)
		rotate<true>(d, x, heads, r, seqlen);
	else
		rotate<false>(d, x, heads, r, seqlen);
}

/* ---- activations ---- */

/* 0.5 (1 + tanh u) is 1 / (1 + exp(-2u)). */
template <enum act A> __device__ inline float
activate(float x)
{
	if constexpr (A == ACT_SILU)
		return x / (1.f + expf(-x));
	else if constexpr (A == ACT_GELU)
		return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
	else if constexpr (A == ACT_GELU_TANH)
		return x / (1.f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
	else if constexpr (A == ACT_QUICK_GELU)
		return x / (1.f + expf(-1.702f * x));
	else if constexpr (A == ACT_RELU)
		return x < 0.f ? 0.f : x;
	else
		return x;
}

/* y = A(x), times up where there is one. */
template <enum act A, class Y, int N> struct activation {
	static constexpr int W = N;
	struct in {
		pack<float, W> x, up;
	};
	view<Y> y;
	view<float> x, up;

	__device__ in load(int64_t row, int64_t col) const
	{
		in from;

		from.x = x.get<W>(row, col);
		if (up.p)
			from.up = up.get<W>(row, col);
		return from;
	}

	__device__ void store(int64_t row, int64_t col, const in &from) const
	{
		pack<Y, W> to;

		#pragma unroll
		for (int i = 0; i < W; i++) {
			const float v = activate<A>(from.x.v[i]);

			round_into(to.v[i], up.p ? v * from.up.v[i] : v);
		}
		y.template put<W>(row, col, to);
	}
};

template <enum act A, class Y> static void
activate_to(struct dev *d, const char *op, struct mat *y, const struct mat *x, const struct mat *up)
{
	const struct mat *all[] = {y, x, up};
	const struct sweep s = sweep_of(all, up ? 3 : 2);

	if (s.wide)
		sweep_run(d, op, activation<A, Y, WIDE>{view_of<Y>(y), view_of<float>(x), view_of<float>(up)}, &s);
	else
		sweep_run(d, op, activation<A, Y, 1>{view_of<Y>(y), view_of<float>(x), view_of<float>(up)}, &s);
}

template <enum act A> static void
activate_rows(struct dev *d, const char *op, struct mat *y, const struct mat *x, const struct mat *up)
{
	switch (y->type) {
	case F16: activate_to<A, __half>(d, op, y, x, up); break;
	case BF16: activate_to<A, __nv_bfloat16>(d, op, y, x, up); break;
	default: activate_to<A, float>(d, op, y, x, up); break;
	}
}

static void
activate_by(struct dev *d, struct mat *y, const struct mat *x, const struct mat *up, enum act act)
{
	const char *op = up ? "gated" : "act";

	switch (act) {
	case ACT_SILU: activate_rows<ACT_SILU>(d, op, y, x, up); break;
	case ACT_GELU: activate_rows<ACT_GELU>(d, op, y, x, up); break;
	case ACT_GELU_TANH: activate_rows<ACT_GELU_TANH>(d, op, y, x, up); break;
	case ACT_QUICK_GELU: activate_rows<ACT_QUICK_GELU>(d, op, y, x, up); break;
	case ACT_RELU: activate_rows<ACT_RELU>(d, op, y, x, up); break;
	case ACT_NONE: activate_rows<ACT_NONE>(d, op, y, x, up); break;
	}
}

void
cuda_act(struct dev *d, struct mat *y, const struct mat *x, enum act act)
{
	activate_by(d, y, x, NULL, act);
}

void
cuda_gated(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up, enum act act)
{
	activate_by(d, y, gate, up, act);
}

/* ---- residuals ---- */

template <int N> struct addition {
	static constexpr int W = N;
	struct in {
		pack<float, W> y, x;
	};
	view<float> y, x;
	float scale;

	__device__ in load(int64_t row, int64_t col) const
	{
		return in{y.get<W>(row, col), x.get<W>(row, col)};
	}

	__device__ void store(int64_t row, int64_t col, const in &from) const
	{
		pack<float, W> to;

		#pragma unroll
		for (int i = 0; i < W; i++)
			to.v[i] = from.y.v[i] + scale * from.x.v[i];
		y.put<W>(row, col, to);
	}
};

void
cuda_add(struct dev *d, struct mat *y, const struct mat *x, float scale)
{
	const struct mat *both[] = {y, x};
	const struct sweep s = sweep_of(both, 2);

	if (s.wide)
		sweep_run(d, "add", addition<WIDE>{view_of<float>(y), view_of<float>(x), scale}, &s);
	else
		sweep_run(d, "add", addition<1>{view_of<float>(y), view_of<float>(x), scale}, &s);
}
