#include "qjob/base/buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/mem.h"

/* Room for n more bytes and the NUL. */
static void
reserve(struct buf *b, size_t n)
{
	size_t want, cap;

	if (n >= SIZE_MAX / 2 - b->n)
		want = SIZE_MAX;    /* mem_grow says so and aborts */
	else
		want = b->n + n + 1;
	if (want <= b->cap)
		return;
	cap = b->cap < 32 ? 64 : b->cap + b->cap / 2;
	if (cap < want)
		cap = want;
	b->p = mem_grow(b->p, cap, 1);
	b->cap = cap;
}

void
buf_add(struct buf *b, const void *bytes, size_t n)
{
	reserve(b, n);
	if (n)
		memcpy(b->p + b->n, bytes, n);
	b->n += n;
	b->p[b->n] = '\0';
}

void
buf_puts(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	reserve(b, (size_t)n);
	va_start(ap, fmt);
	vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->n += (size_t)n;
}

void
buf_clear(struct buf *b)
{
	b->n = 0;
	if (b->p)
		b->p[0] = '\0';
}

void
buf_release(struct buf *b)
{
	free(b->p);
	*b = (struct buf){0};
}

char *
buf_detach(struct buf *b)
{
	char *p;

	reserve(b, 0);
	b->p[b->n] = '\0';
	p = b->p;
	*b = (struct buf){0};
	return p;
}

const char *
buf_text(const struct buf *b)
{
	return b->p ? b->p : "";
}
