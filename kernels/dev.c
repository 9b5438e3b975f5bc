#include "kernels/dev.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "kernels/isa.h"
#include "qjob/base/buf.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"

/* Where a backend may lie, relative to the program's folder; first found, first taken. */
static const char *const places[] = {
	".",
	"../lib/qjob",
#if defined(__x86_64__)
	"../lib/x86_64-linux-gnu/qjob",
#elif defined(__aarch64__)
	"../lib/aarch64-linux-gnu/qjob",
#endif
	"../lib64/qjob",
};

static const char *const math_names[] = {
	[MATH_AUTO] = "auto", [MATH_F32] = "float32", [MATH_BF16] = "bfloat16", [MATH_F16] = "float16",
};

/* ---- finding the library ---- */

static bool
is_file(struct buf *tried, const char *folder, const char *place, const char *file, struct buf *path)
{
	buf_clear(path);
	buf_puts(path, folder);
	if (strcmp(place, ".") != 0)
		buf_printf(path, "/%s", place);
	buf_printf(tried, "%s%s", tried->n > 0 ? ", " : "", buf_text(path));
	buf_printf(path, "/%s", file);
	return access(buf_text(path), R_OK) == 0;
}

static int
own_folder(char *folder, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", folder, size - 1);
	char *slash;

	if (n < 0)
		return err_sys("/proc/self/exe");
	folder[n] = '\0';
	slash = strrchr(folder, '/');
	if (slash)
		*slash = '\0';
	return E_OK;
}

static int
find_library(struct buf *path, const char *file)
{
	const char *set = getenv("QJOB_BACKENDS");
	struct buf tried = {0};
	char folder[PATH_MAX];
	size_t i;
	int e = E_OK;

	if (set && set[0] && is_file(&tried, set, ".", file, path))
		goto done;
	e = own_folder(folder, sizeof(folder));
	for (i = 0; e == E_OK && i < sizeof(places) / sizeof(places[0]); i++) {
		if (is_file(&tried, folder, places[i], file, path))
			goto done;
	}
	if (e == E_OK)
		e = err_set(E_SYS, "%s was not found in %s; set QJOB_BACKENDS to the folder that holds it", file,
		            buf_text(&tried));
done:
	buf_release(&tried);
	return e;
}

/* ---- loading it ---- */

/* A variable of the environment while a library loads. */
struct variable {
	const char *name;
	char *before;
};

static struct variable
variable_set(const char *name, const char *value)
{
	struct variable v = {name, mem_text(getenv(name))};

	if (value)
		setenv(name, value, 1);
	return v;
}

static void
variable_restore(struct variable *v)
{
	if (v->before)
		setenv(v->name, v->before, 1);
	else
		unsetenv(v->name);
	free(v->before);
}

/* OpenBLAS reads its kernels and its threads from the environment, once, while it is loaded, and so does libgomp how long
 * its idle threads spin: its usual milliseconds starve a machine that others share, and gain nothing here.  The library stays for the life
 * of the process: OpenMP's threads do not survive its unloading. */
static int
load(void **library, const char *path, const struct isa *isa)
{
	struct variable core = variable_set("OPENBLAS_CORETYPE", isa->openblas);
	struct variable threads = variable_set("OPENBLAS_NUM_THREADS", "1");
	bool said = getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY");
	struct variable spin = variable_set("GOMP_SPINCOUNT", said ? NULL : "3000");
	int e = E_OK;

	*library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!*library)
		e = err_set(E_SYS, "%s", dlerror());
	variable_restore(&spin);
	variable_restore(&threads);
	variable_restore(&core);
	return e;
}

static int
load_backend(void **library, const struct backend **be, const char *kind, const struct isa *isa)
{
	struct buf path = {0};
	char file[64];
	backend_entry *entry;
	int e;

	snprintf(file, sizeof(file), "libqjob-%s.so", kind);
	e = find_library(&path, file);
	if (e == E_OK)
		e = load(library, buf_text(&path), isa);
	buf_release(&path);
	if (e != E_OK)
		return err_in(e, "%s backend", kind);
	*(void **)&entry = dlsym(*library, "qjob_backend");
	*be = entry ? entry() : NULL;
	if (!*be || (*be)->abi != BACKEND_ABI) {
		dlclose(*library);
		return err_set(E_SYS, "%s backend: %s belongs to another version of qjob", kind, file);
	}
	return E_OK;
}

