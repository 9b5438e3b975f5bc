#include "qjob/model/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/map.h"
#include "qjob/base/mem.h"
#include "qjob/model/chars.h"
#include "qjob/model/pairs.h"

enum {
	NEAR_CODES = 0x144,           /* code points looked up without hashing: all of the byte alphabet */
	CACHE_WORD = 256,             /* longer words are not kept; so a run has fewer ids than this */
	CACHE_WORDS = 1 << 20,
};

#define NONE UINT32_MAX

struct bpe {
	char *name;
	struct map vocab;             /* i: id */
	struct pairs merges;          /* (left, right) -> rank, id */
	int32_t top;
	int32_t near[NEAR_CODES];     /* ids of single characters, -1: none */
	char *unk;                    /* NULL: unknown characters vanish */
	bool fuse_unk, byte_fallback, ignore_merges;
};

struct symbol {
	uint32_t id;                  /* NONE: joined to one on its left */
	uint32_t prev, next;          /* NONE: at the end */
};

struct merge {
	uint32_t rank, pos, id;
};

struct bpe_run {
	const struct bpe *b;
	struct map seen;              /* i: where in pool << 8 | how many */
	struct ids pool;
	struct buf key;
	struct symbol *symbols;
	size_t nsymbols, capsymbols;
	struct merge *heap;           /* lowest rank first, then leftmost */
	size_t nheap, capheap;
};

/* ---- reading ---- */

static int
read_vocab(struct bpe *b, const json_t *vocab)
{
	const char *token;
	json_t *id;

	if (!json_is_object(vocab))
		return err_set(E_DATA, "%s: vocab is not a map of tokens to ids", b->name);
	b->top = -1;
	json_object_foreach((json_t *)vocab, token, id) {
		json_int_t i = json_integer_value(id);

		if (!json_is_integer(id) || i < 0 || i >= INT32_MAX)
			return err_set(E_DATA, "%s: vocab: the id of '%.80s' is not a whole number from 0 to %d",
			               b->name, token, INT32_MAX - 1);
		map_put(&b->vocab, token, NULL)->v.i = i;
		if (i > b->top)
			b->top = (int32_t)i;
	}
	for (uint32_t c = 0; c < NEAR_CODES; c++) {
		struct buf one = {0};

		chars_add(&one, c);
		b->near[c] = bpe_find(b, one.p, one.n);
		buf_release(&one);
	}
	return 0;
}

static int
add_merge(struct bpe *b, size_t rank, const char *left, size_t nleft, const char *right, size_t nright)
{
	int32_t l = bpe_find(b, left, nleft), r = bpe_find(b, right, nright), id;
	struct buf both = {0};
	struct pair *p;

	if (l < 0 || r < 0)
		return err_set(E_DATA, "%s: merge %zu: '%.*s' is not in the vocabulary", b->name, rank + 1,
		               l < 0 ? (int)(nleft < 80 ? nleft : 80) : (int)(nright < 80 ? nright : 80), l < 0 ? left : right);
	buf_add(&both, left, nleft);
	buf_add(&both, right, nright);
	id = bpe_find(b, both.p, both.n);
	if (id < 0)
		err_set(E_DATA, "%s: merge %zu: '%.80s' is not in the vocabulary", b->name, rank + 1, buf_text(&both));
	buf_release(&both);
	if (id < 0)
		return E_DATA;
	if (rank >= NONE)
		return err_set(E_DATA, "%s: too many merges", b->name);
	p = pairs_put(&b->merges, (uint32_t)l, (uint32_t)r);       /* of equal pairs the last wins, as in the library */
	p->rank = (uint32_t)rank;
	p->id = (uint32_t)id;
	return 0;
}

/* "left right" */
static int
add_merge_line(struct bpe *b, size_t rank, const char *line, size_t n)
{
	const char *space = n == 0 ? NULL : memchr(line, ' ', n);
	size_t nleft = space == NULL ? 0 : (size_t)(space - line);

	if (space == NULL || memchr(space + 1, ' ', n - nleft - 1) != NULL)
		return err_set(E_DATA, "%s: merge %zu: '%.*s' is not two tokens with a space between", b->name, rank + 1,
		               (int)(n < 80 ? n : 80), line);
	return add_merge(b, rank, line, nleft, space + 1, n - nleft - 1);
}

