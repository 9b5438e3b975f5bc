/* Narrow matrices: a column, a diagonal.  A copy in two dimensions moves them row by row, far slower than a kernel that gathers
 * their elements for one flat copy. */
#ifndef QJOB_KERNELS_CUDA_NARROW_H
#define QJOB_KERNELS_CUDA_NARROW_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dev;
struct mat;

bool is_narrow(const struct mat *m);                                      /* worth the kernel */
void narrow_pack(struct dev *d, void *to, const struct mat *from);       /* to: dense, on the device */
void narrow_unpack(struct dev *d, const struct mat *to, const void *from);

#ifdef __cplusplus
}
#endif

#endif
