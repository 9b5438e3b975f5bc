/* One column of texts of a Parquet file, row by row: what hubs store data sets in.
 *
 * Flat columns of byte arrays, required or optional; encodings plain, dictionary, delta length and delta; pages of both versions.  No
 * number of the file is believed before it is held against the bytes that are there.
 *
 * Source: apache/parquet-format, README.md, Encodings.md and src/main/thrift/parquet.thrift. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "stages/data/codec.h"
#include "stages/data/kind.h"
#include "stages/data/runs.h"
#include "stages/data/thrift.h"

enum { PAGE_MOST = 1 << 30, VALUES_MOST = 1 << 22 };        /* of a page: unpacked bytes, values */
enum { BYTE_ARRAY = 6 };             /* type of a column */
enum { REQUIRED, OPTIONAL, REPEATED };
enum { DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 };
enum { PLAIN = 0, PLAIN_DICTIONARY = 2, DELTA_LENGTH = 6, DELTA = 7, RLE_DICTIONARY = 8 };

struct text {
	const uint8_t *p;
	size_t n;
};

struct reader {
	const uint8_t *p;                /* the file */
	size_t n;
	const char *field;
	struct document_sink to;
	bool found, optional;            /* the column */
	struct buf others;               /* names of the columns that could be read */
	/* The chunk that is being read. */
	int codec;
	uint8_t *dictionary_bytes;
	struct text *dictionary;
	size_t dictionary_n;
};

static int
damaged(const char *what)
{
	return err_set(E_DATA, "no Parquet file, or a damaged one: %s", what);
}

/* ---- the footer ---- */

struct element {
	int64_t type, repetition, children;
	struct thrift_text name;
};

static struct element
read_element(struct thrift *t)
{
	struct element e = {.type = -1};
	struct thrift_field f = {0};

	while (thrift_next(t, &f))
		switch (f.id) {
		case 1: e.type = thrift_int(t, &f); break;
		case 3: e.repetition = thrift_int(t, &f); break;
		case 4: e.name = thrift_string(t, &f); break;
		case 5: e.children = thrift_int(t, &f); break;
		default: thrift_skip(t, f.type);
		}
	return e;
}

static bool
is_field(const struct reader *r, struct thrift_text name)
{
	return name.n == strlen(r->field) && memcmp(name.p, r->field, name.n) == 0;
}

/* The schema is a tree, parents first; columns are what hangs on the root. */
static int
read_schema(struct reader *r, struct thrift *t, const struct thrift_field *f)
{
	enum thrift_type of;
	size_t n = thrift_list(t, f, &of);
	int64_t inner = 0;               /* elements still to come below a column */

	for (size_t i = 0; i < n && !t->bad; i++) {
		struct element e = read_element(t);

		if (e.children < 0 || e.children > (int64_t)n)
			return damaged("a schema with children that are not there");
		if (i == 0)
			continue;
		if (inner > 0) {
			inner += e.children - 1;
			continue;
		}
		inner = e.children;
		if (e.children == 0 && e.type == BYTE_ARRAY && e.repetition != REPEATED) {
			buf_printf(&r->others, "%s%.*s", r->others.n ? ", " : "", (int)(e.name.n < 100 ? e.name.n : 100), e.name.p);
			r->found = r->found || is_field(r, e.name);
			r->optional = is_field(r, e.name) ? e.repetition == OPTIONAL : r->optional;
		} else if (is_field(r, e.name)) {
			return err_set(E_USE, "the column '%s' holds no texts, but numbers, lists or records", r->field);
		}
	}
	return 0;
}

/* ---- values ---- */

/* The values of a page: they come one after another. */
struct values {
	const uint8_t *p, *end;
	int64_t encoding;
	struct runs indices;
	int64_t *lengths, *prefixes;     /* of delta encodings */
	struct buf last;                 /* of DELTA: the text before */
	size_t at, n;                    /* values read, and there */
};

static bool
read_plain(const uint8_t **p, const uint8_t *end, struct text *v)
{
	uint32_t n;

	if (end - *p < 4)
		return false;
	n = (uint32_t)(*p)[0] | (uint32_t)(*p)[1] << 8 | (uint32_t)(*p)[2] << 16 | (uint32_t)(*p)[3] << 24;
	*p += 4;
	if (n > (size_t)(end - *p))
		return false;
	*v = (struct text){*p, n};
	*p += n;
	return true;
}

static bool
read_tail(struct values *v, struct text *to)
{
	int64_t n = v->lengths[v->at];

	if (n < 0 || n > v->end - v->p)
		return false;
	*to = (struct text){v->p, (size_t)n};
	v->p += n;
	return true;
}

