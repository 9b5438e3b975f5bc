#include "qjob/model/added.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/map.h"
#include "qjob/base/mem.h"
#include "qjob/model/chars.h"
#include "qjob/model/pairs.h"
#include "qjob/model/regex.h"

enum { LENGTH = 1000 };       /* of a token, in bytes: bounds the time of a search */

static const char word_pattern[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

struct token {
	int32_t id;
	bool single_word, lstrip, rstrip, normalized;
};

/* Edges (node, byte) -> id: node, rank: token + 1 that ends there. */
struct trie {
	struct pairs edges;
	uint32_t nodes;
	bool starts[256];
};

struct added {
	struct token *v;
	size_t n;
	struct trie trie[2];          /* [normalized] */
	struct regex *word;           /* a character of a word, as \w of Rust; NULL: no token asks */
	int32_t top;
};

/* ---- reading ---- */

static int
trie_add(struct trie *t, const char *text, size_t n, size_t token, const char *name)
{
	struct pair *edge = NULL;
	uint32_t node = 0;

	if (n > LENGTH)
		return err_set(E_DATA, "%s: '%.40s...' is longer than %d bytes", name, text, LENGTH);
	for (size_t i = 0; i < n; i++) {
		edge = pairs_put(&t->edges, node, (unsigned char)text[i]);
		if (edge->id == 0)
			edge->id = ++t->nodes;
		node = edge->id;
	}
	if (edge == NULL)
		return 0;
	if (edge->rank != 0)
		return err_set(E_DATA, "%s: '%.80s' is there twice", name, text);
	edge->rank = (uint32_t)token + 1;
	t->starts[(unsigned char)text[0]] = true;
	return 0;
}

static int
read_flags(struct token *t, const json_t *j, const char *name)
{
	const struct { const char *key; bool *value; } flags[] = {
		{"single_word", &t->single_word}, {"lstrip", &t->lstrip}, {"rstrip", &t->rstrip}, {"normalized", &t->normalized},
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		const json_t *b = json_object_get(j, flags[i].key);

		if (b != NULL && !json_is_boolean(b))
			return err_set(E_DATA, "%s: %s is neither true nor false", name, flags[i].key);
		*flags[i].value = json_is_true(b);
	}
	return 0;
}

/* next: the id of the next token that the vocabulary lacks; the library takes no other, whatever the file says. */
static int
check_id(const json_t *j, const struct bpe *b, int64_t *next, struct token *t, const char *name)
{
	const json_t *content = json_object_get(j, "content"), *id = json_object_get(j, "id");
	const char *text = json_string_value(content);
	int64_t want = bpe_find(b, text, json_string_length(content));

	if (want < 0)
		want = (*next)++;
	if (!json_is_integer(id) || want >= INT32_MAX)
		return err_set(E_DATA, "%s: '%.80s' has no id", name, text);
	if (json_integer_value(id) != want)
		return err_set(E_DATA, "%s: '%.80s' has id %" JSON_INTEGER_FORMAT ", but loaders would give it %" JSON_INTEGER_FORMAT,
		               name, text, json_integer_value(id), (json_int_t)want);
	t->id = (int32_t)want;
	return 0;
}

static int
read_token(struct added *a, const json_t *j, const struct normalizer *n, const char *name)
{
	const json_t *content = json_object_get(j, "content");
	const struct token *t = &a->v[a->n];
	struct buf text = {0};
	int rc = 0;

	if (t->normalized)
		rc = normalizer_apply(n, json_string_value(content), json_string_length(content), &text);
	else
		buf_add(&text, json_string_value(content), json_string_length(content));
	if (rc == 0)
		rc = trie_add(&a->trie[t->normalized], buf_text(&text), text.n, a->n, name);
	buf_release(&text);
	if (rc == 0 && t->single_word && a->word == NULL)
		rc = regex_open(&a->word, word_pattern, sizeof(word_pattern) - 1, false, name);
	if (t->id > a->top)
		a->top = t->id;
	a->n++;
	return rc;
}

static int
read_tokens(struct added *a, const json_t *list, const struct bpe *b, const struct normalizer *n, const char *name)
{
	int64_t next = (int64_t)bpe_tokens(b);
	struct map seen = {0};
	json_t *j;
	size_t i;
	int rc = 0;

	json_array_foreach((json_t *)list, i, j) {
		const char *content = json_string_value(json_object_get(j, "content"));
		bool fresh;

		if (content == NULL) {
			rc = err_set(E_DATA, "%s: entry %zu has no content", name, i + 1);
			break;
		}
		if (*content == '\0')
			continue;
		map_put(&seen, content, &fresh);
		rc = fresh ? read_flags(&a->v[a->n], j, name) : err_set(E_DATA, "%s: '%.80s' is there twice", name, content);
		if (rc == 0)
			rc = check_id(j, b, &next, &a->v[a->n], name);
		if (rc == 0)
			rc = read_token(a, j, n, name);
		if (rc != 0)
			break;
	}
	map_release(&seen);
	return rc;
}

int
added_parse(struct added **out, const json_t *list, const struct bpe *b, const struct normalizer *n, const char *name)
{
	struct added *a = mem_new(1, sizeof(*a));
	int rc = 0;

	a->top = -1;
	if (list != NULL && !json_is_null(list)) {
		a->v = mem_new(json_array_size(list) + 1, sizeof(*a->v));
		rc = json_is_array(list) ? read_tokens(a, list, b, n, name) : err_set(E_DATA, "%s is not a list", name);
	}
	if (rc != 0) {
		added_free(a);
		a = NULL;
	}
	*out = a;
	return rc;
}

void
added_free(struct added *a)
{
	if (a == NULL)
		return;
	free(a->v);
	pairs_release(&a->trie[0].edges);
	pairs_release(&a->trie[1].edges);
	regex_close(a->word);
	free(a);
}

int32_t
added_top(const struct added *a)
{
	return a->top;
}

/* ---- matching ---- */

/* The longest token at p: its length, 0 for none. */
static size_t
longest(const struct trie *t, const char *p, size_t n, size_t *token)
{
	const struct pair *edge;
	uint32_t node = 0;
	size_t best = 0;

	for (size_t i = 0; i < n; i++) {
		edge = pairs_find(&t->edges, node, (unsigned char)p[i]);
		if (edge == NULL)
			break;
		if (edge->rank != 0) {
			best = i + 1;
			*token = edge->rank - 1;
		}
		node = edge->id;
	}
	return best;
}

struct search {
	const struct added *a;
	const char *p;
	size_t n;
	size_t done;                  /* up to here parts were passed on */
	struct finder *word;
	struct part_sink to;
};

static bool
is_word(struct search *s, size_t at)
{
	size_t start, end;

	finder_start(s->word, s->p + at, chars_length(s->p + at));
	return finder_next(s->word, &start, &end) == 1;
}

/* A match becomes a part, unless it must be a word of its own and is not.  Taken over from the library with its
 * corner: a match that begins in white space which the one before took is passed on all the same. */
static int
take(struct search *s, const struct token *t, size_t start, size_t end)
{
	int rc = 0;

	if (t->single_word && ((start > 0 && is_word(s, chars_back(s->p, start))) || (end < s->n && is_word(s, end))))
		return 0;
	while (t->lstrip && start > s->done && chars_is_space(chars_code(s->p + chars_back(s->p, start))))
		start = chars_back(s->p, start);
	if (t->lstrip && start < s->done)
		start = s->done;
	while (t->rstrip && end < s->n && chars_is_space(chars_code(s->p + end)))
		end += chars_length(s->p + end);
	if (start > s->done)
		rc = s->to.part(s->to.own, s->p + s->done, start - s->done, -1, s->done);
	s->done = end;
	return rc != 0 ? rc : s->to.part(s->to.own, s->p + start, end > start ? end - start : 0, t->id, start);
}

int
added_split(const struct added *a, bool normalized, const char *text, size_t n, struct part_sink to)
{
	struct search s = {.a = a, .p = text, .n = n, .to = to};
	const struct trie *t = &a->trie[normalized];
	size_t at = 0, token = 0;
	int rc = 0;

	if (a->word != NULL)
		s.word = finder_new(a->word);
	while (rc == 0 && at < n && t->nodes > 0) {
		size_t len = t->starts[(unsigned char)text[at]] ? longest(t, text + at, n - at, &token) : 0;

		if (len > 0)
			rc = take(&s, &a->v[token], at, at + len);
		at += len > 0 ? len : 1;
	}
	finder_free(s.word);
	if (rc == 0 && s.done < n)
		rc = to.part(to.own, text + s.done, n - s.done, -1, s.done);
	return rc;
}