/* "cuda" or "cuda:N", N a number of at most three digits. */
static bool
is_cuda(const char *name)
{
	size_t digits;

	if (strcmp(name, "cuda") == 0)
		return true;
	if (strncmp(name, "cuda:", 5) != 0)
		return false;
	digits = strspn(name + 5, "0123456789");
	return digits > 0 && digits < 4 && name[5 + digits] == '\0';
}

/* Asks the driver's own library, which costs a millisecond where there is none, before CUDA's are loaded. */
static bool
has_driver(void)
{
	void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);

	if (driver)
		dlclose(driver);
	return driver != NULL;
}

static int
has_cuda(void)
{
	struct buf path = {0};
	int e = find_library(&path, "libqjob-cuda.so");

	buf_release(&path);
	if (e != E_OK)
		return err_in(e == E_SYS ? E_USE : e, "this build of qjob has no CUDA backend");
	if (!has_driver())
		return err_set(E_USE, "the NVIDIA driver (libcuda.so.1) is not installed");
	return E_OK;
}

/* Whether "auto" means a card; then its backend is loaded. */
static bool
finds_card(void **library, const struct backend **be, const struct dev_options *o, const struct isa *isa)
{
	char text[1024] = "";

	if (has_cuda() != E_OK || load_backend(library, be, "cuda", isa) != E_OK)
		return false;
	if ((*be)->facts(o, text, sizeof(text)) == 0)
		return true;
	dlclose(*library);
	return false;
}

bool
dev_passed_over(char *text, size_t size)
{
	const struct dev_options o = {.name = "cuda"};
	const struct backend *be;
	const struct isa *isa;
	void *library;

	if (has_cuda() != E_OK || isa_find(&isa, NULL) != E_OK)
		return false;
	if (finds_card(&library, &be, &o, isa)) {
		dlclose(library);
		return false;
	}
	snprintf(text, size, "%s", err_text());
	return true;
}

/* Checks the options and loads what they name; options come out with the device and the instruction set named. */
static int
choose(void **library, const struct backend **be, struct dev_options *o)
{
	const struct isa *isa;
	const char *name = o->name ? o->name : "auto";
	int e;

	if (!is_cuda(name) && strcmp(name, "auto") != 0 && strcmp(name, "cpu") != 0)
		return err_set(E_USE, "device %s is not one of auto, cpu, cuda, cuda:N", name);
	if (o->threads < 0)
		return err_set(E_USE, "threads: %d is negative", o->threads);
	e = isa_find(&isa, o->isa);
	if (e != E_OK)
		return e;
	o->isa = isa->name;
	if (is_cuda(name)) {
		e = has_cuda();
		if (e == E_OK)
			e = load_backend(library, be, "cuda", isa);
		return e != E_OK ? err_in(e, "device %s", name) : E_OK;
	}
	o->name = "cuda";
	if (strcmp(name, "auto") == 0 && finds_card(library, be, o, isa))
		return E_OK;
	o->name = "cpu";
	return load_backend(library, be, "cpu", isa);
}

/* ---- devices ---- */

int
dev_open(struct dev **d, const struct dev_options *options)
{
	struct dev_options o = *options;
	const struct backend *be;
	void *library;
	int e;

	*d = NULL;
	e = choose(&library, &be, &o);
	if (e != E_OK)
		return e;
	*d = mem_new(1, sizeof(**d));
	(*d)->be = be;
	(*d)->library = library;
	snprintf((*d)->name, sizeof((*d)->name), "%s", o.name);
	if (be->open(*d, &o) == 0) {
		(*d)->math = be->math(*d, MATH_AUTO);
		return E_OK;
	}
	e = err_set((*d)->status, "device %s: %s", o.name, (*d)->why);
	dlclose(library);
	free(*d);
	*d = NULL;
	return e;
}

void
dev_close(struct dev *d)
{
	if (!d)
		return;
	d->be->close(d);
	if (d->library)
		dlclose(d->library);
	free(d);
}

int
dev_facts(const struct dev_options *options, char *text, size_t size)
{
	struct dev_options o = *options;
	const struct backend *be;
	void *library;
	size_t n = strlen(text);
	int e = choose(&library, &be, &o);

	if (e != E_OK)
		return e;
	if (be->facts(&o, text + n, size - n) != 0) {
		e = err_set(E_SYS, "device %s: %s", o.name, text + n);
		text[n] = '\0';
	}
	dlclose(library);
	return e;
}

