/* Diagnostics: every error of an input, each with its place, so that one run shows them all.
 *
 *     recipe.yaml:7:15: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq */
#ifndef QJOB_BASE_DIAG_H
#define QJOB_BASE_DIAG_H

#include <stddef.h>

struct place {
	const char *file;     /* NULL: no place, as for a default */
	int line, column;     /* from 1; 0: unknown */
};

struct diag {
	char **v;
	size_t n, cap;
};

/* One line: control characters become '?', and what is longer than anyone reads is cut,
 * after 1000 messages by "and more". */
void diag_add(struct diag *d, struct place at, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void diag_release(struct diag *d);

/* The name of the list nearest to name (edit distance), or NULL when none is near. */
const char *nearest_name(const char *name, const char *const *names, size_t n);

#endif
