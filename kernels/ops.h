/* The operations every backend provides, and their contracts.
 *
 * T tokens, D model width, O output features, I input features, H heads, K key-value heads, E head
 * width, V vocabulary, G groups (ceil(I / group)), n a square matrix of inputs.  Shapes and types are checked
 * here, once, before the backend is called.  Activations are F32 unless said, and where they may be narrow F16 or BF16;
 * weights are F32, F16 or BF16 as stored.  Tokens of one sequence are consecutive rows; T is a multiple of seqlen. */
#ifndef QJOB_KERNELS_OPS_H
#define QJOB_KERNELS_OPS_H

#include <stdbool.h>

#include "kernels/dev.h"

enum act { ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_QUICK_GELU, ACT_RELU };

struct norm {
	struct mat w, b;      /* [1,D]; b.p NULL: none */
	float eps;
	bool layer;           /* mean subtracted (layer norm); else RMS */
	float w_add;          /* added to w: 1 for Gemma */
};

/* ---- forward ---- */

void op_convert(struct dev *d, struct mat *y,
                const struct mat *x);                      /* y = x, rounded to y's type */
void op_embed(struct dev *d, struct mat *y, const struct mat *table,
              const struct mat *ids);   /* y[T,D] = table[ids[1,T] I32] */
void op_norm(struct dev *d, struct mat *y, const struct mat *x,
             const struct norm *n);   /* rowwise; y[T,D] may be x, or narrow */
/* The same over each head apart: x[T,H*E], n->w [1,E]. */
void op_norm_heads(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n);
/* y[T,O] = x[T,I] w[O,I]^T + bias[1,O] (NULL: none); add: y += instead.  x may be narrow. */
void op_linear(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w, const struct mat *bias,
               bool add);
/* Rotates x[T,H*E] in place; cos, sin [P,R/2] F32 with P >= seqlen, R <= E rotated dimensions; token t has
 * position t % seqlen.  interleaved: pairs (2i,2i+1), else (i, i+R/2). */
struct rope {
	struct mat cos, sin;
	bool interleaved;
};
void op_rope(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen);
/* Causal attention of each sequence: y[T,H*E] from q[T,H*E], k[T,K*E], v[T,K*E]; never holds T x T. y may be narrow. */
struct attention {
	int heads, kv_heads, width;   /* H, K, E */
	float scale;                  /* of the scores */
	float softcap;                /* 0: none */
	int64_t window;               /* a token sees itself and window-1 before it; 0: all */
	int64_t seqlen;
};
void op_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v,
                  const struct attention *a);
void op_act(struct dev *d, struct mat *y, const struct mat *x, enum act act);            /* y may be x, or narrow */
void op_gated(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up,
              enum act act);   /* y = act(gate) * up; y may be narrow */
void op_add(struct dev *d, struct mat *y, const struct mat *x, float scale);             /* y += scale * x */
/* nll[1,T] F32: -log softmax(x[T,D] head[V,D]^T)[ids[t+1]], in chunks, never T x V at once; 0 for the last
 * token of each sequence.  log-sum-exp in double. */
void op_nll(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head, const struct mat *bias,
            const struct mat *ids, int64_t seqlen);

/* ---- statistics ---- */

/* a[1,T] = 1 / rms(x[t]): the factor that scales each token to unit mean energy (0 for a zero token). */
void op_token_weight(struct dev *d, struct mat *a, const struct mat *x);
/* h[n,n] F32 += sum_t a_t^2 x_t x_t^T, lower triangle; what lies above it may be overwritten.  a NULL: all 1. x may be narrow.  fp32
 * products and sums in chunks of at most 2048 tokens, chunks added in order; the result does not depend on how T is cut at
 * multiples of 2048. */
void op_gram(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a);
/* c[n,n] F32 += sum_t a_t^2 (f_t - x_t) x_t^T, full: the cross statistics of QEP; f is the full-precision stream. */
void op_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a);

/* ---- quantization ---- */

/* Where scales are searched.  Sources: reference formats and numerics of the GPTQ, llm-compressor and GPTQModel tools. */
enum search {
	SEARCH_MINMAX,    /* the range itself */
	SEARCH_MSE,       /* shrunk ranges, least sum |q-w|^2.4 */
	SEARCH_WEIGHTED,  /* shrunk ranges, least sum weight_i (q-w)^2, weight = diag(H) */
};

