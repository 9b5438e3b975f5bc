#include "qjob/model/decoder.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/model/load.h"

enum { PIECE_FLOATS = 1 << 24 };    /* handed out at once: 64 MiB */

/* One pass of all windows through the model, block by block so that each weight is met once. */
struct pass {
	struct dev *d;
	const struct weights *w;
	const int32_t *ids;
	int64_t n, seqlen;
	bool outputs;                /* logits are wanted, not likelihoods */
	struct held h;               /* [n*seqlen, D] */
	int (*after)(struct pass *p, int block);     /* called with what came out of a block; -1: of the embedding */
	void *own;
};

static int64_t
piece_rows(int64_t cols)
{
	return cols < PIECE_FLOATS ? PIECE_FLOATS / cols : 1;
}

int
embed_load(struct dev *d, struct mat *embed, const struct weights *w)
{
	const struct linear_shape shape = {w->config.V, w->config.D};

	return load_matrix(d, embed, w, EMBED, 0, shape);
}

int
ends_load(struct dev *d, struct ends *e, const struct weights *w)
{
	const struct config *c = &w->config;
	const struct linear_shape shape = {c->V, c->D};
	int r = embed_load(d, &e->embed, w);

	if (r == 0)
		r = load_norm(d, &e->norm, w, FINAL_NORM, 0);
	e->head = e->embed;
	if (r == 0 && !c->tied)
		r = load_matrix(d, &e->head, w, HEAD, 0, shape);
	return r < 0 ? r : dev_status(d);
}

void
embed_ids(struct dev *d, const struct held *h, const struct mat *table, const int32_t *ids)
{
	for (int64_t at = 0, n; at < h->rows && !dev_failed(d); at += n) {
		size_t mark = dev_mark(d);
		struct mat rows, row;

		n = held_next(h, at);
		rows = held_rows(d, h, at, n, false);
		row = dev_mat(d, I32, 1, n);
		dev_put(d, &row, ids + at);
		op_embed(d, &rows, table, &row);
		held_back(d, h, at, &rows);
		dev_release(d, mark);
	}
}

static int
check_ids(const struct pass *p)
{
	const struct config *c = &p->w->config;

	if (p->seqlen > c->positions)
		return err_set(E_USE, "windows of %" PRId64 " tokens are longer than max_position_embeddings, %" PRId64, p->seqlen,
		               c->positions);
	for (int64_t i = 0; i < p->n * p->seqlen; i++)
		if (p->ids[i] < 0 || p->ids[i] >= c->V)
			return err_set(E_DATA, "window %" PRId64 ", position %" PRId64 ": token %" PRId32
			               " is outside the vocabulary of %" PRId64, i / p->seqlen, i % p->seqlen, p->ids[i], c->V);
	return 0;
}

static int
run_block(struct pass *p, int index)
{
	struct block b;
	size_t mark = dev_mark(p->d);
	int r = block_load(p->d, &b, p->w, index, p->seqlen);

	block_ahead(p->d, p->w, index + 1);
	if (r == 0) {
		block_forward(p->d, &b, &p->h, p->seqlen);
		r = dev_status(p->d);
	}
	dev_release(p->d, mark);
	return r < 0 ? err_in(r, "block %d", index) : p->after(p, index);
}

/* ---- memory ---- */

/* On a dry device with the ends loaded: all tokens held, one chunk through one block, then through the head. */
static void
rehearse(struct dev *dry, const struct pass *p, const struct ends *e, struct held *h)
{
	const struct config *c = &p->w->config;
	struct block b;
	struct mat x, ids, nll;
	size_t mark;

	held_take(dry, h);
	mark = dev_mark(dry);
	h->rows = held_next(h, 0);
	if (block_load(dry, &b, p->w, 0, p->seqlen) < 0)
		return;        /* what is wrong with it, if not its size, will be told by who loads it */
	block_forward(dry, &b, h, p->seqlen);
	dev_release(dry, mark);
	held_rows(dry, h, 0, h->rows, true);
	x = dev_mat(dry, dev_operand(dry), h->rows, c->D);
	if (p->outputs) {
		x.rows = piece_rows(c->V) < h->rows ? piece_rows(c->V) : h->rows;
		nll = dev_mat(dry, F32, x.rows, c->V);
		op_linear(dry, &nll, &x, &e->head, NULL, false);
	} else {
		ids = dev_mat(dry, I32, 1, h->rows);
		nll = dev_mat(dry, F32, 1, h->rows);
		op_nll(dry, &nll, &x, &e->head, NULL, &ids, p->seqlen);
	}
	dev_release(dry, mark);
}

