/* Devices that compute nothing, to learn what a work takes of a real one.
 *
 * An operation takes the room that the backend's own would take of the arena beside its operands, and gives it back.  The formulas
 * follow the backends: exact for the CPU, where a test compares them with dev_peak, and never too little for CUDA.  The arena is
 * addresses that nobody touches. */
#define _GNU_SOURCE    /* sched_getaffinity */

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "kernels/isa.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"

enum { MIB = 1 << 20 };

static const size_t endless = (size_t)1 << 44;      /* bytes of an arena without a limit */

/* What this backend keeps of a device. */
struct own {
	bool cuda, native;       /* native: bf16 operands are bf16, not rounded fp32; a card has fp16 too */
	size_t rooms, ahead;     /* bytes beside it; ahead: of the largest list that was announced */
};

static const struct own *
own_of(const struct dev *d)
{
	return d->own;
}

static size_t
least(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t
most(size_t a, size_t b)
{
	return a > b ? a : b;
}

static size_t
count(const struct mat *m)
{
	return (size_t)m->rows * (size_t)m->cols;
}

/* ---- room ---- */

/* Arenas hand out aligned pieces, so every piece may cost as much more. */
static void
take(struct dev *d, size_t bytes)
{
	if (bytes > 0)
		arena_take(d, "room to compute in", bytes);
}

static enum dtype
operand(const struct dev *d)
{
	bool held = own_of(d)->cuda || (own_of(d)->native && d->math == MATH_BF16);

	return held ? dev_operand(d) : F32;
}

/* Of n numbers of m made operands. */
static size_t
operand_bytes(const struct dev *d, const struct mat *m, size_t n)
{
	enum dtype t = operand(d);
	bool exact = m->type == t && t == dev_operand(d);

	return exact ? 0 : n * dtype_size(t);
}

/* A panel of weights that have another type: PANEL of linear.c and nll.c. */
static size_t
panel_bytes(const struct dev *d, const struct mat *w, size_t step)
{
	size_t inputs = (size_t)w->cols, rows = least((size_t)w->rows, most((16 * MIB) / (inputs * 4) / step * step, step));

	return operand_bytes(d, w, rows * inputs);
}

static void
dry_linear(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w, const struct mat *bias, bool add)
{
	size_t mark = d->used;

	(void)y;
	(void)bias;
	(void)add;
	take(d, operand_bytes(d, x, count(x)));
	take(d, (own_of(d)->cuda ? 4 : 1) * panel_bytes(d, w, 256));
	d->used = mark;
}

/* cpu/attention.c: room_bytes. */
static size_t
attention_room(const struct dev *d, const struct attention *a)
{
	size_t group = (size_t)(a->heads / a->kv_heads), width = (size_t)a->width, keys = 512;
	size_t rows = group * least(128, most(384 / group / 16, 1) * 16);
	size_t operands = rows * width + (d->math == MATH_F32 ? 0 : rows * keys);

	return (rows * (8 + 4 * (1 + keys + width)) + operands * dtype_size(operand(d)) + 63) / 64 * 64 + 64;
}

static void
dry_attention(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k, const struct mat *v, const struct attention *a)
{
	size_t mark = d->used;

	(void)y;
	take(d, operand_bytes(d, k, count(k)));
	take(d, operand_bytes(d, v, count(v)));
	if (own_of(d)->cuda)
		take(d, operand_bytes(d, q, count(q)));
	else
		take(d, attention_room(d, a) * (size_t)d->threads);
	d->used = mark;
}

static void
dry_nll(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head, const struct mat *bias, const struct mat *ids,
        int64_t seqlen)
{
	size_t mark = d->used, tokens = (size_t)x->rows, scores = (size_t)d->threads * 256 * 256 * 4;

	(void)nll;
	(void)bias;
	(void)ids;
	(void)seqlen;
	if (own_of(d)->cuda)
		scores = least(2048, tokens) * least((size_t)head->rows, 65536) * 4;
	take(d, operand_bytes(d, x, count(x)));
	take(d, tokens * 4);
	take(d, tokens * 4);
	take(d, tokens * 8);
	take(d, scores);
	take(d, (own_of(d)->cuda ? 4 : 1) * panel_bytes(d, head, 256));
	d->used = mark;
}

static void
moments(struct dev *d, const struct mat *x, int matrices)
{
	size_t mark = d->used, n = (size_t)x->cols, side = own_of(d)->cuda ? 8 : 192, tokens = own_of(d)->cuda ? 8192 : 2048;
	size_t each = (n + side - 1) / side * side * least(tokens, (size_t)x->rows) * dtype_size(operand(d));

	take(d, each);
	take(d, own_of(d)->cuda ? 0 : (size_t)d->threads * side * side * 4);
	if (matrices == 2)
		take(d, each);
	d->used = mark;
}

static void
dry_gram(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a)
{
	(void)h;
	(void)a;
	moments(d, x, 1);
}

static void
dry_cross(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a)
{
	(void)c;
	(void)f;
	(void)a;
	moments(d, x, 2);
}

static void
dry_fit(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight, const struct grid *g)
{
	size_t mark = d->used;

	(void)q;
	(void)weight;
	(void)g;
	if (!own_of(d)->cuda)
		take(d, (size_t)w->cols * 17 * (size_t)d->threads * 4);
	d->used = mark;
}

/* A line of floats a thread. */
static void
dry_lines(struct dev *d, int64_t cols)
{
	size_t mark = d->used;

	if (!own_of(d)->cuda)
		take(d, (size_t)cols * (size_t)d->threads * 4);
	d->used = mark;
}

static void
dry_round(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g)
{
	(void)q;
	(void)g;
	dry_lines(d, w->cols);
}

static void
dry_dequant(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g)
{
	(void)q;
	(void)g;
	dry_lines(d, w->cols);
}

static void
dry_miss(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g)
{
	(void)loss;
	(void)q;
	(void)g;
	dry_lines(d, w->cols);
}

static void
dry_order(struct dev *d, struct mat *order, const struct mat *h, bool by_diag)
{
	size_t mark = d->used;

	(void)order;
	(void)by_diag;
	take(d, (size_t)h->rows * (own_of(d)->cuda ? 32 : 8) + (own_of(d)->cuda ? MIB : 0));
	d->used = mark;
}

/* cpu/factor.c; cuda/factor.cu with cuSOLVER's own, and cholesky.cu. */
static size_t
factor_room(const struct dev *d, size_t n, enum dtype type)
{
	size_t apart = type == F32 ? n * n * 8 : 0;

	if (!own_of(d)->cuda)
		return apart;
	return type == F64 || n < 12288 ? apart + n * n / 256 + MIB : n * (4 * 256 * 2 + 4) + MIB;
}

static int64_t
dry_factor(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp, int64_t *dead)
{
	size_t mark = d->used;

	(void)h;
	(void)order;
	(void)damp;
	*dead = 0;
	take(d, factor_room(d, (size_t)u->rows, u->type));
	d->used = mark;
	return 0;
}

static int64_t
dry_solve(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h, double lambda)
{
	size_t mark = d->used;

	(void)out;
	(void)b;
	(void)lambda;
	take(d, count(h) * 4);
	take(d, factor_room(d, (size_t)h->rows, F32));
	d->used = mark;
	return 0;
}

/* cpu/babai_body.h: what a thread computes in, and the inverses of the diagonal blocks. */
static void
dry_babai_cpu(struct dev *d, const struct mat *w, const struct mat *u, const struct grid *g, const struct babai *b, bool weighted)
{
	size_t n = (size_t)w->cols, group = (size_t)g->group, real = dtype_size(u->type), block = 128, rows = 96;
	size_t blocks = b->static_groups ? (n + block - 1) / block : n / (block / 2) + 1 + n / group + 1;
	size_t wide = b->static_groups ? block : least(n, most(block, group + block)), groups = (n + group - 1) / group;
	size_t each = ((n * (b->target ? 2 : 1) + 3 * block + wide + 2 * groups) * rows + wide * 16) * real + block * rows;

	take(d, (n / (block / 2) + 1 + n / group + 1) * 32);
	take(d, n * 4);
	if (weighted)
		take(d, n * 4);
	take(d, blocks * block * block * real);
	take(d, (each + 63) / 64 * 64 * (size_t)d->threads);
}

static void
dry_babai(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u, const struct mat *order,
          const struct mat *weight, const struct grid *g, const struct babai *b)
{
	size_t mark = d->used, n = (size_t)w->cols, real = dtype_size(u->type);

	(void)q;
	(void)loss;
	(void)order;
	if (own_of(d)->cuda)
		take(d, least(3 * count(w) * real, (size_t)1536 * MIB) + (n + 128) * (128 * real + 16) + MIB);
	else
		dry_babai_cpu(d, w, u, g, b, g->search == SEARCH_WEIGHTED && weight);
	d->used = mark;
}

/* ---- operations without room ---- */

static void
dry_two(struct dev *d, struct mat *y, const struct mat *x)
{
	(void)d;
	(void)y;
	(void)x;
}

static void
dry_three(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b)
{
	(void)d;
	(void)y;
	(void)a;
	(void)b;
}

static void
dry_norm(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n)
{
	(void)d;
	(void)y;
	(void)x;
	(void)heads;
	(void)n;
}

static void
dry_rope(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen)
{
	(void)d;
	(void)x;
	(void)heads;
	(void)r;
	(void)seqlen;
}

static void
dry_act(struct dev *d, struct mat *y, const struct mat *x, enum act act)
{
	(void)d;
	(void)y;
	(void)x;
	(void)act;
}

static void
dry_gated(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up, enum act act)
{
	(void)d;
	(void)y;
	(void)gate;
	(void)up;
	(void)act;
}

static void
dry_add(struct dev *d, struct mat *y, const struct mat *x, float scale)
{
	(void)d;
	(void)y;
	(void)x;
	(void)scale;
}

static void
dry_codes(struct dev *d, struct mat *to, const struct mat *from, int bits)
{
	(void)d;
	(void)to;
	(void)from;
	(void)bits;
}

/* ---- the device ---- */

static void
dry_wait(struct dev *d)
{
	(void)d;
}

static void
dry_close(struct dev *d)
{
	free(d->own);
}

static void
dry_put(struct dev *d, struct mat *to, const void *from)
{
	(void)d;
	(void)to;
	(void)from;
}

static void
dry_get(struct dev *d, void *to, const struct mat *from)
{
	(void)d;
	memset(to, 0, count(from) * dtype_size(from->type));
	for (size_t i = 0; from->type == F32 && i < count(from); i++)
		((float *)to)[i] = 1;
	for (size_t i = 0; from->type == F64 && i < count(from); i++)
		((double *)to)[i] = 1;
}

static bool
dry_view(struct dev *d, struct mat *m, const void *from)
{
	(void)from;
	if (own_of(d)->cuda)
		return false;
	m->p = d->arena;
	return true;
}

static void
dry_zero(struct dev *d, struct mat *m)
{
	(void)d;
	(void)m;
}

static void
dry_shrink(struct dev *d, size_t from)
{
	(void)d;
	(void)from;
}

/* cuda/ahead.c: one copy of a list, which stays for the largest. */
static void
dry_ahead(struct dev *d, const struct span *v, size_t n)
{
	struct own *own = d->own;
	size_t bytes = 0;

	for (size_t i = 0; i < n; i++)
		bytes += (v[i].n + 255) / 256 * 256;
	if (own->cuda)
		own->ahead = most(own->ahead, bytes);
}

static void *
dry_room(struct dev *d, size_t bytes)
{
	((struct own *)d->own)->rooms += bytes;
	return d->arena;
}

static void
dry_park(struct dev *d, void *room, const struct mat *m)
{
	(void)d;
	(void)room;
	(void)m;
}

static void
dry_unpark(struct dev *d, struct mat *m, const void *room)
{
	(void)d;
	(void)m;
	(void)room;
}

static enum math
dry_math(struct dev *d, enum math wanted)
{
	if (wanted != MATH_AUTO)
		return wanted;
	return own_of(d)->native ? MATH_BF16 : MATH_F32;
}

static const struct backend dry = {
	.abi = BACKEND_ABI,
	.name = "dry",
	.close = dry_close,
	.wait = dry_wait,
	.put = dry_put,
	.get = dry_get,
	.view = dry_view,
	.zero = dry_zero,
	.shrink = dry_shrink,
	.ahead = dry_ahead,
	.room = dry_room,
	.park = dry_park,
	.unpark = dry_unpark,
	.math = dry_math,
	.convert = dry_two,
	.embed = dry_three,
	.norm = dry_norm,
	.linear = dry_linear,
	.rope = dry_rope,
	.attention = dry_attention,
	.act = dry_act,
	.gated = dry_gated,
	.add = dry_add,
	.nll = dry_nll,
	.token_weight = dry_two,
	.gram = dry_gram,
	.cross = dry_cross,
	.fit = dry_fit,
	.round = dry_round,
	.dequant = dry_dequant,
	.miss = dry_miss,
	.pack_codes = dry_codes,
	.unpack_codes = dry_codes,
	.order = dry_order,
	.factor = dry_factor,
	.solve = dry_solve,
	.matmul = dry_three,
	.babai = dry_babai,
};

static struct dev *
dry_new(bool cuda, bool native)
{
	struct dev *d = mem_new(1, sizeof(*d));
	struct own *own = mem_new(1, sizeof(*own));

	own->cuda = cuda;
	own->native = native;
	d->own = own;
	d->be = &dry;
	d->arena = (char *)(uintptr_t)4096;      /* never touched */
	snprintf(d->name, sizeof(d->name), "%s", cuda ? "cuda" : "cpu");
	return d;
}

static int
processors(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

int
dev_dry(struct dev **out, const struct dev_options *o)
{
	const size_t beside = (size_t)DEV_BESIDE_MIB * MIB;
	const struct isa *isa;
	bool cuda = strncmp(o->name, "cuda", 4) == 0;
	int e = isa_find(&isa, o->isa);
	struct dev *d;

	if (e != E_OK)
		return e;
	*out = d = dry_new(cuda, cuda || strcmp(isa->name, "amx") == 0 || strcmp(isa->name, "avx512_bf16") == 0);
	d->tokens = cuda ? 8192 : 2048;
	d->threads = o->threads > 0 ? o->threads : processors();
	d->size = o->memory > 0 ? o->memory : endless;
	if (cuda && o->memory > 0)
		d->size = o->memory > beside ? o->memory - beside : 0;
	d->math = dry_math(d, MATH_AUTO);
	return E_OK;
}

struct dev *
dev_dry_like(const struct dev *d)
{
	bool cuda = strncmp(d->name, "cuda", 4) == 0;
	bool native = d->be == &dry ? own_of(d)->native : d->be->math((struct dev *)(uintptr_t)d, MATH_AUTO) == MATH_BF16;
	struct dev *like = dry_new(cuda, native);

	like->tokens = d->tokens;
	like->threads = d->threads;
	like->size = d->size;
	like->used = like->peak = d->used;
	like->math = d->math;
	return like;
}

bool
dev_is_dry(const struct dev *d)
{
	return d->be == &dry;
}

/* cuda/memory.c: the arena grows by so much at a time, unless that is more than it may have. */
static size_t
mapped(const struct dev *d)
{
	size_t step = (size_t)256 * MIB, whole = (d->peak + step - 1) / step * step;

	return whole <= d->size ? whole : d->peak;
}

void
dev_taken(const struct dev *d, size_t *device, size_t *host)
{
	*device = own_of(d)->cuda ? mapped(d) + (size_t)DEV_BESIDE_MIB * MIB : 0;
	*host = own_of(d)->rooms + own_of(d)->ahead + (own_of(d)->cuda ? 0 : d->peak);
}
