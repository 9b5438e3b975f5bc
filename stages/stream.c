#include "stages/stream.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/model/safetensors.h"
#include "stages/memory.h"

enum math
stream_math(const struct project *p)
{
	return p->wish.math != MATH_AUTO ? p->wish.math : math_find(p->s->calibration.dtype);
}

bool
stream_stops(const struct project *p)
{
	return p->wish.true_sequential && !p->wish.original;
}

int
stream_needs(const struct project *p, struct graph *g, struct node *n, struct node *before)
{
	struct node *ids = graph_find(g, "tokenize/calibration");

	n->lane = n->stage->name;
	n->resource = RES_COMPUTE;
	project_facts(p, n);
	node_fact(n, "math %s", p->wish.math == MATH_F32 ? "float32" : p->s->calibration.dtype);
	if (before) {
		node_after(n, ids, "ids.safetensors");
		node_need(n, before, "activations", "activations");
	} else {
		char embed[256];
		int rc;

		node_need(n, ids, "ids.safetensors", "ids");
		part_name(p->weights.config.family, EMBED, 0, embed, sizeof(embed) - 8);
		memcpy(embed + strlen(embed), ".weight", 8);
		rc = project_need_tensor(p, g, n, embed);
		if (rc < 0)
			return rc;
	}
	return project_need_tensors(p, g, n, n->index);
}

double
block_flops(const struct project *p, double tokens)
{
	const struct config *c = &p->weights.config;
	double sum = 2 * p->s->calibration.seqlen * (double)(c->heads * c->head_dim);
	size_t n;
	const struct choice *v = project_block(p, 0, &n);

	for (size_t i = 0; i < n; i++)
		sum += 2 * (double)v[i].rows * (double)v[i].cols;
	return sum * tokens;
}

static int
find_ids(struct stream *s, const struct safetensors *file, const int32_t **ids)
{
	const struct tensor *t = safetensors_find(file, "input_ids");

	if (!t || t->type != I32 || t->rank != 2)
		return err_set(E_DATA, "ids.safetensors: want input_ids I32 [sequences,seqlen]");
	s->sequences = t->shape[0];
	s->seqlen = t->shape[1];
	s->tokens = s->sequences * s->seqlen;
	*ids = t->p;
	return 0;
}

static struct held
take(struct stream *s, enum dtype type, int64_t cols, const struct layout *l, bool parked)
{
	struct held h = {.rows = s->tokens, .cols = cols, .type = type, .parked = parked, .chunk = l->chunk};

	held_take(s->d, &h);
	return h;
}

/* The stream's matrices are taken in a fixed order and live below its mark. */
int
stream_take(struct stream *s, const struct project *p, const struct layout *l)
{
	const struct config *c = &p->weights.config;
	enum dtype type = dev_operand(s->d);
	bool full = p->wish.needs & NEED_CROSS;

	s->h = take(s, F32, c->D, l, l->parked > 2);
	if (full)
		s->f = take(s, F32, c->D, l, l->parked > 2);
	for (int i = 0; stream_stops(p) && i < 2; i++) {
		s->x[i] = take(s, type, turn_width(c, (enum site)i), l, l->parked + i > 1);
		if (full)
			s->xf[i] = take(s, type, turn_width(c, (enum site)i), l, l->parked + i > 1);
	}
	s->mark = dev_mark(s->d);
	return dev_status(s->d);
}

int
stream_embed(struct stream *s, const struct project *p, const int32_t *ids)
{
	struct mat table;
	int rc = embed_load(s->d, &table, &p->weights);

	if (rc < 0)
		return rc;
	embed_ids(s->d, &s->h, &table, ids);
	if (s->f.p)
		embed_ids(s->d, &s->f, &table, ids);
	dev_release(s->d, s->mark);
	return dev_status(s->d);
}

static int
start(struct stream *s, struct job *job, const char *path)
{
	const struct project *p = job->project;
	struct safetensors file;
	const int32_t *ids = NULL;
	struct layout l;
	int rc = safetensors_open(&file, path);

	if (rc < 0)
		return rc;
	rc = find_ids(s, &file, &ids);
	if (rc == 0)
		rc = memory_layout(p, s->d, &l);
	if (rc == 0)
		rc = stream_take(s, p, &l);
	if (rc == 0)
		rc = stream_embed(s, p, ids);
	safetensors_close(&file);
	return rc;
}

