/* Products of babai.cu: S = (W0 - Q) U over finished columns.
 *
 * Bound by math.  In fp32 they would take three quarters of the solver's time, so with PARTS > 0 they run in tensor cores: both
 * sides are written as sums of bf16 numbers (three hold all 24 bits, two hold 16), and the products of parts that count are
 * added, the small ones first.  Tensor cores cut sums off instead of rounding them, so no sum in them is longer than CHAIN.
 * Products within a span, K of 128, and all of F64 are plain. */
#ifndef QJOB_KERNELS_CUDA_BABAI_PRODUCT_CUH
#define QJOB_KERNELS_CUDA_BABAI_PRODUCT_CUH

#include "kernels/cuda/cuda.h"

#include <cuda_bf16.h>

enum {
	PARTS = 3,                 /* 0: plain fp32; 2: codes that differ from fp32's become a few in ten thousand; 3: none to speak of */
	MOST_PARTS = 3,
	CHAIN = 2048,
	SPLIT_THREADS = 256,
};

template <typename REAL> struct product {
	struct dev *d;
	REAL *done;                /* [rows][ld] W0 - Q */
	const REAL *u;             /* [n][u_ld] */
	int64_t rows, ld, u_ld;
	__nv_bfloat16 *left;       /* parts of done, [PARTS][most][ld]; NULL: plain */
	__nv_bfloat16 *right;      /* parts of some columns of u, [PARTS][n][width] */
	int64_t most, n, width;
};

/* Rows of numbers, and where each part of them goes. */
struct split_job {
	const float *from;
	__nv_bfloat16 *to[MOST_PARTS];
	int64_t from_ld, to_ld, cols;
	int parts;
};

/* to[p] = what the parts before p leave, rounded to bf16. */
__global__ static void
split_rows(const struct split_job j)
{
	for (int64_t i = threadIdx.x; i < j.cols; i += SPLIT_THREADS) {
		float rest = j.from[blockIdx.x * j.from_ld + i];

		#pragma unroll
		for (int p = 0; p < MOST_PARTS; p++)
			if (p < j.parts) {
				__nv_bfloat16 part = __float2bfloat16_rn(rest);

				j.to[p][blockIdx.x * j.to_ld + i] = part;
				rest -= __bfloat162float(part);
			}
	}
}

/* Rows a call's room holds for each row beside done, in bytes. */
template <typename REAL> static int64_t
product_room(int64_t n)
{
	return sizeof(REAL) == 4 ? (n + 15) / 16 * 16 * PARTS * (int64_t)sizeof(__nv_bfloat16) : 0;
}

/* Room for products of `rows` rows and up to `width` columns; false after a failure. */
template <typename REAL> static bool
product_take(struct product<REAL> *p, int64_t rows, int64_t n, int64_t width)
{
	p->most = rows;
	p->n = n;
	p->width = (width + 15) / 16 * 16;
	if (PARTS == 0 || sizeof(REAL) != 4 || n <= width)      /* one span has no product before it */
		return true;
	p->left = (__nv_bfloat16 *)cuda_take(p->d, (size_t)(PARTS * rows * p->ld) * sizeof(*p->left));
	p->right = (__nv_bfloat16 *)cuda_take(p->d, (size_t)(PARTS * n * p->width) * sizeof(*p->right));
	return p->left && p->right;
}

/* c[rows, cols] = (add: +=) done[:, from .. to) u[from .. to, at .. at + cols). */
struct piece {
	int64_t ld;                /* of c */
	int64_t from, to, at, cols;
	bool add;
};

template <typename REAL> static void
product_plain(const struct product<REAL> *p, REAL *c, const struct piece *k)
{
	const REAL one = 1, keep = k->add ? 1 : 0, *a = p->done + k->from, *b = p->u + k->from * p->u_ld + k->at;
	cudaDataType_t type = sizeof(REAL) == 4 ? CUDA_R_32F : CUDA_R_64F;
	cublasComputeType_t math = sizeof(REAL) == 4 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F;

	/* Rows here are columns to cuBLAS: c^T = b^T a^T. */
	cuda_blas_ok(p->d, "babai", cublasGemmEx(cuda_gpu(p->d)->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)k->cols, (int)p->rows,
	                                         (int)(k->to - k->from), &one, b, type, (int)p->u_ld, a, type, (int)p->ld, &keep, c,
	                                         type, (int)k->ld, math, CUBLAS_GEMM_DEFAULT));
}