/* The start of the text before, and what follows. */
static bool
read_delta(struct values *v, struct text *to)
{
	int64_t keep = v->prefixes[v->at];
	struct text tail;

	if (keep < 0 || keep > (int64_t)v->last.n || !read_tail(v, &tail) || v->last.n + tail.n > PAGE_MOST)
		return false;
	v->last.n = (size_t)keep;
	buf_add(&v->last, tail.p, tail.n);
	*to = (struct text){(const uint8_t *)buf_text(&v->last), v->last.n};
	return true;
}

static bool
read_value(const struct reader *r, struct values *v, struct text *to)
{
	bool good = false;
	uint32_t i;

	switch (v->encoding) {
	case PLAIN: good = read_plain(&v->p, v->end, to); break;
	case DELTA_LENGTH: good = v->at < v->n && read_tail(v, to); break;
	case DELTA: good = v->at < v->n && read_delta(v, to); break;
	default:
		i = runs_next(&v->indices);
		good = !v->indices.bad && i < r->dictionary_n;
		if (good)
			*to = r->dictionary[i];
	}
	v->at++;
	return good;
}

/* n: values there at most; as many as lengths must be. */
static bool
begin_values(struct values *v, size_t n)
{
	v->n = n;
	if (v->encoding == PLAIN_DICTIONARY || v->encoding == RLE_DICTIONARY) {
		if (v->p == v->end)
			return n == 0;
		v->indices = (struct runs){.p = v->p + 1, .end = v->end, .width = v->p[0]};
		return v->p[0] <= 32;
	}
	if (v->encoding == DELTA_LENGTH || v->encoding == DELTA) {
		v->lengths = mem_new(n + 1, sizeof(*v->lengths));
		v->prefixes = mem_new(n + 1, sizeof(*v->prefixes));
		if (v->encoding == DELTA && !deltas_read(v->prefixes, n, &v->p, v->end))
			return false;
		return deltas_read(v->lengths, n, &v->p, v->end);
	}
	return v->encoding == PLAIN;
}

static void
end_values(struct values *v)
{
	free(v->lengths);
	free(v->prefixes);
	buf_release(&v->last);
}

/* ---- pages ---- */

struct page {
	int64_t type, size, packed;      /* bytes unpacked, and as they lie */
	int64_t n, nulls, encoding, def_bytes, rep_bytes;
	bool plain;                      /* version 2: values are not packed, whatever the codec */
};

static void
read_page_part(struct thrift *t, const struct thrift_field *outer, struct page *g)
{
	struct thrift_field f = {0};

	if (outer->type != THRIFT_STRUCT) {
		thrift_skip(t, outer->type);
		return;
	}
	while (thrift_next(t, &f)) {
		bool second = outer->id == 8;

		if (f.id == 1)
			g->n = thrift_int(t, &f);
		else if (f.id == (second ? 4 : 2))
			g->encoding = thrift_int(t, &f);
		else if (second && f.id == 2)
			g->nulls = thrift_int(t, &f);
		else if (second && f.id == 5)
			g->def_bytes = thrift_int(t, &f);
		else if (second && f.id == 6)
			g->rep_bytes = thrift_int(t, &f);
		else if (second && f.id == 7)
			g->plain = !thrift_bool(&f);
		else
			thrift_skip(t, f.type);
	}
}

static struct page
read_page_head(struct thrift *t)
{
	struct page g = {.type = -1};
	struct thrift_field f = {0};

	while (thrift_next(t, &f))
		switch (f.id) {
		case 1: g.type = thrift_int(t, &f); break;
		case 2: g.size = thrift_int(t, &f); break;
		case 3: g.packed = thrift_int(t, &f); break;
		case 5: case 7: case 8: read_page_part(t, &f, &g); break;
		default: thrift_skip(t, f.type);
		}
	return g;
}

static int
take_dictionary(struct reader *r, const struct page *g, uint8_t *bytes)
{
	const uint8_t *p = bytes, *end = bytes + g->size;

	if (r->dictionary || g->n > g->size / 4 || (g->encoding != PLAIN && g->encoding != PLAIN_DICTIONARY)) {
		free(bytes);
		return damaged("its dictionary");
	}
	r->dictionary_bytes = bytes;
	r->dictionary = mem_new((size_t)g->n + 1, sizeof(*r->dictionary));
	for (r->dictionary_n = 0; r->dictionary_n < (size_t)g->n; r->dictionary_n++)
		if (!read_plain(&p, end, &r->dictionary[r->dictionary_n]))
			return damaged("its dictionary");
	return 0;
}

