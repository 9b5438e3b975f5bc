#include "kernels/cpu/cpu.h"
#define S __attribute__((weak))
S void cpu_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g) {(void)q;(void)w;(void)weight;(void)g;dev_fail(d, E_USE, "fit: not built");}
S void cpu_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g) {(void)q;(void)w;(void)g;dev_fail(d, E_USE, "round: not built");}
S void cpu_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g) {(void)q;(void)w;(void)g;dev_fail(d, E_USE, "dequant: not built");}
S void cpu_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag) {(void)order;(void)h;(void)by_diag;dev_fail(d, E_USE, "order: not built");}
S int64_t cpu_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead) {(void)u;(void)h;(void)order;(void)damp;(void)dead;dev_fail(d, E_USE, "factor: not built");return 0;}
S int64_t cpu_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda) {(void)out;(void)b;(void)h;(void)lambda;dev_fail(d, E_USE, "solve: not built");return 0;}
S void cpu_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b) {(void)y;(void)a;(void)b;dev_fail(d, E_USE, "matmul: not built");}
S void cpu_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u, const struct mat *order, const struct mat *weight, const struct grid *g, const struct babai *b) {(void)q;(void)loss;(void)w;(void)u;(void)order;(void)weight;(void)g;(void)b;dev_fail(d, E_USE, "babai: not built");}
