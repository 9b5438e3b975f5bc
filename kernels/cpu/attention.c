/* Causal attention in blocks: QUERIES queries of a head against KEYS keys at a time, with the softmax carried along, so
 * that no more than a block of scores exists.  Bound by arithmetic for long sequences, by exp for short ones. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/num.h"

/* They decide the order of sums: changing one changes results. */
enum { QUERIES = 128, KEYS = 512 };

/* What a worker computes in. */
struct room {
	char *query, *prob;          /* [QUERIES][width], [QUERIES][KEYS], operands */
	float *score, *sum;          /* [QUERIES][KEYS], [QUERIES][width] */
	float *max;                  /* [QUERIES], of the scores so far */
	double *total;               /* [QUERIES], of exp(score - max) so far */
};

/* One block of queries of one head of one sequence. */
struct block {
	int64_t first, queries;      /* position in the sequence */
	int64_t row;                 /* of the sequence's first token */
	int64_t head, kv_head;
};

struct job {
	struct dev *d;
	struct mat *y, k, v;         /* k and v as operands */
	const struct mat *q;
	const struct attention *a;
	enum dtype type;             /* of operands */
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

WIDE static float
scaled_max(float *s, int64_t n, float scale, float softcap, float max)
{
	float lane[LANES];
	int64_t i;
	int j;

	for (i = 0; i < n; i++)
		s[i] *= scale;
	if (softcap > 0) {
		for (i = 0; i < n; i++)
			s[i] = softcap * num_tanh(s[i] / softcap);
	}
	for (j = 0; j < LANES; j++)
		lane[j] = max;
	for (i = 0; i + LANES <= n; i += LANES) {
		for (j = 0; j < LANES; j++)
			lane[j] = s[i + j] > lane[j] ? s[i + j] : lane[j];
	}
	for (j = 0; i + j < n; j++)
		lane[j] = s[i + j] > lane[j] ? s[i + j] : lane[j];
	for (j = 0; j < LANES; j++)
		max = lane[j] > max ? lane[j] : max;
	return max;
}

WIDE static double
exponentials(float *s, int64_t n, float max)
{
	double lane[LANES] = {0};
	int64_t i;
	int j;

	for (i = 0; i < n; i++)
		s[i] = num_exp(s[i] - max);
	for (i = 0; i + LANES <= n; i += LANES) {
		for (j = 0; j < LANES; j++)
			lane[j] += s[i + j];
	}
	for (j = 0; i + j < n; j++)
		lane[j] += s[i + j];
	return lanes_sum(lane);
}

WIDE static void
times(float *x, int64_t n, float by)
{
	int64_t i;

	for (i = 0; i < n; i++)
		x[i] *= by;
}

/* Scores of a query against the keys [key, key + n) become weights relative to the largest score so far; what was summed
 * before is brought to the same measure. */
static void
softmax_row(const struct job *b, const struct room *r, int64_t i, int64_t position, int64_t key, int64_t n)
{
	int64_t width = b->a->width, window = b->a->window > 0 ? b->a->window : position + 1;
	int64_t from = least(most(position - window + 1 - key, 0), n), to = most(least(position + 1 - key, n), from);
	float *s = r->score + i * KEYS, max, by;

	memset(s, 0, (size_t)from * sizeof(*s));
	memset(s + to, 0, (size_t)(n - to) * sizeof(*s));
	if (from < to) {
		max = scaled_max(s + from, to - from, b->a->scale, b->a->softcap, r->max[i]);
		by = r->total[i] > 0 ? num_exp(r->max[i] - max) : 0.f;
		r->total[i] = r->total[i] * (double)by + exponentials(s + from, to - from, max);
		r->max[i] = max;
		if (by != 1.f)
			times(r->sum + i * width, width, by);
	}
	operand_row(b->d, r->prob + i * n * (int64_t)cpu_size(b->type), s, F32, n);
}

/* ---- a block ---- */

static void
load_queries(const struct job *b, const struct block *k, const struct room *r)
{
	int64_t width = b->a->width, i;
	struct mat q = mat_part(b->q, k->row + k->first, k->head * width, k->queries, width);

	for (i = 0; i < k->queries; i++) {
		operand_row(b->d, r->query + i * width * (int64_t)cpu_size(b->type), cpu_row(&q, i), F32, width);
		r->max[i] = -INFINITY;
		r->total[i] = 0;
	}
	memset(r->sum, 0, (size_t)(k->queries * width) * sizeof(*r->sum));
}

static void
meet_keys(const struct job *b, const struct block *k, const struct room *r, int64_t key, int64_t n)
{
	int64_t width = b->a->width, i;
	struct mat query = {.p = r->query, .rows = k->queries, .cols = width, .ld = width, .type = b->type};
	struct mat prob = {.p = r->prob, .rows = k->queries, .cols = n, .ld = n, .type = b->type};
	struct mat score = {.p = r->score, .rows = k->queries, .cols = n, .ld = KEYS, .type = F32};
	struct mat sum = {.p = r->sum, .rows = k->queries, .cols = width, .ld = width, .type = F32};
	struct mat keys = mat_part(&b->k, k->row + key, k->kv_head * width, n, width);
	struct mat values = mat_part(&b->v, k->row + key, k->kv_head * width, n, width);

	gemm_here(b->d, &score, &query, &keys, GEMM_BT);
	for (i = 0; i < k->queries; i++)
		softmax_row(b, r, i, k->first + i, key, n);
	gemm_here(b->d, &sum, &prob, &values, GEMM_ADD);
}

static void
attend(const struct job *b, const struct block *k, const struct room *r)
{
	int64_t width = b->a->width, end = k->first + k->queries, key = 0, n, i;
	struct mat y = mat_part(b->y, k->row + k->first, k->head * width, k->queries, width);

	if (b->a->window > 0)
		key = most(k->first - b->a->window + 1, 0) / QUERIES * QUERIES;
	load_queries(b, k, r);
	for (; key < end; key += n) {
		n = least(KEYS, end - key);
		meet_keys(b, k, r, key, n);
	}
	for (i = 0; i < k->queries; i++) {
		times(r->sum + i * width, width, (float)(1 / r->total[i]));
		cpu_store(cpu_row(&y, i), y.type, r->sum + i * width, width);
	}
}

/* ---- all of them ---- */

static size_t
room_bytes(int64_t width, size_t size)
{
	size_t numbers = QUERIES + QUERIES * KEYS + (size_t)(QUERIES * width);
	size_t operands = (size_t)(QUERIES * width) + QUERIES * KEYS;

	return (sizeof(double) * QUERIES + sizeof(float) * numbers + size * operands + 63) / 64 * 64;
}

static struct room
room_at(char *p, int64_t width, size_t size)
{
	struct room r;

	r.total = (double *)p;
	r.max = (float *)(p + sizeof(double) * QUERIES);
	r.score = r.max + QUERIES;
	r.sum = r.score + QUERIES * KEYS;
	r.query = (char *)(r.sum + QUERIES * width);
	r.prob = r.query + (size_t)(QUERIES * width) * size;
	return r;
}

/* Block number i of all; late blocks, which are the long ones, come first. */
static struct block
block_at(const struct attention *a, int64_t i)
{
	int64_t blocks = (a->seqlen + QUERIES - 1) / QUERIES, per = a->heads * blocks;
	struct block b = {.row = i / per * a->seqlen, .head = i % a->heads};

	b.first = (blocks - 1 - i % per / a->heads) * QUERIES;
	b.queries = least(QUERIES, a->seqlen - b.first);
	b.kv_head = b.head / (a->heads / a->kv_heads);
	return b;
}

void
cpu_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v, const struct attention *a)
{
	int64_t blocks = q->rows / a->seqlen * a->heads * ((a->seqlen + QUERIES - 1) / QUERIES), i;
	size_t mark = d->used, room;
	struct job b = {.d = d, .y = y, .q = q, .a = a, .type = operand_type(d)};
	char *rooms;

	b.k = cpu_operand(d, k);
	b.v = cpu_operand(d, v);
	room = room_bytes(a->width, cpu_size(b.type));
	rooms = cpu_take(d, room * (size_t)d->threads);
	if (rooms) {
		#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
		for (i = 0; i < blocks; i++) {
			struct block at = block_at(a, i);
			struct room r = room_at(rooms + room * (size_t)cpu_worker(), a->width, cpu_size(b.type));

			attend(&b, &at, &r);
		}
	}
	d->used = mark;
}
