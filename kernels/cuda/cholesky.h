/* Cholesky's factor of a large fp32 matrix; cholesky.cu says how. */
#ifndef QJOB_KERNELS_CUDA_CHOLESKY_H
#define QJOB_KERNELS_CUDA_CHOLESKY_H

#include <stdint.h>

#include "kernels/mat.h"

#ifdef __cplusplus
extern "C" {
#endif

struct dev;

/* Narrower matrices are for cuSOLVER in fp64: they are bound by latency here, and their fp64 takes little room. */
enum { CHOLESKY_LEAST = 12288 };

/* a[n,n] F32, square, n >= CHOLESKY_LEAST, in place: its upper triangle becomes M, a = M^T M (by columns: the lower one becomes L,
 * a = L L^T).  What lies below the diagonal is not read, and is rubbish afterwards.  Returns 0, or the first pivot, from 1, that
 * is not positive and finite: then a is rubbish too.  Waits once, at the end.  op names the operation where the device is marked
 * failed.  Takes 2052 n bytes and a little of the arena. */
int64_t cuda_cholesky(struct dev *d, const char *op, struct mat *a);

#ifdef __cplusplus
}
#endif

#endif
