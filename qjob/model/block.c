#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/model/decoder.h"
#include "qjob/model/load.h"
#include "qjob/model/rope.h"

enum { LEAST_TOKENS = 2048 };

int64_t
site_width(const struct config *c, enum site s)
{
	switch (s) {
	case SITE_O:    return (int64_t)c->heads * c->head_dim;
	case SITE_DOWN: return c->I;
	default:        return c->D;
	}
}

int64_t
turn_width(const struct config *c, enum site s)
{
	int64_t before = site_width(c, s % 2), after = site_width(c, s % 2 + 2);

	return before > after ? before : after;
}

int64_t
part_rows(const struct config *c, enum part p)
{
	switch (p) {
	case Q:                return (int64_t)c->heads * c->head_dim;
	case K: case V:        return (int64_t)c->kv_heads * c->head_dim;
	case GATE: case UP:    return c->I;
	case EMBED: case HEAD: return c->V;
	default:               return c->D;
	}
}

int64_t
least_sequences(int64_t seqlen)
{
	return seqlen < LEAST_TOKENS ? LEAST_TOKENS / seqlen : 1;
}

int64_t
chunk_sequences(const struct dev *d, int64_t seqlen)
{
	int64_t least = least_sequences(seqlen), times = dev_tokens(d) / (least * seqlen);

	return times > 1 ? times * least : least;
}

/* ---- loading ---- */

static int
load_rope(struct dev *d, struct rope *r, const struct config *c, int64_t seqlen)
{
	const int64_t half = c->rotary / 2;
	float *cosines, *sines;

	r->interleaved = false;
	r->cos = dev_mat(d, F32, seqlen, half);
	r->sin = dev_mat(d, F32, seqlen, half);
	if (dev_is_dry(d))
		return 0;
	cosines = calloc((size_t)(2 * seqlen * half), sizeof(float));
	if (!cosines)
		return err_set(E_SYS, "no memory for rotary tables of %" PRId64 " positions", seqlen);
	sines = cosines + seqlen * half;
	rope_tables(c, seqlen, cosines, sines);
	dev_put(d, &r->cos, cosines);
	dev_put(d, &r->sin, sines);
	free(cosines);
	return 0;
}

static int
load_site(struct dev *d, struct block *b, const struct weights *w, enum site s)
{
	enum part parts[4];
	int n = site_parts(w->config.family, s, parts), r = 0;

	for (int i = 0; r == 0 && i < n; i++) {
		const struct linear_shape shape = {part_rows(&w->config, parts[i]), site_width(&w->config, s)};

		r = load_linear(d, &b->linear[parts[i]], w, parts[i], b->index, shape);
	}
	return r;
}

int
block_load(struct dev *d, struct block *b, const struct weights *w, int index, int64_t seqlen)
{
	static const enum part norms[] = {ATTN_NORM, Q_NORM, K_NORM, MLP_NORM};
	const struct config *c = &w->config;
	int r;

	*b = (struct block){.index = index, .config = c, .window = config_windowed(c, index) ? c->window : 0};
	r = load_rope(d, &b->rope, c, seqlen);
	for (int s = 0; r == 0 && s < SITES; s++)
		r = load_site(d, b, w, (enum site)s);
	for (size_t i = 0; r == 0 && i < sizeof(norms) / sizeof(norms[0]); i++)
		if (c->family->names[norms[i]])
			r = load_norm(d, &b->norm[norms[i]], w, norms[i], index);
	return r < 0 ? r : dev_status(d);
}

void
block_ahead(struct dev *d, const struct weights *w, int index)
{
	struct span v[PARTS];
	size_t n = 0;

	for (int s = 0; s < SITES && index < w->config.L; s++) {
		enum part parts[4];
		int count = site_parts(w->config.family, (enum site)s, parts);

		for (int i = 0; i < count; i++) {
			const struct tensor *t = load_find(w, parts[i], index);

			if (t)
				v[n++] = (struct span){t->p, t->bytes};
		}
	}
	dev_ahead(d, v, n);
}

