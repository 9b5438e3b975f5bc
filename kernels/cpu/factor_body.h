/* Factorization in one arithmetic: factor.c includes this once for float and once for double.
 * REAL is the type, OF(name) names its functions, BLAS(name) those of the library.
 *
 * H = U U^T is an ordinary Cholesky factorization met from the far corner: the last column of U comes first.  Only the
 * upper triangle is read and written.  Tiles and the order in which they are updated follow from n alone. */

/* Returns 0, or the pivot, from 1, that is not positive. */
static int64_t
OF(factor_small)(REAL *a, int64_t ld, int64_t n)
{
	for (int64_t k = n - 1; k >= 0; k--) {
		REAL p = a[k * ld + k];

		if (!(p > 0) || !isfinite(p))
			return k + 1;
		p = (REAL)sqrt((double)p);
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
OF(factor_tile)(REAL *a, int64_t ld, int64_t n)
{
	for (int64_t end = n, k; end > 0; end = k) {
		k = end > FACTOR_SMALL ? end - FACTOR_SMALL : 0;
		REAL *akk = a + k * ld + k, *ak = a + k;
		int64_t bad = OF(factor_small)(akk, ld, end - k);

		if (bad)
			return k + bad;
		if (k == 0)
			break;
		BLAS(trsm)(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, (int)k, (int)(end - k),
		           1, akk, (int)ld, ak, (int)ld);
		BLAS(syrk)(CblasRowMajor, CblasUpper, CblasNoTrans, (int)k, (int)(end - k), -1, ak, (int)ld, 1, a, (int)ld);
	}
	return 0;
}

/* Tile (i, j), i <= j, less the product of column block [k, end). */
static void
OF(update_tile)(REAL *a, int64_t ld, int64_t i, int64_t j, int64_t tile, int64_t k, int64_t end)
{
	int rows = (int)(k - i * tile < tile ? k - i * tile : tile), cols = (int)(k - j * tile < tile ? k - j * tile : tile);
	REAL *c = a + i * tile * ld + j * tile, *left = a + i * tile * ld + k, *right = a + j * tile * ld + k;

	if (i == j)
		BLAS(syrk)(CblasRowMajor, CblasUpper, CblasNoTrans, rows, (int)(end - k), -1, left, (int)ld, 1, c, (int)ld);
	else
		BLAS(gemm)(CblasRowMajor, CblasNoTrans, CblasTrans, rows, cols, (int)(end - k), -1, left, (int)ld, right, (int)ld,
		           1, c, (int)ld);
}

static int64_t
OF(factor)(struct dev *d, REAL *a, int64_t ld, int64_t n)
{
	int64_t tile = n < FACTOR_LARGE ? FACTOR_TILE : 2 * FACTOR_TILE;

	for (int64_t t = (n - 1) / tile; t >= 0; t--) {
		int64_t k = t * tile, end = k + tile < n ? k + tile : n;
		int64_t bad = OF(factor_tile)(a + k * ld + k, ld, end - k);

		if (bad)
			return k + bad;
		#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
		for (int64_t i = 0; i < t; i++)
			BLAS(trsm)(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, (int)tile, (int)(end - k),
			           1, a + k * ld + k, (int)ld, a + i * tile * ld + k, (int)ld);
		#pragma omp parallel for num_threads(d->threads) schedule(dynamic) collapse(2)
		for (int64_t i = 0; i < t; i++)
			for (int64_t j = 0; j < t; j++)
				if (i <= j)
					OF(update_tile)(a, ld, i, j, tile, k, end);
	}
	return 0;
}

/* u = upper triangle of h in the given order (NULL: as it is), `ridge` more on the diagonal; zero below it.  A dead input
 * has `dead` there instead of its 0. */
static void
OF(gather)(struct dev *d, REAL *u, int64_t ld, const struct mat *h, const int32_t *order, double dead, double ridge)
{
	const float *p = h->p;
	int64_t n = h->rows;

	#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 16)
	for (int64_t i = 0; i < n; i++) {
		int64_t a = order ? order[i] : i;
		double diag = p[a * h->ld + a];

		memset(u + i * ld, 0, (size_t)i * sizeof(*u));
		u[i * ld + i] = (REAL)((diag == 0 ? dead : diag) + ridge);
		for (int64_t j = i + 1; j < n; j++) {
			int64_t b = order ? order[j] : j;

			u[i * ld + j] = (REAL)(a > b ? p[a * h->ld + b] : p[b * h->ld + a]);
		}
	}
}

#undef REAL
#undef OF
#undef BLAS
