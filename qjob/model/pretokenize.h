/* Pre-tokenizers: a text becomes words, one after the other.
 *
 * The steps of a Sequence are applied depth first: each word of a step goes through all later steps before the
 * next one is cut, so a text of any length needs room for one word only. */
#ifndef QJOB_MODEL_PRETOKENIZE_H
#define QJOB_MODEL_PRETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>

#include "qjob/base/json.h"

struct pretokenizer;
struct pretok_run;          /* room to work, of one thread */

/* Where words go; nonzero ends the run and is its result. */
struct word_sink {
	int (*word)(void *own, const char *p, size_t n);
	void *own;
};

int pretokenizer_parse(struct pretokenizer **p, const json_t *j, const char *name);    /* j: NULL or null: the text is one word */
int pretokenizer_gpt2(struct pretokenizer **p, bool space);                            /* ByteLevel with its pattern; space: and prefix */
void pretokenizer_free(struct pretokenizer *p);

struct pretok_run *pretok_run_new(const struct pretokenizer *p);
void pretok_run_free(struct pretok_run *r);
/* first: the text stands at the start of what is encoded (Metaspace asks). */
int pretok_words(struct pretok_run *r, const char *text, size_t n, bool first, struct word_sink to);

#endif
