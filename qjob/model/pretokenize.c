#include "qjob/model/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/model/chars.h"
#include "qjob/model/regex.h"

enum {
	STEPS = 64, DEPTH = 16,
	LIMIT = 64 << 20, GROWTH = 8,      /* bytes that a step may make of a word: LIMIT, or GROWTH times the text */
};

enum behavior { ISOLATED, REMOVED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT };

static const char *const behaviors[] = {
	[ISOLATED] = "Isolated", [REMOVED] = "Removed", [CONTIGUOUS] = "Contiguous",
	[MERGED_WITH_PREVIOUS] = "MergedWithPrevious", [MERGED_WITH_NEXT] = "MergedWithNext",
};

enum act {
	SPLIT,       /* at the matches of a pattern */
	PREFIX,      /* a space in front, if there is none */
	BYTES,       /* each byte as its printable character */
	META,        /* spaces replaced, and one in front */
};

struct step {
	enum act act;
	struct regex *regex;
	enum behavior behavior;
	bool invert;                 /* what does not match counts as a match */
	char meta[5];                /* META: the character that stands for a space */
	enum { NEVER, FIRST, ALWAYS } prepend;
};

struct pretokenizer {
	struct step v[STEPS];
	size_t n;
	const char *name;            /* while reading */
};

struct pretok_run {
	const struct pretokenizer *p;
	struct word_sink to;
	size_t most;                 /* bytes of a rewritten word */
	struct { struct finder *finder; struct buf text; } v[STEPS];
};

#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Whitespace's own \w is Rust's, which counts the joiners. */
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"

/* ---- reading ---- */

static struct step *
add_step(struct pretokenizer *p, enum act act)
{
	struct step *s = p->n < STEPS ? &p->v[p->n++] : NULL;

	if (s == NULL)
		err_set(E_DATA, "%s has more than %d steps", p->name, STEPS);
	else
		*s = (struct step){.act = act};
	return s;
}

static int
add_split(struct pretokenizer *p, const char *pattern, enum behavior behavior, bool invert)
{
	struct step *s = add_step(p, SPLIT);

	if (s == NULL)
		return E_DATA;
	s->behavior = behavior;
	s->invert = invert;
	return regex_open(&s->regex, pattern, strlen(pattern), false, p->name);
}

static int
flag(const struct pretokenizer *p, const json_t *j, const char *key, bool usual, bool *value)
{
	const json_t *b = json_object_get(j, key);

	*value = b == NULL ? usual : json_is_true(b);
	if (b != NULL && !json_is_boolean(b))
		return err_set(E_DATA, "%s: %s is neither true nor false", p->name, key);
	return 0;
}

static int
behavior_of(const struct pretokenizer *p, const json_t *j, enum behavior usual, enum behavior *b)
{
	const json_t *text = json_object_get(j, "behavior");

	*b = usual;
	if (text == NULL)
		return 0;
	for (size_t i = 0; json_is_string(text) && i < sizeof(behaviors) / sizeof(*behaviors); i++) {
		if (strcmp(behaviors[i], json_string_value(text)) == 0) {
			*b = (enum behavior)i;
			return 0;
		}
	}
	return err_set(E_USE, "%s: behavior '%.80s' is not one of Isolated, Removed, Contiguous, MergedWithPrevious, MergedWithNext",
	               p->name, json_is_string(text) ? json_string_value(text) : "?");
}

static int
read_byte_level(struct pretokenizer *p, const json_t *j)
{
	bool space, regex;
	int rc = flag(p, j, "add_prefix_space", true, &space);

	if (rc == 0)
		rc = flag(p, j, "use_regex", true, &regex);
	if (rc == 0 && space && add_step(p, PREFIX) == NULL)
		rc = E_DATA;
	if (rc == 0 && regex)
		rc = add_split(p, GPT2_PATTERN, ISOLATED, false);
	if (rc == 0 && add_step(p, BYTES) == NULL)
		rc = E_DATA;
	return rc;
}

