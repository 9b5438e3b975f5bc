/* Babai's recursion in one arithmetic: babai.c includes this once for float and once for double.
 * REAL is the type, OF(name) names its functions, BLAS(name) those of the library, BIG is 1.5 times the first REAL
 * whose neighbours are 1 apart. */

/* What one thread works in. */
struct OF(room) {
	REAL *done;             /* [n][ROWS] W0 - Q of finished positions */
	REAL *missed;           /* [n][ROWS] target - Q; NULL without a target */
	REAL *first, *aim;      /* [BLOCK][ROWS] W0 and target of the block */
	REAL *now;              /* [BLOCK][ROWS] its weights as corrected so far */
	REAL *sum;              /* [widest][ROWS] S of the block, or of a wider group */
	float *range;           /* [widest][LANES] weights to be fitted */
	float *scale, *zero;    /* [G][ROWS] */
	uint8_t *code;          /* [BLOCK][ROWS] */
	double loss[ROWS];
	int64_t row;            /* the first */
	int rows;               /* how many there are, at most ROWS; the others are zero */
};

/* The integer from lo to hi that is nearest to x. */
static inline REAL
OF(level)(REAL x, REAL lo, REAL hi)
{
	x = x > lo ? x : lo;
	x = x < hi ? x : hi;
	return (x + BIG) - BIG;
}

/* Codes and values of one position in 16 rows.  The peers divide in fp32, which decides where the quotient is a tie, as
 * it is for the largest weight of a symmetric group. */
static inline void
OF(choose)(REAL *restrict value, uint8_t *restrict code, const REAL *restrict w, const float *scale, const float *zero,
           const struct grid *g)
{
	REAL top = (REAL)((1 << g->bits) - 1), mid = (REAL)(1 << (g->bits - 1)), level[LANES];

	if (g->rounding == ROUND_STEPWISE) {
		for (int l = 0; l < LANES; l++) {
			float z = zero[l] - (float)mid, x = (float)w[l] / scale[l] + z;

			x = (float)OF(level)(x, -mid, top - mid);
			level[l] = x + mid;
			value[l] = round_to((x - z) * scale[l], g->stored);
		}
	} else {
		SIMD
		for (int l = 0; l < LANES; l++) {
			REAL z = zero[l], x = g->rounding == ROUND_FP32 ? (float)w[l] / scale[l] : w[l] / (REAL)scale[l];

			x = OF(level)(x, -z, top - z);
			level[l] = x + z;
			value[l] = x * scale[l];
		}
	}
	for (int l = 0; l < LANES; l++)
		code[l] = (uint8_t)level[l];
}

/* Positions [from, to) of the block in the 16 rows from `lane` on: codes, errors, and the correction of the block's rest. */
WIDE static void
OF(step)(struct OF(room) *m, const struct task *t, const struct block *b, int lane, int from, int to)
{
	const REAL *u = (const REAL *)t->u->p + b->start * t->u->ld + b->start;
	int width = (int)(b->end - b->start);

	for (int i = from; i < to; i++) {
		int64_t at = b->start + i, grid = (int64_t)t->group_at[at] * ROWS + lane;
		REAL *restrict w = m->now + i * ROWS + lane, *first = m->first + i * ROWS + lane;
		REAL *restrict done = m->done + at * ROWS + lane, value[LANES], e[LANES], diag = u[i * t->u->ld + i];
		const REAL *inverse = (const REAL *)b->inverse + i * BLOCK;
		double *restrict loss = m->loss + lane;

		OF(choose)(value, m->code + i * ROWS + lane, w, m->scale + grid, m->zero + grid, t->g);
		SIMD
		for (int l = 0; l < LANES; l++) {
			e[l] = (w[l] - value[l]) * diag;
			done[l] = first[l] - value[l];
			loss[l] += (double)e[l] * (double)e[l];
		}
		if (m->missed)
			for (int l = 0; l < LANES; l++)
				m->missed[at * ROWS + lane + l] = m->aim[i * ROWS + lane + l] - value[l];
		for (int k = i + 1; k < width; k++) {
			REAL *restrict later = m->now + k * ROWS + lane, factor = inverse[k];
			SIMD
			for (int l = 0; l < LANES; l++)
				later[l] -= e[l] * factor;
		}
	}
}

