/* Products of matrices, by cuBLASLt: bound by arithmetic from some hundred tokens on, below by reading the weights.
 *
 * Equal shapes must give equal bits, so an algorithm is chosen from what a shape is (sizes, leading dimensions, alignments up to 16
 * bytes) and never from what the card does otherwise; it has the whole fixed workspace.  K may be split only where the parts are
 * added in a fixed order: not at all, or through the workspace by a kernel of its own (COMPUTE_TYPE, OUTPUT_TYPE).  INPLACE parts
 * take turns at the result; in whose order is not promised, so it is refused. */
#include "kernels/cuda/linear.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/sweep.cuh"
#include "qjob/base/err.h"

enum {
	SHAPES = 256,             /* remembered: a model has some ten, times the sizes of its last pieces */
	CHOICES = 8,              /* asked for; the first that is allowed is taken */
	PANEL = 64 << 20,         /* bytes of weights converted at a time */
	STEP = 256,               /* rows of a panel are a multiple of it */
	ALIGNED = 16,             /* bytes; what every algorithm is content with */
	SCHEMES = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE,
};

/* c[M,N] F32 = a[M,K] b[N,K]^T + bias[N]; add: c +=.  bias.p NULL: none. */
struct product {
	struct mat c, a, b, bias;
	bool add;
};

/* In cuBLAS's words, whose matrices are ours transposed: A is our b, B our a, C and D our c. */
struct shape {
	int64_t type, biased;
	int64_t m, n, k;
	int64_t lda, ldb, ldc;
	int64_t align_a, align_b, align_c;
};

struct choice {
	struct shape shape;
	cublasLtMatmulAlgo_t algo;
	int64_t found;            /* 0: cuBLASLt has none that is allowed */
};

struct linear {
	int64_t chosen;           /* the next one replaces choice[chosen % SHAPES] */
	struct choice choice[SHAPES];
};

struct plan {
	cublasLtMatmulDescOpaque_t op;
	cublasLtMatrixLayoutOpaque_t a, b, c;
};

void
linear_close(struct linear *l)
{
	free(l);
}

/* ---- descriptions ---- */

/* The largest power of two up to ALIGNED that divides where rows of m start. */
static int64_t
alignment_of(const struct mat *m)
{
	uint64_t bits = (uint64_t)(uintptr_t)m->p | (uint64_t)m->ld * cuda_size(m->type) | ALIGNED;

	return (int64_t)(bits & -bits);
}

static struct shape
shape_of(const struct product *p, bool biased)
{
	const struct shape s = {
		p->a.type, biased, p->b.rows, p->a.rows, p->a.cols, p->b.ld, p->a.ld, p->c.ld,
		alignment_of(&p->b), alignment_of(&p->a), alignment_of(&p->c),
	};

	return s;
}

static cublasStatus_t
describe_op(cublasLtMatmulDesc_t op, const struct product *p, bool biased)
{
	const cublasOperation_t transposed = CUBLAS_OP_T;
	const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
	const void *bias = p->bias.p;
	cublasStatus_t e = cublasLtMatmulDescInit(op, CUBLAS_COMPUTE_32F, CUDA_R_32F);

	if (e == CUBLAS_STATUS_SUCCESS)
		e = cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
	if (e == CUBLAS_STATUS_SUCCESS && biased)
		e = cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue));
	if (e == CUBLAS_STATUS_SUCCESS && biased)
		e = cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias));
	return e;
}

static cublasStatus_t
describe(struct plan *l, const struct product *p, bool biased)
{
	const uint64_t m = (uint64_t)p->b.rows, n = (uint64_t)p->a.rows, k = (uint64_t)p->a.cols;
	cublasStatus_t e = describe_op(&l->op, p, biased);

	if (e == CUBLAS_STATUS_SUCCESS)
		e = cublasLtMatrixLayoutInit(&l->a, cuda_type(p->b.type), k, m, p->b.ld);
	if (e == CUBLAS_STATUS_SUCCESS)
		e = cublasLtMatrixLayoutInit(&l->b, cuda_type(p->a.type), k, n, p->a.ld);
	if (e == CUBLAS_STATUS_SUCCESS)
		e = cublasLtMatrixLayoutInit(&l->c, CUDA_R_32F, m, n, p->c.ld);
	return e;
}

