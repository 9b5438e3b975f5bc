/* The loss of every token, over vocabularies too large for a matrix of scores: TOKENS by a panel of words at a time, by cuBLASLt,
 * then met once by a kernel that carries the largest score and the sum of exponentials along, the sum in double.  Bound by the
 * arithmetic of the product; writing and reading the scores takes a sixth of its time at a width of 4096. */
#include "kernels/cuda/sweep.cuh"

#include <math_constants.h>

#include "kernels/cuda/words.h"

/* They decide the order of sums: changing one changes results. */
enum {
	TOKENS = 2048,
	WORDS = 65536,            /* with TOKENS, 512 MiB of scores */
	PANEL = 256 << 20,        /* bytes of the head converted at a time */
	STEP = 256,               /* words of a panel are a multiple of it */
	THREADS = 256, WARP = 32,
	FINISHERS = 128,
};

/* What is known of the tokens so far, [T] each. */
struct losses {
	view<float> max, target;      /* the largest score; the score of the next token */
	view<double> total;           /* the sum of exp(score - max) */
	view<int32_t> ids;
	int64_t seqlen;
};

/* Scores of the tokens from `token` on for the words [word, word + words). */
struct scores {
	view<float> s, bias;          /* bias of the panel's first word; p NULL: none */
	int64_t token, word;
	int words;
	bool wide_bias;
};

/* A maximum, and a sum of exponentials beside it. */
struct sum {
	float max;
	double total;
};

/* ---- kernels ---- */

__device__ inline bool
has_next(const losses &l, int64_t t)
{
	return t % l.seqlen != l.seqlen - 1;
}

/* Four scores of a row; -infinity beyond the last word. */
__device__ inline pack<float, WIDE>
scores_at(const scores &s, int64_t row, int at)
{
	pack<float, WIDE> v = s.s.get<WIDE>(row, at);

	if (s.wide_bias && at + WIDE <= s.words) {
		const pack<float, WIDE> b = s.bias.get<WIDE>(0, at);

		#pragma unroll
		for (int i = 0; i < WIDE; i++)
			v.v[i] += b.v[i];
		return v;
	}
	#pragma unroll
	for (int i = 0; i < WIDE; i++) {
		if (at + i >= s.words)
			v.v[i] = -CUDART_INF_F;
		else if (s.bias.p)
			v.v[i] += s.bias.get<1>(0, at + i).v[0];
	}
	return v;
}

/* A base of -infinity would make NaN of words that are merely impossible. */
__device__ inline float
base_of(float max)
{
	return max > -CUDART_INF_F ? max : 0;
}

/* Four exponentials are added in fp32 before they meet the double: a conversion each would take longer than reading them. */
__device__ inline void
meet(sum &to, const pack<float, WIDE> &v)
{
	const float most = fmaxf(fmaxf(v.v[0], v.v[1]), fmaxf(v.v[2], v.v[3]));
	float base;

	if (most > to.max) {
		to.total *= (double)expf(to.max - most);
		to.max = most;
	}
	base = base_of(to.max);
	to.total += (double)((expf(v.v[0] - base) + expf(v.v[1] - base)) + (expf(v.v[2] - base) + expf(v.v[3] - base)));
}

/* The two as one; what is nothing yet, with a maximum of -infinity, stays nothing. */
__device__ inline sum
joined(const sum &a, const sum &b)
{
	sum to;

	to.max = fmaxf(a.max, b.max);
	to.total = a.total * (double)expf(a.max - base_of(to.max)) + b.total * (double)expf(b.max - base_of(to.max));
	return to;
}

/* Of the block's threads, in the first: halves of a warp, then warps in order. */
__device__ inline sum
block_sum(sum v)
{
	__shared__ sum part[THREADS / WARP];

	#pragma unroll
	for (int apart = WARP / 2; apart > 0; apart /= 2) {
		const sum other = {__shfl_down_sync(~0u, v.max, apart), __shfl_down_sync(~0u, v.total, apart)};

		v = joined(v, other);
	}
	if (threadIdx.x % WARP == 0)
		part[threadIdx.x / WARP] = v;
	__syncthreads();
	for (int i = 1; threadIdx.x == 0 && i < THREADS / WARP; i++)
		v = joined(v, part[i]);
	return v;
}

/* A block a token; which thread adds what follows from the number of words. */
static __global__ void __launch_bounds__(THREADS)
meet_words(const losses l, const scores s)
{
	const int64_t row = blockIdx.x, t = s.token + row;
	sum mine = {-CUDART_INF_F, 0};

	#pragma unroll 2
	for (int at = threadIdx.x * WIDE; at < s.words; at += THREADS * WIDE)
		meet(mine, scores_at(s, row, at));
	mine = block_sum(mine);
	if (threadIdx.x != 0)
		return;
	mine = joined({l.max.p[t], l.total.p[t]}, mine);
	l.max.p[t] = mine.max;
	l.total.p[t] = mine.total;
	if (has_next(l, t)) {
		const int64_t next = l.ids.p[t + 1] - s.word;

		if (next >= 0 && next < s.words)
			l.target.p[t] = s.s.get<1>(row, next).v[0] + (s.bias.p ? s.bias.get<1>(0, next).v[0] : 0);
	}
}

