#include "qjob/base/diag.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/buf.h"
#include "qjob/base/mem.h"
#include "qjob/base/utf8.h"

enum {
	NAME_MAX_NEAR = 48,    /* nobody mistypes a longer name by chance */
	MESSAGES_MOST = 1000,
	WORDS_MOST = 1000,     /* bytes of one message; inputs may hold longer texts */
};

static void
append(struct diag *d, char *message)
{
	if (d->n == d->cap) {
		d->cap = d->cap ? 2 * d->cap : 8;
		d->v = mem_grow(d->v, d->cap, sizeof(*d->v));
	}
	d->v[d->n++] = message;
}

void
diag_add(struct diag *d, struct place at, const char *fmt, ...)
{
	char words[WORDS_MOST + 2];
	struct buf b = {0};
	size_t kept;
	va_list ap;

	if (d->n > MESSAGES_MOST)
		return;
	if (d->n == MESSAGES_MOST) {
		append(d, mem_text("and more"));
		return;
	}
	words[0] = '\0';
	va_start(ap, fmt);
	vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	kept = utf8_cut(words, WORDS_MOST);
	if (at.file && at.line > 0)
		buf_printf(&b, "%s:%d:%d: ", at.file, at.line, at.column);
	else if (at.file)
		buf_printf(&b, "%s: ", at.file);
	for (size_t i = 0; i < kept; i++)
		if ((unsigned char)words[i] < 0x20 || words[i] == 0x7f)
			words[i] = '?';    /* one problem, one line, whatever the input says */
	buf_add(&b, words, kept);
	buf_puts(&b, words[kept] ? "..." : "");
	append(d, buf_detach(&b));
}

void
diag_release(struct diag *d)
{
	for (size_t i = 0; i < d->n; i++)
		free(d->v[i]);
	free(d->v);
	*d = (struct diag){0};
}

static size_t
least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Insertions, deletions, replacements and swaps of neighbours; both at most NAME_MAX_NEAR long. */
static size_t
distance(const char *a, const char *b)
{
	size_t row[3][NAME_MAX_NEAR + 1];
	size_t na = strlen(a), nb = strlen(b);

	for (size_t j = 0; j <= nb; j++)
		row[0][j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t *now = row[i % 3], *up = row[(i + 2) % 3], *upper = row[(i + 1) % 3];

		now[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			now[j] = least(least(up[j], now[j - 1]) + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = least(now[j], upper[j - 2] + 1);
		}
	}
	return row[na % 3][nb];
}

const char *
nearest_name(const char *name, const char *const *names, size_t n)
{
	size_t length = strlen(name), best = (length + 1) / 3;
	const char *nearest = NULL;

	if (length > NAME_MAX_NEAR)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		size_t other = strlen(names[i]), common, far;

		if (other > NAME_MAX_NEAR)
			continue;
		far = distance(name, names[i]);
		common = least(length, other);
		if (far > 1 && common >= 3 && strncmp(name, names[i], common) == 0)
			far = 1;    /* group for group_size */
		if (far < best || (far == best && !nearest)) {
			best = far;
			nearest = names[i];
		}
	}
	return nearest;
}