/* ---- choosing ---- */

static cublasStatus_t
set_preference(cublasLtMatmulPreference_t to, cublasLtMatmulPreferenceAttributes_t what, uint32_t value)
{
	return cublasLtMatmulPreferenceSetAttribute(to, what, &value, sizeof(value));
}

static cublasStatus_t
prefer(cublasLtMatmulPreference_t to, const struct shape *s, uint64_t workspace)
{
	const uint32_t a = (uint32_t)s->align_a, b = (uint32_t)s->align_b, c = (uint32_t)s->align_c;
	cublasStatus_t e = cublasLtMatmulPreferenceInit(to);

	if (e == CUBLAS_STATUS_SUCCESS)
		e = cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace));
	if (e == CUBLAS_STATUS_SUCCESS)
		e = set_preference(to, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, SCHEMES);
	if (e == CUBLAS_STATUS_SUCCESS)
		e = set_preference(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a);
	if (e == CUBLAS_STATUS_SUCCESS)
		e = set_preference(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b);
	if (e == CUBLAS_STATUS_SUCCESS)
		e = set_preference(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c);
	if (e == CUBLAS_STATUS_SUCCESS)
		e = set_preference(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c);
	return e;
}

static bool
is_allowed(const cublasLtMatmulHeuristicResult_t *r, size_t workspace)
{
	uint32_t scheme = 0;
	size_t written;

	return r->state == CUBLAS_STATUS_SUCCESS && r->workspaceSize <= workspace
	       && cublasLtMatmulAlgoConfigGetAttribute(&r->algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof(scheme),
	                                               &written) == CUBLAS_STATUS_SUCCESS
	       && (scheme & ~(uint32_t)SCHEMES) == 0;
}

/* Sets c->algo and c->found. */
static void
choose(struct gpu *gpu, struct choice *c, struct plan *l)
{
	cublasLtMatmulPreferenceOpaque_t wish;
	cublasLtMatmulHeuristicResult_t result[CHOICES];
	int n = 0;

	c->found = 0;
	if (prefer(&wish, &c->shape, gpu->workspace_bytes) != CUBLAS_STATUS_SUCCESS
	    || cublasLtMatmulAlgoGetHeuristic(gpu->lt, &l->op, &l->a, &l->b, &l->c, &l->c, &wish, CHOICES, result, &n)
	    != CUBLAS_STATUS_SUCCESS)
		return;
	for (int i = 0; i < n && !c->found; i++) {
		if (is_allowed(&result[i], gpu->workspace_bytes)) {
			c->algo = result[i].algo;
			c->found = 1;
		}
	}
}

/* What the shape is computed with; NULL after marking the device failed. */
static const struct choice *
choice_of(struct dev *d, const struct shape *s, struct plan *plan)
{
	struct gpu *gpu = cuda_gpu(d);
	struct choice *c;

	if (!gpu->linear)
		gpu->linear = (struct linear *)calloc(1, sizeof(*gpu->linear));
	if (!gpu->linear) {
		cuda_fail(d, E_SYS, "out of host memory");
		return NULL;
	}
	for (int64_t i = 0; i < gpu->linear->chosen && i < SHAPES; i++)
		if (memcmp(&gpu->linear->choice[i].shape, s, sizeof(*s)) == 0)
			return &gpu->linear->choice[i];
	c = &gpu->linear->choice[gpu->linear->chosen++ % SHAPES];
	c->shape = *s;
	choose(gpu, c, plan);
	return c;
}

/* ---- multiplying ---- */

struct bias_addition {
	static constexpr int W = 1;
	struct in {
		float y, bias;
	};
	view<float> y, bias;

	__device__ in load(int64_t row, int64_t col) const
	{
		return in{y.get<1>(row, col).v[0], bias.get<1>(0, col).v[0]};
	}

	__device__ void store(int64_t row, int64_t col, const in &from) const
	{
		y.put<1>(row, col, pack<float, 1>{{from.y + from.bias}});
	}
};

static void
add_bias(struct dev *d, const char *op, const struct mat *y, const struct mat *bias)
{
	const struct sweep s = {y->rows, y->cols, false};

	sweep_run(d, op, bias_addition{view_of<float>(y), view_of<float>(bias)}, &s);
}

