/* Words by their numbers, which come from files and may be anything. */
#ifndef QJOB_KERNELS_CUDA_WORDS_H
#define QJOB_KERNELS_CUDA_WORDS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* True when every id is the number of one of rows; else marks the device failed: "OP: token 3 is id 9, and the OF has 7 rows".
 * Waits for the device: ids are few, and a sentence with numbers in it is worth the wait. */
bool words_exist(struct dev *d, const char *op, const char *of, const struct mat *ids, int64_t rows);

#ifdef __cplusplus
}
#endif

#endif