static int
read_merges(struct bpe *b, const json_t *merges)
{
	size_t i, rank = 0;
	json_t *m;
	int rc;

	if (!json_is_array(merges))
		return err_set(E_DATA, "%s: merges is not a list", b->name);
	json_array_foreach((json_t *)merges, i, m) {
		const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);

		if (json_is_string(m) && strncmp(json_string_value(m), "#version", 8) == 0)
			continue;
		if (json_is_string(m))
			rc = add_merge_line(b, rank, json_string_value(m), json_string_length(m));
		else if (json_array_size(m) == 2 && json_is_string(left) && json_is_string(right))
			rc = add_merge(b, rank, json_string_value(left), json_string_length(left),
			               json_string_value(right), json_string_length(right));
		else
			rc = err_set(E_DATA, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", b->name, i + 1);
		if (rc != 0)
			return rc;
		rank++;
	}
	return 0;
}

static int
read_flag(const json_t *model, const char *key, bool *flag, const char *name)
{
	const json_t *j = json_object_get(model, key);

	*flag = json_is_true(j);
	if (j != NULL && !json_is_boolean(j) && !json_is_null(j))
		return err_set(E_DATA, "%s: %s is neither true nor false", name, key);
	return 0;
}

static int
read_settings(struct bpe *b, const json_t *model)
{
	static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	const json_t *unk = json_object_get(model, "unk_token"), *dropout = json_object_get(model, "dropout");
	int rc;

	for (size_t i = 0; i < 2; i++) {
		const json_t *j = json_object_get(model, affixes[i]);

		if (j != NULL && !json_is_null(j) && !(json_is_string(j) && json_string_length(j) == 0))
			return err_set(E_USE, "%s: %s is set, which is not supported", b->name, affixes[i]);
	}
	if (dropout != NULL && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
		return err_set(E_USE, "%s: dropout is set, which gives a text other ids each time", b->name);
	if (unk != NULL && !json_is_null(unk) && !json_is_string(unk))
		return err_set(E_DATA, "%s: unk_token is not a text", b->name);
	b->unk = mem_text(json_string_value(unk));
	rc = read_flag(model, "fuse_unk", &b->fuse_unk, b->name);
	if (rc == 0)
		rc = read_flag(model, "byte_fallback", &b->byte_fallback, b->name);
	if (rc == 0)
		rc = read_flag(model, "ignore_merges", &b->ignore_merges, b->name);
	return rc;
}

static struct bpe *
bpe_new(const char *name)
{
	struct bpe *b = mem_new(1, sizeof(*b));

	b->name = mem_text(name);
	return b;
}

int
bpe_parse(struct bpe **out, const json_t *model, const char *name)
{
	struct bpe *b = bpe_new(name);
	int rc = read_settings(b, model);

	if (rc == 0)
		rc = read_vocab(b, json_object_get(model, "vocab"));
	if (rc == 0)
		rc = read_merges(b, json_object_get(model, "merges"));
	if (rc != 0) {
		bpe_free(b);
		b = NULL;
	}
	*out = b;
	return rc;
}

int
bpe_parse_files(struct bpe **out, const json_t *vocab, const char *merges, size_t n, const char *name)
{
	struct bpe *b = bpe_new(name);
	int rc = read_vocab(b, vocab);
	size_t rank = 0;

	while (rc == 0 && n > 0) {
		const char *end = memchr(merges, '\n', n);
		size_t line = end == NULL ? n : (size_t)(end - merges);
		size_t text = line > 0 && merges[line - 1] == '\r' ? line - 1 : line;

		if (text < 8 || memcmp(merges, "#version", 8) != 0)
			rc = add_merge_line(b, rank++, merges, text);
		line += end != NULL;
		merges += line;
		n -= line;
	}
	if (rc != 0) {
		bpe_free(b);
		b = NULL;
	}
	*out = b;
	return rc;
}

void
bpe_free(struct bpe *b)
{
	if (b == NULL)
		return;
	map_release(&b->vocab);
	pairs_release(&b->merges);
	free(b->unk);
	free(b->name);
	free(b);
}

int32_t
bpe_find(const struct bpe *b, const char *token, size_t n)
{
	const struct map_entry *e = map_find_n(&b->vocab, token, n);

	return e == NULL ? -1 : (int32_t)e->v.i;
}

size_t
bpe_tokens(const struct bpe *b)
{
	return b->vocab.n;
}

int32_t
bpe_top(const struct bpe *b)
{
	return b->top;
}

/* ---- merging ---- */

static bool
before(const struct merge *a, const struct merge *b)
{
	return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

static void
push(struct bpe_run *r, struct merge m)
{
	size_t i = r->nheap++;

	if (r->nheap > r->capheap) {
		r->capheap = r->capheap == 0 ? 64 : r->capheap * 2;
		r->heap = mem_grow(r->heap, r->capheap, sizeof(*r->heap));
	}
	for (; i > 0 && before(&m, &r->heap[(i - 1) / 2]); i = (i - 1) / 2)
		r->heap[i] = r->heap[(i - 1) / 2];
	r->heap[i] = m;
}

static struct merge
pop(struct bpe_run *r)
{
	struct merge top = r->heap[0], last = r->heap[--r->nheap];
	size_t i = 0, child;

	for (child = 1; child < r->nheap; child = 2 * i + 1) {
		if (child + 1 < r->nheap && before(&r->heap[child + 1], &r->heap[child]))
			child++;
		if (!before(&r->heap[child], &last))
			break;
		r->heap[i] = r->heap[child];
		i = child;
	}
	r->heap[i] = last;
	return top;
}

/* Queues the merge of the symbol at pos with its right neighbour, if there is one. */
static void
queue(struct bpe_run *r, uint32_t pos)
{
	const struct symbol *left = &r->symbols[pos];
	const struct pair *p;

	if (left->next == NONE)
		return;
	p = pairs_find(&r->b->merges, left->id, r->symbols[left->next].id);
	if (p != NULL)
		push(r, (struct merge){.rank = p->rank, .pos = pos, .id = p->id});
}

static void
merge_all(struct bpe_run *r)
{
	for (size_t i = 0; i + 1 < r->nsymbols; i++)
		queue(r, (uint32_t)i);
	while (r->nheap > 0) {
		struct merge top = pop(r);
		struct symbol *left = &r->symbols[top.pos], *right;
		const struct pair *p;

		if (left->id == NONE || left->next == NONE)
			continue;
		right = &r->symbols[left->next];
		p = pairs_find(&r->b->merges, left->id, right->id);
		if (p == NULL || p->id != top.id)
			continue;             /* queued before a neighbour changed */
		left->id = top.id;
		left->next = right->next;
		right->id = NONE;
		if (left->next != NONE)
			r->symbols[left->next].prev = top.pos;
		if (left->prev != NONE)
			queue(r, left->prev);
		queue(r, top.pos);
	}
}

static void
add_symbol(struct bpe_run *r, int32_t id)
{
	uint32_t i = (uint32_t)r->nsymbols++;

	if (r->nsymbols > r->capsymbols) {
		r->capsymbols = r->capsymbols == 0 ? 64 : r->capsymbols * 2;
		r->symbols = mem_grow(r->symbols, r->capsymbols, sizeof(*r->symbols));
	}
	r->symbols[i] = (struct symbol){.id = (uint32_t)id, .prev = i == 0 ? NONE : i - 1, .next = NONE};
	if (i > 0)
		r->symbols[i - 1].next = i;
}

static int32_t
char_id(const struct bpe *b, const char *p, size_t n)
{
	uint32_t code = n <= 2 ? chars_code(p) : NEAR_CODES;

	return code < NEAR_CODES ? b->near[code] : bpe_find(b, p, n);
}

/* "<0x0A>" for each byte, when all of them are in the vocabulary. */
static bool
fall_back(struct bpe_run *r, const char *p, size_t n)
{
	static const char hex[] = "0123456789ABCDEF";
	int32_t ids[4];

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];
		char token[7] = {'<', '0', 'x', hex[c >> 4], hex[c & 15], '>', '\0'};

		ids[i] = bpe_find(r->b, token, 6);
		if (ids[i] < 0)
			return false;
	}
	for (size_t i = 0; i < n; i++)
		add_symbol(r, ids[i]);
	return true;
}

