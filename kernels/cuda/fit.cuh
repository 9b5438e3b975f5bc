/* Fitting of the groups of a matrix, wherever they lie: for fit.cu and babai.cu. */
#ifndef QJOB_KERNELS_CUDA_FIT_CUH
#define QJOB_KERNELS_CUDA_FIT_CUH

#include "kernels/cuda/grid.cuh"

/* Groups of rule.g.group columns, `groups` a row, the first from column 0 on; the last may be short. */
struct fit_job {
	const void *w;             /* [rows][ld], of type F32, F16, BF16 or F64 (taken as floats) */
	enum dtype type;
	int64_t rows, cols, ld, groups;
	const float *weight;       /* [cols]; NULL unless SEARCH_WEIGHTED */
	float *scale;              /* [rows][scale_ld] */
	uint8_t *zero;             /* [rows][zero_ld] */
	int64_t scale_ld, zero_ld;
	int64_t row;               /* number of the first row, for faults */
	struct rule rule;
	unsigned long long *fault;
};

/* Puts the fitting into the stream. */
void fit_groups(struct dev *d, const struct fit_job *job);

#endif
