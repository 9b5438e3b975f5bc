#include "kernels/cpu/cpu.h"

/* Bytes of weights converted at a time: enough to share the work of, little enough to stay in the last cache. */
enum { PANEL = 16 << 20, STEP = 256 };

static void
add_bias(struct dev *d, struct mat *y, const float *bias)
{
	int64_t t, o;

	#pragma omp parallel for num_threads(d->threads) schedule(static) private(o)
	for (t = 0; t < y->rows; t++) {
		float *row = cpu_row(y, t);

		for (o = 0; o < y->cols; o++)
			row[o] += bias[o];
	}
}

/* Outputs of a panel: a multiple of STEP, so that tiles do not depend on the type of the weights. */
static int64_t
panel_rows(int64_t inputs)
{
	int64_t rows = PANEL / (inputs * 4) / STEP * STEP;

	return rows < STEP ? STEP : rows;
}

void
cpu_linear(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w, const struct mat *bias, bool add)
{
	size_t mark = d->used, panel_mark;
	struct mat xo = cpu_operand(d, x), wp, wo, yp;
	int64_t step = panel_rows(w->cols), from, n;

	panel_mark = d->used;
	for (from = 0; from < w->rows && xo.p; from += n) {
		n = w->rows - from < step ? w->rows - from : step;
		wp = mat_part(w, from, 0, n, w->cols);
		yp = mat_part(y, 0, from, y->rows, n);
		wo = cpu_operand(d, &wp);
		if (!wo.p)
			break;
		gemm(d, &yp, &xo, &wo, GEMM_BT | (add ? GEMM_ADD : 0));
		d->used = panel_mark;
	}
	if (bias && d->status == 0)
		add_bias(d, y, bias->p);
	d->used = mark;
}
