#define PCRE2_CODE_UNIT_WIDTH 8
#include "qjob/model/tokenizer.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/json.h"
#include "qjob/base/mem.h"
#include "qjob/model/added.h"
#include "qjob/model/bpe.h"
#include "qjob/model/chars.h"
#include "qjob/model/normalize.h"
#include "qjob/model/pretokenize.h"
#include "qjob/model/template.h"

enum {
	FILE_MAX = 256 << 20,         /* of tokenizer.json; the largest known are 35 MB */
	TEXT_MAX = 1 << 30,
};

static const char *const files_json[] = {"tokenizer.json", NULL};
static const char *const files_gpt2[] = {"vocab.json", "merges.txt", NULL};

struct tokenizer {
	struct bpe *bpe;
	struct normalizer *normalizer;
	struct added *added;
	struct pretokenizer *pretokenizer;
	struct template *template;
	const char *const *files;
};

/* ---- opening ---- */

static int
check_top(const json_t *j, const char *name)
{
	const json_t *version = json_object_get(j, "version"), *model = json_object_get(j, "model");
	const char *type = json_string_value(json_object_get(model, "type"));

	if (!json_is_object(j))
		return err_set(E_DATA, "%s is not a map", name);
	if (version != NULL && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
		return err_set(E_USE, "%s: version is not \"1.0\"", name);
	if (!json_is_object(model))
		return err_set(E_DATA, "%s has no model", name);
	if (type == NULL ? json_object_get(model, "merges") == NULL : strcmp(type, "BPE") != 0)
		return err_set(E_USE, "%s: model '%.80s' is not known; known: BPE", name, type == NULL ? "" : type);
	return 0;
}

/* The name of a part in errors: "tokenizer.json: normalizer". */
struct part_name {
	char text[300];
};

static const char *
part(struct part_name *p, const char *name, const char *key)
{
	snprintf(p->text, sizeof(p->text), "%.200s: %s", name, key);
	return p->text;
}

static int
read_parts(struct tokenizer *t, const json_t *j, const char *name)
{
	struct part_name p;
	int rc = check_top(j, name);

	if (rc == 0)
		rc = bpe_parse(&t->bpe, json_object_get(j, "model"), part(&p, name, "model"));
	if (rc == 0)
		rc = normalizer_parse(&t->normalizer, json_object_get(j, "normalizer"), part(&p, name, "normalizer"));
	if (rc == 0)
		rc = added_parse(&t->added, json_object_get(j, "added_tokens"), t->bpe, t->normalizer, part(&p, name, "added_tokens"));
	if (rc == 0)
		rc = pretokenizer_parse(&t->pretokenizer, json_object_get(j, "pre_tokenizer"), part(&p, name, "pre_tokenizer"));
	if (rc == 0)
		rc = template_parse(&t->template, json_object_get(j, "post_processor"), part(&p, name, "post_processor"));
	return rc;
}

static int
finish(struct tokenizer **out, struct tokenizer *t, int rc)
{
	if (rc != 0) {
		tokenizer_close(t);
		t = NULL;
	}
	*out = t;
	return rc;
}

int
tokenizer_parse(struct tokenizer **out, const char *json, size_t n, const char *name)
{
	struct tokenizer *t = mem_new(1, sizeof(*t));
	json_t *j = NULL;
	int rc = json_parse(&j, json, n, name);

	t->files = files_json;
	if (rc == 0)
		rc = read_parts(t, j, name);
	json_decref(j);
	return finish(out, t, rc);
}

/* One value of a JSON file of the folder: NULL when there is none; the caller decrefs j. */
static const json_t *
config_value(json_t **j, const char *folder, const char *file, const char *key)
{
	char *path = path_join(folder, file);

	*j = NULL;
	if (file_exists(path) && json_load_path(j, path, FILE_MAX) != 0)
		*j = NULL;                    /* who needs the file says what is wrong with it */
	free(path);
	return json_object_get(*j, key);
}

static bool
config_says(const char *folder, const char *file, const char *key, const char *const *values)
{
	json_t *j;
	const char *text = json_string_value(config_value(&j, folder, file, key));
	bool same = false;

	for (; text != NULL && *values != NULL && !same; values++)
		same = strcmp(text, *values) == 0;
	json_decref(j);
	return same;
}

static bool
config_flag(const char *folder, const char *key)
{
	json_t *j;
	const json_t *value = config_value(&j, folder, "tokenizer_config.json", key);
	bool on = json_is_true(value);

	json_decref(j);
	return on;
}

const char *
tokenizer_class(const char *folder)
{
	static const char *const classes[] = {"GPT2Tokenizer", "GPT2TokenizerFast", NULL};
	static const char *const families[] = {"llama", NULL};

	if (!config_says(folder, "tokenizer_config.json", "tokenizer_class", classes) ||
	    !config_says(folder, "config.json", "model_type", families))
		return NULL;
	return config_flag(folder, "add_prefix_space") ? "GPT2Tokenizer add_prefix_space" : "GPT2Tokenizer";
}

/* The class's own steps stand in place of the file's. */
static int
use_class(struct tokenizer *t, const char *class)
{
	normalizer_free(t->normalizer);
	pretokenizer_free(t->pretokenizer);
	t->normalizer = NULL;
	t->pretokenizer = NULL;
	if (normalizer_parse(&t->normalizer, NULL, "") != 0)
		return E_DATA;
	return pretokenizer_gpt2(&t->pretokenizer, strstr(class, "add_prefix_space") != NULL);
}

/* What tokenizer_config.json may say of vocab.json and merges.txt that changes ids; it is rare, and not guessed at. */
static int
check_config(const char *folder)
{
	static const char *const flags[] = {"add_prefix_space", "add_bos_token", "add_eos_token"};

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		if (config_flag(folder, flags[i]))
			return err_set(E_USE, "%s/tokenizer_config.json: %s is not supported with vocab.json and merges.txt; "
			               "save a tokenizer.json", folder, flags[i]);
	return 0;
}

static int
read_gpt2(struct tokenizer *t, const char *folder)
{
	char *vocab = path_join(folder, "vocab.json"), *merges = path_join(folder, "merges.txt");
	struct buf text = {0};
	json_t *j = NULL;
	int rc = check_config(folder);

	if (rc == 0)
		rc = json_load_path(&j, vocab, FILE_MAX);
	if (rc == 0)
		rc = file_read(&text, merges, FILE_MAX);
	if (rc == 0)
		rc = bpe_parse_files(&t->bpe, j, buf_text(&text), text.n, folder);
	if (rc == 0)
		rc = normalizer_parse(&t->normalizer, NULL, folder);
	if (rc == 0)
		rc = added_parse(&t->added, NULL, t->bpe, t->normalizer, folder);
	if (rc == 0)
		rc = pretokenizer_gpt2(&t->pretokenizer, false);
	if (rc == 0)
		rc = template_parse(&t->template, NULL, folder);
	json_decref(j);
	buf_release(&text);
	free(vocab);
	free(merges);
	return rc;
}

static int
open_gpt2(struct tokenizer **out, const char *folder)
{
	struct tokenizer *t = mem_new(1, sizeof(*t));

	t->files = files_gpt2;
	return finish(out, t, read_gpt2(t, folder));
}

int
tokenizer_open(struct tokenizer **t, const char *folder)
{
	const char *const *files = tokenizer_files_in(folder);
	const char *class = tokenizer_class(folder);
	struct buf text = {0};
	char *path;
	int rc;

	*t = NULL;
	if (files == NULL)
		return err_set(E_USE, "%s has no tokenizer.json, and no vocab.json with merges.txt", folder);
	if (files == files_gpt2)
		return open_gpt2(t, folder);
	path = path_join(folder, "tokenizer.json");
	rc = file_read(&text, path, FILE_MAX);
	if (rc == 0)
		rc = tokenizer_parse(t, buf_text(&text), text.n, path);
	if (rc == 0 && class != NULL) {
		rc = use_class(*t, class);
		rc = finish(t, *t, rc);
	}
	buf_release(&text);
	free(path);
	return rc;
}

void
tokenizer_close(struct tokenizer *t)
{
	if (t == NULL)
		return;
	bpe_free(t->bpe);
	normalizer_free(t->normalizer);
	added_free(t->added);
	pretokenizer_free(t->pretokenizer);
	template_free(t->template);
	free(t);
}

static bool
has(const char *folder, const char *const *files)
{
	for (; *files != NULL; files++) {
		char *path = path_join(folder, *files);
		bool there = file_exists(path);

		free(path);
		if (!there)
			return false;
	}
	return true;
}

const char *const *
tokenizer_files_in(const char *folder)
{
	if (has(folder, files_json))
		return files_json;
	return has(folder, files_gpt2) ? files_gpt2 : NULL;
}

const char *const *
tokenizer_files(const struct tokenizer *t)
{
	return t->files;
}

size_t
tokenizer_size(const struct tokenizer *t)
{
	int32_t tops[] = {bpe_top(t->bpe), added_top(t->added), template_top(t->template)}, top = -1;

	for (size_t i = 0; i < 3; i++)
		if (tops[i] > top)
			top = tops[i];
	return (size_t)(top + 1);
}

void
tokenizer_libraries(char *text, size_t size)
{
	char pcre[64] = "", unicode[64] = "";

	pcre2_config(PCRE2_CONFIG_VERSION, pcre);
	pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, unicode);
	pcre[strcspn(pcre, " ")] = '\0';              /* its date follows */
	snprintf(text, size, "pcre2 %s unicode %s, utf8proc %s unicode %s", pcre, unicode, utf8proc_version(), utf8proc_unicode_version());
}

