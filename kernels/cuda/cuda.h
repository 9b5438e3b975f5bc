/* The CUDA backend, inside.
 *
 * Every operation of a device is put into one stream, in the order in which it was called, so room of the arena may be given
 * back as soon as what uses it has been put there; an operation that uses other streams too begins and ends in that one.
 * Nothing waits but dev_status, dev_get and what returns a number.
 *
 * A .cu file holds kernels and, as extern "C", the operations made of them; cuda.c holds the device and the table.  Results are
 * the same for equal inputs on equal cards: sums run in an order that follows from the shapes alone, there are no
 * atomic additions, and cuBLAS has a fixed workspace. */
#ifndef QJOB_KERNELS_CUDA_CUDA_H
#define QJOB_KERNELS_CUDA_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/ops.h"

/* What this backend keeps of a device. */
struct gpu {
	int ordinal, sms;             /* the card's number; its multiprocessors */
	cudaStream_t stream;
	cublasHandle_t blas;          /* in the stream; results by pointers of the host; no TF32 unless asked for */
	cublasLtHandle_t lt;
	cusolverDnHandle_t solver;    /* in the stream */
	void *workspace;              /* of cuBLAS and cuBLASLt */
	size_t workspace_bytes;
	/* Of the host, visible to the card: the least fault of weights that a kernel has noted (atomicMin, so that the least row is named
	 * whichever block met it): row << 4 | the scale's stored type << 2 | 1 not finite, 2 a scale out of its range.  The device fails
	 * when it is next waited for. */
	unsigned long long *fault;
	struct memory *memory;        /* memory.c's */
	struct linear *linear;        /* linear.cu's; NULL until it is needed */
	struct lanes *lanes;          /* statistics.cu's; the same */
};

struct gpu *cuda_gpu(struct dev *d);
enum dtype cuda_operand(const struct dev *d);  /* what operands of products are: F32, BF16 or F16 */
bool cuda_failed(const struct dev *d);

/* Marks the device failed.  code is one of err.h's. */
__attribute__((format(printf, 3, 4))) void cuda_fail(struct dev *d, int code, const char *fmt, ...);
/* True when e is good; else marks the device failed: "OP: what the library says". */
bool cuda_ok(struct dev *d, const char *op, cudaError_t e);
bool cuda_blas_ok(struct dev *d, const char *op, cublasStatus_t e);
bool cuda_solver_ok(struct dev *d, const char *op, cusolverStatus_t e);
/* After a launch. */
bool cuda_launched(struct dev *d, const char *op);

/* bytes of the arena, 256-byte aligned, uninitialised; NULL after marking the device failed.  Take a mark before and go back to it when
 * what uses the bytes is in the stream. */
void *cuda_take(struct dev *d, size_t bytes);
struct mat cuda_mat(struct dev *d, enum dtype type, int64_t rows, int64_t cols);      /* ld = cols; p NULL after a failure */
size_t cuda_mark(const struct dev *d);
void cuda_back(struct dev *d, size_t mark);

size_t cuda_size(enum dtype type);             /* bytes of an element */
cudaDataType_t cuda_type(enum dtype type);     /* of operands, in cuBLAS's words */

/* m itself where it has the type, else a copy of the arena (contiguous) that has; p NULL after a failure. */
struct mat cuda_as(struct dev *d, const struct mat *m, enum dtype type);
/* c[M,N] F32 = (or +=) a[M,K] b[N,K]^T: rows of both are K long.  Both of one type of operands, row-major. linear.cu */
void cuda_gemm_nt(struct dev *d, struct mat *c, const struct mat *a, const struct mat *b, bool add);

/* ---- the operations; contracts in ops.h ---- */

/* forward.cu */
void cuda_convert(struct dev *d, struct mat *y, const struct mat *x);
void cuda_embed(struct dev *d, struct mat *y, const struct mat *table, const struct mat *ids);
void cuda_norm(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n);
void cuda_rope(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen);
void cuda_act(struct dev *d, struct mat *y, const struct mat *x, enum act act);
void cuda_gated(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up, enum act act);
void cuda_add(struct dev *d, struct mat *y, const struct mat *x, float scale);
/* linear.cu */
void cuda_linear(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w, const struct mat *bias, bool add);
void cuda_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b);
/* attention.cu */
void cuda_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v,
                    const struct attention *a);
/* nll.cu */
void cuda_nll(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head, const struct mat *bias,
              const struct mat *ids, int64_t seqlen);
/* statistics.cu */
void cuda_token_weight(struct dev *d, struct mat *a, const struct mat *x);
void cuda_gram(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a);
void cuda_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a);
/* factor.cu */
void cuda_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag);
int64_t cuda_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead);
int64_t cuda_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda);
/* fit.cu, round.cu, babai.cu */
void cuda_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g);
void cuda_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g);
void cuda_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g);
void cuda_miss(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g);
void cuda_pack_codes(struct dev *d, struct mat *stream, const struct mat *code, int bits);
void cuda_unpack_codes(struct dev *d, struct mat *code, const struct mat *stream, int bits);
void cuda_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u,
                const struct mat *order, const struct mat *weight, const struct grid *g, const struct babai *b);

#ifdef __cplusplus
}
#endif

#endif
