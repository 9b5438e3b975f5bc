#include "qjob/base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
exhausted(size_t n, size_t size)
{
	fprintf(stderr, "qjob: out of memory: %zu x %zu bytes\n", n, size);
	abort();
}

void *
mem_new(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);

	if (!p)
		exhausted(n, size);
	return p;
}

void *
mem_grow(void *p, size_t n, size_t size)
{
	void *q;

	if (size && n > SIZE_MAX / size)
		exhausted(n, size);
	q = realloc(p, n && size ? n * size : 1);
	if (!q)
		exhausted(n, size);
	return q;
}

char *
mem_text(const char *s)
{
	size_t n;
	char *p;

	if (!s)
		return NULL;
	n = strlen(s) + 1;
	p = mem_new(n, 1);
	memcpy(p, s, n);
	return p;
}

char *
mem_format(const char *fmt, ...)
{
	va_list ap;
	char *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		exhausted(1, SIZE_MAX);
	p = mem_new((size_t)n + 1, 1);
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return p;
}