/* Texts of g, whose levels have been set apart; absent ones and empty ones are no documents. */
static int
give_values(const struct reader *r, const struct page *g, struct runs *levels, struct values *v)
{
	int rc = 0;

	for (int64_t i = 0; i < g->n && rc == 0; i++) {
		struct text text;

		if (r->optional && runs_next(levels) == 0) {
			if (levels->bad)
				return damaged("its levels");
			continue;
		}
		if (!read_value(r, v, &text))
			return damaged("its values");
		if (text.n > 0)
			rc = r->to.document(r->to.own, (const char *)text.p, text.n);
	}
	return rc;
}

/* How many of g's values are not absent. */
static size_t
count_values(const struct reader *r, const struct page *g, struct runs levels)
{
	size_t n = 0;

	for (int64_t i = 0; i < g->n && !levels.bad; i++)
		n += !r->optional || runs_next(&levels) != 0;
	return n;
}

/* bytes: g unpacked.  Version 1 has the levels' length before them. */
static int
give_page(const struct reader *r, const struct page *g, const uint8_t *bytes)
{
	struct values v = {.p = bytes, .end = bytes + g->size, .encoding = g->encoding};
	struct runs levels = {.width = 1};
	struct text first = {bytes, 0};
	int rc;

	if (g->type == DATA_PAGE_V2) {
		first = (struct text){bytes + g->rep_bytes, (size_t)g->def_bytes};
		v.p = bytes + g->rep_bytes + g->def_bytes;
	} else if (r->optional && !read_plain(&v.p, v.end, &first)) {
		return damaged("its levels");
	}
	levels.p = first.p;
	levels.end = first.p + first.n;
	rc = begin_values(&v, count_values(r, g, levels)) ? give_values(r, g, &levels, &v)
	     : err_set(E_DATA, "the column '%s' has a page in an encoding that is not read (%" PRId64 "), or a damaged one", r->field,
	               g->encoding);
	end_values(&v);
	return rc;
}

/* Of version 2 the levels lie before the values, and are never packed. */
static int
unpack(const struct reader *r, const struct page *g, const uint8_t *from, uint8_t *to)
{
	size_t before = g->type == DATA_PAGE_V2 ? (size_t)(g->def_bytes + g->rep_bytes) : 0;

	memcpy(to, from, before);
	return codec_unpack(g->plain ? 0 : r->codec, to + before, (size_t)g->size - before, from + before, (size_t)g->packed - before);
}

static bool
is_possible(const struct page *g, int64_t left)
{
	int64_t levels = g->type == DATA_PAGE_V2 ? g->def_bytes + g->rep_bytes : 0;

	return g->size >= 0 && g->size <= PAGE_MOST && g->packed >= 0 && g->packed <= left && g->n >= 0 && g->n <= VALUES_MOST
	       && g->def_bytes >= 0 && g->def_bytes <= left && g->rep_bytes >= 0 && g->rep_bytes <= left && levels <= g->size
	       && levels <= g->packed;
}

static int
read_page(struct reader *r, const struct page *g, const uint8_t *from)
{
	uint8_t *bytes = malloc((size_t)g->size + 1);
	int rc;

	if (!bytes)
		return err_set(E_SYS, "no memory for a page of %" PRId64 " bytes", g->size);
	rc = unpack(r, g, from, bytes);
	if (rc == 0 && g->type == DICTIONARY_PAGE)
		return take_dictionary(r, g, bytes);
	if (rc == 0)
		rc = give_page(r, g, bytes);
	free(bytes);
	return rc;
}

/* ---- chunks ---- */

struct chunk {
	int64_t type, codec, n, bytes, data, dictionary;
	bool ours, elsewhere;
};

static bool
read_path(const struct reader *r, struct thrift *t, const struct thrift_field *f)
{
	enum thrift_type of;
	size_t n = thrift_list(t, f, &of);
	bool ours = n == 1 && of == THRIFT_TEXT;

	for (size_t i = 0; i < n && !t->bad; i++) {
		struct thrift_field item = {.type = of};
		struct thrift_text name = thrift_string(t, &item);

		ours = ours && is_field(r, name);
	}
	return ours;
}

static void
read_chunk_meta(const struct reader *r, struct thrift *t, struct chunk *c)
{
	struct thrift_field f = {0};

	while (thrift_next(t, &f))
		switch (f.id) {
		case 1: c->type = thrift_int(t, &f); break;
		case 3: c->ours = read_path(r, t, &f); break;
		case 4: c->codec = thrift_int(t, &f); break;
		case 5: c->n = thrift_int(t, &f); break;
		case 7: c->bytes = thrift_int(t, &f); break;
		case 9: c->data = thrift_int(t, &f); break;
		case 11: c->dictionary = thrift_int(t, &f); break;
		default: thrift_skip(t, f.type);
		}
}

