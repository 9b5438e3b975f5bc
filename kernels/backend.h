/* What a backend must supply.  Included by kernels/ alone.
 *
 * A backend is a shared library with one symbol, `const struct backend *qjob_backend(void)`.  It may use nothing
 * of the program but what it links itself: it reports failures through dev_fail (below, inline) and never through err.h. */
#ifndef QJOB_KERNELS_BACKEND_H
#define QJOB_KERNELS_BACKEND_H

#include <stdarg.h>
#include <stdio.h>

#include "kernels/dev.h"
#include "kernels/ops.h"
#include "qjob/base/err.h"    /* the codes alone */

enum { BACKEND_ABI = 3 };

struct dev {
	const struct backend *be;
	void *library;         /* of dlopen */
	void *own;             /* the backend's */
	char name[32];
	char *arena;
	size_t used, size, peak;
	int64_t tokens;        /* see dev_tokens */
	enum math math;        /* resolved: never MATH_AUTO */
	int threads;
	int status;            /* E_SYS, E_NUMERIC... of the first failure */
	char why[256];
};

struct backend {
	int abi;               /* BACKEND_ABI */
	const char *name;      /* "cpu" */
	int (*facts)(const struct dev_options *o, char *text,
	             size_t size);    /* see dev_facts; -1 with a sentence in text */
	int (*open)(struct dev *d, const struct dev_options *o);   /* sets arena and size; -1 after dev_fail */
	void (*close)(struct dev *d);
	void (*wait)(struct dev *d);
	void (*put)(struct dev *d, struct mat *to, const void *from);
	void (*get)(struct dev *d, void *to, const struct mat *from);
	bool (*view)(struct dev *d, struct mat *m, const void *from);          /* false: the caller must copy */
	void (*zero)(struct dev *d, struct mat *m);
	void (*shrink)(struct dev *d,
	               size_t from);                /* bytes of the arena from there up to d->used become free */
	/* The arena's first `to` bytes are about to be used; false after dev_fail.  NULL: they always can be. */
	bool (*grow)(struct dev *d, size_t to);
	void (*ahead)(struct dev *d, const struct span *v, size_t n);      /* NULL: nothing is gained */
	void *(*room)(struct dev *d, size_t bytes);
	void (*park)(struct dev *d, void *room, const struct mat *m);
	void (*unpark)(struct dev *d, struct mat *m, const void *room);
	void (*describe)(char *text, size_t size);  /* see dev_describe; opens nothing that must be closed */
	enum math (*math)(struct dev *d, enum math wanted);
	/* one pointer an operation, same arguments as ops.h, shapes already checked; op_add is add, ... */
	void (*convert)(struct dev *d, struct mat *y, const struct mat *x);
	void (*embed)(struct dev *d, struct mat *y, const struct mat *table, const struct mat *ids);
	void (*norm)(struct dev *d, struct mat *y, const struct mat *x, int heads, const struct norm *n);
	void (*linear)(struct dev *d, struct mat *y, const struct mat *x, const struct mat *w,
	               const struct mat *bias, bool add);
	void (*rope)(struct dev *d, struct mat *x, int heads, const struct rope *r, int64_t seqlen);
	void (*attention)(struct dev *d, struct mat *y, const struct mat *q, const struct mat *k,
	                  const struct mat *v, const struct attention *a);
	void (*act)(struct dev *d, struct mat *y, const struct mat *x, enum act act);
	void (*gated)(struct dev *d, struct mat *y, const struct mat *gate, const struct mat *up, enum act act);
	void (*add)(struct dev *d, struct mat *y, const struct mat *x, float scale);
	void (*nll)(struct dev *d, struct mat *nll, const struct mat *x, const struct mat *head,
	            const struct mat *bias, const struct mat *ids, int64_t seqlen);
	void (*token_weight)(struct dev *d, struct mat *a, const struct mat *x);
	void (*gram)(struct dev *d, struct mat *h, const struct mat *x, const struct mat *a);
	void (*cross)(struct dev *d, struct mat *c, const struct mat *f, const struct mat *x, const struct mat *a);
	void (*fit)(struct dev *d, struct qmat *q, const struct mat *w, const struct mat *weight,
	            const struct grid *g);
	void (*round)(struct dev *d, struct qmat *q, const struct mat *w, const struct grid *g);
	void (*dequant)(struct dev *d, struct mat *w, const struct qmat *q, const struct grid *g);
	void (*miss)(struct dev *d, struct mat *loss, const struct mat *w, const struct qmat *q, const struct grid *g);
	void (*pack_codes)(struct dev *d, struct mat *stream, const struct mat *code, int bits);
	void (*unpack_codes)(struct dev *d, struct mat *code, const struct mat *stream, int bits);
	void (*order)(struct dev *d, struct mat *order, const struct mat *h, bool by_diag);
	int64_t (*factor)(struct dev *d, struct mat *u, const struct mat *h, const struct mat *order, double damp,
	                  int64_t *dead);   /* 0, or pivot from 1 */
	int64_t (*solve)(struct dev *d, struct mat *out, const struct mat *b, const struct mat *h,
	                 double lambda);                 /* the same */
	void (*matmul)(struct dev *d, struct mat *y, const struct mat *a, const struct mat *b);
	void (*babai)(struct dev *d, struct qmat *q, struct mat *loss, const struct mat *w, const struct mat *u,
	              const struct mat *order, const struct mat *weight, const struct grid *g, const struct babai *b);
};

typedef const struct backend *backend_entry(void);

/* Marks the device failed, if it has not failed before.  code is one of err.h's. */
__attribute__((format(printf, 3, 4))) static inline void
dev_fail(struct dev *d, int code, const char *fmt, ...)
{
	va_list ap;

	if (d->status < 0)
		return;
	d->status = code;
	va_start(ap, fmt);
	vsnprintf(d->why, sizeof(d->why), fmt, ap);
	va_end(ap);
}

/* What operands of products are rounded to. */
static inline enum dtype
math_operand(enum math math)
{
	return math == MATH_BF16 ? BF16 : math == MATH_F16 ? F16 : F32;
}

/* bytes of the arena, 64-byte aligned; NULL after marking the device failed.  what: for the sentence. */
static inline void *
arena_take(struct dev *d, const char *what, size_t bytes)
{
	size_t from = (d->used + 63) / 64 * 64;

	if (d->status < 0)
		return NULL;
	if (from > d->size || bytes > d->size - from) {
		dev_fail(d, E_SYS, "out of memory: %s needs %.1f MiB, and %.1f of %.1f MiB are left; "
		         "give more memory, or take fewer or shorter samples", what, (double)bytes / 1048576,
		         (double)(from > d->size ? 0 : d->size - from) / 1048576, (double)d->size / 1048576);
		return NULL;
	}
	if (d->be->grow && !d->be->grow(d, from + bytes))
		return NULL;
	d->used = from + bytes;
	if (d->used > d->peak)
		d->peak = d->used;
	return d->arena + from;
}

#endif
