/* Numbers as text, the same in every locale. */
#ifndef QJOB_BASE_NUMBER_H
#define QJOB_BASE_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

enum { REAL_TEXT = 32 };

bool whole_parse(const char *s, int64_t *x);       /* [+-]digits, nothing else, within the type */
bool real_parse(const char *s, double *x);         /* decimal, exponent allowed; no inf, nan, hexadecimal */
void real_text(double x, char text[REAL_TEXT]);    /* the shortest that reads back as x: 0.01, 1e-05, 4 */

#endif
