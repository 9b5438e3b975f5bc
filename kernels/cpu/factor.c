/* Order and factor of the statistics.  The library's own Cholesky is not used: it runs on one thread here, lets
 * not-a-number pass as a pivot, and would have to be given the matrix reversed.
 *
 * H = U U^T is an ordinary Cholesky factorization met from the far corner: the last column of U comes first.  Only the upper
 * triangle is read and written.  Tiles and the order in which they are updated follow from n alone.  It is done in double
 * whatever is asked for, and rounded: a factor in float changes up to one code in a thousand, another one on each machine. */
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

/* ---- factor ---- */

/* Returns 0, or the pivot, from 1, that is not positive. */
static int64_t
factor_small(double *a, int64_t ld, int64_t n)
{
	for (int64_t k = n - 1; k >= 0; k--) {
		double p = a[k * ld + k];

		if (!(p > 0) || !isfinite(p))
			return k + 1;
		p = sqrt(p);
		a[k * ld + k] = p;
		for (int64_t i = 0; i < k; i++)
			a[i * ld + k] /= p;
		for (int64_t i = 0; i < k; i++)
			for (int64_t j = i; j < k; j++)
				a[i * ld + j] -= a[i * ld + k] * a[j * ld + k];
	}
	return 0;
}

static int64_t
factor_tile(double *a, int64_t ld, int64_t n)
{
	for (int64_t end = n, k; end > 0; end = k) {
		k = end > FACTOR_SMALL ? end - FACTOR_SMALL : 0;
		double *akk = a + k * ld + k, *ak = a + k;
		int64_t bad = factor_small(akk, ld, end - k);

		if (bad)
			return k + bad;
		if (k == 0)
			break;
		cblas_dtrsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, (int)k, (int)(end - k),
		           1, akk, (int)ld, ak, (int)ld);
		cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (int)k, (int)(end - k), -1, ak, (int)ld, 1, a, (int)ld);
	}
	return 0;
}

/* Tile (i, j), i <= j, less the product of column block [k, end). */
static void
update_tile(double *a, int64_t ld, int64_t i, int64_t j, int64_t tile, int64_t k, int64_t end)
{
	int rows = (int)(k - i * tile < tile ? k - i * tile : tile), cols = (int)(k - j * tile < tile ? k - j * tile : tile);
	double *c = a + i * tile * ld + j * tile, *left = a + i * tile * ld + k, *right = a + j * tile * ld + k;

	if (i == j)
		cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, rows, (int)(end - k), -1, left, (int)ld, 1, c, (int)ld);
	else
		cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, cols, (int)(end - k), -1, left, (int)ld, right, (int)ld,
		           1, c, (int)ld);
}

static int64_t
factor(struct dev *d, double *a, int64_t ld, int64_t n)
{
	int64_t tile = n < FACTOR_LARGE ? FACTOR_TILE : 2 * FACTOR_TILE;

	for (int64_t t = (n - 1) / tile; t >= 0; t--) {
		int64_t k = t * tile, end = k + tile < n ? k + tile : n;
		int64_t bad = factor_tile(a + k * ld + k, ld, end - k);

		if (bad)
			return k + bad;
		#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
		for (int64_t i = 0; i < t; i++)
			cblas_dtrsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, (int)tile, (int)(end - k),
			           1, a + k * ld + k, (int)ld, a + i * tile * ld + k, (int)ld);
		#pragma omp parallel for num_threads(d->threads) schedule(dynamic) collapse(2)
		for (int64_t i = 0; i < t; i++)
			for (int64_t j = 0; j < t; j++)
				if (i <= j)
					update_tile(a, ld, i, j, tile, k, end);
	}
	return 0;
}

/* u = upper triangle of h in the given order (NULL: as it is), `ridge` more on the diagonal; zero below it.  A dead input
 * has `dead` there instead of its 0. */
static void
gather(struct dev *d, double *u, int64_t ld, const struct mat *h, const int32_t *order, double dead, double ridge)
{
	const float *p = h->p;
	int64_t n = h->rows;

	#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 16)
	for (int64_t i = 0; i < n; i++) {
		int64_t a = order ? order[i] : i;
		double diag = p[a * h->ld + a];

		memset(u + i * ld, 0, (size_t)i * sizeof(*u));
		u[i * ld + i] = (diag == 0 ? dead : diag) + ridge;
		for (int64_t j = i + 1; j < n; j++) {
			int64_t b = order ? order[j] : j;

			u[i * ld + j] = (double)(a > b ? p[a * h->ld + b] : p[b * h->ld + a]);
		}
	}
}

static void
round_rows(struct dev *d, struct mat *u, const struct mat *from)
{
	#pragma omp parallel for num_threads(d->threads)
	for (int64_t i = 0; i < u->rows; i++)
		for (int64_t j = 0; j < u->cols; j++)
			((float *)u->p)[i * u->ld + j] = (float)((const double *)from->p)[i * from->ld + j];
}

/* u, F32 or F64, from h gathered as above.  Returns 0, or the pivot, from 1, that is not positive; -1: the device has failed. */
static int64_t
factor_gathered(struct dev *d, struct mat *u, const struct mat *h, const int32_t *order, double dead, double ridge)
{
	size_t used = d->used;
	struct mat m = u->type == F64 ? *u : cpu_mat(d, F64, u->rows, u->cols);
	int64_t bad;

	if (!m.p)
		return -1;
	gather(d, m.p, m.ld, h, order, dead, ridge);
	bad = factor(d, m.p, m.ld, h->rows);
	if (!bad && u->type == F32)
		round_rows(d, u, &m);
	d->used = used;
	return bad;
}

int64_t
cpu_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead)
{
	double ridge = damp * mean_diag(h, 1, dead);
	const int32_t *o = order->p;
	int64_t bad = factor_gathered(d, u, h, o, 1, ridge);

	return bad > 0 ? o[bad - 1] + 1 : 0;
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
	bad = factor_gathered(d, &u, h, NULL, 0, ridge);
	if (bad == 0) {
		for (int64_t i = 0; i < b->rows; i++)
			memmove((float *)out->p + i * out->ld, (const float *)b->p + i * b->ld, (size_t)n * sizeof(float));
		solve_rows(d, out, u.p, (int)n);
	}
	d->used = used;
	return bad > 0 ? bad : 0;
}

void
cpu_matmul(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b)
{
	gemm(d, y, a, b, 0);
}