static int
read_split(struct pretokenizer *p, const json_t *j)
{
	const json_t *pattern = json_object_get(j, "pattern");
	const json_t *regex = json_object_get(pattern, "Regex"), *text = json_object_get(pattern, "String");
	const json_t *use = regex != NULL ? regex : text;
	enum behavior behavior;
	struct step *s;
	bool invert;
	int rc = behavior_of(p, j, ISOLATED, &behavior);

	if (rc == 0)
		rc = flag(p, j, "invert", false, &invert);
	if (rc != 0)
		return rc;
	if (!json_is_string(use))
		return err_set(E_DATA, "%s: pattern of Split is neither {Regex: ..} nor {String: ..}", p->name);
	s = add_step(p, SPLIT);
	if (s == NULL)
		return E_DATA;
	s->behavior = behavior;
	s->invert = invert;
	return regex_open(&s->regex, json_string_value(use), json_string_length(use), regex == NULL, p->name);
}

static int
read_digits(struct pretokenizer *p, const json_t *j)
{
	bool single;
	int rc = flag(p, j, "individual_digits", false, &single);

	return rc != 0 ? rc : add_split(p, "\\p{N}", single ? ISOLATED : CONTIGUOUS, false);
}

static int
read_punctuation(struct pretokenizer *p, const json_t *j)
{
	enum behavior behavior;
	int rc = behavior_of(p, j, ISOLATED, &behavior);

	return rc != 0 ? rc : add_split(p, "[!-/:-@\\[-`{-~\\p{P}]", behavior, false);
}

static int
read_whitespace(struct pretokenizer *p, const json_t *j)
{
	(void)j;
	return add_split(p, "[" RUST_WORD "]+|[^\\s" RUST_WORD "]+", REMOVED, true);
}

static int
read_whitespace_split(struct pretokenizer *p, const json_t *j)
{
	(void)j;
	return add_split(p, "\\s", REMOVED, false);
}

/* "replacement" or "delimiter": one character. */
static int
one_char(const struct pretokenizer *p, const json_t *j, const char *key, const char **c)
{
	const json_t *text = json_object_get(j, key);

	*c = json_string_value(text);
	if (*c == NULL || **c == '\0' || chars_length(*c) != json_string_length(text))
		return err_set(E_DATA, "%s: %s is not one character", p->name, key);
	return 0;
}

static int
add_char_split(struct pretokenizer *p, const char *c, enum behavior behavior)
{
	struct step *s = add_step(p, SPLIT);

	if (s == NULL)
		return E_DATA;
	s->behavior = behavior;
	return regex_open(&s->regex, c, strlen(c), true, p->name);
}

static int
read_delimiter(struct pretokenizer *p, const json_t *j)
{
	const char *c;
	int rc = one_char(p, j, "delimiter", &c);

	return rc != 0 ? rc : add_char_split(p, c, REMOVED);
}

static int
read_metaspace(struct pretokenizer *p, const json_t *j)
{
	const char *scheme = json_string_value(json_object_get(j, "prepend_scheme")), *c;
	struct step *s;
	bool prefix, split;
	int rc = one_char(p, j, "replacement", &c);

	if (rc == 0)
		rc = flag(p, j, "add_prefix_space", true, &prefix);
	if (rc == 0)
		rc = flag(p, j, "split", true, &split);
	if (rc != 0)
		return rc;
	s = add_step(p, META);
	if (s == NULL)
		return E_DATA;
	memcpy(s->meta, c, chars_length(c));
	if (scheme == NULL || strcmp(scheme, "always") == 0)
		s->prepend = ALWAYS;
	else if (strcmp(scheme, "first") == 0)
		s->prepend = FIRST;
	else if (strcmp(scheme, "never") == 0)
		s->prepend = NEVER;
	else
		return err_set(E_USE, "%s: prepend_scheme '%.80s' is not one of always, first, never", p->name, scheme);
	if (!prefix && scheme != NULL && s->prepend != NEVER)
		return err_set(E_DATA, "%s: add_prefix_space is false, but prepend_scheme is '%s'", p->name, scheme);
	if (!prefix)
		s->prepend = NEVER;
	return split ? add_char_split(p, c, MERGED_WITH_NEXT) : 0;
}

