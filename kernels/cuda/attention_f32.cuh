/* Attention in fp32.  Included by attention.cu alone.
 *
 * A block of 256 threads holds 64 queries of a head and meets 64 keys at a time.  A thread has the queries 4 (thread / 16) .. + 3,
 * of a tile the keys thread % 16 + 0, 16, 32, 48, and of a panel of sums the columns 4 (thread % 16) .. + 3. */
#ifndef QJOB_KERNELS_CUDA_ATTENTION_F32_CUH
#define QJOB_KERNELS_CUDA_ATTENTION_F32_CUH

#include <math.h>

#include "kernels/cuda/attention_job.cuh"

enum {
	SQUARE = 64,                 /* MATH_F32: queries and keys of a tile, columns of a panel */
	STEP = 32,                   /* columns of queries and keys in shared memory at a time */
	PITCH = STEP + 4,            /* rows 4 words apart on the banks: 8 lanes read 16 bytes each of 8 rows at once */
	WEIGHTS = SQUARE + 4,        /* the pitch of weights, for the same reason */
};

/* 64 rows of COLS columns of a head; zero past n rows and its width. */
template <int COLS, int LD>
__device__ __forceinline__ void
stage_floats(float (&to)[SQUARE * PITCH * 2], int from, const struct floats &m, int64_t row, int n, int head, int col, int width)
{
	#pragma unroll
	for (int i = threadIdx.x; i < SQUARE * COLS; i += 256) {
		int r = i / COLS, c = i % COLS;
		bool is_there = r < n && col + c < width;

		to[from + r * LD + c] = is_there ? m.p[(row + r) * m.ld + (int64_t)head * width + col + c] : 0.f;
	}
}

__device__ __forceinline__ float
dot_4(float sum, const float4 &a, const float4 &b)
{
	return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

__device__ __forceinline__ void
score_square(float (&s)[4][4], const float (&staged)[SQUARE * PITCH * 2])
{
	int ty = threadIdx.x / 16, tx = threadIdx.x % 16;

	#pragma unroll
	for (int c = 0; c < STEP; c += 4) {
		float4 k[4];

		#pragma unroll
		for (int b = 0; b < 4; b++)
			k[b] = *(const float4 *)&staged[(SQUARE + tx + 16 * b) * PITCH + c];
		#pragma unroll
		for (int a = 0; a < 4; a++) {
			float4 q = *(const float4 *)&staged[(ty * 4 + a) * PITCH + c];

			#pragma unroll
			for (int b = 0; b < 4; b++)
				s[a][b] = dot_4(s[a][b], q, k[b]);
		}
	}
}

/* Scores of one query become weights, as weigh_scores does it; 16 threads share a row.  Returns what brings earlier sums along. */
__device__ __forceinline__ float
weigh_row(const struct job &j, float (&s)[4], float &max, float &total, int query, int key)
{
	float scale = j.softcap > 0 ? 1.f : j.scale, most = max, sum = 0, by;

	#pragma unroll
	for (int b = 0; b < 4; b++) {
		if (j.softcap > 0)
			s[b] = j.softcap * tanhf(s[b] * j.scale / j.softcap);
		s[b] = is_seen(query, key + 16 * b, j.window) ? s[b] : -INFINITY;
		most = fmaxf(most, s[b]);
	}
	#pragma unroll
	for (int lanes = 1; lanes < 16; lanes *= 2)
		most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, lanes));
	by = max == -INFINITY ? 0.f : expf((max - most) * scale);
	max = most;
	#pragma unroll
	for (int b = 0; b < 4; b++) {
		s[b] = s[b] == -INFINITY ? 0.f : expf((s[b] - most) * scale);
		sum += s[b];
	}
	#pragma unroll
	for (int lanes = 1; lanes < 16; lanes *= 2)
		sum += __shfl_xor_sync(0xffffffff, sum, lanes);
	total = fmaf(total, by, sum);
	return by;
}

