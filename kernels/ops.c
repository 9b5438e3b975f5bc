/* The checks that every backend may rely on.  An operation on a failed device does nothing. */
#include "kernels/ops.h"

#include <stdio.h>

#include "kernels/backend.h"
#include "kernels/codes.h"
#include "qjob/base/err.h"

enum {
	ANY = -1,                                       /* rows or columns that are free */
	IS_F32 = 1 << F32, IS_I32 = 1 << I32, IS_U8 = 1 << U8, IS_F64 = 1 << F64,
	IS_ACTIVATION = 1 << F32 | 1 << F16 | 1 << BF16,
	ANYWHERE = 1 << DTYPES,                         /* at any address */
	IS_WEIGHT = IS_ACTIVATION | ANYWHERE,           /* mapped from a file */
	IS_FLOAT = IS_WEIGHT | 1 << F64,
};

static void
name_types(char *text, size_t size, unsigned types)
{
	size_t n = 0;
	int t;

	text[0] = '\0';
	for (t = 0; t < DTYPES && n < size; t++) {
		if (types & 1u << t)
			n += (size_t)snprintf(text + n, size - n, "%s%s", n > 0 ? "|" : "",
			                      dtype_name((enum dtype)t));
	}
}

static void
name_side(char *text, size_t size, int64_t n)
{
	if (n == ANY)
		snprintf(text, size, "any");
	else
		snprintf(text, size, "%lld", (long long)n);
}

/* Operand `name` of operation op: one of the types, rows by cols.  False marks the device failed. */
static bool
has(struct dev *d, const char *op, const char *name, const struct mat *m, unsigned types, int64_t rows, int64_t cols)
{
	char wanted[64], r[24], c[24];

	if (d->status < 0)
		return false;
	if (!m || !m->p) {
		dev_fail(d, E_DATA, "%s: %s is missing", op, name);
		return false;
	}
	if (!(types & ANYWHERE) && (types & 1u << m->type) && (uintptr_t)m->p % dtype_size(m->type) != 0) {
		dev_fail(d, E_DATA, "%s: %s is not aligned", op, name);
		return false;
	}
	if ((types & 1u << m->type) && m->ld >= m->cols && m->rows >= 0 && m->cols >= 0
	    && (rows == ANY || m->rows == rows) && (cols == ANY || m->cols == cols))
		return true;
	name_types(wanted, sizeof(wanted), types);
	name_side(r, sizeof(r), rows);
	name_side(c, sizeof(c), cols);
	dev_fail(d, E_DATA, "%s: %s is %s [%lld,%lld], wanted %s [%s,%s]", op, name, dtype_name(m->type),
	         (long long)m->rows, (long long)m->cols, wanted, r, c);
	return false;
}

/* The same for a vector [1,n]: contiguous whatever its ld. */
static bool
has_row(struct dev *d, const char *op, const char *name, const struct mat *m, unsigned types, int64_t n)
{
	return has(d, op, name, m, types, 1, n);
}

static bool
holds(struct dev *d, const char *op, bool truth, const char *sentence)
{
	if (d->status == 0 && !truth)
		dev_fail(d, E_DATA, "%s: %s", op, sentence);
	return d->status == 0;
}

static bool
is_empty(const struct mat *m)
{
	return m->rows == 0 || m->cols == 0;
}

/* ---- forward ---- */

void
op_convert(struct dev *d, struct mat *y, const struct mat *x)
{
	if (has(d, "convert", "x", x, IS_FLOAT, ANY, ANY) && has(d, "convert", "y", y, IS_FLOAT, x->rows, x->cols)
	    && !is_empty(x))
		d->be->convert(d, y, x);
}

void
op_embed(struct dev *d, struct mat *y, const struct mat *table, const struct mat *ids)
{
	if (has(d, "embed", "y", y, IS_F32, ANY, ANY) && has(d, "embed", "table", table, IS_WEIGHT, ANY, y->cols)
	    && has_row(d, "embed", "ids", ids, IS_I32, y->rows) && !is_empty(y))
		d->be->embed(d, y, table, ids);
}