/* The same from the parts; right holds those of u's rows [0, to) in the columns `at` and on. */
template <typename REAL> static void
product_parts(const struct product<REAL> *p, REAL *c, const struct piece *k)
{
	/* Parts of done and of u that are multiplied, the smallest products first. */
	static const signed char pairs[][2] = {{2, 0}, {1, 1}, {0, 2}, {1, 0}, {0, 1}, {0, 0}};
	const float one = 1;
	float keep = 0;

	for (int64_t from = k->from; from < k->to; from += CHAIN)
		for (int i = PARTS == MOST_PARTS ? 0 : 3; i < 6; i++) {
			int64_t length = k->to - from < CHAIN ? k->to - from : (int64_t)CHAIN;
			const __nv_bfloat16 *a = p->left + pairs[i][0] * p->most * p->ld + from;
			const __nv_bfloat16 *b = p->right + (pairs[i][1] * p->n + from) * p->width;

			if (!cuda_blas_ok(p->d, "babai",
			                  cublasGemmEx(cuda_gpu(p->d)->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)k->cols, (int)p->rows,
			                               (int)length, &one, b, CUDA_R_16BF, (int)p->width, a, CUDA_R_16BF, (int)p->ld,
			                               &keep, c, CUDA_R_32F, (int)k->ld, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT)))
				return;
			keep = 1;
		}
}

/* Columns [from, to) of done are as they will stay. */
template <typename REAL> static void
product_ready(const struct product<REAL> *p, int64_t from, int64_t to)
{
	struct split_job j = {};

	if (!p->left)
		return;
	j.from = (const float *)p->done + from;
	j.from_ld = j.to_ld = p->ld;
	j.cols = to - from;
	j.parts = PARTS;
	for (int k = 0; k < PARTS; k++)
		j.to[k] = p->left + k * p->most * p->ld + from;
	/* Grid: a row a block. */
	split_rows<<<(unsigned)p->rows, SPLIT_THREADS, 0, cuda_gpu(p->d)->stream>>>(j);
	cuda_launched(p->d, "babai");
}

/* c[rows, cols] = done[:, 0 .. k) u[0 .. k, at .. at + cols), all of those columns ready. */
template <typename REAL> static void
product_of(const struct product<REAL> *p, REAL *c, int64_t ld, int64_t k, int64_t at, int64_t cols)
{
	struct piece one = {ld, 0, k, at, cols, false};
	struct split_job j = {};

	if (!p->left) {
		product_plain(p, c, &one);
		return;
	}
	j.from_ld = p->u_ld;
	j.to_ld = p->width;
	j.parts = PARTS;
	for (int i = 0; i < PARTS; i++)
		j.to[i] = p->right + i * p->n * p->width;
	for (int64_t from = 0; from < cols && !cuda_failed(p->d); from += p->width) {
		one.at = at + from;
		one.cols = j.cols = cols - from < p->width ? cols - from : p->width;
		j.from = (const float *)p->u + one.at;
		/* Grid: a row a block. */
		split_rows<<<(unsigned)k, SPLIT_THREADS, 0, cuda_gpu(p->d)->stream>>>(j);
		product_parts(p, c + from, &one);
	}
}

/* c[rows, end - to) += done[:, from .. to) u[from .. to, to .. end). */
template <typename REAL> static void
product_add(const struct product<REAL> *p, REAL *c, int64_t ld, int64_t from, int64_t to, int64_t end)
{
	struct piece k = {ld, from, to, to, end - to, true};

	product_plain(p, c, &k);
}

/* c[rows, cols] = c inv(u[at .. at + cols, at .. at + cols)). */
template <typename REAL> static void
product_solve(const struct product<REAL> *p, REAL *c, int64_t ld, int64_t at, int64_t cols)
{
	cublasHandle_t blas = cuda_gpu(p->d)->blas;
	const void *u = p->u + at * (p->u_ld + 1);
	const double one = 1;
	const float single = 1;
	cublasStatus_t e;

	/* Rows here are columns to cuBLAS: u^T c'^T = c^T, u^T lower. */
	if (sizeof(REAL) == 4)
		e = cublasStrsm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, (int)cols, (int)p->rows,
		                &single, (const float *)u, (int)p->u_ld, (float *)c, (int)ld);
	else
		e = cublasDtrsm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, (int)cols, (int)p->rows,
		                &one, (const double *)u, (int)p->u_ld, (double *)c, (int)ld);
	cuda_blas_ok(p->d, "babai", e);
}

#endif
