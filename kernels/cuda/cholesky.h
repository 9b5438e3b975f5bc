/* Cholesky's factor of a large fp32 matrix; cholesky.cu says how. */
#ifndef QJOB_KERNELS_CUDA_CHOLESKY_H
#define QJOB_KERNELS_CUDA_CHOLESKY_H

#include <stdint.h>

#include "kernels/mat.h"

#ifdef __cplusplus
extern "C" {
#endif

struct dev;

/* a[n,n] F32, square, in place: its upper triangle becomes M, a = M^T M (by columns: the lower one becomes L, a = L L^T).  What lies
 * below the diagonal is not read, and is rubbish afterwards.  Returns 0, or the first pivot, from 1, that is not positive and
 * finite: then a is rubbish too.  Waits once, at the end.  op names the operation where the device is marked failed.  Takes no more
 * of the arena than a itself. */
int64_t cuda_cholesky(struct dev *d, const char *op, struct mat *a);

#ifdef __cplusplus
}
#endif

#endif