/* The library keeps one unknown token back, to fuse it with the next; pending tells whether there is one. */
static int
add_unknown(struct bpe_run *r, int32_t *unk, bool *pending)
{
	if (r->b->unk == NULL)
		return 0;
	if (*unk < 0)
		*unk = bpe_find(r->b, r->b->unk, strlen(r->b->unk));
	if (*unk < 0)
		return err_set(E_DATA, "%s: unk_token '%.80s' is not in the vocabulary", r->b->name, r->b->unk);
	if (*pending && !r->b->fuse_unk)
		add_symbol(r, *unk);
	*pending = true;
	return 0;
}

static int
split_chars(struct bpe_run *r, const char *word, size_t n)
{
	bool pending = false;
	int32_t unk = -1;
	int rc = 0;

	r->nsymbols = 0;
	for (size_t at = 0, len; at < n && rc == 0; at += len) {
		int32_t id;

		len = chars_length(word + at);
		id = char_id(r->b, word + at, len);
		if (id >= 0) {
			if (pending)
				add_symbol(r, unk);
			pending = false;
			add_symbol(r, id);
		} else if (!r->b->byte_fallback || !fall_back(r, word + at, len)) {
			rc = add_unknown(r, &unk, &pending);
		}
	}
	if (pending)
		add_symbol(r, unk);
	return rc;
}