/* The sums' columns [4 (thread % 16), + 4) of a panel += weights times values. */
template <int N>
__device__ __forceinline__ void
weigh_square(float (&o)[4][N], int at, const float (&weight)[SQUARE * WEIGHTS], const float (&staged)[SQUARE * PITCH * 2])
{
	int ty = threadIdx.x / 16, tx = threadIdx.x % 16;

	#pragma unroll 4
	for (int key = 0; key < SQUARE; key += 4) {
		float4 v[4];

		#pragma unroll
		for (int b = 0; b < 4; b++)
			v[b] = *(const float4 *)&staged[(key + b) * SQUARE + tx * 4];
		#pragma unroll
		for (int a = 0; a < 4; a++) {
			float4 p = *(const float4 *)&weight[(ty * 4 + a) * WEIGHTS + key];

			o[a][at] = dot_4(o[a][at], p, make_float4(v[0].x, v[1].x, v[2].x, v[3].x));
			o[a][at + 1] = dot_4(o[a][at + 1], p, make_float4(v[0].y, v[1].y, v[2].y, v[3].y));
			o[a][at + 2] = dot_4(o[a][at + 2], p, make_float4(v[0].z, v[1].z, v[2].z, v[3].z));
			o[a][at + 3] = dot_4(o[a][at + 3], p, make_float4(v[0].w, v[1].w, v[2].w, v[3].w));
		}
	}
}

template <int PANELS>
static __global__ void __launch_bounds__(256)
attend_f32(const __grid_constant__ struct job j)
{
	/* Queries and keys, [64][PITCH] each, or a panel of values, [64][64]. */
	__shared__ __align__(16) float staged[SQUARE * PITCH * 2], weight[SQUARE * WEIGHTS];
	float o[4][PANELS * 4] = {{0}}, max[4], total[4] = {0};
	struct place at = place_of(j, SQUARE);
	int ty = threadIdx.x / 16, tx = threadIdx.x % 16, kv = at.head / j.group, end = at.first + at.count;

	for (int a = 0; a < 4; a++)
		max[a] = -INFINITY;
	for (int key = (at.first >= j.window ? at.first - j.window + 1 : 0) / SQUARE * SQUARE; key < end; key += SQUARE) {
		float s[4][4] = {{0}};
		int n = min(SQUARE, j.seqlen - key);

		for (int col = 0; col < j.width; col += STEP) {
			__syncthreads();
			stage_floats<STEP, PITCH>(staged, 0, j.q, at.start + at.first, at.count, at.head, col, j.width);
			stage_floats<STEP, PITCH>(staged, SQUARE * PITCH, j.k, at.start + key, n, kv, col, j.width);
			__syncthreads();
			score_square(s, staged);
		}
		#pragma unroll
		for (int a = 0; a < 4; a++) {
			float by = weigh_row(j, s[a], max[a], total[a], at.first + ty * 4 + a, key + tx);

			#pragma unroll
			for (int i = 0; i < PANELS * 4; i++)
				o[a][i] *= by;
			#pragma unroll
			for (int b = 0; b < 4; b++)
				weight[(ty * 4 + a) * WEIGHTS + tx + 16 * b] = s[a][b];
		}
		#pragma unroll
		for (int panel = 0; panel < PANELS; panel++) {
			__syncthreads();
			stage_floats<SQUARE, SQUARE>(staged, 0, j.v, at.start + key, n, kv, panel * 64, j.width);
			__syncthreads();
			weigh_square(o, panel * 4, weight, staged);
		}
	}
	#pragma unroll
	for (int a = 0; a < 4; a++) {
		float by = 1 / total[a];

		if (ty * 4 + a >= at.count)
			continue;
		#pragma unroll
		for (int i = 0; i < PANELS * 4; i += 2)
			write_pair(j, at, at.first + ty * 4 + a, i / 4 * 64 + tx * 4 + i % 4, o[a][i] * by, o[a][i + 1] * by);
	}
}

#endif