/* to[i][row] = from[row][order[start + i]] */
static void
OF(take)(REAL *to, const struct OF(room) *m, const struct mat *from, const int32_t *order, int64_t n)
{
	for (int r = 0; r < ROWS; r++) {
		const float *p = r < m->rows ? (const float *)from->p + (m->row + r) * from->ld : NULL;

		for (int64_t i = 0; i < n; i++)
			to[i * ROWS + r] = p ? p[order[i]] : 0;
	}
}

static void
OF(load_grid)(struct OF(room) *m, const struct task *t)
{
	for (int64_t g = 0; g < t->q->scale.cols; g++)
		for (int r = 0; r < ROWS; r++) {
			int64_t row = m->row + r;
			bool real = r < m->rows;

			m->scale[g * ROWS + r] = real ? ((const float *)t->q->scale.p)[row * t->q->scale.ld + g] : 1;
			m->zero[g * ROWS + r] = real ? ((const uint8_t *)t->q->zero.p)[row * t->q->zero.ld + g] : 0;
		}
}

/* Fits the group at position `at` in the 16 rows from `lane` on; its weights lie in range from `skip` positions on. */
static int64_t
OF(fit)(struct OF(room) *m, const struct task *t, int lane, int64_t at, int64_t skip)
{
	int64_t cols = t->n - at < t->g->group ? t->n - at : t->g->group, g = t->group_at[at];
	const float *weight = t->weight_at ? t->weight_at + at : NULL;
	int rows = m->rows - lane < LANES ? m->rows - lane : LANES, where;
	struct lane_group k = {m->range + skip * LANES, LANES, cols, weight, F32, rows};
	enum lane_fault fault;
	struct lane_grid c;

	fault = grid_fit(&c, &k, t->g, &where);
	if (fault)
		return fault_key(m->row + lane + where, fault);
	for (int l = 0; l < LANES; l++) {
		m->scale[g * ROWS + lane + l] = c.scale[l];
		m->zero[g * ROWS + lane + l] = c.zero[l];
	}
	for (int l = 0; l < rows; l++) {
		((float *)t->q->scale.p)[(m->row + lane + l) * t->q->scale.ld + g] = c.scale[l];
		((uint8_t *)t->q->zero.p)[(m->row + lane + l) * t->q->zero.ld + g] = (uint8_t)c.zero[l];
	}
	return 0;
}

/* Fits the groups that are to be fitted at the block's start.  What they span is corrected as far as the finished
 * positions go; beyond the block that takes a solution with their own part of U. */
static int64_t
OF(fit_ahead)(struct OF(room) *m, const struct task *t, const struct block *b)
{
	const REAL *u = (const REAL *)t->u->p + b->start * t->u->ld + b->start;
	int64_t bad = 0, span = b->fitted - b->start;
	bool beyond = b->fitted > b->end;

	if (beyond && b->start)
		BLAS(trsm)(CblasColMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, ROWS, (int)span, 1, u, (int)t->u->ld,
		           m->sum, ROWS);
	for (int lane = 0; lane < m->rows && !bad; lane += LANES) {
		for (int64_t i = 0; i < span; i++)
			for (int l = 0; l < LANES; l++) {
				int64_t r = lane + l, at = i * ROWS + r;
				REAL w = !beyond ? m->now[at] : r >= m->rows ? 0 :
				         ((const float *)t->w->p)[(m->row + r) * t->w->ld + t->order[b->start + i]];

				m->range[i * LANES + l] = (float)(beyond && b->start ? w + m->sum[at] : w);
			}
		for (int64_t at = first_group(b->start, t->g->group); at < b->fitted && !bad; at += t->g->group)
			bad = OF(fit)(m, t, lane, at, at - b->start);
	}
	return bad;
}

