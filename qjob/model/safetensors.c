/* The header is scanned by hand: its grammar is tiny, a hostile one may be 100 MB long, and the tree that a JSON
 * library would build of that takes gigabytes. */
#include "qjob/model/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "qjob/base/buf.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"

enum { HEADER_MAX = 100000000, NAME_MAX_BYTES = 1000 };

struct scan {
	const char *path;
	const char *start, *at, *end;
	struct buf name, word;         /* of the tensor being read */
};

struct found {
	struct tensor t;
	uint64_t begin, end;
	size_t order;                  /* as in the header: keeps the order of empty tensors */
};

struct found_list {
	struct found *v;
	size_t n, cap;
};

/* ---- JSON ---- */

static int
bad(const struct scan *s, const char *wanted)
{
	size_t at = (size_t)(s->at - s->start);

	if (s->at == s->end)
		return err_set(E_DATA, "%s: header byte %zu: wanted %s, found its end", s->path, at, wanted);
	if (*s->at > ' ' && *s->at <= '~')
		return err_set(E_DATA, "%s: header byte %zu: wanted %s, found '%c'", s->path, at, wanted, *s->at);
	return err_set(E_DATA, "%s: header byte %zu: wanted %s, found byte 0x%02x", s->path, at, wanted,
	               (unsigned char)*s->at);
}

static void
skip_space(struct scan *s)
{
	while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
		s->at++;
}

/* Takes c if it is next. */
static bool
take(struct scan *s, char c)
{
	skip_space(s);
	if (s->at == s->end || *s->at != c)
		return false;
	s->at++;
	return true;
}

static int
expect(struct scan *s, char c)
{
	const char wanted[] = {'\'', c, '\'', '\0'};

	return take(s, c) ? 0 : bad(s, wanted);
}

static int
hex4(struct scan *s, uint32_t *out)
{
	*out = 0;
	for (int i = 0; i < 4; i++, s->at++) {
		char c = s->at < s->end ? *s->at : '\0';
		uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
		                 : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
		                 : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
		                                        : 16;

		if (digit == 16)
			return bad(s, "a hexadecimal digit");
		*out = *out << 4 | digit;
	}
	return 0;
}

/* After "\u": a code point, of one or two units. */
static int
unicode_escape(struct scan *s, struct buf *out)
{
	utf8proc_uint8_t bytes[4];
	uint32_t c, low;

	if (hex4(s, &c) < 0)
		return E_DATA;
	if (c >= 0xd800 && c < 0xdc00) {
		if (s->end - s->at < 2 || s->at[0] != '\\' || s->at[1] != 'u')
			return bad(s, "the second half of a surrogate pair");
		s->at += 2;
		if (hex4(s, &low) < 0)
			return E_DATA;
		if (low < 0xdc00 || low > 0xdfff)
			return bad(s, "the second half of a surrogate pair");
		c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
	} else if (c >= 0xdc00 && c < 0xe000) {
		return bad(s, "the first half of a surrogate pair");
	}
	buf_add(out, bytes, (size_t)utf8proc_encode_char((utf8proc_int32_t)c, bytes));
	return 0;
}

static int
escape(struct scan *s, struct buf *out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *hit = s->at < s->end && *s->at != '\0' ? strchr(from, *s->at) : NULL;

	if (hit) {
		buf_add(out, &to[hit - from], 1);
		s->at++;
		return 0;
	}
	if (s->at == s->end || *s->at != 'u')
		return bad(s, "an escape of JSON");
	s->at++;
	return unicode_escape(s, out);
}

static bool
is_utf8(const struct buf *b)
{
	utf8proc_int32_t c;

	for (size_t i = 0; i < b->n;) {
		utf8proc_ssize_t n = 1;

		if ((unsigned char)b->p[i] >= 0x80)
			n = utf8proc_iterate((const utf8proc_uint8_t *)b->p + i, (utf8proc_ssize_t)(b->n - i), &c);
		if (n <= 0)
			return false;
		i += (size_t)n;
	}
	return true;
}

