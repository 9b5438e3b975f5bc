/* What products of matrices remember: which of cuBLASLt's algorithms a shape is computed with. */
#ifndef QJOB_KERNELS_CUDA_LINEAR_H
#define QJOB_KERNELS_CUDA_LINEAR_H

#ifdef __cplusplus
extern "C" {
#endif

struct linear;

void linear_close(struct linear *l);     /* may be NULL */

#ifdef __cplusplus
}
#endif

#endif