/* ---- running ---- */

static void
apply(struct dev *d, struct mat *y, const struct mat *x, const struct linear *l, bool add)
{
	op_linear(d, y, x, &l->w, l->b.p ? &l->b : NULL, add);
}

static struct mat
project(struct dev *d, const struct mat *x, const struct linear *l)
{
	struct mat y = dev_mat(d, F32, x->rows, l->w.rows);

	apply(d, &y, x, l, false);
	return y;
}

static void
attend(struct dev *d, const struct block *b, const struct mat *x_in, struct mat *x, int64_t seqlen)
{
	const struct config *c = b->config;
	const struct attention a = {
		.heads = c->heads, .kv_heads = c->kv_heads, .width = c->head_dim,
		.scale = (float)(1 / sqrt((double)c->head_dim)), .window = b->window, .seqlen = seqlen,
	};
	struct mat q = project(d, x_in, &b->linear[Q]);
	struct mat k = project(d, x_in, &b->linear[K]);
	struct mat v = project(d, x_in, &b->linear[V]);

	if (c->family->qk_norm) {
		op_norm_heads(d, &q, &q, c->heads, &b->norm[Q_NORM]);
		op_norm_heads(d, &k, &k, c->kv_heads, &b->norm[K_NORM]);
	}
	op_rope(d, &q, c->heads, &b->rope, seqlen);
	op_rope(d, &k, c->kv_heads, &b->rope, seqlen);
	op_attention(d, x, &q, &k, &v, &a);
}

static void
expand(struct dev *d, const struct block *b, const struct mat *x_in, struct mat *x)
{
	struct mat up = project(d, x_in, &b->linear[UP]), gate;

	if (!b->config->family->names[GATE]) {
		op_act(d, x, &up, b->config->act);
		return;
	}
	gate = project(d, x_in, &b->linear[GATE]);
	op_gated(d, x, &gate, &up, b->config->act);
}

void
block_step(struct dev *d, const struct block *b, int step, struct mat *h, const struct mat *x_in, struct mat *x, int64_t seqlen)
{
	size_t mark = dev_mark(d);

	switch (step) {
	case SITE_QKV:
		op_norm(d, x, h, &b->norm[ATTN_NORM]);
		break;
	case SITE_O:
		attend(d, b, x_in, x, seqlen);
		break;
	case SITE_UP:
		apply(d, h, x_in, &b->linear[O], true);
		op_norm(d, x, h, &b->norm[MLP_NORM]);
		break;
	case SITE_DOWN:
		expand(d, b, x_in, x);
		break;
	default:
		apply(d, h, x_in, &b->linear[DOWN], true);
	}
	dev_release(d, mark);
}

/* Inputs of sites lie in two matrices by turns, so that a step never writes what it reads.  They are held as operands are: no
 * product converts them. */
static void
forward_chunk(struct dev *d, const struct block *b, struct mat *h, int64_t seqlen)
{
	const struct mat two[2] = {
		dev_mat(d, dev_operand(d), h->rows, turn_width(b->config, SITE_QKV)),
		dev_mat(d, dev_operand(d), h->rows, turn_width(b->config, SITE_O)),
	};
	struct mat in = {0}, out = {0};

	for (int step = 0; step <= SITES; step++) {
		if (step < SITES) {
			out = two[step % 2];
			out.cols = out.ld = site_width(b->config, (enum site)step);
		}
		block_step(d, b, step, h, step ? &in : NULL, step < SITES ? &out : NULL, seqlen);
		in = out;
	}
}

void
block_forward(struct dev *d, const struct block *b, const struct held *h, int64_t seqlen)
{
	for (int64_t at = 0, n; at < h->rows && !dev_failed(d); at += n) {
		size_t mark = dev_mark(d);
		struct mat rows;

		n = held_next(h, at);
		rows = held_rows(d, h, at, n, true);
		forward_chunk(d, b, &rows, seqlen);
		held_back(d, h, at, &rows);
		dev_release(d, mark);
	}
}
