/* UTF-8, as much as messages and quoting need. */
#ifndef QJOB_BASE_UTF8_H
#define QJOB_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The length of the character at s (ends in NUL) and its number; 0: not UTF-8. */
size_t utf8_decode(const char *s, uint32_t *c);
/* The most bytes of s, at most n, that do not end inside a character. */
size_t utf8_cut(const char *s, size_t n);

#endif