static int
read_pages(struct reader *r, const struct chunk *c)
{
	int64_t at = c->dictionary > 0 && c->dictionary < c->data ? c->dictionary : c->data, left = c->n;
	struct thrift t;
	int rc = 0;

	if (c->n == 0)
		return 0;
	if (c->type != BYTE_ARRAY || at < 4 || c->bytes < 0 || at > (int64_t)r->n || c->bytes > (int64_t)r->n - at)
		return damaged("a column that is not where it should be");
	t = (struct thrift){.p = r->p + at, .end = r->p + at + c->bytes};
	r->codec = (int)c->codec;
	while (left > 0 && rc == 0) {
		struct page g = read_page_head(&t);

		if (t.bad || !is_possible(&g, t.end - t.p))
			return damaged("a page's head");
		if (g.type == DATA_PAGE || g.type == DATA_PAGE_V2 || g.type == DICTIONARY_PAGE)
			rc = read_page(r, &g, t.p);
		if (g.type == DATA_PAGE || g.type == DATA_PAGE_V2)
			left -= g.n > 0 ? g.n : left + 1;      /* a page of nothing would go on for ever */
		t.p += g.packed;
	}
	return rc == 0 && left < 0 ? damaged("a column with another number of values than it says") : rc;
}

static int
read_chunk(struct reader *r, struct thrift *t)
{
	struct chunk c = {0};
	struct thrift_field f = {0};
	int rc;

	while (thrift_next(t, &f))
		if (f.id == 3 && f.type == THRIFT_STRUCT)
			read_chunk_meta(r, t, &c);
		else if (f.id == 1)
			c.elsewhere = thrift_string(t, &f).n > 0;
		else
			thrift_skip(t, f.type);
	if (t->bad || !c.ours)
		return 0;
	if (c.elsewhere)
		return err_set(E_DATA, "the column '%s' is kept in another file", r->field);
	rc = read_pages(r, &c);
	free(r->dictionary);
	free(r->dictionary_bytes);
	r->dictionary = NULL;
	r->dictionary_bytes = NULL;
	r->dictionary_n = 0;
	return rc;
}

static int
read_group(struct reader *r, struct thrift *t)
{
	struct thrift_field f = {0};
	int rc = 0;

	while (rc == 0 && thrift_next(t, &f)) {
		enum thrift_type of;
		size_t n;

		if (f.id != 1) {
			thrift_skip(t, f.type);
			continue;
		}
		n = thrift_list(t, &f, &of);
		for (size_t i = 0; i < n && rc == 0 && !t->bad; i++)
			rc = read_chunk(r, t);
	}
	return rc;
}

static int
check_column(const struct reader *r)
{
	if (r->found)
		return 0;
	return err_set(E_USE, "no column '%s'; `field` names the one that holds the text (%s)", r->field,
	               r->others.n ? buf_text(&r->others) : "none does");
}

static int
read_groups(struct reader *r, struct thrift *t, const struct thrift_field *f)
{
	enum thrift_type of;
	size_t n = thrift_list(t, f, &of);
	int rc = check_column(r);

	for (size_t i = 0; i < n && rc == 0 && !t->bad; i++)
		rc = read_group(r, t);
	return rc;
}

static int
read_footer(struct reader *r, struct thrift *t)
{
	struct thrift_field f = {0};
	int rc = 0;

	while (rc == 0 && thrift_next(t, &f))
		if (f.id == 2)
			rc = read_schema(r, t, &f);
		else if (f.id == 4)
			rc = read_groups(r, t, &f);
		else
			thrift_skip(t, f.type);
	return rc == 0 && t->bad ? damaged("its footer") : rc;
}

int
read_parquet(const char *path, const char *content, size_t n, const char *field, struct document_sink to)
{
	struct reader r = {.p = (const uint8_t *)content, .n = n, .field = field, .to = to};
	const uint8_t *tail = r.p + n - (n < 8 ? n : 8);
	struct thrift t;
	size_t size;
	int rc;

	(void)path;
	if (n < 12 || memcmp(content, "PAR1", 4) != 0)
		return damaged("it does not begin with PAR1");
	if (memcmp(tail + 4, "PAR1", 4) != 0)
		return memcmp(tail + 4, "PARE", 4) == 0 ? err_set(E_DATA, "an encrypted Parquet file")
		                                        : damaged("it does not end with PAR1");
	size = (size_t)tail[0] | (size_t)tail[1] << 8 | (size_t)tail[2] << 16 | (size_t)tail[3] << 24;
	if (size > n - 12)
		return damaged("its footer is longer than the file");
	t = (struct thrift){.p = tail - size, .end = tail};
	rc = read_footer(&r, &t);
	buf_release(&r.others);
	return rc;
}
