/* The CPU backend, inside.  Every function runs on the thread that called the operation, and spreads its work
 * itself over d->threads OpenMP threads:
 *
 *     #pragma omp parallel for num_threads(d->threads) schedule(dynamic)
 *
 * What a piece of work computes, and in which order it adds, follows from the shape alone: the number of threads
 * never shows in a bit of the result.  Own loops add in fixed lanes (lanes.h), so that neither does the vector length. */
#ifndef QJOB_KERNELS_CPU_CPU_H
#define QJOB_KERNELS_CPU_CPU_H

#include "kernels/backend.h"

/* One for each member of struct backend; contracts in ops.h. */
void cpu_convert(struct dev *d, struct mat *y, const struct mat *x);
void cpu_embed(struct dev *d, struct mat *y, const struct mat *table, const struct mat *ids);
void cpu_norm(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n);
void cpu_linear(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w, const struct mat *bias,
                bool add);
void cpu_rope(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen);
void cpu_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v,
                   const struct attention *a);
void cpu_act(struct dev *d, struct mat *y, const struct mat *x, enum act act);
void cpu_gated(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up, enum act act);
void cpu_add(struct dev *d, struct mat *y, const struct mat *x, float scale);
void cpu_nll(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head, const struct mat *bias,
             const struct mat *ids, int64_t seqlen);
void cpu_token_weight(struct dev *d, struct mat *a, const struct mat *x);
void cpu_gram(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a);
void cpu_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a);
void cpu_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g);
void cpu_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g);
void cpu_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g);
void cpu_miss(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g);
void cpu_pack_codes(struct dev *d, struct mat *stream, const struct mat *code, int bits);
void cpu_unpack_codes(struct dev *d, struct mat *code, const struct mat *stream, int bits);
void cpu_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag);
int64_t cpu_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp,
                   int64_t *dead);
int64_t cpu_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda);
void cpu_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b);
void cpu_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u,
               const struct mat *order, const struct mat *weight, const struct grid *g, const struct babai *b);

/* Marks the device failed; safe from several threads at once. */
__attribute__((format(printf, 3, 4))) void cpu_fail(struct dev *d, int code, const char *fmt, ...);

/* bytes of the arena, 64-byte aligned, uninitialised; NULL after marking the device failed.  Save d->used before and put
 * it back when done; not from inside a parallel region. */
void *cpu_take(struct dev *d, size_t bytes);
/* The same as a matrix; p NULL after a failure. */
struct mat cpu_mat(struct dev *d, enum dtype type, int64_t rows, int64_t cols);

size_t cpu_size(enum dtype type);                        /* bytes of an element */
void *cpu_row(const struct mat *m, int64_t row);         /* its first byte */
/* The rows [row, row + m) and columns [col, col + n) of a matrix. */
struct mat mat_part(const struct mat *of, int64_t row, int64_t col, int64_t m, int64_t n);
/* m itself where it has the type and an element's alignment, else a copy of the arena (contiguous) that has; p NULL after a failure. */
struct mat cpu_as(struct dev *d, const struct mat *m, enum dtype type);
int cpu_worker(void);                                    /* of the running parallel region: 0 .. d->threads-1 */

/* Rows of numbers, any alignment; float types only, rounded to nearest even. */
void cpu_load(float *to, const void *from, enum dtype type, int64_t n);
void cpu_store(void *to, enum dtype type, const float *from, int64_t n);

/* c[M,N] F32 = a[M,K] b[K,N], a and b both F32 or both BF16 (only where operand_type says so), of any stride.  (c -= a b:
 * negate a.)  No side may be 0. */
enum {
	GEMM_AT  = 1 << 0,     /* a is stored as [K,M] */
	GEMM_BT  = 1 << 1,     /* b is stored as [N,K] */
	GEMM_ADD = 1 << 2,     /* c += */
};
/* What operands of a product are held in under d->math: BF16 where that is wanted and native; else F32, already rounded to
 * bf16 or fp16 where that is wanted. */
enum dtype operand_type(struct dev *d);
/* m as such an operand: itself, or a copy of the arena; p NULL after a failure. */
struct mat cpu_operand(struct dev *d, const struct mat *m);
/* The same for n numbers, to from x of any float type. */
void operand_row(struct dev *d, void *to, const void *x, enum dtype type, int64_t n);
/* In fixed tiles, over all threads of d. */
void gemm(struct dev *d, struct mat *c, const struct mat *a, const struct mat *b, unsigned how);
/* The whole product by the calling thread alone: for use inside a parallel region.  Few shapes, please: each is compiled once. */
void gemm_here(struct dev *d, struct mat *c, const struct mat *a, const struct mat *b, unsigned how);

#endif