/* Where cuBLASLt has no algorithm that is allowed: odd alignments of narrow operands, mostly. */
static void
multiply_plainly(struct dev *d, const char *op, const struct product *p)
{
	const float one = 1, beta = p->add ? 1 : 0;

	cuda_blas_ok(d, op, cublasGemmEx_64(cuda_gpu(d)->blas, CUBLAS_OP_T, CUBLAS_OP_N, p->b.rows, p->a.rows, p->a.cols, &one, p->b.p,
	                                    cuda_type(p->b.type), p->b.ld, p->a.p, cuda_type(p->a.type), p->a.ld, &beta, p->c.p, CUDA_R_32F,
	                                    p->c.ld, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

/* The bias is added on the way out where everything is aligned, which is as good as always. */
static void
multiply(struct dev *d, const char *op, const struct product *p)
{
	struct shape s = shape_of(p, false);
	struct gpu *gpu = cuda_gpu(d);
	const float one = 1, beta = p->add ? 1 : 0;
	const struct choice *c;
	struct plan l;

	if (s.m == 0 || s.n == 0 || cuda_failed(d))
		return;
	s.biased = p->bias.p && (uintptr_t)p->bias.p % ALIGNED == 0 && s.align_a == ALIGNED && s.align_b == ALIGNED && s.align_c == ALIGNED;
	if (!cuda_blas_ok(d, op, describe(&l, p, s.biased != 0)))
		return;
	c = choice_of(d, &s, &l);
	if (!c)
		return;
	if (c->found)
		cuda_blas_ok(d, op, cublasLtMatmul(gpu->lt, &l.op, &one, p->b.p, &l.a, p->a.p, &l.b, &beta, p->c.p, &l.c, p->c.p, &l.c,
		                                   &c->algo, gpu->workspace, gpu->workspace_bytes, gpu->stream));
	else
		multiply_plainly(d, op, p);
	if (p->bias.p && !(c->found && s.biased))
		add_bias(d, op, &p->c, &p->bias);
}

void
cuda_gemm_nt(struct dev *d, struct mat *c, const struct mat *a, const struct mat *b, bool add)
{
	struct product p = {};

	p.c = *c;
	p.a = *a;
	p.b = *b;
	p.add = add;
	multiply(d, "product", &p);
}

/* ---- linear ---- */

/* Outputs of a panel of weights that have to be converted. */
static int64_t
panel_rows(int64_t inputs, enum dtype type)
{
	int64_t rows = PANEL / (inputs * (int64_t)cuda_size(type)) / STEP * STEP;

	if (rows < STEP)
		rows = STEP;
	return rows;
}

void
cuda_linear(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w, const struct mat *bias, bool add)
{
	const enum dtype operand = cuda_operand(d);
	const size_t mark = cuda_mark(d);
	const int64_t step = w->type == operand ? w->rows : panel_rows(w->cols, operand);
	struct product p = {};
	int64_t from, n;
	size_t panel_mark;

	p.a = cuda_as(d, x, operand);
	p.add = add;
	panel_mark = cuda_mark(d);
	for (from = 0; from < w->rows && !cuda_failed(d); from += n) {
		struct mat panel;

		n = w->rows - from < step ? w->rows - from : step;
		panel = part_of(w, from, 0, n, w->cols);
		p.b = cuda_as(d, &panel, operand);
		p.c = part_of(y, 0, from, y->rows, n);
		if (bias)
			p.bias = part_of(bias, 0, from, 1, n);
		if (p.b.p)
			multiply(d, "linear", &p);
		cuda_back(d, panel_mark);
	}
	cuda_back(d, mark);
}

/* Row-major y = a b is, to cuBLAS, y^T = b^T a^T of matrices that it sees transposed already. */
void
cuda_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b)
{
	const float one = 1, zero = 0;

	cuda_blas_ok(d, "matmul", cublasGemmEx_64(cuda_gpu(d)->blas, CUBLAS_OP_N, CUBLAS_OP_N, y->cols, y->rows, a->cols, &one, b->p,
	                                          CUDA_R_32F, b->ld, a->p, CUDA_R_32F, a->ld, &zero, y->p, CUDA_R_32F, y->ld,
	                                          CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}
