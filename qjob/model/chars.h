/* Characters of a text, as tokenizers need them: a check of the whole, then reading without checks. */
#ifndef QJOB_MODEL_CHARS_H
#define QJOB_MODEL_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qjob/base/buf.h"

size_t chars_valid(const char *p, size_t n);              /* bytes of valid text at the start; n: all of it */
size_t chars_length(const char *p);                       /* bytes of the character at p; valid text only */
uint32_t chars_code(const char *p);                       /* its code point; valid text only */
size_t chars_back(const char *p, size_t at);              /* where the character before p[at] starts; at > 0 */
void chars_add(struct buf *b, uint32_t code);
bool chars_is_ascii(const char *p, size_t n);
bool chars_is_space(uint32_t code);                       /* White_Space of Unicode */
/* Appends each byte as the printable character that GPT-2's byte-level vocabularies write for it. */
void chars_bytes(struct buf *b, const char *p, size_t n);

#endif