/* One block in 16 rows; groups that begin in it and were not fitted ahead are fitted when their first column is reached. */
static int64_t
OF(walk)(struct OF(room) *m, const struct task *t, const struct block *b, int lane)
{
	int64_t bad = 0, group = t->g->group;

	if (t->how->static_groups || b->fitted) {
		OF(step)(m, t, b, lane, 0, (int)(b->end - b->start));
		return 0;
	}
	for (int64_t at = b->start, next; at < b->end && !bad; at = next) {
		next = first_group(at + 1, group) < b->end ? first_group(at + 1, group) : b->end;
		if (at % group == 0) {
			for (int64_t i = at; i < next; i++)
				for (int l = 0; l < LANES; l++)
					m->range[(i - at) * LANES + l] = (float)m->now[(i - b->start) * ROWS + lane + l];
			bad = OF(fit)(m, t, lane, at, 0);
		}
		if (!bad)
			OF(step)(m, t, b, lane, (int)(at - b->start), (int)(next - b->start));
	}
	return bad;
}

/* c[ROWS, n] = (or +=) a[ROWS, k] b[k, n]; b has its rows ld apart. */
static void
OF(product)(REAL *c, const REAL *a, const REAL *b, int64_t ld, int64_t n, int64_t k, REAL add)
{
	BLAS(gemm)(CblasColMajor, CblasNoTrans, CblasTrans, ROWS, (int)n, (int)k, 1, a, ROWS, b, (int)ld, add, c, ROWS);
}

static int64_t
OF(block)(struct OF(room) *m, const struct task *t, const struct block *b)
{
	const REAL *u = (const REAL *)t->u->p + b->start;      /* the block's columns */
	int64_t width = b->end - b->start, span = (b->fitted > b->end ? b->fitted : b->end) - b->start, bad = 0;

	OF(take)(m->first, m, t->w, t->order + b->start, width);
	memcpy(m->now, m->first, (size_t)(width * ROWS) * sizeof(REAL));
	if (m->missed)
		OF(take)(m->aim, m, t->how->target, t->order + b->start, width);
	if (b->start) {
		OF(product)(m->sum, m->done, u, t->u->ld, span, b->start, 0);
		OF(product)(m->now, m->sum, b->inverse, BLOCK, width, width, 1);
	}
	if (b->fitted)
		bad = OF(fit_ahead)(m, t, b);
	for (int lane = 0; lane < m->rows && !bad; lane += LANES)
		bad = OF(walk)(m, t, b, lane);
	for (int r = 0; r < m->rows && !bad; r++)
		for (int64_t i = 0; i < width; i++)
			((uint8_t *)t->q->code.p)[(m->row + r) * t->q->code.ld + t->order[b->start + i]] = m->code[i * ROWS + r];
	return bad;
}

/* loss = what the target misses, in place of what w misses. */
static void
OF(measure)(struct OF(room) *m, const struct task *t)
{
	memset(m->loss, 0, sizeof(m->loss));
	for (int64_t i = 0; i < t->n; i += BLOCK) {
		int64_t end = i + BLOCK < t->n ? i + BLOCK : t->n;

		OF(product)(m->sum, m->missed, (const REAL *)t->u->p + i, t->u->ld, end - i, end, 0);
		for (int64_t k = 0; k < (end - i) * ROWS; k++)
			m->loss[k % ROWS] += (double)m->sum[k] * (double)m->sum[k];
	}
}

