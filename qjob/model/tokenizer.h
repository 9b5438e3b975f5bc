/* Tokenizers: tokenizer.json to ids, equal to the `tokenizers` library.
 *
 * BPE with the normalizers, pre-tokenizers, added tokens and post-processors that byte-level (GPT-2, Llama 3, Qwen2/3, SmolLM2) and
 * byte-fallback (Llama 2) models use; vocab.json + merges.txt of GPT-2.  A component that is not known is refused by name.
 *
 * How a text becomes ids, in the library's order:
 *
 *     added tokens as written (added.h) -> normalizer (normalize.h) -> added tokens of normalized text
 *     -> pre-tokenizer: words (pretokenize.h) -> merges: ids (bpe.h) -> post-processor (template.h)
 *
 * A tokenizer is read-only once open: any number of threads may encode with it.  A bad file or text is an
 * error, never a crash. */
#ifndef QJOB_MODEL_TOKENIZER_H
#define QJOB_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

struct ids {
	int32_t *v;
	size_t n, cap;
};

int tokenizer_open(struct tokenizer **t, const char *folder);         /* tokenizer.json, or vocab.json + merges.txt */
int tokenizer_parse(struct tokenizer **t, const char *json, size_t n, const char *name);
void tokenizer_close(struct tokenizer *t);
/* Appends the ids of n bytes of UTF-8; special: also what the post-processor adds.  Invalid UTF-8 is E_DATA. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool special, struct ids *out);
size_t tokenizer_size(const struct tokenizer *t);                      /* ids are below this */
/* The files of the folder that define it, so that a key can name their content: NULL-terminated. */
const char *const *tokenizer_files(const struct tokenizer *t);
/* The same without opening it; NULL when the folder has no tokenizer that tokenizer_open takes. */
const char *const *tokenizer_files_in(const char *folder);
/* Transformers 5 builds some tokenizers by the class that tokenizer_config.json names, whatever steps tokenizer.json has
 * (GPT2Tokenizer in a Llama model, such as SmolLM2: the digits of its Sequence are lost).  tokenizer_open does the same, so that ids are
 * those a stock loader makes.  The class and its options, for keys; NULL: the file is taken as it is. */
const char *tokenizer_class(const char *folder);
/* "pcre2 10.42 unicode 14.0.0, utf8proc 2.8.0 unicode 14.0.0": the libraries whose tables decide where words end. */
void tokenizer_libraries(char *text, size_t size);

void ids_add(struct ids *i, int32_t id);
void ids_release(struct ids *i);

#endif