static __global__ void
begin(const losses l, int64_t tokens)
{
	const int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (t >= tokens)
		return;
	l.max.p[t] = -CUDART_INF_F;
	l.target.p[t] = 0;
	l.total.p[t] = 0;
}

static __global__ void
finish(const view<float> nll, const losses l, int64_t tokens)
{
	const int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (t < tokens)
		nll.p[t] = has_next(l, t) ? (float)((double)l.max.p[t] + log(l.total.p[t]) - (double)l.target.p[t]) : 0.f;
}

/* ---- the loop ---- */

struct job {
	struct mat x;                 /* of the type of operands */
	const struct mat *bias;       /* NULL: none */
	struct losses known;
	struct mat room;              /* F32 [TOKENS or less, WORDS or less] */
};

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
panel_words(const struct mat *head, enum dtype operand)
{
	int64_t words = PANEL / (head->cols * (int64_t)cuda_size(operand)) / STEP * STEP;

	if (head->type == operand || words > WORDS)
		words = WORDS;
	if (words < STEP)
		words = STEP;
	return words;
}

/* All tokens meet a panel of the head, whose first word is `word`. */
static void
meet_panel(struct dev *d, const struct job *j, const struct mat *panel, int64_t word)
{
	for (int64_t t = 0; t < j->x.rows && !cuda_failed(d); t += TOKENS) {
		const int64_t n = least(TOKENS, j->x.rows - t);
		const struct mat x = part_of(&j->x, t, 0, n, j->x.cols);
		struct mat s = part_of(&j->room, 0, 0, n, panel->rows), bias = {};
		struct scores met = {view_of<float>(&s), view<float>{NULL, 0}, t, word, (int)panel->rows, false};

		cuda_gemm_nt(d, &s, &x, panel, false);
		if (j->bias) {
			bias = part_of(j->bias, 0, word, 1, panel->rows);
			met.bias = view_of<float>(&bias);
			met.wide_bias = is_wide(&bias);
		}
		/* a block of 256 threads a token */
		meet_words<<<(unsigned)n, THREADS, 0, cuda_gpu(d)->stream>>>(j->known, met);
		cuda_launched(d, "nll");
	}
}

static void
meet_head(struct dev *d, const struct job *j, const struct mat *head, int64_t step)
{
	const size_t mark = cuda_mark(d);
	int64_t word, n;

	for (word = 0; word < head->rows && !cuda_failed(d); word += n) {
		struct mat part, panel;

		n = least(step, head->rows - word);
		part = part_of(head, word, 0, n, head->cols);
		panel = cuda_as(d, &part, j->x.type);
		if (panel.p)
			meet_panel(d, j, &panel, word);
		cuda_back(d, mark);
	}
}

/* Room for what is known, and for scores in rows that start on 16 bytes. */
static void
take_room(struct dev *d, struct job *j, const struct mat *ids, int64_t words, int64_t seqlen)
{
	const int64_t tokens = j->x.rows;
	const struct mat max = cuda_mat(d, F32, 1, tokens), target = cuda_mat(d, F32, 1, tokens), total = cuda_mat(d, F64, 1, tokens);

	j->room = cuda_mat(d, F32, least(TOKENS, tokens), (words + WIDE - 1) / WIDE * WIDE);
	j->known.max = view_of<float>(&max);
	j->known.target = view_of<float>(&target);
	j->known.total = view_of<double>(&total);
	j->known.ids = view_of<int32_t>(ids);
	j->known.seqlen = seqlen;
}

void
cuda_nll(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head, const struct mat *bias, const struct mat *ids,
         int64_t seqlen)
{
	const enum dtype operand = cuda_operand(d);
	const int64_t step = panel_words(head, operand);
	const unsigned blocks = (unsigned)((x->rows + FINISHERS - 1) / FINISHERS);
	const size_t mark = cuda_mark(d);
	cudaStream_t stream = cuda_gpu(d)->stream;
	struct job j = {};

	if (!words_exist(d, "nll", "head", ids, head->rows))
		return;
	j.x = cuda_as(d, x, operand);
	j.bias = bias;
	take_room(d, &j, ids, least(step, head->rows), seqlen);
	if (!cuda_failed(d)) {
		begin<<<blocks, FINISHERS, 0, stream>>>(j.known, x->rows);
		if (cuda_launched(d, "nll"))
			meet_head(d, &j, head, step);
		finish<<<blocks, FINISHERS, 0, stream>>>(view_of<float>(nll), j.known, x->rows);
		cuda_launched(d, "nll");
	}
	cuda_back(d, mark);
}
