/* Streams beside a device's own, in which products that do not depend on each other run at the same time: what one of them leaves
 * idle while it ends, another one takes. */
#ifndef QJOB_KERNELS_CUDA_LANES_H
#define QJOB_KERNELS_CUDA_LANES_H

#ifdef __cplusplus
extern "C" {
#endif

struct lanes;

void lanes_close(struct lanes *l);       /* waits; may be NULL */

#ifdef __cplusplus
}
#endif

#endif
