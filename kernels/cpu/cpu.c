#include "kernels/cpu/cpu.h"

#include <cblas.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu/gemm.h"

enum { MIB = 1 << 20 };

/* Pages of the arena kept for the next use when it shrinks: giving them back and touching them again costs more than
 * the arithmetic of a small model. */
static const size_t keep = (size_t)256 * MIB;

/* Host memory of dev_room. */
struct room {
	struct room *next;
	char bytes[];
};

/* What this backend keeps of a device. */
struct own {
	struct room *rooms;
	struct gemms *gemms;
	size_t touched;        /* bytes of the arena that may have pages */
};

/* ---- for the operations ---- */

void
cpu_fail(struct dev *d, int code, const char *fmt, ...)
{
	char why[sizeof(d->why)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	#pragma omp critical(qjob_cpu_fail)
	dev_fail(d, code, "%s", why);
}

void *
cpu_take(struct dev *d, size_t bytes)
{
	struct own *own = d->own;
	void *p = arena_take(d, "room to compute in", bytes);

	if (p && d->used > own->touched)
		own->touched = d->used;
	return p;
}

struct mat
cpu_mat(struct dev *d, enum dtype type, int64_t rows, int64_t cols)
{
	struct mat m = {.rows = rows, .cols = cols, .ld = cols, .type = type};

	m.p = cpu_take(d, (size_t)rows * (size_t)cols * cpu_size(type));
	return m;
}

size_t
cpu_size(enum dtype type)
{
	static const unsigned char size[DTYPES] = {
		[F32] = 4, [F16] = 2, [BF16] = 2, [F64] = 8, [I64] = 8, [I32] = 4, [I16] = 2,
		[I8] = 1, [U8] = 1, [BOOL] = 1, [F8_E4M3] = 1, [F8_E5M2] = 1,
	};

	return size[type];
}

void *
cpu_row(const struct mat *m, int64_t row)
{
	return (char *)m->p + row * m->ld * (int64_t)cpu_size(m->type);
}

struct mat
cpu_as(struct dev *d, const struct mat *m, enum dtype type)
{
	struct mat copy;

	if (m->type == type && (uintptr_t)m->p % cpu_size(type) == 0)
		return *m;
	copy = cpu_mat(d, type, m->rows, m->cols);
	if (copy.p)
		cpu_convert(d, &copy, m);
	return copy;
}

struct mat
mat_part(const struct mat *of, int64_t row, int64_t col, int64_t m, int64_t n)
{
	struct mat part = *of;

	part.p = (char *)cpu_row(of, row) + col * (int64_t)cpu_size(of->type);
	part.rows = m;
	part.cols = n;
	return part;
}

int
cpu_worker(void)
{
	return omp_get_thread_num();
}

struct gemms *
cpu_gemms(struct dev *d)
{
	return ((struct own *)d->own)->gemms;
}

/* ---- the device ---- */

/* Address space, no memory yet.  A system that counts reservations may refuse a large one: without a wish, less will do. */
static char *
reserve(size_t *size, bool wish)
{
	void *p;

	for (;;) {
		p = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p != MAP_FAILED)
			return p;
		if (wish || *size < 64 * (size_t)MIB)
			return NULL;
		*size /= 2;
	}
}

