/* A growing run of bytes, always followed by a NUL that n does not count.  {0} is empty. */
#ifndef QJOB_BASE_BUF_H
#define QJOB_BASE_BUF_H

#include <stddef.h>

struct buf {
	char *p;          /* NULL until something was added */
	size_t n, cap;
};

void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_clear(struct buf *b);       /* empty, memory kept */
void buf_release(struct buf *b);
char *buf_detach(struct buf *b);     /* the caller frees; never NULL; b is empty after */
const char *buf_text(const struct buf *b);   /* never NULL */

#endif
