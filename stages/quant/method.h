/* A quantization method: one file, one line in methods.c, one table.
 *
 * stages/quantize.c walks the model block by block, gathers the statistics a method asks for, and hands it the linears that share
 * an input, stacked: w [O,I], O the sum of their rows.  A method never opens a file and never knows the family. */
#ifndef QJOB_STAGES_QUANT_METHOD_H
#define QJOB_STAGES_QUANT_METHOD_H

#include "kernels/ops.h"
#include "qjob/base/param.h"

enum {
	NEED_GRAM  = 1 << 0,     /* sum a^2 x x^T of the site's inputs */
	NEED_CROSS = 1 << 1,     /* sum a^2 (f - x) x^T, and so the full-precision stream */
};

/* What calibration learned about the inputs of a site. */
struct stats {
	struct mat gram;      /* [I,I] F32, lower triangle; p NULL: not asked for */
	struct mat cross;     /* [I,I] F32; p NULL: not asked for */
	int64_t tokens;
};

/* How calibration is to be done; every method says it from its own parameters. */
struct calibration_wish {
	unsigned needs;
	bool original;           /* propagate: original */
	bool true_sequential;    /* later sites of a block see the earlier ones quantized */
	bool unit;               /* token_weight: unit */
	bool ordered;            /* groups follow the order of columns, so the output needs g_idx */
	enum math math;          /* MATH_AUTO unless the method insists (compat: MATH_F32) */
};

/* The outcome for the stacked linears of a site; matrices are taken from the device by quantize.c. */
struct solved {
	struct qmat q;            /* allocated: code, scale, zero, group_of */
	struct mat loss;          /* F64 [1,O]: per row, tr(dW H dW^T) over tokens; for methods without statistics sum dW^2 */
	bool in_order;            /* group_of is i / group and need not be stored */
	double damp;              /* used in the end */
	int64_t dead;             /* inputs that no token reached */
	char fallback[160];       /* "" or what was done instead, and why */
};

struct method {
	const char *name;
	int version;              /* bump when equal inputs would give other codes */
	const char *help;
	const struct param *params;
	const struct param_when *when;
	size_t params_size;
	/* bits, group, sym of a linear before overrides, and what to gather. */
	void (*defaults)(const void *params, int *bits, int64_t *group, bool *sym);
	void (*wish)(const void *params, struct calibration_wish *c);
	/* Settles what the other parameters and the output format leave open ("auto"), once all are read; before check.  May be NULL. */
	void (*follow)(void *params, const char *format);
	/* Impossible combinations within the section; messages through d at `at`.  May be NULL. */
	void (*check)(const void *params, struct place at, struct diag *d);
	/* w [O,I] in its stored type (F32, F16, BF16) on the device, may be overwritten; s: as wished; g: bits, group, sym,
	 * stored, zero_min of these linears, search and rounding to be set by the method.  Returns 0 or an error (E_NUMERIC
	 * only when no stated fallback applies). */
	int (*solve)(struct dev *d, struct solved *out, struct mat *w, const struct stats *s, struct grid *g, const void *params);
};

extern const struct method *const methods[];   /* ends with NULL; see methods.c */
const struct method *method_find(const char *name);
const char *method_names(void);                /* "gptq rtn", for tables */

#endif
