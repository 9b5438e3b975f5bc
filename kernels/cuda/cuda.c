#include "kernels/cuda/cuda.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/memory.h"

enum {
	TOKENS = 8192,               /* enough rows for the narrowest linear to fill a card */
	WORKSPACE = 64 << 20,        /* of cuBLAS; as large as it asks for on Hopper */
	LEAST_COMPUTE = 80,          /* bf16 in tensor cores, asynchronous copies */
};

/* ---- for the operations ---- */

struct gpu *
cuda_gpu(struct dev *d)
{
	return d->own;
}

enum dtype
cuda_operand(const struct dev *d)
{
	return math_operand(d->math);
}

bool
cuda_failed(const struct dev *d)
{
	return d->status < 0;
}

void
cuda_fail(struct dev *d, int code, const char *fmt, ...)
{
	char why[sizeof(d->why)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	dev_fail(d, code, "%s", why);
}

bool
cuda_ok(struct dev *d, const char *op, cudaError_t e)
{
	if (e != cudaSuccess)
		dev_fail(d, E_SYS, "%s: %s", op, cudaGetErrorString(e));
	return e == cudaSuccess;
}

bool
cuda_blas_ok(struct dev *d, const char *op, cublasStatus_t e)
{
	if (e != CUBLAS_STATUS_SUCCESS)
		dev_fail(d, E_SYS, "%s: cuBLAS says %s", op, cublasGetStatusString(e));
	return e == CUBLAS_STATUS_SUCCESS;
}

bool
cuda_solver_ok(struct dev *d, const char *op, cusolverStatus_t e)
{
	if (e != CUSOLVER_STATUS_SUCCESS)
		dev_fail(d, E_SYS, "%s: cuSOLVER gives up with code %d", op, (int)e);
	return e == CUSOLVER_STATUS_SUCCESS;
}

bool
cuda_launched(struct dev *d, const char *op)
{
	return cuda_ok(d, op, cudaGetLastError());
}

void *
cuda_take(struct dev *d, size_t bytes)
{
	size_t at = d->used;

	d->used = (at + 255) / 256 * 256;
	return arena_take(d, "room to compute in", bytes);
}

struct mat
cuda_mat(struct dev *d, enum dtype type, int64_t rows, int64_t cols)
{
	struct mat m = {.rows = rows, .cols = cols, .ld = cols, .type = type};

	m.p = cuda_take(d, (size_t)rows * (size_t)cols * cuda_size(type));
	return m;
}

size_t
cuda_mark(const struct dev *d)
{
	return d->used;
}

void
cuda_back(struct dev *d, size_t mark)
{
	d->used = mark;
}

size_t
cuda_size(enum dtype type)
{
	static const unsigned char size[DTYPES] = {
		[F32] = 4, [F16] = 2, [BF16] = 2, [F64] = 8, [I64] = 8, [I32] = 4, [I16] = 2,
		[I8] = 1, [U8] = 1, [BOOL] = 1, [F8_E4M3] = 1, [F8_E5M2] = 1,
	};

	return size[type];
}

cudaDataType_t
cuda_type(enum dtype type)
{
	return type == BF16 ? CUDA_R_16BF : type == F16 ? CUDA_R_16F : CUDA_R_32F;
}

struct mat
cuda_as(struct dev *d, const struct mat *m, enum dtype type)
{
	struct mat copy;

	if (m->type == type)
		return *m;
	copy = cuda_mat(d, type, m->rows, m->cols);
	if (copy.p)
		cuda_convert(d, &copy, m);
	return copy;
}

/* ---- the card ---- */

/* The number in "cuda:N", 0 without one. */
static int
ordinal_of(const char *name)
{
	const char *colon = name ? strchr(name, ':') : NULL;

	return colon ? (int)strtol(colon + 1, NULL, 10) : 0;
}

/* 0, or -1 with a sentence in text. */
static int
find_card(int ordinal, struct cudaDeviceProp *card, char *text, size_t size)
{
	int n = 0;
	cudaError_t e = cudaGetDeviceCount(&n);

	if (e == cudaSuccess && ordinal < n)
		e = cudaGetDeviceProperties(card, ordinal);
	if (e != cudaSuccess)
		snprintf(text, size, "%s", cudaGetErrorString(e));
	else if (ordinal >= n)
		snprintf(text, size, "there %s %d CUDA card%s, numbered from 0", n == 1 ? "is" : "are", n, n == 1 ? "" : "s");
	else if (card->major * 10 + card->minor < LEAST_COMPUTE)
		snprintf(text, size, "%.100s has compute capability %d.%d; at least %d.%d is needed", card->name, card->major, card->minor,
		         LEAST_COMPUTE / 10, LEAST_COMPUTE % 10);
	else
		return 0;
	return -1;
}

static int
library_version(int (*get)(int part), char *text, size_t size)
{
	return snprintf(text, size, "%d.%d.%d", get(MAJOR_VERSION), get(MINOR_VERSION), get(PATCH_LEVEL));
}

static int
blas_part(int part)
{
	int v = 0;

	cublasGetProperty((libraryPropertyType)part, &v);
	return v;
}

static int
solver_part(int part)
{
	int v = 0;

	cusolverGetProperty((libraryPropertyType)part, &v);
	return v;
}

/* Names of cards have spaces, facts are words. */
static void
one_word(char *name)
{
	for (; *name; name++)
		if (*name == ' ')
			*name = '-';
}

/* Which code runs and how the libraries cut their work follows from the card and from their versions. */
static int
cuda_facts(const struct dev_options *o, char *text, size_t size)
{
	struct cudaDeviceProp card;
	char blas[32], solver[32];
	int runtime = 0, n;

	if (find_card(ordinal_of(o->name), &card, text, size) != 0)
		return -1;
	one_word(card.name);
	cudaRuntimeGetVersion(&runtime);
	library_version(blas_part, blas, sizeof(blas));
	library_version(solver_part, solver, sizeof(solver));
	n = snprintf(text, size, "device cuda\ncard %s\ncompute %d.%d\nmultiprocessors %d\ncuda %d.%d\ncublas %s\ncusolver %s\n", card.name,
	             card.major, card.minor, card.multiProcessorCount, runtime / 1000, runtime % 1000 / 10, blas, solver);
	if (n >= 0 && (size_t)n < size)
		return 0;
	snprintf(text, size, "the facts need more room");
	return -1;
}

static void
cuda_describe(char *text, size_t size)
{
	char blas[32], solver[32];
	int n = 0, driver = 0, runtime = 0;
	size_t at;

	cudaDriverGetVersion(&driver);
	cudaRuntimeGetVersion(&runtime);
	library_version(blas_part, blas, sizeof(blas));
	library_version(solver_part, solver, sizeof(solver));
	at = (size_t)snprintf(text, size, "cuda: driver for CUDA %d.%d, runtime %d.%d, cuBLAS %s, cuSOLVER %s\n", driver / 1000,
	                      driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, blas, solver);
	if (cudaGetDeviceCount(&n) != cudaSuccess)
		n = 0;
	for (int i = 0; i <= n && at < size; i++) {
		struct cudaDeviceProp card;
		char why[400];

		if (find_card(i, &card, why, sizeof(why)) == 0)
			at += (size_t)snprintf(text + at, size - at,
			                       "cuda:%d: %s, compute capability %d.%d, %d multiprocessors, %.1f GiB\n", i, card.name,
			                       card.major, card.minor, card.multiProcessorCount,
			                       (double)card.totalGlobalMem / (1 << 30));
		else if (i < n || n == 0)
			at += (size_t)snprintf(text + at, size - at, "cuda:%d: %s\n", i, why);
	}
}

static bool
open_libraries(struct dev *d, struct gpu *gpu)
{
	if (!cuda_ok(d, "stream", cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking))
	    || !cuda_ok(d, "workspace", cudaMalloc(&gpu->workspace, WORKSPACE))
	    || !cuda_ok(d, "fault word", cudaHostAlloc((void **)&gpu->fault, sizeof(*gpu->fault), cudaHostAllocMapped)))
		return false;
	gpu->workspace_bytes = WORKSPACE;
	*gpu->fault = ULLONG_MAX;
	return cuda_blas_ok(d, "cuBLAS", cublasCreate(&gpu->blas)) && cuda_blas_ok(d, "cuBLAS", cublasSetStream(gpu->blas, gpu->stream))
	       && cuda_blas_ok(d, "cuBLAS", cublasSetWorkspace(gpu->blas, gpu->workspace, WORKSPACE))
	       && cuda_blas_ok(d, "cuBLAS", cublasSetMathMode(gpu->blas, CUBLAS_DEFAULT_MATH))
	       && cuda_blas_ok(d, "cuBLASLt", cublasLtCreate(&gpu->lt))
	       && cuda_solver_ok(d, "cuSOLVER", cusolverDnCreate(&gpu->solver))
	       && cuda_solver_ok(d, "cuSOLVER", cusolverDnSetStream(gpu->solver, gpu->stream));
}