static int
scan_text(struct scan *s, struct buf *out)
{
	buf_clear(out);
	if (expect(s, '"') < 0)
		return E_DATA;
	for (;;) {
		const char *run = s->at;

		while (s->at < s->end && *s->at != '"' && *s->at != '\\' && (unsigned char)*s->at >= ' ')
			s->at++;
		buf_add(out, run, (size_t)(s->at - run));
		if (s->at == s->end || (unsigned char)*s->at < ' ')
			return bad(s, "the end of a text");
		if (*s->at++ == '"')
			break;
		if (escape(s, out) < 0)
			return E_DATA;
	}
	return is_utf8(out) ? 0 : bad(s, "a text in UTF-8 before this");
}

/* A whole number without sign; JSON writes it without leading zeros. */
static int
scan_number(struct scan *s, uint64_t *out)
{
	const char *first;

	skip_space(s);
	first = s->at;
	*out = 0;
	for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
		uint64_t digit = (uint64_t)(*s->at - '0');

		if (*out > (INT64_MAX - digit) / 10)
			return bad(s, "a number below 2^63");
		*out = *out * 10 + digit;
	}
	if (s->at == first || (*first == '0' && s->at - first > 1))
		return bad(s, "a whole number");
	if (s->at < s->end && (*s->at == '.' || *s->at == 'e' || *s->at == 'E'))
		return bad(s, "a whole number");
	return 0;
}

/* ---- the header ---- */

static int
scan_metadata(struct scan *s)
{
	if (expect(s, '{') < 0)
		return err_in(E_DATA, "__metadata__");
	if (take(s, '}'))
		return 0;
	do {
		if (scan_text(s, &s->word) < 0 || expect(s, ':') < 0 || scan_text(s, &s->word) < 0)
			return err_in(E_DATA, "__metadata__");
	} while (take(s, ','));
	return expect(s, '}');
}

static int
scan_shape(struct scan *s, struct tensor *t)
{
	uint64_t n;

	if (expect(s, '[') < 0)
		return E_DATA;
	if (take(s, ']'))
		return 0;
	do {
		if (t->rank == TENSOR_RANK)
			return err_set(E_DATA, "%s: tensor \"%s\" has more than %d dimensions", s->path, s->name.p, TENSOR_RANK);
		if (scan_number(s, &n) < 0)
			return E_DATA;
		t->shape[t->rank++] = (int64_t)n;
	} while (take(s, ','));
	return expect(s, ']');
}

static int
scan_dtype(struct scan *s, struct tensor *t)
{
	if (scan_text(s, &s->word) < 0)
		return E_DATA;
	if (s->word.n != strlen(buf_text(&s->word)) || dtype_find(&t->type, buf_text(&s->word)) < 0)
		return err_set(E_DATA, "%s: tensor \"%s\": dtype \"%.32s\" is not known", s->path, s->name.p, buf_text(&s->word));
	return 0;
}

static int
scan_offsets(struct scan *s, struct found *f)
{
	if (expect(s, '[') < 0 || scan_number(s, &f->begin) < 0 || expect(s, ',') < 0 || scan_number(s, &f->end) < 0)
		return E_DATA;
	return expect(s, ']');
}

/* {"dtype": .., "shape": .., "data_offsets": ..}, in any order. */
static int
scan_tensor(struct scan *s, struct found *f)
{
	static const char *const fields[] = {"dtype", "shape", "data_offsets"};
	unsigned seen = 0;

	if (expect(s, '{') < 0)
		return E_DATA;
	do {
		unsigned k = 0;

		if (scan_text(s, &s->word) < 0 || expect(s, ':') < 0)
			return E_DATA;
		while (k < 3 && strcmp(fields[k], buf_text(&s->word)) != 0)
			k++;
		if (k == 3 || seen & 1u << k)
			return err_set(E_DATA, "%s: tensor \"%s\": field \"%.32s\" is %s", s->path, s->name.p,
			               buf_text(&s->word), k == 3 ? "not known" : "there twice");
		seen |= 1u << k;
		if ((k == 0 ? scan_dtype(s, &f->t) : k == 1 ? scan_shape(s, &f->t) : scan_offsets(s, f)) < 0)
			return E_DATA;
	} while (take(s, ','));
	if (expect(s, '}') < 0)
		return E_DATA;
	for (unsigned k = 0; k < 3; k++)
		if (!(seen & 1u << k))
			return err_set(E_DATA, "%s: tensor \"%s\" has no %s", s->path, s->name.p, fields[k]);
	return 0;
}