/* Returns 0 or a fault_key. */
static int64_t
OF(rows)(struct OF(room) *m, const struct task *t)
{
	const REAL *error = m->missed ? m->missed : m->done;
	int64_t bad = 0;

	memset(m->loss, 0, sizeof(m->loss));
	if (t->how->static_groups)
		OF(load_grid)(m, t);
	for (int64_t i = 0; i < t->nblocks && !bad; i++)
		bad = OF(block)(m, t, &t->blocks[i]);
	if (m->missed && !bad)
		OF(measure)(m, t);
	if (t->how->ridge != 0)
		for (int64_t k = 0; k < t->n * ROWS; k++)
			m->loss[k % ROWS] -= t->how->ridge * (double)error[k] * (double)error[k];
	for (int r = 0; r < m->rows; r++)
		((double *)t->loss->p)[m->row + r] = m->loss[r];
	return bad;
}

/* inverse = inv(U_bb), zero below the diagonal. */
static void
OF(invert)(REAL *inverse, const REAL *u, int64_t ld, int64_t n)
{
	memset(inverse, 0, BLOCK * BLOCK * sizeof(*inverse));
	for (int64_t i = 0; i < n; i++)
		inverse[i * BLOCK + i] = 1;
	BLAS(trsm)(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, (int)n, (int)n, 1, u, (int)ld,
	           inverse, BLOCK);
	for (int64_t i = 1; i < n; i++)
		memset(inverse + i * BLOCK, 0, (size_t)i * sizeof(*inverse));
}

static REAL *
OF(cut)(char **from, int64_t n)
{
	REAL *p = (REAL *)*from;

	*from += n * (int64_t)sizeof(REAL);
	return p;
}

static struct OF(room)
OF(furnish)(char *p, const struct task *t)
{
	struct OF(room) m = {0};
	int64_t block = BLOCK * ROWS;

	m.done = OF(cut)(&p, t->n * ROWS);
	if (t->how->target)
		m.missed = OF(cut)(&p, t->n * ROWS);
	m.first = OF(cut)(&p, block);
	m.aim = OF(cut)(&p, block);
	m.now = OF(cut)(&p, block);
	m.sum = OF(cut)(&p, t->widest * ROWS);
	m.range = (float *)OF(cut)(&p, t->widest * LANES);
	m.scale = (float *)OF(cut)(&p, t->q->scale.cols * ROWS);
	m.zero = (float *)OF(cut)(&p, t->q->scale.cols * ROWS);
	m.code = (uint8_t *)p;
	return m;
}

static void
OF(babai)(struct dev *d, struct task *t)
{
	size_t n = (size_t)t->n, wide = (size_t)t->widest, groups = (size_t)t->q->scale.cols;
	size_t each = ((n * (t->how->target ? 2 : 1) + 3 * BLOCK + wide + 2 * groups) * ROWS + wide * LANES) * sizeof(REAL) + BLOCK * ROWS;
	REAL *inverse = cpu_take(d, (size_t)t->nblocks * BLOCK * BLOCK * sizeof(*inverse));
	char *room = cpu_take(d, each * (size_t)d->threads);
	int64_t bad = INT64_MAX, tasks = (t->w->rows + ROWS - 1) / ROWS, ld = t->u->ld;

	if (!inverse || !room)
		return;
	#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (int64_t i = 0; i < t->nblocks; i++) {
		struct block *b = &t->blocks[i];

		b->inverse = inverse + i * BLOCK * BLOCK;
		OF(invert)(inverse + i * BLOCK * BLOCK, (const REAL *)t->u->p + b->start * (ld + 1), ld, b->end - b->start);
	}
	#pragma omp parallel for num_threads(d->threads) schedule(dynamic) reduction(min : bad)
	for (int64_t i = 0; i < tasks; i++) {
		struct OF(room) m = OF(furnish)(room + each * (size_t)omp_get_thread_num(), t);
		int64_t key;

		m.row = i * ROWS;
		m.rows = (int)(t->w->rows - m.row < ROWS ? t->w->rows - m.row : ROWS);
		key = OF(rows)(&m, t);
		if (key && key < bad)
			bad = key;
	}
	if (bad != INT64_MAX)
		grid_fault(d, (enum lane_fault)(bad % 4), bad / 4, t->g);
}

#undef REAL
#undef OF
#undef BLAS
#undef BIG
