/* Regular expressions of tokenizers: Oniguruma's spelling (Ruby syntax), run by PCRE2 with JIT where the system allows it.
 *
 * Where the two dialects give one spelling different meanings (white space, \w, scripts, ^ and $, nested classes) the pattern is
 * rewritten first (pattern.c); what cannot be is refused.  A pattern that backtracks without end gives an error. */
#ifndef QJOB_MODEL_REGEX_H
#define QJOB_MODEL_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "qjob/base/buf.h"

struct regex;       /* compiled, read-only, shared by threads */
struct finder;      /* the state of a search, of one thread */

/* name says in errors where the pattern stood: "tokenizer.json: pre_tokenizer". */
int regex_open(struct regex **r, const char *pattern, size_t n, bool literal, const char *name);
void regex_close(struct regex *r);

struct finder *finder_new(const struct regex *r);
void finder_free(struct finder *f);
void finder_start(struct finder *f, const char *text, size_t n);       /* valid UTF-8; borrowed until the next start */
/* The next match, leftmost first, never overlapping; an empty one never right behind another match.
 * 1: found, 0: no more, negative: an error. */
int finder_next(struct finder *f, size_t *start, size_t *end);

/* Rewrites an Oniguruma pattern as PCRE2 (UTF, UCP, MULTILINE) spells it. */
int pattern_rewrite(struct buf *out, const char *pattern, size_t n, const char *name);

#endif
