/* Causal attention in blocks: some queries, of all heads that share their keys, against KEYS keys at a time, with the softmax
 * carried along, so that no more than a block of scores exists.  Bound by arithmetic, a third of it exponentials. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/num.h"

/* Rows of scores (positions times heads), positions, and keys of a block.  They decide the order of sums: changing one
 * changes results. */
enum { ROWS = 384, POSITIONS = 128, KEYS = 512 };

/* What a worker computes in. */
struct room {
	char *query, *prob;          /* [rows][width], [rows][KEYS], operands; prob is score where operands are plain F32 */
	float *score, *sum;          /* [rows][KEYS], [rows][width] */
	float *max;                  /* [rows], of the scores so far */
	double *total;               /* [rows], of exp(score - max) so far */
};

/* A block of queries: the positions [first, first + count) of the heads [head, head + group); row h * count + i of its
 * matrices is position first + i of head + h. */
struct block {
	int64_t first, count;
	int64_t start;               /* the sequence's first token */
	int64_t head, kv_head;
};

struct job {
	struct dev *d;
	struct mat *y, k, v;         /* k and v as operands */
	const struct mat *q;
	const struct attention *a;
	enum dtype type;             /* of operands */
	bool plain;                  /* operands are numbers as they are */
	int64_t group, positions;    /* heads and positions of a block */
};

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* ---- softmax ---- */

WIDE static void
cap(float *s, int64_t n, float scale, float softcap)
{
	int64_t i;

	for (i = 0; i < n; i++)
		s[i] = softcap * num_tanh(s[i] * scale / softcap);
}

/* The order of comparisons does not matter to the result, so there may be enough lanes to hide their latency. */
WIDE static float
largest(const float *s, int64_t n, float max)
{
	enum { MANY = 64 };
	float lane[MANY];
	int64_t i;
	int j;

	for (j = 0; j < MANY; j++)
		lane[j] = max;
	for (i = 0; i + MANY <= n; i += MANY) {
		for (j = 0; j < MANY; j++)
			lane[j] = s[i + j] > lane[j] ? s[i + j] : lane[j];
	}
	for (j = 0; i + j < n; j++)
		lane[j] = s[i + j] > lane[j] ? s[i + j] : lane[j];
	for (j = 0; j < MANY; j++)
		max = lane[j] > max ? lane[j] : max;
	return max;
}

/* s = exp(scale (s - max)), at most KEYS of them, and their sum. */
WIDE static double
exponentials(float *s, int64_t n, float scale, float max)
{
	float lane[LANES] = {0};
	double sum[LANES];
	int64_t i;
	int j;

	for (i = 0; i < n; i++)
		s[i] = num_exp((s[i] - max) * scale);
	for (i = 0; i + LANES <= n; i += LANES) {
		for (j = 0; j < LANES; j++)
			lane[j] += s[i + j];
	}
	for (j = 0; i + j < n; j++)
		lane[j] += s[i + j];
	for (j = 0; j < LANES; j++)
		sum[j] = lane[j];
	return lanes_sum(sum);
}

WIDE static void
times(float *x, int64_t n, float by)
{
	int64_t i;

	for (i = 0; i < n; i++)
		x[i] *= by;
}

/* Scores of row i against the keys [key, key + n) become weights relative to the largest score so far; what was summed
 * before is brought to the same measure. */
static void
softmax_row(const struct job *b, const struct room *r, int64_t i, int64_t position, int64_t key, int64_t n)
{
	int64_t width = b->a->width, window = b->a->window > 0 ? b->a->window : position + 1;
	int64_t from = least(most(position - window + 1 - key, 0), n), to = most(least(position + 1 - key, n), from);
	float *s = r->score + i * KEYS, scale = b->a->scale, max, by;

	memset(s, 0, (size_t)from * sizeof(*s));
	memset(s + to, 0, (size_t)(n - to) * sizeof(*s));
	if (from < to) {
		if (b->a->softcap > 0) {
			cap(s + from, to - from, scale, b->a->softcap);
			scale = 1;
		}
		max = largest(s + from, to - from, r->max[i]);
		by = r->total[i] > 0 ? num_exp((r->max[i] - max) * scale) : 0.f;
		r->total[i] = r->total[i] * (double)by + exponentials(s + from, to - from, scale, max);
		r->max[i] = max;
		if (by != 1.f)
			times(r->sum + i * width, width, by);
	}
	if (!b->plain)
		operand_row(b->d, r->prob + i * KEYS * (int64_t)cpu_size(b->type), s, F32, n);
}

/* ---- a block ---- */

