/* Matrix products on oneDNN.
 *
 * oneDNN splits a product by the number of threads that it sees, and a split of the sum shows in the result.  So it is never
 * shown more than one: products are cut into tiles here, by shape alone, and each tile is a product of one thread. */
#include "kernels/cpu/gemm.h"

#include <dnnl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
	TILE = 256,       /* rows and columns of c computed at a time */
	SLOTS = 512,      /* compiled products that a thread keeps */
	PROBES = 8,
};

struct key {
	int64_t m, n, k, lda, ldb, ldc;
	enum dtype type;
	unsigned how;
};

/* A compiled product. */
struct product {
	struct key key;
	dnnl_primitive_t primitive;      /* NULL: the slot is free */
	dnnl_memory_t a, b, c, scratch;
	size_t scratch_size;
};

/* What a thread has to itself. */
struct worker {
	dnnl_stream_t stream;
	void *scratch;
	size_t scratch_size;
	unsigned victim;                 /* which of the probed slots goes next */
	struct product product[SLOTS];
};

struct gemms {
	dnnl_engine_t engine;
	bool bf16;
	int workers;
	struct worker **worker;
};

/* ---- what differs between oneDNN 2 and 3 ---- */

#if DNNL_VERSION_MAJOR >= 3

static dnnl_status_t
describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, dnnl_memory_desc_t md[3], dnnl_primitive_attr_t attr)
{
	return dnnl_matmul_primitive_desc_create(pd, engine, md[0], md[1], NULL, md[2], attr);
}

static dnnl_status_t
md_open(dnnl_memory_desc_t *md, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
	return dnnl_memory_desc_create_with_strides(md, 2, dims, type, strides);
}

static void
md_close(dnnl_memory_desc_t *md)
{
	if (*md)
		dnnl_memory_desc_destroy(*md);
}

static dnnl_status_t
memory_open(dnnl_memory_t *memory, const dnnl_memory_desc_t *md, dnnl_engine_t engine)
{
	return dnnl_memory_create(memory, *md, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t
append_sum(dnnl_post_ops_t ops)
{
	return dnnl_post_ops_append_sum(ops, 1.f, 0, dnnl_data_type_undef);
}

#else

static dnnl_status_t
describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, dnnl_memory_desc_t md[3], dnnl_primitive_attr_t attr)
{
	dnnl_matmul_desc_t op;
	dnnl_status_t s = dnnl_matmul_desc_init(&op, &md[0], &md[1], NULL, &md[2]);

	return s != dnnl_success ? s : dnnl_primitive_desc_create(pd, &op, attr, engine, NULL);
}

static dnnl_status_t
md_open(dnnl_memory_desc_t *md, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
	return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides);
}

static void
md_close(dnnl_memory_desc_t *md)
{
	(void)md;
}

