/* A matrix: the one shape of data that crosses between files. */
#ifndef QJOB_KERNELS_MAT_H
#define QJOB_KERNELS_MAT_H

#include <stddef.h>
#include <stdint.h>

enum dtype { F32, F16, BF16, F64, I64, I32, I16, I8, U8, BOOL, F8_E4M3, F8_E5M2, DTYPES };

/* A row-major matrix somewhere on a device; a view, owns nothing.  After a
 * failure p is NULL, so only kernels/ looks behind it; others put and get. */
struct mat {
	void *p;
	int64_t rows, cols;
	int64_t ld;       /* elements from one row to the next */
	enum dtype type;
};

size_t dtype_size(enum dtype t);              /* bytes of one element */
const char *dtype_name(enum dtype t);         /* as safetensors writes it: "F32", "BF16" */
int dtype_find(enum dtype *t, const char *name);   /* 0, or -1 when unknown; sets no error */

/* The rows [from, from + n) of m. */
struct mat mat_rows(const struct mat *m, int64_t from, int64_t n);
/* The columns [from, from + n) of m. */
struct mat mat_cols(const struct mat *m, int64_t from, int64_t n);

#endif
