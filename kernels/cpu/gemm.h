/* oneDNN, hidden: the state behind gemm() and gemm_here() of cpu.h, and what else depends on its version. */
#ifndef QJOB_KERNELS_CPU_GEMM_H
#define QJOB_KERNELS_CPU_GEMM_H

#include "kernels/cpu/cpu.h"

struct gemms;

/* Holds oneDNN to an instruction set of isa.h, once for the process; -1 after dev_fail. */
int gemm_isa(struct dev *d, const char *isa);
void gemm_version(char *text, size_t size);

/* One for a device; NULL when memory or oneDNN fails. */
struct gemms *gemms_open(const struct dev *d);
void gemms_close(struct gemms *g);
bool gemm_has_bf16(const struct gemms *g);     /* bf16 products in hardware */
struct gemms *cpu_gemms(struct dev *d);

#endif
