#include "kernels/mat.h"

#include <string.h>

static const struct {
	const char *name;
	size_t size;
} types[DTYPES] = {
	[F32]     = {"F32",     4},
	[F16]     = {"F16",     2},
	[BF16]    = {"BF16",    2},
	[F64]     = {"F64",     8},
	[I64]     = {"I64",     8},
	[I32]     = {"I32",     4},
	[I16]     = {"I16",     2},
	[I8]      = {"I8",      1},
	[U8]      = {"U8",      1},
	[BOOL]    = {"BOOL",    1},
	[F8_E4M3] = {"F8_E4M3", 1},
	[F8_E5M2] = {"F8_E5M2", 1},
};

size_t
dtype_size(enum dtype t)
{
	return types[t].size;
}

const char *
dtype_name(enum dtype t)
{
	return types[t].name;
}

int
dtype_find(enum dtype *t, const char *name)
{
	int i;

	for (i = 0; i < DTYPES; i++) {
		if (strcmp(types[i].name, name) == 0) {
			*t = (enum dtype)i;
			return 0;
		}
	}
	return -1;
}

static struct mat
view(const struct mat *m, int64_t offset, int64_t rows, int64_t cols)
{
	struct mat v = *m;

	if (m->p)
		v.p = (char *)m->p + offset * (int64_t)types[m->type].size;
	v.rows = rows;
	v.cols = cols;
	return v;
}

struct mat
mat_rows(const struct mat *m, int64_t from, int64_t n)
{
	return view(m, from * m->ld, n, m->cols);
}

struct mat
mat_cols(const struct mat *m, int64_t from, int64_t n)
{
	return view(m, from, m->rows, n);
}