int
stream_open(struct stream **out, struct job *job)
{
	const char *path;
	struct stream *s = *job->carry;
	int rc;

	*out = s;
	if (s) {
		dev_math(s->d, stream_math(job->project));
		return 0;
	}
	path = job->host->input(job, "tokenize/calibration", "ids.safetensors");
	if (!path)
		return err_set(E_USE, "%s: no calibration ids", job->node->name);
	s = mem_new(1, sizeof(*s));
	rc = project_dev(job->project, &s->d);
	if (rc < 0) {
		free(s);
		return rc;
	}
	dev_math(s->d, stream_math(job->project));
	s->base = dev_mark(s->d);
	*job->carry = *out = s;
	return start(s, job, path);
}

void
stream_drop(void *carry)
{
	struct stream *s = carry;

	if (!s)
		return;
	dev_release(s->d, s->base);
	free(s);
}

struct stats
stream_stats(struct stream *s, const struct config *c, enum site site, unsigned needs)
{
	int64_t n = site_width(c, site);
	struct stats st = {0};

	if (needs & NEED_GRAM)
		st.gram = dev_zeros(s->d, F32, n, n);
	if (needs & NEED_CROSS)
		st.cross = dev_zeros(s->d, F32, n, n);
	return st;
}

/* How many rows to sum at a time: sums must not depend on the chunk, and op_gram's do not where chunks begin at multiples of 2048. */
static int64_t
rows_a_sum(const struct stream *s, int64_t rows)
{
	int64_t least = least_sequences(s->seqlen) * s->seqlen;

	return least % 2048 == 0 ? rows : least;
}

static void
gather_rows(struct stream *s, struct stats *st, const struct mat *x, const struct mat *xf, bool unit)
{
	size_t mark = dev_mark(s->d);
	struct mat a = {0};

	if (unit) {
		a = dev_mat(s->d, F32, 1, x->rows);
		op_token_weight(s->d, &a, x);
	}
	if (st->gram.p)
		op_gram(s->d, &st->gram, x, unit ? &a : NULL);
	if (st->cross.p)
		op_cross(s->d, &st->cross, xf, x, unit ? &a : NULL);
	st->tokens += x->rows;
	dev_release(s->d, mark);
}

static void
gather(struct stream *s, struct stats *st, const struct mat *x, const struct mat *xf, bool unit)
{
	int64_t step = rows_a_sum(s, x->rows);

	for (int64_t at = 0, n; at < x->rows; at += n) {
		struct mat part, full = {0};

		n = x->rows - at < step ? x->rows - at : step;
		part = mat_rows(x, at, n);
		if (xf->p)
			full = mat_rows(xf, at, n);
		gather_rows(s, st, &part, &full, unit);
	}
}

/* The device is waited for after the last chunk: in between it must never be short of work. */
static int
check(struct job *job, struct stream *s, const struct block *b, bool last)
{
	int rc = 0;

	if (job->host->stop(job))
		return err_set(E_SYS, "interrupted");
	if (last || dev_failed(s->d))
		rc = dev_status(s->d);
	return rc < 0 ? err_in(rc, "block %d", b->index) : 0;
}

/* A chunk at a step, of one of the two models. */
struct track {
	const struct block *b;     /* NULL: there is no such model */
	const struct held *h, *x;  /* x[2] */
};

struct visit {
	struct stream *s;
	struct track half, full;   /* of the quantized model, of the original one */
	bool unit;
	int64_t at, n;             /* rows */
};

/* The inputs of a site among those that share its memory. */
static struct held
of_site(const struct track *t, int site)
{
	return held_narrow(&t->x[site % 2], site_width(t->b->config, (enum site)site));
}

/* Returns the step's output; p NULL after the last one. */
static struct mat
step_track(const struct visit *v, const struct track *t, int step)
{
	struct dev *d = v->s->d;
	struct held from, to;
	struct mat h = {0}, in = {0}, out = {0};

	if (step % 2 == 0)
		h = held_rows(d, t->h, v->at, v->n, true);
	if (step > SITE_QKV) {
		from = of_site(t, step - 1);
		in = held_rows(d, &from, v->at, v->n, true);
	}
	if (step < SITES) {
		to = of_site(t, step);
		out = held_rows(d, &to, v->at, v->n, false);
	}
	block_step(d, t->b, step, &h, step > SITE_QKV ? &in : NULL, step < SITES ? &out : NULL, v->s->seqlen);
	if (step % 2 == 0 && step > SITE_QKV)
		held_back(d, t->h, v->at, &h);
	if (step < SITES)
		held_back(d, &to, v->at, &out);
	return out;
}

