/* The loss of every token, over vocabularies too large for a matrix of scores: TOKENS by WORDS scores at a time, with the sum
 * of exponentials carried along in double.  Bound by arithmetic. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/num.h"

/* They decide the order of sums: changing one changes results.  PANEL: bytes of the head converted at a time. */
enum { TOKENS = 256, WORDS = 256, PANEL = 16 << 20 };

struct job {
	struct dev *d;
	struct mat x;                /* operand */
	const float *bias;           /* NULL: none */
	const int32_t *ids;
	int64_t seqlen;
	float *max, *target;         /* [T]: largest score so far; score of the next token */
	double *total;               /* [T]: sum of exp(score - max) so far */
	float *rooms;                /* [worker][TOKENS][WORDS] */
};

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static bool
has_next(const struct job *b, int64_t t)
{
	return t % b->seqlen != b->seqlen - 1;
}

WIDE static float
biased_max(float *s, const float *bias, int64_t n, float max)
{
	float lane[LANES];
	int64_t i;

	if (bias) {
		for (i = 0; i < n; i++)
			s[i] += bias[i];
	}
	for (i = 0; i < LANES; i++)
		lane[i] = max;
	for (i = 0; i < n; i++)
		lane[i % LANES] = s[i] > lane[i % LANES] ? s[i] : lane[i % LANES];
	for (i = 0; i < LANES; i++)
		max = lane[i] > max ? lane[i] : max;
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

/* Scores s of token t for the words [word, word + n) enter its sums. */
static void
meet_words(const struct job *b, float *s, int64_t t, int64_t word, int64_t n)
{
	int64_t next = has_next(b, t) ? b->ids[t + 1] - word : -1;
	float max = biased_max(s, b->bias ? b->bias + word : NULL, n, b->max[t]);

	if (next >= 0 && next < n)
		b->target[t] = s[next];
	if (b->total[t] > 0)
		b->total[t] *= (double)num_exp(b->max[t] - max);
	b->total[t] += exponentials(s, n, max);
	b->max[t] = max;
}

/* The tokens [t, t + m) meet a panel of the head, whose first word is `word`. */
static void
meet_panel(const struct job *b, int64_t t, int64_t m, const struct mat *panel, int64_t word)
{
	float *room = b->rooms + (int64_t)cpu_worker() * TOKENS * WORDS;
	struct mat x = mat_part(&b->x, t, 0, m, b->x.cols), w, s;
	int64_t from, n, i;

	for (from = 0; from < panel->rows; from += n) {
		n = least(WORDS, panel->rows - from);
		w = mat_part(panel, from, 0, n, panel->cols);
		s = (struct mat){.p = room, .rows = m, .cols = n, .ld = n, .type = F32};
		gemm_here(b->d, &s, &x, &w, GEMM_BT);
		for (i = 0; i < m; i++)
			meet_words(b, room + i * n, t + i, word + from, n);
	}
}

static void
meet_head(struct job *b, const struct mat *head)
{
	int64_t step = PANEL / (head->cols * 4) / WORDS * WORDS, word, n, t;
	size_t mark = b->d->used;

	if (step < WORDS)
		step = WORDS;
	for (word = 0; word < head->rows; word += n) {
		struct mat part, panel;

		n = least(step, head->rows - word);
		part = mat_part(head, word, 0, n, head->cols);
		panel = cpu_operand(b->d, &part);
		if (!panel.p)
			return;
		#pragma omp parallel for num_threads(b->d->threads) schedule(dynamic)
		for (t = 0; t < b->x.rows; t += TOKENS)
			meet_panel(b, t, least(TOKENS, b->x.rows - t), &panel, word);
		b->d->used = mark;
	}
}

static bool
are_words(struct dev *d, const int32_t *ids, int64_t n, int64_t words)
{
	int64_t t;

	for (t = 0; t < n; t++) {
		if (ids[t] < 0 || ids[t] >= words) {
			cpu_fail(d, E_DATA, "nll: token %lld is id %d, and the head has %lld rows", (long long)t,
			         (int)ids[t], (long long)words);
			return false;
		}
	}
	return true;
}

void
cpu_nll(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head, const struct mat *bias,
        const struct mat *ids, int64_t seqlen)
{
	struct job b = {.d = d, .bias = bias ? bias->p : NULL, .ids = ids->p, .seqlen = seqlen};
	size_t mark = d->used, tokens = (size_t)x->rows;
	float *out = nll->p;
	int64_t t;

	if (!are_words(d, b.ids, x->rows, head->rows))
		return;
	b.x = cpu_operand(d, x);
	b.max = cpu_take(d, tokens * sizeof(*b.max));
	b.target = cpu_take(d, tokens * sizeof(*b.target));
	b.total = cpu_take(d, tokens * sizeof(*b.total));
	b.rooms = cpu_take(d, (size_t)d->threads * TOKENS * WORDS * sizeof(*b.rooms));
	if (b.rooms) {
		for (t = 0; t < x->rows; t++) {
			b.max[t] = -INFINITY;
			b.target[t] = 0;
			b.total[t] = 0;
		}
		meet_head(&b, head);
	}
	for (t = 0; d->status == 0 && t < x->rows; t++)
		out[t] = has_next(&b, t) ? (float)((double)b.max[t] + log(b.total[t]) - (double)b.target[t]) : 0.f;
	d->used = mark;
}