/* ---- words ---- */

static void
remember(struct bpe_run *r, const char *word, size_t n, const int32_t *ids, size_t count)
{
	if (n >= CACHE_WORD || r->seen.n >= CACHE_WORDS || memchr(word, '\0', n) != NULL)
		return;
	buf_clear(&r->key);
	buf_add(&r->key, word, n);
	map_put(&r->seen, buf_text(&r->key), NULL)->v.i = (int64_t)(r->pool.n << 8 | count);
	for (size_t i = 0; i < count; i++)
		ids_add(&r->pool, ids[i]);
}

int
bpe_word(struct bpe_run *r, const char *word, size_t n, struct ids *out)
{
	const struct map_entry *seen = n < CACHE_WORD ? map_find_n(&r->seen, word, n) : NULL;
	size_t had = out->n;
	int32_t whole;
	int rc;

	if (seen != NULL) {
		const int32_t *v = r->pool.v + (seen->v.i >> 8);

		for (int64_t i = 0; i < (seen->v.i & 0xff); i++)
			ids_add(out, v[i]);
		return 0;
	}
	whole = r->b->ignore_merges ? bpe_find(r->b, word, n) : -1;
	if (whole >= 0) {
		ids_add(out, whole);
	} else {
		rc = split_chars(r, word, n);
		if (rc != 0)
			return rc;
		merge_all(r);
		for (size_t i = 0; i < r->nsymbols; i++)
			if (r->symbols[i].id != NONE)
				ids_add(out, (int32_t)r->symbols[i].id);
	}
	if (out->n > had)
		remember(r, word, n, out->v + had, out->n - had);
	return 0;
}

struct bpe_run *
bpe_run_new(const struct bpe *b)
{
	struct bpe_run *r = mem_new(1, sizeof(*r));

	r->b = b;
	return r;
}

void
bpe_run_free(struct bpe_run *r)
{
	if (r == NULL)
		return;
	map_release(&r->seen);
	ids_release(&r->pool);
	buf_release(&r->key);
	free(r->symbols);
	free(r->heap);
	free(r);
}
