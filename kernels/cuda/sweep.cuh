/* Kernels that meet every element of a few matrices of one shape once: bound by memory.
 *
 * What happens to an element is a struct: W, how many elements at a time (WIDE where pointers, leading dimensions and columns
 * allow it, which makes accesses of 16 bytes for F32, else 1); `struct in`, what is read of them; load and store.  A thread
 * reads UNROLL times before it first writes, so that enough bytes are on their way; in place is therefore fine where an
 * element's result lies where it was read.  Nothing is summed, so the launch does not show in results. */
#ifndef QJOB_KERNELS_CUDA_SWEEP_CUH
#define QJOB_KERNELS_CUDA_SWEEP_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

enum { WIDE = 4, UNROLL = 4, SWEEPERS = 256, MOST_BLOCKS_Y = 65535 };

/* ---- numbers, rounded once, to nearest even ---- */

__device__ inline float widen(float v) { return v; }
__device__ inline float widen(__half v) { return __half2float(v); }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline double widen(double v) { return v; }

__device__ inline void round_into(float &to, float v) { to = v; }
__device__ inline void round_into(__half &to, float v) { to = __float2half_rn(v); }
__device__ inline void round_into(__nv_bfloat16 &to, float v) { to = __float2bfloat16_rn(v); }
__device__ inline void round_into(double &to, float v) { to = v; }
__device__ inline void round_into(float &to, double v) { to = __double2float_rn(v); }
__device__ inline void round_into(__half &to, double v) { to = __double2half(v); }
__device__ inline void round_into(__nv_bfloat16 &to, double v) { to = __double2bfloat16(v); }
__device__ inline void round_into(double &to, double v) { to = v; }

/* ---- matrices in kernels ---- */

template <class T, int W> struct alignas(sizeof(T) * W > 16 ? 16 : sizeof(T) * W) pack {
	T v[W];
};

template <int BYTES> struct word;
template <> struct word<2> { typedef unsigned short type; };
template <> struct word<4> { typedef unsigned type; };
template <> struct word<8> { typedef uint2 type; };
template <> struct word<16> { typedef uint4 type; };

/* A matrix whose type is known; p NULL: none.  put asks for whole words by an intrinsic: left to itself, the compiler splits the
 * last of several stores under a condition into its elements. */
template <class T> struct view {
	T *p;
	int64_t ld;

	template <int W> __device__ pack<T, W> get(int64_t row, int64_t col) const
	{
		return *reinterpret_cast<const pack<T, W> *>(p + row * ld + col);
	}

	template <int W> __device__ void put(int64_t row, int64_t col, const pack<T, W> &v) const
	{
		typedef typename word<alignof(pack<T, W>)>::type whole;
		whole w[sizeof(v) / sizeof(whole)];

		memcpy(w, &v, sizeof(v));
		#pragma unroll
		for (size_t i = 0; i < sizeof(v) / sizeof(whole); i++)
			__stwb(reinterpret_cast<whole *>(p + row * ld + col) + i, w[i]);
	}
};

/* m may be NULL. */
template <class T> inline view<T>
view_of(const struct mat *m)
{
	view<T> v = {NULL, 0};

	if (m) {
		v.p = (T *)m->p;
		v.ld = m->ld;
	}
	return v;
}

/* The rows [row, row + rows) and columns [col, col + cols) of m. */
inline struct mat
part_of(const struct mat *m, int64_t row, int64_t col, int64_t rows, int64_t cols)
{
	struct mat p = *m;

	p.p = (char *)m->p + (row * m->ld + col) * (int64_t)cuda_size(m->type);
	p.rows = rows;
	p.cols = cols;
	return p;
}

/* WIDE elements of a row may be met at a time, where the columns are a multiple of them. */
inline bool
is_wide(const struct mat *m)
{
	size_t size = cuda_size(m->type), align = size * WIDE > 16 ? 16 : size * WIDE;

	return (uintptr_t)m->p % align == 0 && (m->rows == 1 || (size_t)m->ld * size % align == 0);
}

/* ---- the sweep ---- */

struct sweep {
	int64_t rows, cols;
	bool wide;
};

/* Over n matrices of one shape.  Without gaps they are one row: then odd columns are no hindrance. */
inline struct sweep
sweep_of(const struct mat *const *m, int n)
{
	struct sweep s = {m[0]->rows, m[0]->cols, true};
	bool flat = true;

	for (int i = 0; i < n; i++)
		flat = flat && (m[i]->ld == m[i]->cols || m[i]->rows == 1);
	if (flat) {
		s.cols *= s.rows;
		s.rows = 1;
	}
	for (int i = 0; i < n; i++) {
		struct mat one = *m[i];

		one.rows = s.rows;
		s.wide = s.wide && is_wide(&one);
	}
	s.wide = s.wide && s.cols % WIDE == 0;
	return s;
}

template <class Op> __global__ void __launch_bounds__(SWEEPERS)
sweep_kernel(const Op op, int64_t rows, int64_t cols)
{
	const int64_t step = (int64_t)blockDim.x * Op::W;
	const int64_t col = (int64_t)blockIdx.x * step * UNROLL + threadIdx.x * Op::W;
	int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y;

	for (; row < rows; row += (int64_t)gridDim.y * blockDim.y) {
		typename Op::in in[UNROLL];

		#pragma unroll
		for (int k = 0; k < UNROLL; k++)
			if (col + k * step < cols)
				in[k] = op.load(row, col + k * step);
		#pragma unroll
		for (int k = 0; k < UNROLL; k++)
			if (col + k * step < cols)
				op.store(row, col + k * step, in[k]);
	}
}

/* Blocks of 256 threads: as many along a row as it has work for, the rest along the rows. */
template <class Op> inline void
sweep_run(struct dev *d, const char *name, const Op &op, const struct sweep *s)
{
	int64_t shares = (s->cols / Op::W + UNROLL - 1) / UNROLL, wide = 8, blocks_x, blocks_y;

	if (s->rows <= 0 || s->cols <= 0 || cuda_failed(d))
		return;
	while (wide < SWEEPERS && wide < shares)
		wide *= 2;
	blocks_x = (shares + wide - 1) / wide;
	blocks_y = (s->rows * wide + SWEEPERS - 1) / SWEEPERS;
	if (blocks_y > MOST_BLOCKS_Y)
		blocks_y = MOST_BLOCKS_Y;
	sweep_kernel<<<dim3((unsigned)blocks_x, (unsigned)blocks_y), dim3((unsigned)wide, (unsigned)(SWEEPERS / wide)), 0,
	               cuda_gpu(d)->stream>>>(op, s->rows, s->cols);
	cuda_launched(d, name);
}

#endif