static const struct kind {
	const char *name;
	int (*read)(struct pretokenizer *p, const json_t *j);
} kinds[] = {
	{"ByteLevel",          read_byte_level},
	{"Split",              read_split},
	{"Digits",             read_digits},
	{"Punctuation",        read_punctuation},
	{"Whitespace",         read_whitespace},
	{"WhitespaceSplit",    read_whitespace_split},
	{"CharDelimiterSplit", read_delimiter},
	{"Metaspace",          read_metaspace},
};

static int
unknown(const struct pretokenizer *p, const char *type)
{
	struct buf known = {0};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		buf_printf(&known, "%s, ", kinds[i].name);
	err_set(E_USE, "%s '%.80s' is not known; known: %sSequence", p->name, type, buf_text(&known));
	buf_release(&known);
	return E_USE;
}

static int
read_steps(struct pretokenizer *p, const json_t *j, int depth)
{
	const char *type = json_string_value(json_object_get(j, "type"));
	const json_t *list = json_object_get(j, "pretokenizers");
	json_t *item;
	size_t i;
	int rc;

	if (type == NULL)
		return err_set(E_DATA, "%s has no type", p->name);
	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (strcmp(kinds[i].name, type) == 0)
			return kinds[i].read(p, j);
	if (strcmp(type, "Sequence") != 0)
		return unknown(p, type);
	if (!json_is_array(list) || depth == DEPTH)
		return err_set(E_DATA, "%s: a Sequence has no list of pretokenizers, or lies too deep", p->name);
	json_array_foreach((json_t *)list, i, item) {
		rc = read_steps(p, item, depth + 1);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int
finish(struct pretokenizer **out, struct pretokenizer *p, int rc)
{
	p->name = NULL;
	if (rc != 0) {
		pretokenizer_free(p);
		p = NULL;
	}
	*out = p;
	return rc;
}

int
pretokenizer_parse(struct pretokenizer **out, const json_t *j, const char *name)
{
	struct pretokenizer *p = mem_new(1, sizeof(*p));

	p->name = name;
	return finish(out, p, j == NULL || json_is_null(j) ? 0 : read_steps(p, j, 0));
}

int
pretokenizer_gpt2(struct pretokenizer **out, bool space)
{
	struct pretokenizer *p = mem_new(1, sizeof(*p));
	int rc;

	p->name = "pre_tokenizer";
	if (space)
		add_step(p, PREFIX);
	rc = add_split(p, GPT2_PATTERN, ISOLATED, false);
	if (rc == 0)
		add_step(p, BYTES);
	return finish(out, p, rc);
}

void
pretokenizer_free(struct pretokenizer *p)
{
	if (p == NULL)
		return;
	for (size_t i = 0; i < p->n; i++)
		regex_close(p->v[i].regex);
	free(p);
}

/* ---- running ---- */

static int feed(struct pretok_run *r, size_t k, const char *p, size_t n, bool first);

/* What a split has cut but not passed on, since the next piece may join it. */
struct pending {
	size_t k;
	const char *text;
	bool first;
	size_t start, end;
	bool has, match;
};

static int
flush(struct pretok_run *r, struct pending *w)
{
	if (!w->has)
		return 0;
	w->has = false;
	return feed(r, w->k + 1, w->text + w->start, w->end - w->start, w->first && w->start == 0);
}

/* The next piece of the text; those of a split are contiguous. */
static int
piece(struct pretok_run *r, struct pending *w, size_t start, size_t end, bool match)
{
	bool join = false;
	int rc;

	switch (r->p->v[w->k].behavior) {
	case ISOLATED:             break;
	case REMOVED:              if (match) return flush(r, w); break;
	case CONTIGUOUS:           join = w->has && match == w->match; break;
	case MERGED_WITH_PREVIOUS: join = w->has && match && !w->match; break;
	case MERGED_WITH_NEXT:     join = w->has && !match && w->match; break;
	}
	if (join) {
		w->end = end;
	} else {
		rc = flush(r, w);
		if (rc != 0)
			return rc;
		w->start = start;
		w->end = end;
		w->has = true;
	}
	w->match = match;
	return 0;
}

static int
split(struct pretok_run *r, size_t k, const char *p, size_t n, bool first)
{
	struct pending w = {.k = k, .text = p, .first = first};
	bool invert = r->p->v[k].invert;
	size_t done = 0, start, end;
	int rc;

	finder_start(r->v[k].finder, p, n);
	for (rc = finder_next(r->v[k].finder, &start, &end); rc == 1; rc = finder_next(r->v[k].finder, &start, &end)) {
		if (start > done)
			rc = piece(r, &w, done, start, invert);
		if (rc >= 0)
			rc = piece(r, &w, start, end, !invert);
		if (rc < 0)
			return rc;
		done = end;
	}
	if (rc == 0 && done < n)
		rc = piece(r, &w, done, n, invert);
	return rc != 0 ? rc : flush(r, &w);
}

static int
pass(struct pretok_run *r, size_t k, bool first)
{
	const struct buf *b = &r->v[k].text;

	if (b->n > r->most)
		return err_set(E_DATA, "the pre-tokenizer makes more than %zu bytes of a word", r->most);
	return feed(r, k + 1, b->p, b->n, first);
}

static void
write_meta(const struct step *s, struct buf *b, const char *p, size_t n, bool first)
{
	size_t meta = strlen(s->meta);
	bool has = *p == ' ' || (n >= meta && memcmp(p, s->meta, meta) == 0);

	if (!has && (s->prepend == ALWAYS || (s->prepend == FIRST && first)))
		buf_add(b, s->meta, meta);
	while (n > 0) {
		const char *space = memchr(p, ' ', n);
		size_t plain = space == NULL ? n : (size_t)(space - p);

		buf_add(b, p, plain);
		if (space == NULL)
			break;
		buf_add(b, s->meta, meta);
		p += plain + 1;
		n -= plain + 1;
	}
}

static int
feed(struct pretok_run *r, size_t k, const char *p, size_t n, bool first)
{
	const struct step *s = &r->p->v[k];
	struct buf *b;

	if (n == 0)
		return 0;
	if (k == r->p->n)
		return r->to.word(r->to.own, p, n);
	b = &r->v[k].text;
	buf_clear(b);
	switch (s->act) {
	case SPLIT:
		return split(r, k, p, n, first);
	case PREFIX:
		if (*p == ' ')
			return feed(r, k + 1, p, n, first);
		buf_puts(b, " ");
		buf_add(b, p, n);
		break;
	case BYTES:
		chars_bytes(b, p, n);
		break;
	case META:
		write_meta(s, b, p, n, first);
		break;
	}
	return pass(r, k, first);
}

struct pretok_run *
pretok_run_new(const struct pretokenizer *p)
{
	struct pretok_run *r = mem_new(1, sizeof(*r));

	r->p = p;
	for (size_t i = 0; i < p->n; i++)
		if (p->v[i].regex != NULL)
			r->v[i].finder = finder_new(p->v[i].regex);
	return r;
}

void
pretok_run_free(struct pretok_run *r)
{
	if (r == NULL)
		return;
	for (size_t i = 0; i < STEPS; i++) {
		finder_free(r->v[i].finder);
		buf_release(&r->v[i].text);
	}
	free(r);
}

int
pretok_words(struct pretok_run *r, const char *text, size_t n, bool first, struct word_sink to)
{
	r->to = to;
	r->most = n > LIMIT / GROWTH ? n * GROWTH : LIMIT;
	return feed(r, 0, text, n, first);
}