static void
norm(struct dev *d, const char *op, struct mat *y, const struct mat *x, int heads, const struct norm *n)
{
	if (!has(d, op, "x", x, IS_F32, ANY, ANY) || !has(d, op, "y", y, IS_ACTIVATION, x->rows, x->cols))
		return;
	if (!holds(d, op, heads > 0 && x->cols % heads == 0, "the heads do not divide x's columns")
	    || !has_row(d, op, "w", &n->w, IS_F32, x->cols / heads))
		return;
	if (n->b.p && !has_row(d, op, "b", &n->b, IS_F32, x->cols / heads))
		return;
	if (!is_empty(x))
		d->be->norm(d, y, x, heads, n);
}

void
op_norm(struct dev *d, struct mat *y, const struct mat *x, const struct norm *n)
{
	norm(d, "norm", y, x, 1, n);
}

void
op_norm_heads(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n)
{
	norm(d, "norm_heads", y, x, heads, n);
}

void
op_linear(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w, const struct mat *bias, bool add)
{
	if (!has(d, "linear", "x", x, IS_ACTIVATION, ANY, ANY) || !has(d, "linear", "w", w, IS_WEIGHT, ANY, x->cols)
	    || !has(d, "linear", "y", y, IS_F32, x->rows, w->rows))
		return;
	if (bias && !has_row(d, "linear", "bias", bias, IS_F32, w->rows))
		return;
	if (holds(d, "linear", x->cols > 0, "x has no columns") && !is_empty(y))
		d->be->linear(d, y, x, w, bias, add);
}

void
op_rope(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen)
{
	if (!has(d, "rope", "x", x, IS_F32, ANY, ANY) || !has(d, "rope", "cos", &r->cos, IS_F32, ANY, ANY)
	    || !has(d, "rope", "sin", &r->sin, IS_F32, r->cos.rows, r->cos.cols)
	    || !holds(d, "rope", heads > 0 && x->cols % heads == 0, "the heads do not divide x's columns")
	    || !holds(d, "rope", 2 * r->cos.cols <= x->cols / heads, "more dimensions are rotated than a head has")
	    || !holds(d, "rope", seqlen > 0 && x->rows % seqlen == 0, "seqlen does not divide the tokens")
	    || !holds(d, "rope", r->cos.rows >= seqlen, "the tables are shorter than seqlen"))
		return;
	if (!is_empty(x))
		d->be->rope(d, x, heads, r, seqlen);
}

void
op_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v,
             const struct attention *a)
{
	int64_t queries = (int64_t)a->heads * a->width, keys = (int64_t)a->kv_heads * a->width;

	if (!holds(d, "attention", a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0,
	           "the key-value heads do not divide the heads")
	    || !holds(d, "attention", a->width > 0, "heads have no width") || !holds(d, "attention", a->scale > 0,
	                                                                             "the scale is not positive")
	    || !has(d, "attention", "q", q, IS_F32, ANY, queries) || !has(d, "attention", "k", k, IS_F32, q->rows,
	                                                                  keys)
	    || !has(d, "attention", "v", v, IS_F32, q->rows, keys) || !has(d, "attention", "y", y, IS_ACTIVATION,
	                                                                   q->rows, queries)
	    || !holds(d, "attention", a->seqlen > 0 && q->rows % a->seqlen == 0, "seqlen does not divide the tokens"))
		return;
	if (!is_empty(q))
		d->be->attention(d, y, q, k, v, a);
}

void
op_act(struct dev *d, struct mat *y, const struct mat *x, enum act act)
{
	if (has(d, "act", "x", x, IS_F32, ANY, ANY) && has(d, "act", "y", y, IS_ACTIVATION, x->rows, x->cols)
	    && !is_empty(x))
		d->be->act(d, y, x, act);
}

void
op_gated(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up, enum act act)
{
	if (has(d, "gated", "gate", gate, IS_F32, ANY, ANY)
	    && has(d, "gated", "up", up, IS_F32, gate->rows, gate->cols)
	    && has(d, "gated", "y", y, IS_ACTIVATION, gate->rows, gate->cols) && !is_empty(gate))
		d->be->gated(d, y, gate, up, act);
}

void
op_add(struct dev *d, struct mat *y, const struct mat *x, float scale)
{
	if (has(d, "add", "x", x, IS_F32, ANY, ANY) && has(d, "add", "y", y, IS_F32, x->rows, x->cols)
	    && !is_empty(x))
		d->be->add(d, y, x, scale);
}

