/* The data of synthetic models.
 *
 * 16 bits of a counter's mix choose one of 65536 quantiles of the normal distribution, ready in bf16: a look-up a weight, bound by the
 * memory it is written to.  Threads share a file by pieces; none of them shows in the bytes. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"
#include "qjob/base/mix.h"
#include "qjob/base/number.h"
#include "qjob/model/synthetic.h"

enum {
	QUANTILES = 65536,
	PIECE = 1 << 21,         /* weights written at once */
	THREADS_MOST = 64,
};

static const double deviation = 0.02;

struct piece {
	const struct tensor *t;
	uint64_t from, n;        /* weights */
};

struct filling {
	const struct weights_file *f;
	int fd;
	uint64_t seed;
	uint16_t *quantiles;
	struct piece *v;
	size_t n;
	atomic_size_t next;
	atomic_int why;          /* errno of the first failure */
};

/* ---- numbers ---- */

static uint16_t
bf16_of(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof(u));
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Quantile i and its mirror image, by Newton's method from the one before. */
static uint16_t *
quantiles_new(void)
{
	uint16_t *q = mem_new(QUANTILES, sizeof(*q));
	double x = 0;

	for (int i = QUANTILES / 2; i < QUANTILES; i++) {
		double p = (i + 0.5) / QUANTILES;

		for (int step = 0; step < 8; step++)
			x += (p - 0.5 * erfc(-x * M_SQRT1_2)) / (exp(-0.5 * x * x) * M_SQRT1_2 * M_2_SQRTPI / 2);
		q[i] = bf16_of((float)(x * deviation));
		q[QUANTILES - 1 - i] = q[i] | 0x8000;
	}
	return q;
}

/* Where the counters of a tensor begin. */
static uint64_t
counter_of(uint64_t seed, const char *name)
{
	uint64_t h = mix(seed);

	for (; *name; name++)
		h = mix(h ^ (unsigned char)*name);
	return h;
}

static bool
is_norm(const struct tensor *t)
{
	size_t n = strlen(t->name);

	return t->rank == 1 && n > 7 && strcmp(t->name + n - 7, ".weight") == 0;
}

/* Pieces begin at multiples of 4, which share a counter. */
static void
make(const struct filling *k, const struct piece *p, uint16_t *out)
{
	uint64_t counter = counter_of(k->seed, p->t->name) + p->from / 4;

	if (is_norm(p->t)) {
		for (uint64_t i = 0; i < p->n; i++)
			out[i] = bf16_of(1);
		return;
	}
	for (uint64_t i = 0; i < p->n; i += 4) {
		uint64_t u = mix(counter++);

		for (int j = 0; j < 4; j++)
			out[i + (uint64_t)j] = k->quantiles[u >> 16 * j & 0xffff];
	}
}

/* ---- files ---- */

static int
put(int fd, const char *p, size_t n, off_t at)
{
	while (n > 0) {
		ssize_t done = fault("synthetic.write") ? -1 : pwrite(fd, p, n, at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return errno;
		p += done;
		at += done;
		n -= (size_t)done;
	}
	return 0;
}

static void *
fill_pieces(void *own)
{
	struct filling *k = own;
	uint16_t *out = malloc((PIECE + 4) * sizeof(*out));
	size_t i;

	if (!out)
		atomic_store(&k->why, ENOMEM);
	while (atomic_load(&k->why) == 0) {
		const struct piece *p;
		off_t at;
		int why;

		i = atomic_fetch_add(&k->next, 1);
		if (i >= k->n)
			break;
		p = &k->v[i];
		at = (off_t)((const char *)p->t->p - (const char *)k->f->st.view.p) + (off_t)(p->from * 2);
		make(k, p, out);
		why = put(k->fd, (const char *)out, p->n * 2, at);
		if (why)
			atomic_store(&k->why, why);
	}
	free(out);
	return NULL;
}

static void
cut(struct filling *k)
{
	const struct safetensors *s = &k->f->st;
	size_t most = s->n;

	for (size_t i = 0; i < s->n; i++)
		most += s->v[i].bytes / 2 / PIECE;
	k->v = mem_new(most ? most : 1, sizeof(*k->v));
	for (size_t i = 0; i < s->n; i++)
		for (uint64_t from = 0, all = s->v[i].bytes / 2; from < all; from += PIECE)
			k->v[k->n++] = (struct piece){&s->v[i], from, all - from < PIECE ? all - from : PIECE};
}

/* The calling thread works too, so none need start. */
static void
fill_all(struct filling *k)
{
	long wanted = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[THREADS_MOST];
	int n = 0;

	while (n + 1 < wanted && n < THREADS_MOST && pthread_create(&threads[n], NULL, fill_pieces, k) == 0)
		n++;
	fill_pieces(k);
	while (n > 0)
		pthread_join(threads[--n], NULL);
}

static int
read_seed(uint64_t *seed, const char *file)
{
	char *path = mem_format("%.*s/%s", (int)(strrchr(file, '/') - file), file, SYNTHETIC_SEED);
	struct buf text = {0};
	int64_t x = -1;
	int rc = file_read(&text, path, 64);

	if (rc == 0) {
		text.n -= text.n > 0 && text.p[text.n - 1] == '\n';
		text.p[text.n] = '\0';
		if (!whole_parse(text.p, &x) || x < 0)
			rc = err_set(E_DATA, "%s: want a whole number", path);
	}
	*seed = (uint64_t)x;
	buf_release(&text);
	free(path);
	return rc;
}

static int
fill_open(struct filling *k)
{
	int rc = 0;

	k->quantiles = quantiles_new();
	cut(k);
	fill_all(k);
	errno = atomic_load(&k->why);
	if (errno)
		rc = err_sys("%s: %.1f GB of made-up weights%s", k->f->path, (double)k->f->st.view.n / 1e9,
		             errno == ENOSPC ? " do not fit; take fewer layers, or let QJOB_SYNTHETIC name another place" : "");
	else if (fault("synthetic.seal") || fchmod(k->fd, 0444) != 0)
		rc = err_sys("%s", k->f->path);
	free(k->v);
	free(k->quantiles);
	return rc;
}

int
synthetic_fill(const struct weights_file *f)
{
	struct filling k = {.f = f};
	struct stat st;
	int rc;

	if (stat(f->path, &st) == 0 && !(st.st_mode & 0222))
		return 0;
	rc = read_seed(&k.seed, f->path);
	if (rc < 0)
		return rc;
	k.fd = fault("synthetic.open") ? -1 : open(f->path, O_WRONLY | O_CLOEXEC);
	if (k.fd < 0)
		return err_sys("%s", f->path);
	rc = fill_open(&k);
	close(k.fd);
	return rc;
}
