/* Kernels: what will run the result, and what it accepts.  One row a kernel; checked from the headers before any work. */
#ifndef QJOB_STAGES_PACK_KERNEL_H
#define QJOB_STAGES_PACK_KERNEL_H

#include <stdbool.h>

struct choice;
struct pack_params;
struct project;

/* 0 when pack.kernel can run this linear on pack.tensor_parallel devices; else E_USE naming the linear, what was wanted and
 * found, and what to try. */
int kernel_check(const struct pack_params *pack, const struct choice *c, bool has_order);

/* What only all linears of an input show, for kernels that run them as one (q,k,v; gate,up): equal settings, and the width of
 * the whole. */
int kernel_check_fused(const struct project *p);

#endif
