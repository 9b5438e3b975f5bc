#include "qjob/model/qlinear.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"

enum { NAME_SIZE = 1024 };

/* ---- reading ---- */

struct wanted {
	const char *tail;
	int rank;
	int64_t rows, cols;
};

static const struct tensor *
find(const struct safetensors *s, const char *name, const char *tail)
{
	char full[NAME_SIZE];

	snprintf(full, sizeof(full), "%s.%s", name, tail);
	return safetensors_find(s, full);
}

static int
check_shape(const struct tensor *t, const char *name, const struct wanted *w)
{
	if (!t)
		return err_set(E_DATA, "tensor \"%s.%s\" is missing", name, w->tail);
	if (t->rank == w->rank && t->shape[0] == w->rows && (w->rank == 1 || t->shape[1] == w->cols))
		return 0;
	if (w->rank == 1)
		return err_set(E_DATA, "tensor \"%s\" is not of shape [%" PRId64 "]", t->name, w->rows);
	return err_set(E_DATA, "tensor \"%s\" is not of shape [%" PRId64 ", %" PRId64 "]", t->name, w->rows, w->cols);
}

static int
check_type(const struct tensor *t, bool good)
{
	return good ? 0 : err_set(E_DATA, "tensor \"%s\" is %s", t->name, dtype_name(t->type));
}

static int
read_codes(struct qlinear *q, const struct safetensors *s, const char *name)
{
	const struct wanted w = {"codes", 2, q->rows, (int64_t)codes_bytes(q->cols, q->bits)};
	const struct tensor *t = find(s, name, w.tail);

	if (check_shape(t, name, &w) < 0)
		return E_DATA;
	q->codes = t->p;
	return check_type(t, t->type == U8);
}

static int
read_scale(struct qlinear *q, const struct safetensors *s, const char *name)
{
	const struct wanted w = {"scale", 2, q->rows, q->groups};
	const struct tensor *t = find(s, name, w.tail);

	if (check_shape(t, name, &w) < 0)
		return E_DATA;
	q->scale = t->p;
	q->scale_type = t->type;
	return check_type(t, t->type == F16 || t->type == BF16 || t->type == F32);
}

static int
read_zero(struct qlinear *q, const struct safetensors *s, const char *name)
{
	const struct wanted w = {"zero", 2, q->rows, q->groups};
	const struct tensor *t = find(s, name, w.tail);

	if (!t && q->sym)
		return 0;
	if (q->sym)
		return err_set(E_DATA, "tensor \"%s\" belongs to no symmetric linear", t->name);
	if (check_shape(t, name, &w) < 0 || check_type(t, t->type == U8) < 0)
		return E_DATA;
	q->zero = t->p;
	for (int64_t i = 0; i < q->rows * q->groups; i++)
		if (q->zero[i] >> q->bits)
			return err_set(E_DATA, "tensor \"%s\" holds %d, which has more than %d bits", t->name, q->zero[i], q->bits);
	return 0;
}

static int
read_groups(struct qlinear *q, const struct safetensors *s, const char *name)
{
	const struct wanted w = {"group_of", 1, q->cols, 0};
	const struct tensor *t = find(s, name, w.tail);

	if (!t)
		return 0;
	if (check_shape(t, name, &w) < 0 || check_type(t, t->type == I32) < 0)
		return E_DATA;
	q->group_of = t->p;
	for (int64_t i = 0; i < q->cols; i++)
		if (qlinear_group(q, i) < 0 || qlinear_group(q, i) >= q->groups)
			return err_set(E_DATA, "tensor \"%s\" names group %" PRId64 " of %" PRId64, t->name, qlinear_group(q, i),
			               q->groups);
	return 0;
}

int
qlinear_read(struct qlinear *q, const struct safetensors *s, const char *name, int bits, int64_t rows, int64_t cols,
             int64_t group, bool sym)
{
	*q = (struct qlinear){.bits = bits, .rows = rows, .cols = cols, .group = group, .sym = sym};
	if (bits < 1 || bits > 8 || rows < 1 || cols < 1 || group < 1)
		return err_set(E_DATA, "%s: %d bits, %" PRId64 " x %" PRId64 " weights in groups of %" PRId64 " cannot be", name,
		               bits, rows, cols, group);
	q->groups = (cols - 1) / group + 1;
	if (read_codes(q, s, name) < 0 || read_scale(q, s, name) < 0 || read_zero(q, s, name) < 0)
		return E_DATA;
	return read_groups(q, s, name);
}

/* ---- values ---- */

float
qlinear_scale(const struct qlinear *q, int64_t row, int64_t g)
{
	const size_t size = dtype_size(q->scale_type);
	float f;

	floats_read(&f, (const char *)q->scale + (size_t)(row * q->groups + g) * size, q->scale_type, 1);
	return f;
}

int
qlinear_zero(const struct qlinear *q, int64_t row, int64_t g)
{
	return q->zero ? q->zero[row * q->groups + g] : 1 << (q->bits - 1);
}

int64_t
qlinear_group(const struct qlinear *q, int64_t column)
{
	int32_t g;

	if (!q->group_of)
		return column / q->group;
	memcpy(&g, (const char *)q->group_of + (size_t)column * sizeof(g), sizeof(g));
	return g;
}

void
qlinear_free(struct qlinear *q)
{
	free((void *)(uintptr_t)q->codes);
	free((void *)(uintptr_t)q->scale);
	free((void *)(uintptr_t)q->zero);
	free((void *)(uintptr_t)q->group_of);
	*q = (struct qlinear){0};
}

void
qlinear_dequant(const struct qlinear *q, float *out)
{
	uint8_t *codes = mem_new((size_t)q->cols, 1);
	const size_t row_bytes = codes_bytes(q->cols, q->bits);

	for (int64_t o = 0; o < q->rows; o++, out += q->cols) {
		codes_unpack(codes, q->codes + (size_t)o * row_bytes, q->cols, q->bits);
		for (int64_t i = 0; i < q->cols; i++) {
			int64_t g = qlinear_group(q, i);

			out[i] = qlinear_scale(q, o, g) * (float)(codes[i] - qlinear_zero(q, o, g));
		}
	}
	free(codes);
}