static void
load_queries(const struct job *b, const struct block *k, const struct room *r)
{
	int64_t width = b->a->width, rows = b->group * k->count, i;

	for (i = 0; i < rows; i++) {
		struct mat q = mat_part(b->q, k->start + k->first + i % k->count, (k->head + i / k->count) * width,
		                        1, width);

		operand_row(b->d, r->query + i * width * (int64_t)cpu_size(b->type), q.p, F32, width);
		r->max[i] = -INFINITY;
		r->total[i] = 0;
	}
	memset(r->sum, 0, (size_t)(rows * width) * sizeof(*r->sum));
}

static void
meet_keys(const struct job *b, const struct block *k, const struct room *r, int64_t key, int64_t n)
{
	int64_t width = b->a->width, rows = b->group * k->count, i;
	struct mat query = {.p = r->query, .rows = rows, .cols = width, .ld = width, .type = b->type};
	struct mat prob = {.p = r->prob, .rows = rows, .cols = n, .ld = KEYS, .type = b->type};
	struct mat score = {.p = r->score, .rows = rows, .cols = n, .ld = KEYS, .type = F32};
	struct mat sum = {.p = r->sum, .rows = rows, .cols = width, .ld = width, .type = F32};
	struct mat keys = mat_part(&b->k, k->start + key, k->kv_head * width, n, width);
	struct mat values = mat_part(&b->v, k->start + key, k->kv_head * width, n, width);

	gemm_here(b->d, &score, &query, &keys, GEMM_BT);
	for (i = 0; i < rows; i++)
		softmax_row(b, r, i, k->first + i % k->count, key, n);
	gemm_here(b->d, &sum, &prob, &values, GEMM_ADD);
}

static void
attend(const struct job *b, const struct block *k, const struct room *r)
{
	int64_t width = b->a->width, end = k->first + k->count, key = 0, n, i;

	if (b->a->window > 0)
		key = most(k->first - b->a->window + 1, 0) / POSITIONS * POSITIONS;
	load_queries(b, k, r);
	for (; key < end; key += n) {
		n = least(KEYS, end - key);
		meet_keys(b, k, r, key, n);
	}
	for (i = 0; i < b->group * k->count; i++) {
		struct mat y = mat_part(b->y, k->start + k->first + i % k->count, (k->head + i / k->count) * width,
		                        1, width);

		times(r->sum + i * width, width, (float)(1 / r->total[i]));
		cpu_store(y.p, y.type, r->sum + i * width, width);
	}
}

/* ---- all of them ---- */

static size_t
room_bytes(const struct job *b)
{
	size_t rows = (size_t)(b->group * b->positions), width = (size_t)b->a->width;
	size_t operands = rows * width + (b->plain ? 0 : rows * KEYS);

	return (rows * (sizeof(double) + sizeof(float) * (1 + KEYS + width)) + operands * cpu_size(b->type) + 63) / 64 * 64;
}

static struct room
room_at(const struct job *b, char *p)
{
	int64_t rows = b->group * b->positions;
	struct room r;

	r.score = (float *)p;
	r.sum = r.score + rows * KEYS;
	r.total = (double *)(r.sum + rows * b->a->width + (rows * b->a->width & 1));
	r.max = (float *)(r.total + rows);
	r.query = (char *)(r.max + rows);
	r.prob = b->plain ? (char *)r.score : r.query + rows * b->a->width * (int64_t)cpu_size(b->type);
	return r;
}

static int64_t
blocks_of(const struct job *b)
{
	return (b->a->seqlen + b->positions - 1) / b->positions;
}

/* Block number i of all; late blocks, which are the long ones, come first. */
static struct block
block_at(const struct job *b, int64_t i)
{
	int64_t heads = b->a->kv_heads, per = heads * blocks_of(b);
	struct block k = {.start = i / per * b->a->seqlen, .kv_head = i % heads};

	k.first = (blocks_of(b) - 1 - i % per / heads) * b->positions;
	k.count = least(b->positions, b->a->seqlen - k.first);
	k.head = k.kv_head * b->group;
	return k;
}

void
cpu_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v,
              const struct attention *a)
{
	struct job b = {.d = d, .y = y, .q = q, .a = a, .type = operand_type(d), .group = a->heads / a->kv_heads};
	int64_t blocks, i;
	size_t mark = d->used, room;
	char *rooms;

	b.plain = d->math == MATH_F32;
	b.positions = least(POSITIONS, most(ROWS / b.group / 16, 1) * 16);
	b.k = cpu_operand(d, k);
	b.v = cpu_operand(d, v);
	room = room_bytes(&b) + 64;
	rooms = cpu_take(d, room * (size_t)d->threads);
	blocks = q->rows / a->seqlen * a->kv_heads * blocks_of(&b);
	if (rooms) {
		#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
		for (i = 0; i < blocks; i++) {
			struct block at = block_at(&b, i);
			struct room r = room_at(&b, rooms + room * (size_t)cpu_worker());

			attend(&b, &at, &r);
		}
	}
	d->used = mark;
}