void
op_nll(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head, const struct mat *bias,
       const struct mat *ids, int64_t seqlen)
{
	if (!has(d, "nll", "x", x, IS_ACTIVATION, ANY, ANY) || !has(d, "nll", "head", head, IS_WEIGHT, ANY, x->cols)
	    || !has_row(d, "nll", "nll", nll, IS_F32, x->rows) || !has_row(d, "nll", "ids", ids, IS_I32, x->rows))
		return;
	if (bias && !has_row(d, "nll", "bias", bias, IS_F32, head->rows))
		return;
	if (holds(d, "nll", seqlen > 0 && x->rows % seqlen == 0, "seqlen does not divide the tokens")
	    && holds(d, "nll", x->cols > 0, "x has no columns") && x->rows > 0)
		d->be->nll(d, nll, x, head, bias, ids, seqlen);
}

/* ---- statistics ---- */

void
op_token_weight(struct dev *d, struct mat *a, const struct mat *x)
{
	if (has(d, "token_weight", "x", x, IS_ACTIVATION, ANY, ANY)
	    && has_row(d, "token_weight", "a", a, IS_F32, x->rows) && x->rows > 0)
		d->be->token_weight(d, a, x);
}

void
op_gram(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a)
{
	if (!has(d, "gram", "x", x, IS_ACTIVATION, ANY, ANY) || !has(d, "gram", "h", h, IS_F32, x->cols, x->cols))
		return;
	if (a && !has_row(d, "gram", "a", a, IS_F32, x->rows))
		return;
	if (!is_empty(x))
		d->be->gram(d, h, x, a);
}

void
op_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a)
{
	if (!has(d, "cross", "x", x, IS_ACTIVATION, ANY, ANY)
	    || !has(d, "cross", "f", f, IS_ACTIVATION, x->rows, x->cols)
	    || !has(d, "cross", "c", c, IS_F32, x->cols, x->cols))
		return;
	if (a && !has_row(d, "cross", "a", a, IS_F32, x->rows))
		return;
	if (!is_empty(x))
		d->be->cross(d, c, f, x, a);
}

/* ---- quantization ---- */

static bool
is_grid(struct dev *d, const char *op, const struct grid *g)
{
	return holds(d, op, g->bits >= 2 && g->bits <= 8, "bits are not 2..8") && holds(d, op, g->group > 0,
	                                                                                "the group is not positive")
	       && holds(d, op, g->stored == F16 || g->stored == BF16 || g->stored == F32,
	                "scales are stored as F16, BF16 or F32");
}

static bool
is_qmat(struct dev *d, const char *op, const struct qmat *q, int64_t rows, int64_t cols, const struct grid *g)
{
	int64_t groups;

	if (!is_grid(d, op, g))
		return false;
	groups = (cols + g->group - 1) / g->group;
	return has(d, op, "scale", &q->scale, IS_F32, rows, groups) && has(d, op, "zero", &q->zero, IS_U8, rows,
	                                                                   groups)
	       && has_row(d, op, "group_of", &q->group_of, IS_I32, cols);
}

/* The weights of columns that a search needs. */
static bool
is_weight(struct dev *d, const char *op, const struct mat *weight, int64_t cols, const struct grid *g)
{
	return g->search == SEARCH_WEIGHTED ? has_row(d, op, "weight", weight, IS_F32, cols) : d->status == 0;
}

void
op_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g)
{
	if (has(d, "fit", "w", w, IS_WEIGHT, ANY, ANY) && is_qmat(d, "fit", q, w->rows, w->cols, g)
	    && is_weight(d, "fit", weight, w->cols, g) && !is_empty(w))
		d->be->fit(d, q, w, weight, g);
}

void
op_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g)
{
	if (has(d, "round", "w", w, IS_WEIGHT, ANY, ANY) && is_qmat(d, "round", q, w->rows, w->cols, g)
	    && has(d, "round", "code", &q->code, IS_U8, w->rows, w->cols) && !is_empty(w))
		d->be->round(d, q, w, g);
}

void
op_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g)
{
	if (has(d, "dequant", "w", w, IS_FLOAT, ANY, ANY) && is_qmat(d, "dequant", q, w->rows, w->cols, g)
	    && has(d, "dequant", "code", &q->code, IS_U8, w->rows, w->cols) && !is_empty(w))
		d->be->dequant(d, w, q, g);
}

void
op_miss(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g)
{
	if (has(d, "miss", "w", w, IS_WEIGHT, ANY, ANY) && is_qmat(d, "miss", q, w->rows, w->cols, g)
	    && has(d, "miss", "code", &q->code, IS_U8, w->rows, w->cols) && has_row(d, "miss", "loss", loss, IS_F64, w->rows)
	    && !is_empty(w))
		d->be->miss(d, loss, w, q, g);
}