static void
step_rows(const struct visit *v, int step, struct stats *st)
{
	size_t mark = dev_mark(v->s->d);
	struct mat x = step_track(v, &v->half, step), xf = {0};

	if (v->full.b)
		xf = step_track(v, &v->full, step);
	if (st && step < SITES)
		gather(v->s, st, &x, &xf, v->unit);
	dev_release(v->s->d, mark);
}

int
stream_step(struct job *job, struct stream *s, int step, const struct pass *p)
{
	struct visit v = {.s = s, .half = {p->b, &s->h, s->x}, .full = {p->b_full, &s->f, s->xf}, .unit = p->unit};

	for (; v.at < s->tokens; v.at += v.n) {
		int rc;

		v.n = held_next(&s->h, v.at);
		step_rows(&v, step, p->st);
		rc = check(job, s, p->b, v.at + v.n >= s->tokens);
		if (rc < 0)
			return rc;
		job->host->progress(job, (double)step + (double)(v.at + v.n) / (double)s->tokens, SITES + 1, NULL);
	}
	return 0;
}

/* ---- the whole block at once ---- */

/* One chunk on its way: its rows of h and room for the inputs of its sites. */
struct local {
	struct mat rows;
	struct held h, x[2];
};

static void
local_take(struct stream *s, struct local *l, const struct held *h, const struct visit *v, bool keep)
{
	const struct config *c = v->half.b->config;

	l->rows = held_rows(s->d, h, v->at, v->n, true);
	if (keep && !h->parked) {
		struct mat copy = dev_mat(s->d, F32, v->n, h->cols);

		op_convert(s->d, &copy, &l->rows);
		l->rows = copy;
	}
	l->h = held_of(&l->rows);
	for (int i = 0; i < 2; i++) {
		struct mat x = dev_mat(s->d, dev_operand(s->d), v->n, turn_width(c, (enum site)i));

		l->x[i] = held_of(&x);
	}
}

static void
sweep_rows(struct stream *s, const struct pass *p, const struct visit *where, struct stats st[SITES], bool keep)
{
	size_t mark = dev_mark(s->d);
	struct local half, full;
	struct visit v = {.s = s, .half = {p->b, &half.h, half.x}, .full = {p->b_full, &full.h, full.x}, .unit = p->unit, .n = where->n};

	local_take(s, &half, &s->h, where, keep);
	if (p->b_full)
		local_take(s, &full, &s->f, where, keep);
	for (int step = 0; step <= SITES; step++)
		step_rows(&v, step, step < SITES ? &st[step] : NULL);
	if (!keep) {
		held_back(s->d, &s->h, where->at, &half.rows);
		if (p->b_full)
			held_back(s->d, &s->f, where->at, &full.rows);
	}
	dev_release(s->d, mark);
}

int
stream_sweep(struct job *job, struct stream *s, const struct pass *p, struct stats st[SITES], bool keep)
{
	struct visit v = {.s = s, .half.b = p->b};

	for (; v.at < s->tokens; v.at += v.n) {
		int rc;

		v.n = held_next(&s->h, v.at);
		sweep_rows(s, p, &v, st, keep);
		rc = check(job, s, p->b, v.at + v.n >= s->tokens);
		if (rc < 0)
			return rc;
		job->host->progress(job, (double)(v.at + v.n), (double)s->tokens, NULL);
	}
	return 0;
}

void
stream_advance(struct stream *s, struct job *job, const char *result)
{
	struct sha256 *h = sha256_new();
	struct buf text = {0};

	buf_printf(&text, "qjob-stream 1\nbefore %s\nresult %s\n", s->digest, result);
	buf_puts(&text, buf_text(&job->node->facts));
	for (size_t i = 0; i < job->node->nneeds; i++) {
		const struct need *need = &job->node->needs[i];

		if (need->keyed)
			buf_printf(&text, "in %s %s\n", need->label, job->host->digest(job, need->label));
	}
	sha256_add(h, text.p, text.n);
	sha256_end(h, s->digest);
	buf_release(&text);
	dev_release(s->d, s->mark);
}