/* How codes and scales are rounded; the peers differ in the last bit, `compat` follows them. */
enum rounding {
	ROUND_STORED,     /* scale rounded to `stored` first, codes chosen with it */
	ROUND_FP32,       /* GPTQModel: codes chosen with the fp32 scale, which is stored rounded afterwards */
	ROUND_STEPWISE,   /* llm-compressor: every operation rounded to the weight's own type */
};

struct grid {
	int bits;              /* 2..8 */
	int64_t group;         /* inputs that share a scale; a short last group is allowed */
	bool sym;              /* zero = 2^(bits-1); scale = 2 amax / (2^bits - 1) */
	enum search search;
	enum rounding rounding;
	enum dtype stored;     /* type of the stored scale: F16, BF16, F32 */
	int zero_min;          /* least zero point allowed (1 for gptq v1 asym, else 0) */
};

/* A quantized matrix on a device: w[o,i] ~= scale[o,g] * (code[o,i] - zero[o,g]), g = group_of[i]. */
struct qmat {
	struct mat code;       /* U8 [O,I], 0 .. 2^bits-1, original column order */
	struct mat scale;      /* F32 [O,G]; values exactly representable in grid.stored (ROUND_FP32: before storing) */
	struct mat zero;       /* U8 [O,G] */
	struct mat group_of;   /* I32 [1,I] */
};

/* Scale and zero of every group i / group of w[O,I] (sets group_of so); weight [1,I] F32 for SEARCH_WEIGHTED, else NULL. */
void op_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g);
/* Codes nearest to w with q's scales and zeros; ties to even. */
void op_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g);
/* w[O,I] (any float type) = the dequantized matrix: fp32 product, then rounded to w's type; uses the scale as stored. */
void op_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g);

/* loss[1,O] F64 = what w (F32, F16 or BF16) and the dequantized matrix differ by: the sum of squares a row. */
void op_miss(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g);

/* Codes of one byte each as rows of bit streams, and back: stream U8 [O, codes_bytes(I, bits)], see codes.h. */
void op_pack_codes(struct dev *d, struct mat *stream, const struct mat *code, int bits);
void op_unpack_codes(struct dev *d, struct mat *code, const struct mat *stream, int bits);

/* Columns by descending diag(h), stable; order[1,n] I32.  by_diag false: 0..n-1. */
void op_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag);
/* u[n,n] upper, positive diagonal, u u^T = h[order][:,order] + damp * mean(diag h) I; dead inputs (h_ii = 0) get
 * h_ii = 1 (before the mean is taken) and are counted in *dead.  h is the lower triangle of op_gram, scaled or not, and is
 * left as it is.  u is F32 or F64, and decides the arithmetic; zero below its diagonal.  Returns 0, or E_NUMERIC naming the
 * input (from 1) whose pivot is not positive (the device stays good, so the caller may damp more), or the device's failure. */
int op_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead);
/* out[O,n] = b[O,n] (h + lambda mean(diag h) I)^-1, by Cholesky; h lower triangle.  As op_factor for its result. */
int op_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda);
/* y[O,n] = a[O,m] b[m,n], fp32 whatever the math (small matrices of the solver). */
void op_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b);

/* GPTQ: codes of w[O,I] (F32) in the order `order`, by the blocked Babai recursion with factor u (op_factor).
 * loss[1,O] F64 = sum over columns of ((w - q) u)^2 a row, i.e. tr(dW H dW^T) of the damped h.
 *   static_groups: scales come ready in q (op_fit on the original columns).
 *   else: group p / group of processed position p; scales are fitted when its first column is reached, from the weights as
 *   corrected so far (stale: as they were at the start of the 128-column block, the peers' rule); group_of[order[p]] = p / group.
 * weight [1,I] for SEARCH_WEIGHTED in original columns, else NULL. */
struct babai {
	bool static_groups, stale;
	double ridge;                /* loss less ridge * sum (w - q)^2: with damp * mean(diag h), the loss of the undamped h */
	const struct mat *target;    /* loss of these weights, F32 [O,I], in place of w's; NULL: w's */
};
void op_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u,
              const struct mat *order, const struct mat *weight, const struct grid *g, const struct babai *b);

#endif
