#include "stages/qblock.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/chunks.h"
#include "qjob/base/err.h"
#include "qjob/base/json.h"
#include "qjob/base/pool.h"
#include "qjob/model/load.h"

/* ---- from the device ---- */

enum { ALIGN = 64 };

static size_t
aligned(size_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t
qblock_bytes(const struct choice *c, size_t n)
{
	size_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		size_t rows = (size_t)c[i].rows, groups = (size_t)((c[i].cols + c[i].group - 1) / c[i].group);

		sum += aligned(rows * codes_bytes(c[i].cols, c[i].bits)) + aligned(rows * groups * sizeof(float)) + aligned(rows * groups)
		       + aligned((size_t)c[i].cols * sizeof(int32_t)) + aligned(rows * sizeof(double));
	}
	return sum;
}

/* The place in the room that m is on its way to. */
static void *
send(struct qblock *b, struct dev *d, const struct mat *m)
{
	size_t bytes = (size_t)(m->rows * m->cols) * dtype_size(m->type);
	char *to = b->room + b->used;

	b->used += aligned(bytes);
	dev_park(d, to, m);
	return to;
}

/* Packed where they are: half a byte or so a code comes over, and no host thread turns bits while the device waits. */
static void *
send_codes(struct qblock *b, struct dev *d, const struct qmat *q, int bits)
{
	struct mat stream = dev_mat(d, U8, q->code.rows, (int64_t)codes_bytes(q->code.cols, bits));

	op_pack_codes(d, &stream, &q->code, bits);
	return send(b, d, &stream);
}

static void *
send_scale(struct qblock *b, struct dev *d, const struct qmat *q, enum dtype stored)
{
	struct mat scale = dev_mat(d, stored, q->scale.rows, q->scale.cols);

	op_convert(d, &scale, &q->scale);
	return send(b, d, &scale);
}

int
qblock_add(struct qblock *b, struct dev *d, const struct choice *c, const struct solved *s, const struct grid *g, int64_t tokens)
{
	struct qresult *r = &b->v[b->n++];
	size_t mark = dev_mark(d);

	*r = (struct qresult){.choice = c, .damp = s->damp, .dead = s->dead, .tokens = tokens};
	memcpy(r->fallback, s->fallback, sizeof(r->fallback));
	r->q = (struct qlinear){.bits = c->bits, .rows = c->rows, .cols = c->cols, .group = c->group, .groups = s->q.scale.cols,
	                        .sym = c->sym, .scale_type = g->stored};
	if (b->size - b->used < qblock_bytes(c, 1))
		return err_set(E_SYS, "%s: its results do not fit the room of %zu bytes", c->name, b->size);
	r->q.codes = send_codes(b, d, &s->q, c->bits);
	r->q.scale = send_scale(b, d, &s->q, g->stored);
	if (!c->sym)
		r->q.zero = send(b, d, &s->q.zero);
	if (!s->in_order)
		r->q.group_of = send(b, d, &s->q.group_of);
	r->rows = send(b, d, &s->loss);
	dev_release(d, mark);
	return 0;
}

int
qblock_settle(struct qblock *b, struct dev *d)
{
	int rc = dev_status(d);

	for (size_t i = 0; i < b->n && rc == 0; i++)
		for (int64_t o = 0; o < b->v[i].q.rows; o++)
			b->v[i].loss += b->v[i].rows[o];
	return rc;
}

/* ---- tensors ---- */

/* A tensor of the file and where its bytes are. */
struct piece {
	struct tensor t;
	const void *p;
};

enum { PIECES = 4 };       /* of a linear, at most */

static size_t
pieces(const char *name, const struct qlinear *q, struct piece v[PIECES])
{
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

/* ---- its digest ---- */

/* Of a text that lists the tensors in order, each with the digests of its chunks: it says what the file says, and a block
 * that has not been written yet has it as well. */
static void
digest_linears(const struct qlinear *q, const char *const *names, size_t n, char hex[SHA256_HEX])
{
	struct piece v[PARTS * PIECES];
	struct chunks chunks = {0};
	struct buf text = {0};
	size_t count = 0;

	for (size_t i = 0; i < n; i++)
		count += pieces(names[i], &q[i], v + count);
	for (size_t i = 0; i < count; i++)
		chunks_add(&chunks, v[i].p, tensor_bytes(&v[i].t));
	chunks_digest(&chunks, pool_threads(), NULL, NULL);
	buf_puts(&text, "qjob-block 1\n");
	for (size_t i = 0; i < count; i++) {
		buf_printf(&text, "%s %s %lld %lld\n", v[i].t.name, dtype_name(v[i].t.type), (long long)v[i].t.shape[0],
		           v[i].t.rank > 1 ? (long long)v[i].t.shape[1] : 1);
		chunks_list(&chunks, i, &text);
		free(v[i].t.name);
	}
	sha256_of(text.p, text.n, hex);
	buf_release(&text);
	chunks_release(&chunks);
}

void
qblock_digest(const struct qblock *b, char hex[SHA256_HEX])
{
	struct qlinear q[PARTS];
	const char *names[PARTS];

	for (size_t i = 0; i < b->n; i++) {
		q[i] = b->v[i].q;
		names[i] = b->v[i].choice->name;
	}
	digest_linears(q, names, b->n, hex);
}

/* ---- its files ---- */

static int
write_tensors(const struct qblock *b, const char *path)
{
	struct piece v[PARTS * PIECES];
	struct tensor t[PARTS * PIECES] = {0};
	struct safetensors_out *o;
	size_t n = 0;
	int rc;

	for (size_t i = 0; i < b->n; i++)
		n += pieces(b->v[i].choice->name, &b->v[i].q, v + n);
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

/* ---- reading it again ---- */

int
qblock_load(const char *path, const struct qplace *to, const struct choice *c, size_t n, char hex[SHA256_HEX])
{
	struct safetensors file;
	struct qlinear q[PARTS];
	const char *names[PARTS];
	size_t count = 0;
	int rc = safetensors_open(&file, path);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n && rc == 0; i++) {
		if (c[i].skip)
			continue;
		rc = qlinear_read(&q[count], &file, c[i].name, c[i].bits, c[i].rows, c[i].cols, c[i].group, c[i].sym);
		if (rc == 0)
			rc = load_qlinear(to->d, &to->into[c[i].part], &q[count]);
		to->b->linear[c[i].part].w = to->into[c[i].part];
		names[count++] = c[i].name;
	}
	if (rc == 0)
		digest_linears(q, names, count, hex);
	safetensors_close(&file);
	return rc;
}