/* ---- encoding ---- */

struct encoding {
	const struct tokenizer *t;
	struct bpe_run *bpe;
	struct pretok_run *words;
	struct buf normal;            /* one part of the text, normalized */
	size_t at;                    /* where that part starts */
	struct ids *out;
};

static int
on_word(void *own, const char *p, size_t n)
{
	struct encoding *e = own;

	return bpe_word(e->bpe, p, n, e->out);
}

static int
on_normalized(void *own, const char *p, size_t n, int32_t id, size_t at)
{
	struct encoding *e = own;

	if (id >= 0) {
		ids_add(e->out, id);
		return 0;
	}
	return pretok_words(e->words, p, n, e->at == 0 && at == 0, (struct word_sink){.word = on_word, .own = e});
}

static int
on_part(void *own, const char *p, size_t n, int32_t id, size_t at)
{
	struct encoding *e = own;
	struct part_sink to = {.part = on_normalized, .own = e};
	int rc;

	if (id >= 0) {
		ids_add(e->out, id);
		return 0;
	}
	e->at = at;
	if (normalizer_is_empty(e->t->normalizer))
		return added_split(e->t->added, true, p, n, to);
	rc = normalizer_apply(e->t->normalizer, p, n, &e->normal);
	return rc != 0 ? rc : added_split(e->t->added, true, buf_text(&e->normal), e->normal.n, to);
}

