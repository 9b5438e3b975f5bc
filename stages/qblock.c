#include "stages/qblock.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/json.h"

static void *
take(struct dev *d, const struct mat *m)
{
	void *host = mem_new((size_t)(m->rows * m->cols), dtype_size(m->type));

	dev_get(d, host, m);
	return host;
}

static uint8_t *
take_codes(struct dev *d, const struct qmat *q, int bits)
{
	int64_t rows = q->code.rows, cols = q->code.cols;
	size_t row = codes_bytes(cols, bits);
	uint8_t *codes = take(d, &q->code), *packed = mem_new((size_t)rows, row);

	for (int64_t o = 0; o < rows; o++)
		codes_pack(packed + (size_t)o * row, codes + o * cols, cols, bits);
	free(codes);
	return packed;
}

static void *
take_scale(struct dev *d, const struct qmat *q, enum dtype stored)
{
	size_t n = (size_t)(q->scale.rows * q->scale.cols);
	float *f = take(d, &q->scale);
	uint16_t *h;

	if (stored == F32)
		return f;
	h = mem_new(n, sizeof(*h));
	for (size_t i = 0; i < n; i++)
		h[i] = stored == F16 ? float_f16(f[i]) : float_bf16(f[i]);
	free(f);
	return h;
}

static double
sum_loss(struct dev *d, const struct mat *loss)
{
	double *v = take(d, loss), sum = 0;

	for (int64_t i = 0; i < loss->cols; i++)
		sum += v[i];
	free(v);
	return sum;
}

int
qblock_add(struct qblock *b, struct dev *d, const struct choice *c, const struct solved *s, const struct grid *g, int64_t tokens)
{
	struct qresult *r = &b->v[b->n++];

	*r = (struct qresult){.choice = c, .damp = s->damp, .dead = s->dead, .tokens = tokens};
	memcpy(r->fallback, s->fallback, sizeof(r->fallback));
	r->q = (struct qlinear){.bits = c->bits, .rows = c->rows, .cols = c->cols, .group = c->group, .groups = s->q.scale.cols,
	                        .sym = c->sym, .scale_type = g->stored};
	r->q.codes = take_codes(d, &s->q, c->bits);
	r->q.scale = take_scale(d, &s->q, g->stored);
	if (!c->sym)
		r->q.zero = take(d, &s->q.zero);
	if (!s->in_order)
		r->q.group_of = take(d, &s->q.group_of);
	r->loss = sum_loss(d, &s->loss);
	return dev_status(d);
}

void
qblock_release(struct qblock *b)
{
	for (size_t i = 0; i < b->n; i++) {
		free((void *)b->v[i].q.codes);
		free((void *)b->v[i].q.scale);
		free((void *)b->v[i].q.zero);
		free((void *)b->v[i].q.group_of);
	}
	b->n = 0;
}

/* A tensor of the file and where its bytes are. */
struct piece {
	struct tensor t;
	const void *p;
};

static size_t
pieces(const struct qresult *r, struct piece v[4])
{
	const struct qlinear *q = &r->q;
	const char *name = r->choice->name;
	size_t n = 0;

	v[n++] = (struct piece){{.name = mem_format("%s.codes", name), .type = U8, .rank = 2,
	                         .shape = {q->rows, (int64_t)codes_bytes(q->cols, q->bits)}}, q->codes};
	v[n++] = (struct piece){{.name = mem_format("%s.scale", name), .type = q->scale_type, .rank = 2,
	                         .shape = {q->rows, q->groups}}, q->scale};
	if (q->zero)
		v[n++] = (struct piece){{.name = mem_format("%s.zero", name), .type = U8, .rank = 2,
		                         .shape = {q->rows, q->groups}}, q->zero};
	if (q->group_of)
		v[n++] = (struct piece){{.name = mem_format("%s.group_of", name), .type = I32, .rank = 1, .shape = {q->cols}}, q->group_of};
	return n;
}

static int
write_tensors(const struct qblock *b, const char *path)
{
	struct piece v[PARTS * 4];
	struct tensor t[PARTS * 4] = {0};
	struct safetensors_out *o;
	size_t n = 0;
	int rc;

	for (size_t i = 0; i < b->n; i++)
		n += pieces(&b->v[i], v + n);
	for (size_t i = 0; i < n; i++)
		t[i] = v[i].t;
	rc = safetensors_begin(&o, path, t, n);
	if (rc == 0) {
		for (size_t i = 0; i < n && rc == 0; i++)
			rc = safetensors_add(o, v[i].p, tensor_bytes(&t[i]));
		if (rc == 0)
			rc = safetensors_end(o);
		else
			safetensors_abort(o);
	}
	for (size_t i = 0; i < n; i++)
		free(v[i].t.name);
	return rc;
}

static json_t *
describe(const struct qresult *r)
{
	const struct choice *c = r->choice;

	return json_pack("{s:s, s:i, s:I, s:b, s:I, s:I, s:f, s:I, s:f, s:I, s:s}",
	                 "name", c->name, "bits", c->bits, "group_size", (json_int_t)c->group, "sym", c->sym,
	                 "rows", (json_int_t)c->rows, "cols", (json_int_t)c->cols, "loss", r->loss,
	                 "tokens", (json_int_t)r->tokens, "damp", r->damp, "dead", (json_int_t)r->dead, "fallback", r->fallback);
}

static int
write_report(const struct qblock *b, const char *path, int block)
{
	json_t *linears = json_array(), *j = json_pack("{s:i, s:o}", "block", block, "linears", linears);
	struct buf text = {0};
	int rc;

	for (size_t i = 0; i < b->n; i++)
		json_array_append_new(linears, describe(&b->v[i]));
	json_write(j, &text);
	rc = file_replace(path, text.p, text.n);
	buf_release(&text);
	json_decref(j);
	return rc;
}

int
qblock_write(const struct qblock *b, const char *folder, int block)
{
	char *tensors = path_join(folder, "block.safetensors"), *report = path_join(folder, "block.json");
	int rc = write_tensors(b, tensors);

	if (rc == 0)
		rc = write_report(b, report, block);
	free(tensors);
	free(report);
	return rc;
}

static int
load_linear(const struct safetensors *file, const struct choice *c, struct mat *to, struct dev *d)
{
	struct qlinear q;
	size_t mark = dev_mark(d);
	struct mat dense;
	float *host;
	int rc = qlinear_read(&q, file, c->name, c->bits, c->rows, c->cols, c->group, c->sym);

	if (rc < 0)
		return rc;
	host = mem_new((size_t)(c->rows * c->cols), sizeof(*host));
	qlinear_dequant(&q, host);
	dense = dev_mat(d, F32, c->rows, c->cols);
	dev_put(d, &dense, host);
	op_convert(d, to, &dense);
	free(host);
	rc = dev_status(d);
	dev_release(d, mark);
	return rc;
}

int
qblock_load(const char *path, struct block *b, struct mat into[PARTS], const struct choice *c, size_t n, struct dev *d)
{
	struct safetensors file;
	int rc = safetensors_open(&file, path);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n && rc == 0; i++) {
		if (c[i].skip)
			continue;
		rc = load_linear(&file, &c[i], &into[c[i].part], d);
		b->linear[c[i].part].w = into[c[i].part];
	}
	safetensors_close(&file);
	return rc;
}
