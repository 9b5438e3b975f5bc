#include "qjob/model/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/model/qlinear.h"

enum { NAME_SIZE = 300 };

/* A tensor of this many floats; weights_check has said more when it was asked. */
static int
find_floats(const struct tensor **t, const struct weights *w, const char *name, int64_t n)
{
	*t = weights_find(w, name);
	if (!*t)
		return err_set(E_DATA, "tensor \"%s\" is missing", name);
	if ((*t)->type != F32 && (*t)->type != F16 && (*t)->type != BF16)
		return err_set(E_DATA, "tensor \"%s\" is %s, wanted F32, F16 or BF16", name, dtype_name((*t)->type));
	if ((*t)->bytes != (size_t)n * dtype_size((*t)->type))
		return err_set(E_DATA, "tensor \"%s\" has %zu bytes, wanted %" PRId64 " values", name, (*t)->bytes, n);
	return 0;
}

static int
load_weight(struct dev *d, struct mat *m, const struct weights *w, const char *linear, struct linear_shape shape)
{
	char name[NAME_SIZE];
	const struct tensor *t;
	int r;

	snprintf(name, sizeof(name), "%s.weight", linear);
	r = find_floats(&t, w, name, shape.rows * shape.cols);
	if (r == 0)
		*m = dev_view(d, t->type, shape.rows, shape.cols, t->p);
	return r;
}

/* A short vector as one F32 row. */
static int
load_row(struct dev *d, struct mat *m, const struct weights *w, const char *name, int64_t n)
{
	const struct tensor *t;
	float *row;
	int r = find_floats(&t, w, name, n);

	if (r < 0)
		return r;
	*m = dev_mat(d, F32, 1, n);
	if (dev_is_dry(d))
		return 0;
	row = mem_new((size_t)n, sizeof(*row));
	floats_read(row, t->p, t->type, (size_t)n);
	dev_put(d, m, row);
	free(row);
	return 0;
}

/* Scales as fp32, zero points and groups spelt out: what the device's operations want. */
static void
put_grid(struct dev *d, struct qmat *to, const struct qlinear *q)
{
	size_t n = (size_t)(q->rows * q->groups);
	float *scale = mem_new(n, sizeof(*scale));
	uint8_t *zero = mem_new(n, 1);
	int32_t *group_of = mem_new((size_t)q->cols, sizeof(*group_of));

	floats_read(scale, q->scale, q->scale_type, n);
	if (!q->zero)
		memset(zero, 1 << (q->bits - 1), n);
	for (int64_t i = 0; i < q->cols; i++)
		group_of[i] = (int32_t)qlinear_group(q, i);
	dev_put(d, &to->scale, scale);
	dev_put(d, &to->zero, q->zero ? q->zero : zero);
	dev_put(d, &to->group_of, group_of);
	free(group_of);
	free(zero);
	free(scale);
}

int
load_qlinear(struct dev *d, struct mat *m, const struct qlinear *q)
{
	const struct grid g = {.bits = q->bits, .group = q->group, .sym = q->sym, .stored = q->scale_type};
	size_t mark = dev_mark(d);
	struct mat stream = dev_mat(d, U8, q->rows, (int64_t)codes_bytes(q->cols, q->bits));
	struct qmat grid = {
		dev_mat(d, U8, q->rows, q->cols), dev_mat(d, F32, q->rows, q->groups), dev_mat(d, U8, q->rows, q->groups),
		dev_mat(d, I32, 1, q->cols),
	};
	int r;

	if (q->codes) {
		dev_put(d, &stream, q->codes);
		put_grid(d, &grid, q);
	}
	op_unpack_codes(d, &grid.code, &stream, q->bits);
	op_dequant(d, m, &grid, &g);
	r = dev_status(d);
	dev_release(d, mark);
	return r;
}

/* Held in the type that products take them in, so that it is rounded once; and made from the codes where they are wanted, for these
 * are an eighth of the bytes or less. */
static int
load_packed(struct dev *d, struct mat *m, const struct weights *w, const char *linear, struct linear_shape shape)
{
	/* What a rehearsal takes: most of what formats can have. */
	struct qlinear q = {.bits = 8, .rows = shape.rows, .cols = shape.cols, .group = 32, .groups = (shape.cols + 31) / 32, .sym = true};
	int r;

	if (!w->decode)
		return err_set(E_USE, "%s is quantized, in a format that is not known", linear);
	*m = dev_mat(d, dev_operand(d), shape.rows, shape.cols);
	r = dev_is_dry(d) ? 0 : w->decode(w, linear, &q, shape.rows, shape.cols);
	if (r == 0)
		r = load_qlinear(d, m, &q);
	qlinear_free(&q);
	return r;
}

const struct tensor *
load_find(const struct weights *w, enum part p, int block)
{
	char name[256], full[NAME_SIZE];

	part_name(w->config.family, p, block, name, sizeof(name));
	snprintf(full, sizeof(full), "%s.weight", name);
	return weights_find(w, full);
}

int
load_matrix(struct dev *d, struct mat *m, const struct weights *w, enum part p, int block, struct linear_shape shape)
{
	char name[256];

	part_name(w->config.family, p, block, name, sizeof(name));
	return load_weight(d, m, w, name, shape);
}

int
load_linear(struct dev *d, struct linear *l, const struct weights *w, enum part p, int block, struct linear_shape shape)
{
	char name[256], bias[NAME_SIZE];
	int r;

	part_name(w->config.family, p, block, name, sizeof(name));
	r = weights_is_packed(w, name) ? load_packed(d, &l->w, w, name, shape) : load_weight(d, &l->w, w, name, shape);
	if (r < 0 || !weights_has_bias(&w->config, p))
		return r;
	snprintf(bias, sizeof(bias), "%s.bias", name);
	return load_row(d, &l->b, w, bias, shape.rows);
}

int
load_norm(struct dev *d, struct norm *n, const struct weights *w, enum part p, int block)
{
	const struct config *c = &w->config;
	char name[256], full[NAME_SIZE];

	part_name(c->family, p, block, name, sizeof(name));
	snprintf(full, sizeof(full), "%s.weight", name);
	*n = (struct norm){.eps = c->eps, .layer = c->family->norm == NORM_LAYER};
	return load_row(d, &n->w, w, full, p == Q_NORM || p == K_NORM ? c->head_dim : c->D);
}