static dnnl_status_t
memory_open(dnnl_memory_t *memory, const dnnl_memory_desc_t *md, dnnl_engine_t engine)
{
	return dnnl_memory_create(memory, md, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t
append_sum(dnnl_post_ops_t ops)
{
	return dnnl_post_ops_append_sum(ops, 1.f);
}

#endif

/* ---- instruction sets ---- */

static const struct {
	const char *name;
	dnnl_cpu_isa_t isa;
} isas[] = {
	{"amx",         dnnl_cpu_isa_avx512_core_amx},
	{"avx512_bf16", dnnl_cpu_isa_avx512_core_bf16},
	{"avx512",      dnnl_cpu_isa_avx512_core},
	{"avx2",        dnnl_cpu_isa_avx2},
	{"sse41",       dnnl_cpu_isa_sse41},
};

int
gemm_isa(struct dev *d, const char *isa)
{
	size_t i;

	for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
		if (strcmp(isas[i].name, isa) != 0)
			continue;
		dnnl_set_max_cpu_isa(isas[i].isa);    /* refused once anything was computed: what counts is what holds */
		if (dnnl_get_effective_cpu_isa() == isas[i].isa)
			return 0;
		dev_fail(d, E_USE, "isa %s: oneDNN is held to another instruction set in this process", isa);
		return -1;
	}
	return 0;
}

bool
gemm_has_bf16(const struct gemms *g)
{
	return g->bf16;
}

void
gemm_version(char *text, size_t size)
{
	const dnnl_version_t *v = dnnl_version();

	snprintf(text, size, "%d.%d.%d", v->major, v->minor, v->patch);
}

/* ---- state ---- */

static void
product_close(struct product *p)
{
	if (p->a)
		dnnl_memory_destroy(p->a);
	if (p->b)
		dnnl_memory_destroy(p->b);
	if (p->c)
		dnnl_memory_destroy(p->c);
	if (p->scratch)
		dnnl_memory_destroy(p->scratch);
	if (p->primitive)
		dnnl_primitive_destroy(p->primitive);
	memset(p, 0, sizeof(*p));
}

static void
worker_close(struct worker *w)
{
	int i;

	if (!w)
		return;
	for (i = 0; i < SLOTS; i++)
		product_close(&w->product[i]);
	if (w->stream)
		dnnl_stream_destroy(w->stream);
	free(w->scratch);
	free(w);
}

void
gemms_close(struct gemms *g)
{
	int i;

	for (i = 0; g->worker && i < g->workers; i++)
		worker_close(g->worker[i]);
	free(g->worker);
	if (g->engine)
		dnnl_engine_destroy(g->engine);
	free(g);
}

static int
workers_open(struct gemms *g)
{
	int i;

	g->worker = calloc((size_t)g->workers, sizeof(*g->worker));
	for (i = 0; g->worker && i < g->workers; i++) {
		g->worker[i] = calloc(1, sizeof(*g->worker[i]));
		if (!g->worker[i])
			return -1;
		if (dnnl_stream_create(&g->worker[i]->stream, g->engine, dnnl_stream_default_flags) != dnnl_success)
			return -1;
	}
	return g->worker ? 0 : -1;
}

struct gemms *
gemms_open(const struct dev *d)
{
	struct gemms *g = calloc(1, sizeof(*g));
	dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();

	if (!g)
		return NULL;
	g->workers = d->threads;
	g->bf16 = (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
	if (dnnl_engine_create(&g->engine, dnnl_cpu, 0) == dnnl_success && workers_open(g) == 0)
		return g;
	gemms_close(g);
	return NULL;
}

/* ---- compiling ---- */

static dnnl_status_t
attributes(dnnl_primitive_attr_t *attr, bool add)
{
	dnnl_post_ops_t ops = NULL;
	dnnl_status_t s = dnnl_primitive_attr_create(attr);

	if (s == dnnl_success)
		s = dnnl_primitive_attr_set_fpmath_mode(*attr, dnnl_fpmath_mode_strict);
	if (s == dnnl_success)
		s = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
	if (s != dnnl_success || !add)
		return s;
	s = dnnl_post_ops_create(&ops);
	if (s == dnnl_success)
		s = append_sum(ops);
	if (s == dnnl_success)
		s = dnnl_primitive_attr_set_post_ops(*attr, ops);
	if (ops)
		dnnl_post_ops_destroy(ops);
	return s;
}

static dnnl_status_t
shapes(dnnl_memory_desc_t md[3], const struct key *k)
{
	dnnl_data_type_t type = k->type == BF16 ? dnnl_bf16 : dnnl_f32;
	dnnl_dims_t a = {k->m, k->k}, b = {k->k, k->n}, c = {k->m, k->n};
	dnnl_dims_t as = {k->lda, 1}, at = {1, k->lda}, bs = {k->ldb, 1}, bt = {1, k->ldb}, cs = {k->ldc, 1};
	dnnl_status_t s = md_open(&md[0], a, type, k->how & GEMM_AT ? at : as);

	if (s == dnnl_success)
		s = md_open(&md[1], b, type, k->how & GEMM_BT ? bt : bs);
	if (s == dnnl_success)
		s = md_open(&md[2], c, dnnl_f32, cs);
	return s;
}

static dnnl_status_t
memories(struct product *p, dnnl_engine_t engine, const dnnl_memory_desc_t md[3], dnnl_primitive_desc_t pd)
{
	dnnl_status_t s = memory_open(&p->a, &md[0], engine);

	if (s == dnnl_success)
		s = memory_open(&p->b, &md[1], engine);
	if (s == dnnl_success)
		s = memory_open(&p->c, &md[2], engine);
	if (s == dnnl_success)
		s = dnnl_memory_create(&p->scratch, dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0),
		                       engine,
		                       DNNL_MEMORY_NONE);
	p->scratch_size = dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
	return s;
}

static dnnl_status_t
product_open(struct product *p, dnnl_engine_t engine, const struct key *key)
{
	dnnl_memory_desc_t md[3];
	dnnl_primitive_attr_t attr = NULL;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_status_t s;
	int i;

	memset(md, 0, sizeof(md));
	s = shapes(md, key);
	if (s == dnnl_success)
		s = attributes(&attr, key->how & GEMM_ADD);
	if (s == dnnl_success)
		s = describe(&pd, engine, md, attr);
	if (s == dnnl_success)
		s = dnnl_primitive_create(&p->primitive, pd);
	if (s == dnnl_success)
		s = memories(p, engine, md, pd);
	p->key = *key;
	if (s != dnnl_success)
		product_close(p);
	if (pd)
		dnnl_primitive_desc_destroy(pd);
	if (attr)
		dnnl_primitive_attr_destroy(attr);
	for (i = 0; i < 3; i++)
		md_close(&md[i]);
	return s;
}

static unsigned
hash(const struct key *k)
{
	uint64_t h = (uint64_t)k->type * 8 + k->how;
	const int64_t part[] = {k->m, k->n, k->k, k->lda, k->ldb, k->ldc};
	size_t i;

	for (i = 0; i < sizeof(part) / sizeof(part[0]); i++)
		h = (h ^ (uint64_t)part[i]) * 0x9e3779b97f4a7c15u;
	return (unsigned)(h >> 40);
}

static bool
is_same(const struct key *a, const struct key *b)
{
	return a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda && a->ldb == b->ldb
	       && a->ldc == b->ldc && a->type == b->type && a->how == b->how;
}

/* The slot that holds key, else one that is free, else one that had its time. */
static struct product *
slot(struct worker *w, const struct key *key)
{
	struct product *p, *empty = NULL;
	unsigned h = hash(key), i;

	for (i = 0; i < PROBES; i++) {
		p = &w->product[(h + i) % SLOTS];
		if (p->primitive && is_same(&p->key, key))
			return p;
		if (!p->primitive && !empty)
			empty = p;
	}
	if (empty)
		return empty;
	p = &w->product[(h + w->victim++ % PROBES) % SLOTS];
	product_close(p);
	return p;
}

/* ---- computing ---- */

static int
make_room(struct worker *w, size_t size)
{
	if (size <= w->scratch_size)
		return 0;
	free(w->scratch);
	w->scratch_size = 0;
	w->scratch = aligned_alloc(64, (size + 63) / 64 * 64);
	if (!w->scratch)
		return -1;
	w->scratch_size = size;
	return 0;
}

static dnnl_status_t
execute(struct worker *w, const struct product *p, void *c, const void *a, const void *b)
{
	dnnl_exec_arg_t args[] = {
		{DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}, {DNNL_ARG_SCRATCHPAD,
		                                                                       p->scratch},
	};
	void *handle[] = {(void *)(uintptr_t)a, (void *)(uintptr_t)b, c, w->scratch};
	dnnl_status_t s;
	int i;

	if (make_room(w, p->scratch_size) != 0)
		return dnnl_out_of_memory;
	handle[3] = w->scratch;
	for (i = 0; i < 4; i++) {
		s = dnnl_memory_set_data_handle(args[i].memory, handle[i]);
		if (s != dnnl_success)
			return s;
	}
	s = dnnl_primitive_execute(p->primitive, w->stream, 4, args);
	return s == dnnl_success ? dnnl_stream_wait(w->stream) : s;
}

void
gemm_here(struct dev *d, struct mat *c, const struct mat *a, const struct mat *b, unsigned how)
{
	struct gemms *g = cpu_gemms(d);
	struct worker *w = g->worker[cpu_worker()];
	struct key key = {.m = c->rows, .n = c->cols, .k = how & GEMM_AT ? a->rows : a->cols, .lda = a->ld,
	                  .ldb = b->ld,
	                  .ldc = c->ld, .type = a->type, .how = how};
	struct product *p = slot(w, &key);
	int threads = omp_get_max_threads();
	dnnl_status_t s = dnnl_success;

	omp_set_num_threads(1);
	if (!p->primitive)
		s = product_open(p, g->engine, &key);
	if (s == dnnl_success)
		s = execute(w, p, c->p, a->p, b->p);
	omp_set_num_threads(threads);
	if (s != dnnl_success)
		cpu_fail(d, E_SYS, "oneDNN failed with status %d at a product %s of [%lld,%lld] and [%lld,%lld]",
		         (int)s,
		         a->type == BF16 ? "BF16" : "F32", (long long)key.m, (long long)key.k, (long long)key.k,
		         (long long)key.n);
}

static int64_t
least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static void
tile(struct dev *d, const struct mat *c, const struct mat *a, const struct mat *b, unsigned how, int64_t i)
{
	int64_t columns = (c->cols + TILE - 1) / TILE, row = i / columns * TILE, col = i % columns * TILE;
	int64_t m = least(TILE, c->rows - row), n = least(TILE, c->cols - col);
	struct mat part = mat_part(c, row, col, m, n);
	struct mat pa = how & GEMM_AT ? mat_part(a, 0, row, a->rows, m) : mat_part(a, row, 0, m, a->cols);
	struct mat pb = how & GEMM_BT ? mat_part(b, col, 0, n, b->cols) : mat_part(b, 0, col, b->rows, n);

	gemm_here(d, &part, &pa, &pb, how);
}

void
gemm(struct dev *d, struct mat *c, const struct mat *a, const struct mat *b, unsigned how)
{
	int64_t tiles = ((c->rows + TILE - 1) / TILE) * ((c->cols + TILE - 1) / TILE), i;

	#pragma omp parallel for num_threads(d->threads) schedule(dynamic)
	for (i = 0; i < tiles; i++)
		tile(d, c, a, b, how, i);
}