static bool
fits(const struct pass *p, const struct ends *e, const struct held *h)
{
	struct held trial = *h;
	struct dev *dry = dev_dry_like(p->d);
	bool good;

	rehearse(dry, p, e, &trial);
	good = !dev_failed(dry);
	dev_close(dry);
	return good;
}

/* Sets p->h so that it fits: all tokens on the device or beside it, in chunks as large as they can be. */
static int
settle(struct pass *p, const struct ends *e)
{
	const int64_t least = least_sequences(p->seqlen), most = chunk_sequences(p->d, p->seqlen);

	p->h = (struct held){.rows = p->n * p->seqlen, .cols = p->w->config.D, .type = F32};
	for (int parked = 0; parked < 2; parked++) {
		p->h.parked = parked;
		for (int64_t n = most; n >= least; n = n / 2 / least * least) {
			p->h.chunk = n * p->seqlen;
			if (fits(p, e, &p->h))
				return 0;
		}
	}
	return err_set(E_USE, "windows of %" PRId64 " tokens do not fit the %.1f MB that may be used of the device; give more (--memory), "
	               "or take shorter ones", p->seqlen, (double)dev_size(p->d) / 1e6);
}

int
decoder_rehearse(struct dev *dry, const struct weights *w, int64_t n, int64_t seqlen)
{
	struct pass p = {.d = dry, .w = w, .n = n, .seqlen = seqlen};
	struct ends e;
	int r = ends_load(dry, &e, w);

	if (r == 0)
		r = settle(&p, &e);
	if (r == 0)
		rehearse(dry, &p, &e, &p.h);
	return r;
}

/* ---- all blocks ---- */

/* p->h is taken from the device until the caller's mark. */
static int
run_blocks(struct pass *p, const struct ends *e)
{
	int r = check_ids(p);

	if (r == 0)
		r = settle(p, e);
	if (r < 0)
		return r;
	held_take(p->d, &p->h);
	embed_ids(p->d, &p->h, &e->embed, p->ids);
	r = dev_status(p->d);
	if (r == 0)
		r = p->after(p, -1);
	for (int i = 0; r == 0 && i < p->w->config.L; i++)
		r = run_block(p, i);
	dev_ahead(p->d, NULL, 0);      /* the caller may unmap the weights now */
	return r;
}

/* ---- perplexity ---- */

struct nll_run {
	double *window;
	float *nll;                  /* [n][seqlen]; may be NULL */
	int (*progress)(void *own, int block, int blocks);
	void *own;
};

static int
after_nll_block(struct pass *p, int block)
{
	const struct nll_run *run = p->own;

	if (block >= 0 && run->progress && run->progress(run->own, block + 1, (int)p->w->config.L) != 0)
		return err_set(E_SYS, "interrupted");
	return 0;
}

static double
window_mean(const float *nll, int64_t seqlen)
{
	double sum = 0;

	for (int64_t t = 0; t + 1 < seqlen; t++)
		sum += (double)nll[t];
	return sum / (double)(seqlen - 1);
}

/* The rows [first, first + T) after the last block: whole windows. */
static int
nll_chunk(struct pass *p, const struct ends *e, int64_t first, int64_t T)
{
	const struct nll_run *run = p->own;
	const int64_t from = first / p->seqlen, n = T / p->seqlen;
	size_t mark = dev_mark(p->d);
	struct mat h = held_rows(p->d, &p->h, first, T, true), x = dev_mat(p->d, dev_operand(p->d), T, h.cols);
	struct mat ids = dev_mat(p->d, I32, 1, T), nll = dev_mat(p->d, F32, 1, T);
	float *host = calloc((size_t)T, sizeof(*host));
	int r = host ? 0 : err_set(E_SYS, "no memory for %" PRId64 " tokens", T);

	if (r == 0) {
		dev_put(p->d, &ids, p->ids + first);
		op_norm(p->d, &x, &h, &e->norm);
		op_nll(p->d, &nll, &x, &e->head, NULL, &ids, p->seqlen);
		dev_get(p->d, host, &nll);
		r = dev_status(p->d);
	}
	dev_release(p->d, mark);
	for (int64_t i = 0; r == 0 && i < n; i++)
		run->window[from + i] = window_mean(host + i * p->seqlen, p->seqlen);
	if (r == 0 && run->nll)
		memcpy(run->nll + first, host, (size_t)T * sizeof(*host));
	free(host);
	return r;
}

