/* Host memory that the card reads and writes by itself. */
#ifndef QJOB_KERNELS_CUDA_PINNED_H
#define QJOB_KERNELS_CUDA_PINNED_H

#include <cuda_runtime.h>
#include <stddef.h>

/* *p = so many bytes, zero, of the context of this thread's device; NULL where they cannot be had, with what the runtime says.  Any
 * thread may give them back; p NULL: nothing happens. */
cudaError_t pinned_take(void **p, size_t bytes);
void pinned_back(void *p, size_t bytes);

#endif