void
op_pack_codes(struct dev *d, struct mat *stream, const struct mat *code, int bits)
{
	if (has(d, "pack_codes", "code", code, IS_U8, ANY, ANY) && holds(d, "pack_codes", bits >= 1 && bits <= 8, "bits are not 1..8")
	    && has(d, "pack_codes", "stream", stream, IS_U8, code->rows, (int64_t)codes_bytes(code->cols, bits)) && !is_empty(code))
		d->be->pack_codes(d, stream, code, bits);
}

void
op_unpack_codes(struct dev *d, struct mat *code, const struct mat *stream, int bits)
{
	if (has(d, "unpack_codes", "code", code, IS_U8, ANY, ANY) && holds(d, "unpack_codes", bits >= 1 && bits <= 8, "bits are not 1..8")
	    && has(d, "unpack_codes", "stream", stream, IS_U8, code->rows, (int64_t)codes_bytes(code->cols, bits)) && !is_empty(code))
		d->be->unpack_codes(d, code, stream, bits);
}

void
op_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag)
{
	if (has(d, "order", "h", h, IS_F32, ANY, ANY) && holds(d, "order", h->rows == h->cols, "h is not square")
	    && has_row(d, "order", "order", order, IS_I32, h->rows) && !is_empty(h))
		d->be->order(d, order, h, by_diag);
}

/* What a factorization answered: 0, or the pivot (from 1) where it stopped. */
static int
factored(struct dev *d, const char *op, int64_t pivot, int64_t n)
{
	if (d->status < 0)
		return err_set(d->status, "%s", d->why);
	if (pivot > 0)
		return err_set(E_NUMERIC, "%s: pivot %lld of %lld is not positive; a larger damp makes it so", op,
		               (long long)pivot, (long long)n);
	return E_OK;
}

int
op_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead)
{
	int64_t pivot = 0;

	*dead = 0;
	if (has(d, "factor", "h", h, IS_F32, ANY, ANY) && holds(d, "factor", h->rows == h->cols, "h is not square")
	    && has(d, "factor", "u", u, IS_F32 | IS_F64, h->rows, h->rows) && has_row(d, "factor", "order", order,
	                                                                              IS_I32, h->rows)
	    && !is_empty(h))
		pivot = d->be->factor(d, u, h, order, damp, dead);
	return factored(d, "factor", pivot, h->rows);
}

int
op_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda)
{
	int64_t pivot = 0;

	if (has(d, "solve", "h", h, IS_F32, ANY, ANY) && holds(d, "solve", h->rows == h->cols, "h is not square")
	    && has(d, "solve", "b", b, IS_F32, ANY, h->rows) && has(d, "solve", "out", out, IS_F32, b->rows,
	                                                            h->rows) && !is_empty(b))
		pivot = d->be->solve(d, out, b, h, lambda);
	return factored(d, "solve", pivot, h->rows);
}

void
op_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b)
{
	if (has(d, "matmul", "a", a, IS_F32, ANY, ANY) && has(d, "matmul", "b", b, IS_F32, a->cols, ANY)
	    && has(d, "matmul", "y", y, IS_F32, a->rows, b->cols) && holds(d, "matmul", a->cols > 0,
	                                                                   "a has no columns") && !is_empty(y))
		d->be->matmul(d, y, a, b);
}

void
op_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u,
         const struct mat *order, const struct mat *weight, const struct grid *g, const struct babai *b)
{
	const char *op = "babai";

	if (has(d, op, "w", w, IS_F32, ANY, ANY) && is_qmat(d, op, q, w->rows, w->cols, g)
	    && has(d, op, "code", &q->code, IS_U8, w->rows, w->cols) && has_row(d, op, "loss", loss, IS_F64, w->rows)
	    && has(d, op, "u", u, IS_F32 | IS_F64, w->cols, w->cols) && has_row(d, op, "order", order, IS_I32,
	                                                                        w->cols)
	    && (b->static_groups || is_weight(d, op, weight, w->cols, g))
	    && (!b->target || has(d, op, "target", b->target, IS_F32, w->rows, w->cols)) && !is_empty(w))
		d->be->babai(d, q, loss, w, u, order, weight, g, b);
}
