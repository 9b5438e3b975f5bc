#include "stages/stream.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/model/safetensors.h"

static enum math
wanted_math(const struct project *p)
{
	if (p->wish.math != MATH_AUTO)
		return p->wish.math;
	if (strcmp(p->s->calibration.dtype, "float32") == 0)
		return MATH_F32;
	return strcmp(p->s->calibration.dtype, "bfloat16") == 0 ? MATH_BF16 : MATH_AUTO;
}

static int64_t
widest_site(const struct config *c)
{
	int64_t most = 0;

	for (enum site site = 0; site < SITES; site++)
		if (site_width(c, site) > most)
			most = site_width(c, site);
	return most;
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

uint64_t
stream_bytes(const struct project *p)
{
	const struct config *c = &p->weights.config;
	uint64_t tokens = (uint64_t)p->s->calibration.samples * (uint64_t)p->s->calibration.seqlen;
	uint64_t each = (uint64_t)c->D * 4 + (uint64_t)widest_site(c) * (wanted_math(p) == MATH_F32 ? 4 : 2);

	return tokens * each * (p->wish.needs & NEED_CROSS ? 2 : 1);
}

static int
load_ids(struct stream *s, const struct safetensors *file, struct mat *ids)
{
	const struct tensor *t = safetensors_find(file, "input_ids");

	if (!t || t->type != I32 || t->rank != 2)
		return err_set(E_DATA, "ids.safetensors: want input_ids I32 [sequences,seqlen]");
	s->sequences = t->shape[0];
	s->seqlen = t->shape[1];
	s->tokens = s->sequences * s->seqlen;
	*ids = dev_mat(s->d, I32, 1, s->tokens);
	dev_put(s->d, ids, t->p);
	return dev_status(s->d);
}

/* The stream's matrices are taken in a fixed order and live below its mark. */
static int
take_memory(struct stream *s, const struct project *p)
{
	const struct config *c = &p->weights.config;
	enum dtype type = s->math == MATH_BF16 ? BF16 : F32;
	bool full = p->wish.needs & NEED_CROSS;

	s->h = dev_mat(s->d, F32, s->tokens, c->D);
	s->x = dev_mat(s->d, type, s->tokens, widest_site(c));
	if (full) {
		s->f = dev_mat(s->d, F32, s->tokens, c->D);
		s->xf = dev_mat(s->d, type, s->tokens, widest_site(c));
	}
	s->mark = dev_mark(s->d);
	return dev_status(s->d);
}

static int
embed_ids(struct stream *s, const struct project *p, const struct mat *ids)
{
	struct ends ends;
	int rc = ends_load(s->d, &ends, &p->weights);

	if (rc < 0)
		return rc;
	op_embed(s->d, &s->h, &ends.embed, ids);
	if (s->f.p)
		op_convert(s->d, &s->f, &s->h);
	dev_release(s->d, s->mark);
	return dev_status(s->d);
}

static int
start(struct stream *s, struct job *job, const char *path)
{
	const struct project *p = job->project;
	struct safetensors file;
	struct mat ids;
	int rc = safetensors_open(&file, path);

	if (rc < 0)
		return rc;
	rc = load_ids(s, &file, &ids);
	if (rc == 0)
		rc = take_memory(s, p);
	if (rc == 0)
		rc = embed_ids(s, p, &ids);
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
		s->math = dev_math(s->d, wanted_math(job->project));
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
	s->math = dev_math(s->d, wanted_math(job->project));
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

static void
gather(struct stream *s, struct stats *st, const struct mat *x, const struct mat *xf, bool unit)
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

/* One step over one chunk of rows; the output is made apart, since the step still reads its input. */
static void
step_chunk(struct stream *s, const struct block *b, int step, struct mat *h, struct mat *x)
{
	const struct config *c = b->config;
	size_t mark = dev_mark(s->d);
	struct mat in = {0}, out = {0}, place;

	if (step > SITE_QKV)
		in = mat_cols(x, 0, site_width(c, step - 1));
	if (step < SITES)
		out = dev_mat(s->d, x->type, x->rows, site_width(c, step));
	block_step(s->d, b, step, h, step > SITE_QKV ? &in : NULL, step < SITES ? &out : NULL, s->seqlen);
	if (step < SITES) {
		place = mat_cols(x, 0, out.cols);
		op_convert(s->d, &place, &out);
	}
	dev_release(s->d, mark);
}

static int
check(struct job *job, struct stream *s)
{
	if (job->host->stop(job))
		return err_set(E_SYS, "interrupted");
	return dev_status(s->d);
}

/* The rows of chunk `at` in every matrix of the stream. */
struct rows {
	struct mat h, f, x, xf;
};

static struct rows
chunk_rows(struct stream *s, int64_t at, int64_t n)
{
	struct rows r = {.h = mat_rows(&s->h, at, n), .x = mat_rows(&s->x, at, n)};

	if (s->f.p) {
		r.f = mat_rows(&s->f, at, n);
		r.xf = mat_rows(&s->xf, at, n);
	}
	return r;
}

static void
step_rows(struct stream *s, struct rows *r, int step, const struct pass *p, struct stats *st)
{
	step_chunk(s, p->b, step, &r->h, &r->x);
	if (p->b_full)
		step_chunk(s, p->b_full, step, &r->f, &r->xf);
	if (st && step < SITES) {
		struct mat x = mat_cols(&r->x, 0, site_width(p->b->config, step)), xf = {0};

		if (p->b_full)
			xf = mat_cols(&r->xf, 0, x.cols);
		gather(s, st, &x, &xf, p->unit);
	}
}

int
stream_step(struct job *job, struct stream *s, int step, const struct pass *p)
{
	int64_t chunk = chunk_sequences(s->seqlen) * s->seqlen;

	for (int64_t at = 0; at < s->tokens; at += chunk) {
		int64_t n = s->tokens - at < chunk ? s->tokens - at : chunk;
		struct rows r = chunk_rows(s, at, n);
		int rc;

		step_rows(s, &r, step, p, p->st);
		rc = check(job, s);
		if (rc < 0)
			return rc;
		job->host->progress(job, (double)step + (double)(at + n) / (double)s->tokens, SITES + 1, NULL);
	}
	return 0;
}

int
stream_sweep(struct job *job, struct stream *s, const struct pass *p, struct stats st[SITES], bool keep)
{
	int64_t chunk = chunk_sequences(s->seqlen) * s->seqlen;

	for (int64_t at = 0; at < s->tokens; at += chunk) {
		int64_t n = s->tokens - at < chunk ? s->tokens - at : chunk;
		size_t mark = dev_mark(s->d);
		struct rows r = chunk_rows(s, at, n);
		int rc;

		if (keep) {
			struct mat h = r.h, f = r.f;

			r.h = dev_mat(s->d, F32, n, h.cols);
			op_convert(s->d, &r.h, &h);
			if (f.p) {
				r.f = dev_mat(s->d, F32, n, f.cols);
				op_convert(s->d, &r.f, &f);
			}
		}
		for (int step = 0; step <= SITES; step++)
			step_rows(s, &r, step, p, step < SITES ? &st[step] : NULL);
		dev_release(s->d, mark);
		rc = check(job, s);
		if (rc < 0)
			return rc;
		job->host->progress(job, (double)(at + n), (double)s->tokens, NULL);
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