void
dev_describe(const char *kind, char *text, size_t size)
{
	struct dev_options o = {.name = kind};
	const struct backend *be;
	void *library;
	size_t n = strlen(text);

	if (choose(&library, &be, &o) != E_OK) {
		snprintf(text + n, size - n, "%s: %s\n", kind, err_text());
		return;
	}
	be->describe(text + n, size - n);
	dlclose(library);
}

int
dev_status(struct dev *d)
{
	d->be->wait(d);
	return d->status < 0 ? err_set(d->status, "%s", d->why) : E_OK;
}

bool
dev_failed(const struct dev *d)
{
	return d->status < 0;
}

const char *
dev_name(const struct dev *d)
{
	return d->name;
}

int64_t
dev_tokens(const struct dev *d)
{
	return d->tokens;
}

enum dtype
dev_operand(const struct dev *d)
{
	return math_operand(d->math);
}

enum math
math_find(const char *word)
{
	for (enum math m = MATH_F32; m <= MATH_F16; m++)
		if (strcmp(word, math_names[m]) == 0)
			return m;
	return MATH_AUTO;
}

const char *
math_name(enum math math)
{
	return math_names[math];
}

enum math
dev_math(struct dev *d, enum math math)
{
	d->math = d->be->math(d, math);
	return d->math;
}

/* ---- memory ---- */

static bool
bytes_of(size_t *bytes, const struct mat *m)
{
	if (m->rows < 0 || m->cols < 0)
		return false;
	if (__builtin_mul_overflow((size_t)m->rows, (size_t)m->cols, bytes))
		return false;
	return !__builtin_mul_overflow(*bytes, dtype_size(m->type), bytes);
}

struct mat
dev_mat(struct dev *d, enum dtype type, int64_t rows, int64_t cols)
{
	struct mat m = {.rows = rows, .cols = cols, .ld = cols, .type = type};
	char what[80];
	size_t bytes;

	snprintf(what, sizeof(what), "a matrix %s [%lld,%lld]", dtype_name(type), (long long)rows, (long long)cols);
	if (bytes_of(&bytes, &m))
		m.p = arena_take(d, what, bytes);
	else
		dev_fail(d, E_DATA, "%s is larger than any memory", what);
	return m;
}

struct mat
dev_zeros(struct dev *d, enum dtype type, int64_t rows, int64_t cols)
{
	struct mat m = dev_mat(d, type, rows, cols);

	if (m.p)
		d->be->zero(d, &m);
	return m;
}

struct mat
dev_view(struct dev *d, enum dtype type, int64_t rows, int64_t cols, const void *from)
{
	struct mat m = {.rows = rows, .cols = cols, .ld = cols, .type = type};

	if (d->status < 0)
		return m;
	if (d->be->view(d, &m, from))
		return m;
	m = dev_mat(d, type, rows, cols);
	dev_put(d, &m, from);
	return m;
}

void
dev_put(struct dev *d, struct mat *m, const void *from)
{
	if (d->status == 0 && m->p)
		d->be->put(d, m, from);
}

void
dev_get(struct dev *d, void *to, const struct mat *m)
{
	if (d->status == 0 && m->p)
		d->be->get(d, to, m);
}

size_t
dev_mark(const struct dev *d)
{
	return d->used;
}

void
dev_release(struct dev *d, size_t mark)
{
	if (mark >= d->used)
		return;
	d->be->shrink(d, mark);
	d->used = mark;
}

size_t
dev_peak(const struct dev *d)
{
	return d->peak;
}

size_t
dev_size(const struct dev *d)
{
	return d->size;
}

void
dev_ahead(struct dev *d, const struct span *v, size_t n)
{
	if (d->be->ahead)
		d->be->ahead(d, v, n);
}

void *
dev_room(struct dev *d, size_t bytes)
{
	return d->status < 0 ? NULL : d->be->room(d, bytes);
}

void
dev_park(struct dev *d, void *room, const struct mat *m)
{
	if (d->status == 0 && m->p && room)
		d->be->park(d, room, m);
}

void
dev_unpark(struct dev *d, struct mat *m, const void *room)
{
	if (d->status == 0 && m->p && room)
		d->be->unpark(d, m, room);
}