static size_t
physical_memory(void)
{
	return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

static int
cpu_open(struct dev *d, const struct dev_options *o)
{
	struct own *own;

	d->threads = o->threads > 0 ? o->threads : omp_get_num_procs();
	d->tokens = 2048;
	d->size = o->memory > 0 ? o->memory : physical_memory();
	if (gemm_isa(d, o->isa) != 0)
		return -1;
	openblas_set_num_threads(1);
	d->arena = reserve(&d->size, o->memory > 0);
	if (!d->arena) {
		dev_fail(d, E_SYS, "cannot reserve %.1f MiB of addresses", (double)d->size / MIB);
		return -1;
	}
	own = calloc(1, sizeof(*own));
	d->own = own;
	if (own)
		own->gemms = gemms_open(d);
	if (own && own->gemms)
		return 0;
	dev_fail(d, E_SYS, "out of memory");
	free(own);
	munmap(d->arena, d->size);
	return -1;
}

static void
cpu_close(struct dev *d)
{
	struct own *own = d->own;

	for (struct room *r = own->rooms, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	gemms_close(own->gemms);
	free(own);
	munmap(d->arena, d->size);
}

/* "0.3.21" of "OpenBLAS 0.3.21 DYNAMIC_ARCH ...". */
static void
openblas_version(char *text, size_t size)
{
	const char *config = openblas_get_config(), *space = strchr(config, ' ');

	snprintf(text, size, "%s", space ? space + 1 : config);
	text[strcspn(text, " ")] = '\0';
}

/* Cache sizes change results on amx alone, where oneDNN cuts sums by them. */
static int
cpu_facts(const struct dev_options *o, char *text, size_t size)
{
	char onednn[32], openblas[32], cache[32] = "";
	int n;

	gemm_version(onednn, sizeof(onednn));
	openblas_version(openblas, sizeof(openblas));
	if (strcmp(o->isa, "amx") == 0)
		snprintf(cache, sizeof(cache), "cache %ld\n", sysconf(_SC_LEVEL2_CACHE_SIZE));
	n = snprintf(text, size, "device cpu\nisa %s\nonednn %s\nopenblas %s core %s\n%s", o->isa, onednn, openblas,
	             openblas_get_corename(), cache);
	if (n >= 0 && (size_t)n < size)
		return 0;
	snprintf(text, size, "the facts need more room");
	return -1;
}

static enum math
cpu_math(struct dev *d, enum math wanted)
{
	if (wanted != MATH_AUTO)
		return wanted;
	return gemm_has_bf16(cpu_gemms(d)) ? MATH_BF16 : MATH_F32;
}

static void
cpu_wait(struct dev *d)
{
	(void)d;
}

static void
cpu_put(struct dev *d, struct mat *to, const void *from)
{
	size_t bytes = (size_t)to->cols * cpu_size(to->type);
	int64_t r;

	(void)d;
	for (r = 0; r < to->rows; r++)
		memcpy(cpu_row(to, r), (const char *)from + (size_t)r * bytes, bytes);
}

static void
cpu_get(struct dev *d, void *to, const struct mat *from)
{
	size_t bytes = (size_t)from->cols * cpu_size(from->type);
	int64_t r;

	(void)d;
	for (r = 0; r < from->rows; r++)
		memcpy((char *)to + (size_t)r * bytes, cpu_row(from, r), bytes);
}

static bool
cpu_view(struct dev *d, struct mat *m, const void *from)
{
	(void)d;
	m->p = (void *)(uintptr_t)from;
	return true;
}

static void
cpu_zero(struct dev *d, struct mat *m)
{
	int64_t r;

	#pragma omp parallel for num_threads(d->threads) schedule(static)
	for (r = 0; r < m->rows; r++)
		memset(cpu_row(m, r), 0, (size_t)m->cols * cpu_size(m->type));
}

static void
cpu_shrink(struct dev *d, size_t from)
{
	struct own *own = d->own;
	size_t page = (size_t)sysconf(_SC_PAGESIZE), stay = (from + keep + page - 1) / page * page;

	if (d->used > own->touched)
		own->touched = d->used;
	if (own->touched <= stay + keep)
		return;
	madvise(d->arena + stay, own->touched - stay, MADV_DONTNEED);
	own->touched = stay;
}

static void *
cpu_room(struct dev *d, size_t bytes)
{
	struct own *own = d->own;
	struct room *room = malloc(sizeof(*room) + bytes);

	if (!room) {
		dev_fail(d, E_SYS, "out of memory: %.1f MiB beside the device", (double)bytes / MIB);
		return NULL;
	}
	room->next = own->rooms;
	own->rooms = room;
	return room->bytes;
}

static void
cpu_park(struct dev *d, void *room, const struct mat *m)
{
	cpu_get(d, room, m);
}

static void
cpu_unpark(struct dev *d, struct mat *m, const void *room)
{
	cpu_put(d, m, room);
}

static void
cpu_describe(char *text, size_t size)
{
	char onednn[32], openblas[32];

	gemm_version(onednn, sizeof(onednn));
	openblas_version(openblas, sizeof(openblas));
	snprintf(text, size, "cpu: %d threads, %.1f GiB of memory, oneDNN %s, OpenBLAS %s (%s kernels)\n", omp_get_num_procs(),
	         (double)physical_memory() / MIB / 1024, onednn, openblas, openblas_get_corename());
}

static const struct backend cpu = {
	.abi = BACKEND_ABI,
	.name = "cpu",
	.facts = cpu_facts,
	.open = cpu_open,
	.close = cpu_close,
	.wait = cpu_wait,
	.put = cpu_put,
	.get = cpu_get,
	.view = cpu_view,
	.zero = cpu_zero,
	.shrink = cpu_shrink,
	.room = cpu_room,
	.park = cpu_park,
	.unpark = cpu_unpark,
	.describe = cpu_describe,
	.math = cpu_math,
	.convert = cpu_convert,
	.embed = cpu_embed,
	.norm = cpu_norm,
	.linear = cpu_linear,
	.rope = cpu_rope,
	.attention = cpu_attention,
	.act = cpu_act,
	.gated = cpu_gated,
	.add = cpu_add,
	.nll = cpu_nll,
	.token_weight = cpu_token_weight,
	.gram = cpu_gram,
	.cross = cpu_cross,
	.fit = cpu_fit,
	.round = cpu_round,
	.dequant = cpu_dequant,
	.miss = cpu_miss,
	.pack_codes = cpu_pack_codes,
	.unpack_codes = cpu_unpack_codes,
	.order = cpu_order,
	.factor = cpu_factor,
	.solve = cpu_solve,
	.matmul = cpu_matmul,
	.babai = cpu_babai,
};

__attribute__((visibility("default"))) const struct backend *qjob_backend(void);

const struct backend *
qjob_backend(void)
{
	return &cpu;
}
