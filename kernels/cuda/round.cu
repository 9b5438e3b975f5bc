/* Codes of weights, weights of codes, and codes as bit streams.
 *
 * All of it is bound by memory: an element is read once and written once.  A block takes a row; streams are made 32 codes at a time,
 * which are `bits` whole words, in whole words where the rows are aligned so. */
#include "kernels/cuda/grid.cuh"

enum {
	THREADS = 256,
	UNIT    = 32,      /* codes of a thread */
};

struct rounding_job {
	uint8_t *code;
	const float *scale;
	const uint8_t *zero;
	const int32_t *group_of;
	void *w;
	enum dtype type;           /* of w */
	int64_t cols, ld, code_ld, scale_ld, zero_ld;
	struct rule rule;
};

static struct rounding_job
job_of(const struct qmat *q, const struct mat *w, const struct grid *g)
{
	struct rounding_job j = {};

	j.code = (uint8_t *)q->code.p;
	j.scale = (const float *)q->scale.p;
	j.zero = (const uint8_t *)q->zero.p;
	j.group_of = (const int32_t *)q->group_of.p;
	j.w = w->p;
	j.type = w->type;
	j.cols = w->cols;
	j.ld = w->ld;
	j.code_ld = q->code.ld;
	j.scale_ld = q->scale.ld;
	j.zero_ld = q->zero.ld;
	j.rule = rule_of(g, w->type);
	return j;
}

/* llm-compressor: quotient and sum rounded to the weights' own type; zeros are signed there. */
__device__ static uint8_t
round_stepwise(float w, float scale, float zero, const struct rule *r)
{
	float x = round_to(w / scale, r->type);

	x = round_to(x + (zero - r->mid), r->type);
	return (uint8_t)(nearest(clamp(x, -r->mid, r->top - r->mid)) + r->mid);
}

__global__ static void
round_rows(const struct rounding_job j)
{
	const int64_t row = blockIdx.x;

	for (int64_t i = threadIdx.x; i < j.cols; i += THREADS) {
		int32_t k = j.group_of[i];
		float s = j.scale[row * j.scale_ld + k], z = j.zero[row * j.zero_ld + k];
		float w = number_at(j.w, j.type, row * j.ld + i);

		j.code[row * j.code_ld + i] = j.rule.g.rounding == ROUND_STEPWISE ? round_stepwise(w, s, z, &j.rule) :
		                              (uint8_t)(nearest(clamp(w / s, -z, j.rule.top - z)) + z);
	}
}

extern "C" void
cuda_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g)
{
	/* Grid: a row a block. */
	round_rows<<<(unsigned)w->rows, THREADS, 0, cuda_gpu(d)->stream>>>(job_of(q, w, g));
	cuda_launched(d, "round");
}