/* Names go into messages, manifests and file formats: texts without control characters, of bounded length. */
static int
check_name(const struct scan *s)
{
	if (s->name.n == 0)
		return err_set(E_DATA, "%s: a tensor has an empty name", s->path);
	if (s->name.n > NAME_MAX_BYTES)
		return err_set(E_DATA, "%s: tensor \"%.40s...\": a name of %zu bytes, wanted at most %d", s->path, s->name.p,
		               s->name.n, NAME_MAX_BYTES);
	for (size_t i = 0; i < s->name.n; i++)
		if ((unsigned char)s->name.p[i] < ' ' || s->name.p[i] == 0x7f)
			return err_set(E_DATA, "%s: a tensor's name has control character 0x%02x at byte %zu", s->path,
			               (unsigned char)s->name.p[i], i);
	return 0;
}

/* Shape times dtype is the span, and the span lies inside the data. */
static int
check_span(const struct scan *s, struct found *f, size_t data)
{
	size_t bytes = tensor_bytes(&f->t);

	if (bytes == SIZE_MAX)
		return err_set(E_DATA, "%s: tensor \"%s\": its shape has more bytes than a file can", s->path, s->name.p);
	if (f->end < f->begin)
		return err_set(E_DATA, "%s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64 "] end before they begin",
		               s->path, s->name.p, f->begin, f->end);
	if (f->end > data)
		return err_set(E_DATA, "%s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64 "] reach past the %zu bytes of data",
		               s->path, s->name.p, f->begin, f->end, data);
	if (f->end - f->begin != bytes)
		return err_set(E_DATA, "%s: tensor \"%s\": shape and dtype take %zu bytes, data_offsets %" PRIu64, s->path,
		               s->name.p, bytes, f->end - f->begin);
	f->t.bytes = bytes;
	return 0;
}

static struct found *
add_found(struct found_list *l)
{
	struct found *f;

	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		l->v = mem_grow(l->v, l->cap, sizeof(*l->v));
	}
	f = &l->v[l->n];
	*f = (struct found){.order = l->n};
	l->n++;
	return f;
}

static int
scan_entry(struct scan *s, struct safetensors *st, struct found_list *l, size_t data, bool *metadata)
{
	struct found *f;
	bool added;

	if (scan_text(s, &s->name) < 0 || check_name(s) < 0 || expect(s, ':') < 0)
		return E_DATA;
	if (strcmp(s->name.p, "__metadata__") == 0) {
		if (*metadata)
			return err_set(E_DATA, "%s: __metadata__ is there twice", s->path);
		*metadata = true;
		return scan_metadata(s);
	}
	map_put(&st->by_name, s->name.p, &added);
	if (!added)
		return err_set(E_DATA, "%s: two tensors are named \"%s\"", s->path, s->name.p);
	f = add_found(l);
	if (scan_tensor(s, f) < 0 || check_span(s, f, data) < 0)
		return E_DATA;
	f->t.name = mem_text(s->name.p);
	return 0;
}

static int
scan_header(struct scan *s, struct safetensors *st, struct found_list *l, size_t data)
{
	bool metadata = false;

	if (expect(s, '{') < 0)
		return E_DATA;
	if (!take(s, '}')) {
		do {
			if (scan_entry(s, st, l, data, &metadata) < 0)
				return E_DATA;
		} while (take(s, ','));
		if (expect(s, '}') < 0)
			return E_DATA;
	}
	skip_space(s);
	return s->at == s->end ? 0 : bad(s, "spaces to the end");
}

/* ---- the whole ---- */

static int
by_offset(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	if (x->end != y->end)
		return x->end < y->end ? -1 : 1;
	return x->order < y->order ? -1 : 1;
}