static void
cuda_close(struct dev *d)
{
	struct gpu *gpu = d->own;

	if (gpu->stream)
		cudaStreamSynchronize(gpu->stream);
	lanes_close(gpu->lanes);
	memory_close(d);
	linear_close(gpu->linear);
	if (gpu->solver)
		cusolverDnDestroy(gpu->solver);
	if (gpu->lt)
		cublasLtDestroy(gpu->lt);
	if (gpu->blas)
		cublasDestroy(gpu->blas);
	cudaFree(gpu->workspace);
	cudaFreeHost(gpu->fault);
	if (gpu->stream)
		cudaStreamDestroy(gpu->stream);
	free(gpu);
}

static int
cuda_open(struct dev *d, const struct dev_options *o)
{
	struct cudaDeviceProp card;
	struct gpu *gpu = calloc(1, sizeof(*gpu));
	char why[400];

	if (!gpu) {
		dev_fail(d, E_SYS, "out of host memory");
		return -1;
	}
	gpu->ordinal = ordinal_of(o->name);
	if (find_card(gpu->ordinal, &card, why, sizeof(why)) != 0) {
		dev_fail(d, E_USE, "%s", why);
		free(gpu);
		return -1;
	}
	gpu->sms = card.multiProcessorCount;
	d->own = gpu;
	d->tokens = TOKENS;
	d->threads = o->threads;
	snprintf(d->name, sizeof(d->name), "cuda:%d", gpu->ordinal);
	if (cuda_ok(d, "card", cudaSetDevice(gpu->ordinal)) && open_libraries(d, gpu) && memory_open(d, o->memory))
		return 0;
	cuda_close(d);
	return -1;
}