__device__ static void
put_number(void *p, enum dtype type, int64_t i, float x)
{
	switch (type) {
	case F16:
		((__half *)p)[i] = __float2half_rn(x);
		break;
	case BF16:
		((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(x);
		break;
	case F64:
		((double *)p)[i] = (double)x;
		break;
	default:
		((float *)p)[i] = x;
	}
}

__global__ static void
dequant_rows(const struct rounding_job j)
{
	const int64_t row = blockIdx.x;

	for (int64_t i = threadIdx.x; i < j.cols; i += THREADS) {
		int32_t k = j.group_of[i];
		float s = round_to(j.scale[row * j.scale_ld + k], j.rule.g.stored), z = j.zero[row * j.zero_ld + k];

		put_number(j.w, j.type, row * j.ld + i, times((float)j.code[row * j.code_ld + i] - z, s));
	}
}

extern "C" void
cuda_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g)
{
	/* Grid: a row a block. */
	dequant_rows<<<(unsigned)w->rows, THREADS, 0, cuda_gpu(d)->stream>>>(job_of(q, w, g));
	cuda_launched(d, "dequant");
}

/* A block a row: each thread adds every 256th column in order, then halves are added. */
__global__ static void
miss_rows(const struct rounding_job j, double *loss)
{
	__shared__ double part[THREADS];
	const int64_t row = blockIdx.x;
	double sum = 0;

	for (int64_t i = threadIdx.x; i < j.cols; i += THREADS) {
		int32_t k = j.group_of[i];
		float s = round_to(j.scale[row * j.scale_ld + k], j.rule.g.stored), z = j.zero[row * j.zero_ld + k];
		double miss = (double)number_at(j.w, j.type, row * j.ld + i) - (double)times((float)j.code[row * j.code_ld + i] - z, s);

		sum += miss * miss;
	}
	part[threadIdx.x] = sum;
	for (int apart = THREADS / 2; apart > 0; apart /= 2) {
		__syncthreads();
		if (threadIdx.x < apart)
			part[threadIdx.x] += part[threadIdx.x + apart];
	}
	if (threadIdx.x == 0)
		loss[row] = part[0];
}

extern "C" void
cuda_miss(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g)
{
	/* Grid: a row a block. */
	miss_rows<<<(unsigned)w->rows, THREADS, 0, cuda_gpu(d)->stream>>>(job_of(q, w, g), (double *)loss->p);
	cuda_launched(d, "miss");
}

/* ---- bit streams ---- */

struct stream_job {
	uint8_t *code, *stream;
	int64_t cols, code_ld, stream_ld;
	bool code_words, stream_words;      /* rows begin at whole words */
};

static struct stream_job
stream_of(const struct mat *stream, const struct mat *code)
{
	struct stream_job j = {};

	j.code = (uint8_t *)code->p;
	j.stream = (uint8_t *)stream->p;
	j.cols = code->cols;
	j.code_ld = code->ld;
	j.stream_ld = stream->ld;
	j.code_words = ((uintptr_t)code->p | (uintptr_t)code->ld) % 4 == 0;
	j.stream_words = ((uintptr_t)stream->p | (uintptr_t)stream->ld) % 4 == 0;
	return j;
}

/* 4 codes from column `at` on, as a word; none past the end. */
__device__ static uint32_t
codes_at(const struct stream_job *j, const uint8_t *row, int64_t at)
{
	uint32_t word = 0;

	if (j->code_words && at + 4 <= j->cols)
		return *(const uint32_t *)(row + at);
	for (int k = 0; k < 4; k++)
		if (at + k < j->cols)
			word |= (uint32_t)row[at + k] << 8 * k;
	return word;
}

__device__ static void
put_codes(const struct stream_job *j, uint8_t *row, int64_t at, uint32_t word)
{
	if (j->code_words && at + 4 <= j->cols) {
		*(uint32_t *)(row + at) = word;
		return;
	}
	for (int k = 0; k < 4; k++)
		if (at + k < j->cols)
			row[at + k] = (uint8_t)(word >> 8 * k);
}

/* UNIT codes are BITS words; code k lies at bits k BITS and up, and may reach into the next word. */
template <int BITS> __global__ static void
pack_rows(const struct stream_job j)
{
	const uint8_t *code = j.code + blockIdx.x * j.code_ld;
	uint8_t *stream = j.stream + blockIdx.x * j.stream_ld;
	const int64_t bytes = (j.cols * BITS + 7) / 8;

	for (int64_t unit = threadIdx.x; unit * UNIT < j.cols; unit += THREADS) {
		int64_t to = unit * BITS * 4;
		uint32_t out[BITS + 1] = {};

		#pragma unroll
		for (int k = 0; k < UNIT; k += 4) {
			uint32_t four = codes_at(&j, code, unit * UNIT + k);

			#pragma unroll
			for (int c = k; c < k + 4; c++) {
				uint64_t value = (uint64_t)(four >> 8 * (c - k) & ((1u << BITS) - 1)) << c * BITS % 32;

				out[c * BITS / 32] |= (uint32_t)value;
				out[c * BITS / 32 + 1] |= (uint32_t)(value >> 32);
			}
		}
		#pragma unroll
		for (int k = 0; k < BITS; k++, to += 4)
			if (j.stream_words && to + 4 <= bytes)
				*(uint32_t *)(stream + to) = out[k];
			else
				for (int b = 0; b < 4 && to + b < bytes; b++)
					stream[to + b] = (uint8_t)(out[k] >> 8 * b);
	}
}

template <int BITS> __global__ static void
unpack_rows(const struct stream_job j)
{
	uint8_t *code = j.code + blockIdx.x * j.code_ld;
	const uint8_t *stream = j.stream + blockIdx.x * j.stream_ld;
	const int64_t bytes = (j.cols * BITS + 7) / 8;

	for (int64_t unit = threadIdx.x; unit * UNIT < j.cols; unit += THREADS) {
		int64_t from = unit * BITS * 4;
		uint32_t in[BITS + 1] = {};

		#pragma unroll
		for (int k = 0; k < BITS; k++, from += 4)
			if (j.stream_words && from + 4 <= bytes)
				in[k] = *(const uint32_t *)(stream + from);
			else
				for (int b = 0; b < 4 && from + b < bytes; b++)
					in[k] |= (uint32_t)stream[from + b] << 8 * b;
		#pragma unroll
		for (int k = 0; k < UNIT; k += 4) {
			uint32_t four = 0;

			#pragma unroll
			for (int c = k; c < k + 4; c++) {
				uint32_t value = __funnelshift_r(in[c * BITS / 32], in[c * BITS / 32 + 1], c * BITS % 32);

				four |= (value & ((1u << BITS) - 1)) << 8 * (c - k);
			}
			put_codes(&j, code, unit * UNIT + k, four);
		}
	}
}

typedef void stream_kernel(const struct stream_job j);

static stream_kernel *const packers[] = {
	NULL, pack_rows<1>, pack_rows<2>, pack_rows<3>, pack_rows<4>, pack_rows<5>, pack_rows<6>, pack_rows<7>, pack_rows<8>,
};

static stream_kernel *const unpackers[] = {
	NULL, unpack_rows<1>, unpack_rows<2>, unpack_rows<3>, unpack_rows<4>, unpack_rows<5>, unpack_rows<6>,
	unpack_rows<7>, unpack_rows<8>,
};

extern "C" void
cuda_pack_codes(struct dev *d, struct mat *stream, const struct mat *code, int bits)
{
	/* Grid: a row a block, UNIT codes a thread at a time. */
	packers[bits]<<<(unsigned)code->rows, THREADS, 0, cuda_gpu(d)->stream>>>(stream_of(stream, code));
	cuda_launched(d, "pack_codes");
}

extern "C" void
cuda_unpack_codes(struct dev *d, struct mat *code, const struct mat *stream, int bits)
{
	/* Grid: a row a block, UNIT codes a thread at a time. */
	unpackers[bits]<<<(unsigned)code->rows, THREADS, 0, cuda_gpu(d)->stream>>>(stream_of(stream, code));
	cuda_launched(d, "unpack_codes");
}
