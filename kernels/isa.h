/* The instruction set that CPU arithmetic is held to, by the names recipes use. */
#ifndef QJOB_KERNELS_ISA_H
#define QJOB_KERNELS_ISA_H

struct isa {
	const char *name;      /* "avx512" */
	const char *openblas;  /* its kernels in OpenBLAS, by OPENBLAS_CORETYPE; NULL: as it likes */
};

/* The row of a name; NULL or "auto": what suits this machine best.  E_USE for a name unknown here or a set the machine lacks. */
int isa_find(const struct isa **isa, const char *name);

#endif