static int
run_nll(struct pass *p)
{
	struct ends e;
	int r = ends_load(p->d, &e, p->w);

	if (r == 0)
		r = run_blocks(p, &e);
	for (int64_t at = 0, n; r == 0 && at < p->h.rows; at += n) {
		n = held_next(&p->h, at);
		r = nll_chunk(p, &e, at, n);
	}
	return r;
}

int
decoder_nll(struct dev *d, const struct weights *w, const int32_t *ids, int64_t n, int64_t seqlen, double *window_nll,
            float *nll, int (*progress)(void *own, int block, int blocks), void *own)
{
	struct nll_run run = {window_nll, nll, progress, own};
	struct pass p = {.d = d, .w = w, .ids = ids, .n = n, .seqlen = seqlen, .after = after_nll_block, .own = &run};
	size_t mark = dev_mark(d);
	int r;

	if (seqlen < 2)
		return err_set(E_USE, "windows of %" PRId64 " tokens predict nothing, wanted at least 2", seqlen);
	r = run_nll(&p);
	dev_release(d, mark);
	return r;
}

/* ---- outputs ---- */

struct outputs {
	const struct forward *f;
	float *host;                 /* a piece */
};

static int
hand_out(struct pass *p, const struct mat *m)
{
	const struct outputs *o = p->own;

	int r;

	dev_get(p->d, o->host, m);
	r = dev_status(p->d);
	return r < 0 ? r : o->f->take(o->f->own, o->host, (size_t)(m->rows * m->cols));
}

/* The last block's output is handed out after the final norm, by give_ends. */
static int
after_output_block(struct pass *p, int block)
{
	const struct outputs *o = p->own;
	const int64_t most = piece_rows(p->h.cols);
	int r = 0;

	if (!o->f->hidden || block + 1 == p->w->config.L)
		return 0;
	for (int64_t from = 0; r == 0 && from < p->h.rows; from += most) {
		size_t mark = dev_mark(p->d);
		struct mat m = held_rows(p->d, &p->h, from, p->h.rows - from < most ? p->h.rows - from : most, true);

		r = hand_out(p, &m);
		dev_release(p->d, mark);
	}
	return r;
}

/* The normed hidden state (head NULL) or the logits of rows [from, from + n). */
static int
give_end(struct pass *p, const struct ends *e, const struct mat *head, int64_t from, int64_t n)
{
	size_t mark = dev_mark(p->d);
	struct mat h = held_rows(p->d, &p->h, from, n, true);
	struct mat x = dev_mat(p->d, head ? dev_operand(p->d) : F32, n, h.cols), y;
	int r;

	op_norm(p->d, &x, &h, &e->norm);
	y = x;
	if (head) {
		y = dev_mat(p->d, F32, n, head->rows);
		op_linear(p->d, &y, &x, head, NULL, false);
	}
	r = hand_out(p, &y);
	dev_release(p->d, mark);
	return r;
}

static int
give_ends(struct pass *p, const struct ends *e, const struct mat *head)
{
	const int64_t most = piece_rows(head ? head->rows : p->h.cols);
	int r = 0;

	for (int64_t from = 0; r == 0 && from < p->h.rows; from += most)
		r = give_end(p, e, head, from, p->h.rows - from < most ? p->h.rows - from : most);
	return r;
}

static int
run_outputs(struct pass *p)
{
	const struct outputs *o = p->own;
	struct ends e;
	int r = ends_load(p->d, &e, p->w);

	if (r == 0)
		r = run_blocks(p, &e);
	if (r == 0 && o->f->hidden)
		r = give_ends(p, &e, NULL);
	return r < 0 ? r : give_ends(p, &e, &e.head);
}

int
decoder_forward(struct dev *d, const struct weights *w, const struct forward *f)
{
	const int64_t widest = w->config.V > w->config.D ? w->config.V : w->config.D;
	struct outputs o = {.f = f, .host = malloc((widest > PIECE_FLOATS ? (size_t)widest : PIECE_FLOATS) * sizeof(float))};
	struct pass p = {
		.d = d, .w = w, .ids = f->ids, .n = f->n, .seqlen = f->seqlen, .outputs = true, .after = after_output_block, .own = &o,
	};
	size_t mark = dev_mark(d);
	int r = o.host ? run_outputs(&p) : err_set(E_SYS, "no memory for pieces of the outputs");

	dev_release(d, mark);
	free(o.host);
	return r;
}