/* Fails for what a kernel has noted (struct gpu). */
static void
tell_fault(struct dev *d, unsigned long long fault)
{
	static const char *const types[] = {[F32] = "F32", [F16] = "F16", [BF16] = "BF16", [F64] = "F64"};

	if ((fault & 3) == 1)
		dev_fail(d, E_NUMERIC, "row %llu of the weights holds a value that is not finite", fault >> 4);
	else
		dev_fail(d, E_NUMERIC, "row %llu of the weights needs a scale beyond the range of %s", fault >> 4, types[fault >> 2 & 3]);
}

static void
cuda_wait(struct dev *d)
{
	struct gpu *gpu = d->own;
	unsigned long long fault;

	if (d->status < 0 || !cuda_ok(d, "the card", cudaStreamSynchronize(gpu->stream)))
		return;
	fault = *gpu->fault;
	*gpu->fault = ULLONG_MAX;
	if (fault != ULLONG_MAX)
		tell_fault(d, fault);
}

static void
cuda_get(struct dev *d, void *to, const struct mat *from)
{
	memory_get(d, to, from);
	cuda_wait(d);
}

static bool
cuda_view(struct dev *d, struct mat *m, const void *from)
{
	(void)d;
	(void)m;
	(void)from;
	return false;
}

static void
cuda_zero(struct dev *d, struct mat *m)
{
	struct gpu *gpu = d->own;
	size_t size = cuda_size(m->type), row = (size_t)m->cols * size;

	if (m->rows == 0 || m->cols == 0)
		return;
	/* In two dimensions the pitch has a limit, which one long row may exceed. */
	if (m->rows == 1 || m->ld == m->cols)
		cuda_ok(d, "zero", cudaMemsetAsync(m->p, 0, row * (size_t)m->rows, gpu->stream));
	else
		cuda_ok(d, "zero", cudaMemset2DAsync(m->p, (size_t)m->ld * size, 0, row, (size_t)m->rows, gpu->stream));
}

static void
cuda_shrink(struct dev *d, size_t from)
{
	(void)d;
	(void)from;
}

static enum math
cuda_resolve(struct dev *d, enum math wanted)
{
	(void)d;
	return wanted == MATH_AUTO ? MATH_BF16 : wanted;
}

static const struct backend cuda = {
	.abi = BACKEND_ABI,
	.name = "cuda",
	.facts = cuda_facts,
	.open = cuda_open,
	.close = cuda_close,
	.wait = cuda_wait,
	.put = memory_put,
	.get = cuda_get,
	.view = cuda_view,
	.zero = cuda_zero,
	.shrink = cuda_shrink,
	.grow = memory_grow,
	.ahead = memory_ahead,
	.room = memory_room,
	.park = memory_park,
	.unpark = memory_unpark,
	.describe = cuda_describe,
	.math = cuda_resolve,
	.convert = cuda_convert,
	.embed = cuda_embed,
	.norm = cuda_norm,
	.linear = cuda_linear,
	.rope = cuda_rope,
	.attention = cuda_attention,
	.act = cuda_act,
	.gated = cuda_gated,
	.add = cuda_add,
	.nll = cuda_nll,
	.token_weight = cuda_token_weight,
	.gram = cuda_gram,
	.cross = cuda_cross,
	.fit = cuda_fit,
	.round = cuda_round,
	.dequant = cuda_dequant,
	.miss = cuda_miss,
	.pack_codes = cuda_pack_codes,
	.unpack_codes = cuda_unpack_codes,
	.order = cuda_order,
	.factor = cuda_factor,
	.solve = cuda_solve,
	.matmul = cuda_matmul,
	.babai = cuda_babai,
};

__attribute__((visibility("default"))) const struct backend *qjob_backend(void);

const struct backend *
qjob_backend(void)
{
	return &cuda;
}