int
tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool special, struct ids *out)
{
	struct encoding e = {.t = t, .out = out};
	size_t valid, from = out->n;
	int rc;

	if (n > TEXT_MAX)
		return err_set(E_DATA, "a text of %zu bytes is longer than %d", n, TEXT_MAX);
	valid = chars_valid(text, n);
	if (valid < n)
		return err_set(E_DATA, "the text is not UTF-8 at byte %zu (0x%02x)", valid, (unsigned char)text[valid]);
	e.bpe = bpe_run_new(t->bpe);
	e.words = pretok_run_new(t->pretokenizer);
	rc = added_split(t->added, false, text, n, (struct part_sink){.part = on_part, .own = &e});
	bpe_run_free(e.bpe);
	pretok_run_free(e.words);
	buf_release(&e.normal);
	if (rc != 0)
		out->n = from;
	else
		template_apply(t->template, special, out, from);
	return rc;
}

void
ids_add(struct ids *i, int32_t id)
{
	if (i->n == i->cap) {
		i->cap = i->cap == 0 ? 64 : i->cap * 2;
		i->v = mem_grow(i->v, i->cap, sizeof(*i->v));
	}
	i->v[i->n++] = id;
}

void
ids_release(struct ids *i)
{
	free(i->v);
	*i = (struct ids){0};
}