static int
gap(const char *path, uint64_t from, uint64_t to)
{
	return err_set(E_DATA, "%s: bytes %" PRIu64 " to %" PRIu64 " of the data belong to no tensor", path, from, to);
}

/* Every byte of the data belongs to one tensor.  l is in order of offset. */
static int
check_dense(const struct found_list *l, const char *path, size_t data)
{
	uint64_t at = 0;

	for (size_t i = 0; i < l->n; i++) {
		const struct found *f = &l->v[i];

		if (f->begin > at)
			return gap(path, at, f->begin);
		if (f->begin < at)
			return err_set(E_DATA, "%s: tensors \"%s\" and \"%s\" overlap at byte %" PRIu64 " of the data", path,
			               l->v[i - 1].t.name, f->t.name, f->begin);
		at = f->end;
	}
	return at == data ? 0 : gap(path, at, data);
}

static void
keep(struct safetensors *s, struct found_list *l, const unsigned char *data)
{
	s->v = mem_new(l->n ? l->n : 1, sizeof(*s->v));
	s->n = l->n;
	for (size_t i = 0; i < l->n; i++) {
		s->v[i] = l->v[i].t;
		s->v[i].p = data + l->v[i].begin;
		s->by_name.v[l->v[i].order].v.i = (int64_t)i;
	}
	l->n = 0;
}

static int
header_size(const struct file_view *v, const char *path, uint64_t *n)
{
	*n = 0;
	if (v->n < 8)
		return err_set(E_DATA, "%s: %zu bytes are too few for a safetensors file", path, v->n);
	for (int i = 0; i < 8; i++)
		*n |= (uint64_t)v->p[i] << 8 * i;
	if (*n > HEADER_MAX)
		return err_set(E_DATA, "%s: a header of %" PRIu64 " bytes, wanted at most %d", path, *n, HEADER_MAX);
	if (*n > v->n - 8)
		return err_set(E_DATA, "%s: a header of %" PRIu64 " bytes in a file of %zu: cut off, or no safetensors file", path,
		               *n, v->n);
	return 0;
}

static int
read_header(struct safetensors *s, const char *path)
{
	struct scan scan = {.path = path};
	struct found_list l = {0};
	uint64_t n;
	size_t data;
	int r = header_size(&s->view, path, &n);

	if (r < 0)
		return r;
	data = s->view.n - 8 - (size_t)n;
	scan.start = scan.at = (const char *)s->view.p + 8;
	scan.end = scan.start + n;
	r = scan_header(&scan, s, &l, data);
	if (r == 0 && l.n > 0)
		qsort(l.v, l.n, sizeof(*l.v), by_offset);
	if (r == 0)
		r = check_dense(&l, path, data);
	if (r == 0)
		keep(s, &l, s->view.p + 8 + n);
	for (size_t i = 0; i < l.n; i++)
		free(l.v[i].t.name);
	free(l.v);
	buf_release(&scan.name);
	buf_release(&scan.word);
	return r;
}

int
safetensors_open(struct safetensors *s, const char *path)
{
	int r;

	*s = (struct safetensors){0};
	r = file_map(&s->view, path);
	if (r == 0)
		r = read_header(s, path);
	if (r < 0)
		safetensors_close(s);
	return r;
}

void
safetensors_close(struct safetensors *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i].name);
	free(s->v);
	map_release(&s->by_name);
	file_unmap(&s->view);
	*s = (struct safetensors){0};
}

const struct tensor *
safetensors_find(const struct safetensors *s, const char *name)
{
	const struct map_entry *e = map_find(&s->by_name, name);

	return e ? &s->v[e->v.i] : NULL;
}

/* SIZE_MAX when no file can hold it. */
size_t
tensor_bytes(const struct tensor *t)
{
	size_t n = dtype_size(t->type);

	for (int i = 0; i < t->rank; i++)
		if (t->shape[i] == 0)
			return 0;
	for (int i = 0; i < t->rank; i++) {
		if (t->shape[i] < 0 || (uint64_t)t->shape[i] > (uint64_t)INT64_MAX / n)
			return SIZE_MAX;
		n *= (size_t)t->shape[i];
	}
	return n;
}
