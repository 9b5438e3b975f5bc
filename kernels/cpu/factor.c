/* Order and factor of the statistics.  The library's own Cholesky is not used: it runs on one thread here, lets
 * not-a-number pass as a pivot, and would have to be given the matrix reversed. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "qjob/base/err.h"

enum {
	FACTOR_SMALL = 32,       /* columns factored element by element */
	FACTOR_TILE  = 128,      /* one task of the trailing update; twice that from FACTOR_LARGE on */
	FACTOR_LARGE = 4096,
	SOLVE_ROWS   = 96,
};

#define REAL float
#define OF(name) name##_f32
#define BLAS(name) cblas_s##name
#include "kernels/cpu/factor_body.h"

#define REAL double
#define OF(name) name##_f64
#define BLAS(name) cblas_d##name
#include "kernels/cpu/factor_body.h"

struct ranked {
	float h;
	int32_t i;
};

static int
compare_ranked(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;

	if (x->h != y->h)
		return x->h > y->h ? -1 : 1;
	return x->i < y->i ? -1 : 1;
}

void
cpu_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag)
{
	size_t used = d->used;
	int64_t n = h->rows;
	struct ranked *v = cpu_take(d, (size_t)n * sizeof(*v));

	if (!v)
		return;
	for (int64_t i = 0; i < n; i++) {
		float x = ((const float *)h->p)[i * h->ld + i];

		v[i] = (struct ranked){isnan(x) ? INFINITY : x, (int32_t)i};
	}
	if (by_diag)
		qsort(v, (size_t)n, sizeof(*v), compare_ranked);      /* a total order: stable by the index */
	for (int64_t i = 0; i < n; i++)
		((int32_t *)order->p)[i] = v[i].i;
	d->used = used;
}

/* Mean of the diagonal; a zero counts as `dead`. */
static double
mean_diag(const struct mat *h, double dead, int64_t *zeros)
{
	double sum = 0;

	*zeros = 0;
	for (int64_t i = 0; i < h->rows; i++) {
		double x = ((const float *)h->p)[i * h->ld + i];

		*zeros += x == 0;
		sum += x == 0 ? dead : x;
	}
	return sum / (double)h->rows;
}

int64_t
cpu_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead)
{
	double ridge = damp * mean_diag(h, 1, dead);
	const int32_t *o = order->p;
	int64_t bad;

	if (u->type == F64) {
		gather_f64(d, u->p, u->ld, h, o, 1, ridge);
		bad = factor_f64(d, u->p, u->ld, h->rows);
	} else {
		gather_f32(d, u->p, u->ld, h, o, 1, ridge);
		bad = factor_f32(d, u->p, u->ld, h->rows);
	}
	return bad ? o[bad - 1] + 1 : 0;
}

/* x = x (U U^T)^-1 */
static void
solve_rows(struct dev *d, struct mat *x, const float *u, int n)
{
	#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int64_t i = 0; i < x->rows; i += SOLVE_ROWS) {
		int rows = (int)(x->rows - i < SOLVE_ROWS ? x->rows - i : SOLVE_ROWS), ld = (int)x->ld;
		float *p = (float *)x->p + i * x->ld;

		cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, rows, n, 1, u, n, p, ld);
		cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, rows, n, 1, u, n, p, ld);
	}
}

int64_t
cpu_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda)
{
	size_t used = d->used;
	int64_t n = h->rows, bad, zeros;
	double ridge = lambda * mean_diag(h, 0, &zeros);
	struct mat u = cpu_mat(d, F32, n, n);

	if (!u.p)
		return 0;
	u.ld = n;
	gather_f32(d, u.p, n, h, NULL, 0, ridge);
	bad = factor_f32(d, u.p, n, n);
	if (!bad) {
		for (int64_t i = 0; i < b->rows; i++)
			memmove((float *)out->p + i * out->ld, (const float *)b->p + i * b->ld, (size_t)n * sizeof(float));
		solve_rows(d, out, u.p, (int)n);
	}
	d->used = used;
	return bad;
}

void
cpu_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b)
{
	gemm(d, y, a, b, 0);
}
