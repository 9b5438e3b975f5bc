/* BPE: a vocabulary and its merges; a word in, ids out.
 *
 * Symbols are first the word's characters; then the adjacent pair whose merge has the lowest rank, leftmost first, is
 * joined until none is left.  That takes n log n steps for a word of n characters. */
#ifndef QJOB_MODEL_BPE_H
#define QJOB_MODEL_BPE_H

#include "qjob/base/json.h"
#include "qjob/model/tokenizer.h"

struct bpe;
struct bpe_run;      /* words already seen, and room to work: of one thread */

/* The "model" of a tokenizer.json; name stands in front of errors. */
int bpe_parse(struct bpe **b, const json_t *model, const char *name);
/* GPT-2's vocab.json and the text of merges.txt. */
int bpe_parse_files(struct bpe **b, const json_t *vocab, const char *merges, size_t n, const char *name);
void bpe_free(struct bpe *b);

int32_t bpe_find(const struct bpe *b, const char *token, size_t n);     /* -1: not in the vocabulary */
size_t bpe_tokens(const struct bpe *b);                                 /* how many */
int32_t bpe_top(const struct bpe *b);                                   /* the highest id; -1: none */

struct bpe_run *bpe_run_new(const struct bpe *b);
void bpe_run_free(struct bpe_run *r);
int bpe_word(struct bpe_run *r, const char *word, size_t n, struct ids *out);    /* appends */

#endif
