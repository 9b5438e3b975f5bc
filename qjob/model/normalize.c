#include "qjob/model/normalize.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/model/chars.h"
#include "qjob/model/regex.h"

enum {
	STEPS = 64, DEPTH = 16,
	MARKS = 4096,                    /* in a row; ordering them takes the square of their number */
	LIMIT = 64 << 20, GROWTH = 32,   /* bytes that may come out: LIMIT, or GROWTH times what went in */
};

struct step {
	const struct kind *kind;
	int form;                        /* of utf8proc */
	bool left, right;
	char *content;                   /* Prepend, Replace */
	size_t ncontent;
	struct regex *regex;
};

struct kind {
	const char *name;
	int (*read)(struct step *s, const json_t *j, const char *name);      /* may be NULL */
	int (*apply)(const struct step *s, const struct buf *in, struct buf *out);
	int form;
};

struct normalizer {
	struct step v[STEPS];
	size_t n;
};

/* ---- what each does ---- */

static int
check_marks(const struct buf *in)
{
	size_t run = 0;

	for (size_t i = 0; i < in->n; i += chars_length(in->p + i)) {
		const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)chars_code(in->p + i));

		run = p->combining_class != 0 ? run + 1 : 0;
		if (run > MARKS)
			return err_set(E_DATA, "the text has more than %d combining marks in a row at byte %zu", MARKS, i);
	}
	return 0;
}

static int
to_form(const struct step *s, const struct buf *in, struct buf *out)
{
	utf8proc_uint8_t *made = NULL;
	utf8proc_ssize_t n;
	int rc;

	if (chars_is_ascii(in->p, in->n)) {
		buf_add(out, in->p, in->n);
		return 0;
	}
	rc = check_marks(in);
	if (rc != 0)
		return rc;
	n = utf8proc_map((const utf8proc_uint8_t *)in->p, (utf8proc_ssize_t)in->n, &made, (utf8proc_option_t)s->form);
	if (n < 0)
		return err_set(n == UTF8PROC_ERROR_NOMEM ? E_SYS : E_DATA, "normalizing a text: %s", utf8proc_errmsg(n));
	buf_add(out, made, (size_t)n);
	free(made);
	return 0;
}

static int
lower(const struct step *s, const struct buf *in, struct buf *out)
{
	(void)s;
	for (size_t i = 0; i < in->n; i += chars_length(in->p + i)) {
		uint32_t c = chars_code(in->p + i);

		if (c == 0x130)          /* the only character whose lower case is two */
			buf_puts(out, "i\xcc\x87");
		else
			chars_add(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
	}
	return 0;
}

static int
strip_accents(const struct step *s, const struct buf *in, struct buf *out)
{
	(void)s;
	for (size_t i = 0, n; i < in->n; i += n) {
		utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)chars_code(in->p + i));

		n = chars_length(in->p + i);
		if (c != UTF8PROC_CATEGORY_MN && c != UTF8PROC_CATEGORY_MC && c != UTF8PROC_CATEGORY_ME)
			buf_add(out, in->p + i, n);
	}
	return 0;
}

static int
strip(const struct step *s, const struct buf *in, struct buf *out)
{
	size_t from = 0, to = in->n;

	while (s->left && from < to && chars_is_space(chars_code(in->p + from)))
		from += chars_length(in->p + from);
	while (s->right && to > from && chars_is_space(chars_code(in->p + chars_back(in->p, to))))
		to = chars_back(in->p, to);
	buf_add(out, in->p + from, to - from);
	return 0;
}

static int
prepend(const struct step *s, const struct buf *in, struct buf *out)
{
	if (in->n > 0)
		buf_add(out, s->content, s->ncontent);
	buf_add(out, in->p, in->n);
	return 0;
}

static int
check_growth(const struct buf *out, size_t size)
{
	size_t most = size > LIMIT / GROWTH ? size * GROWTH : LIMIT;

	if (out->n > most)
		return err_set(E_DATA, "the normalizer makes more than %zu bytes of a text", most);
	return 0;
}

static int
replace(const struct step *s, const struct buf *in, struct buf *out)
{
	struct finder *f = finder_new(s->regex);
	size_t done = 0, start, end;
	int rc;

	finder_start(f, buf_text(in), in->n);
	for (rc = finder_next(f, &start, &end); rc == 1; rc = rc < 0 ? rc : finder_next(f, &start, &end)) {
		buf_add(out, in->p + done, start - done);
		buf_add(out, s->content, s->ncontent);
		done = end;
		if (check_growth(out, in->n) != 0)
			rc = E_DATA;
	}
	buf_add(out, in->p + done, in->n - done);
	finder_free(f);
	return rc;
}

static int
to_bytes(const struct step *s, const struct buf *in, struct buf *out)
{
	(void)s;
	chars_bytes(out, in->p, in->n);
	return 0;
}

/* ---- reading ---- */

static int
read_text(struct step *s, const json_t *j, const char *key, const char *name)
{
	const json_t *text = json_object_get(j, key);

	if (!json_is_string(text))
		return err_set(E_DATA, "%s: %s of %s is not a text", name, key, s->kind->name);
	s->content = mem_new(json_string_length(text) + 1, 1);
	s->ncontent = json_string_length(text);
	memcpy(s->content, json_string_value(text), s->ncontent);
	return 0;
}

static int
read_strip(struct step *s, const json_t *j, const char *name)
{
	(void)name;
	s->left = json_is_true(json_object_get(j, "strip_left"));
	s->right = json_is_true(json_object_get(j, "strip_right"));
	return 0;
}

static int
read_prepend(struct step *s, const json_t *j, const char *name)
{
	return read_text(s, j, "prepend", name);
}

static int
read_replace(struct step *s, const json_t *j, const char *name)
{
	const json_t *pattern = json_object_get(j, "pattern");
	const json_t *regex = json_object_get(pattern, "Regex"), *text = json_object_get(pattern, "String");
	const json_t *use = regex != NULL ? regex : text;
	int rc = read_text(s, j, "content", name);

	if (rc != 0)
		return rc;
	if (!json_is_string(use))
		return err_set(E_DATA, "%s: pattern of Replace is neither {String: ..} nor {Regex: ..}", name);
	return regex_open(&s->regex, json_string_value(use), json_string_length(use), regex == NULL, name);
}

enum {
	FORM_C  = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
	FORM_D  = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
	FORM_KC = FORM_C | UTF8PROC_COMPAT,
	FORM_KD = FORM_D | UTF8PROC_COMPAT,
};

static const struct kind kinds[] = {
	{"NFC",          NULL,         to_form,       FORM_C},
	{"NFD",          NULL,         to_form,       FORM_D},
	{"NFKC",         NULL,         to_form,       FORM_KC},
	{"NFKD",         NULL,         to_form,       FORM_KD},
	{"Lowercase",    NULL,         lower,         0},
	{"Strip",        read_strip,   strip,         0},
	{"StripAccents", NULL,         strip_accents, 0},
	{"Prepend",      read_prepend, prepend,       0},
	{"Replace",      read_replace, replace,       0},
	{"ByteLevel",    NULL,         to_bytes,      0},
};

static int
unknown(const char *type, const char *name)
{
	struct buf known = {0};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		buf_printf(&known, "%s, ", kinds[i].name);
	err_set(E_USE, "%s '%.80s' is not known; known: %sSequence", name, type, buf_text(&known));
	buf_release(&known);
	return E_USE;
}

static int
read_steps(struct normalizer *n, const json_t *j, const char *name, int depth)
{
	const char *type = json_string_value(json_object_get(j, "type"));
	const json_t *list = json_object_get(j, "normalizers");
	json_t *item;
	size_t i;
	int rc;

	if (type == NULL)
		return err_set(E_DATA, "%s has no type", name);
	if (strcmp(type, "Sequence") == 0) {
		if (!json_is_array(list) || depth == DEPTH)
			return err_set(E_DATA, "%s: a Sequence has no list of normalizers, or lies too deep", name);
		json_array_foreach((json_t *)list, i, item) {
			rc = read_steps(n, item, name, depth + 1);
			if (rc != 0)
				return rc;
		}
		return 0;
	}
	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		if (strcmp(kinds[i].name, type) != 0)
			continue;
		if (n->n == STEPS)
			return err_set(E_DATA, "%s has more than %d steps", name, STEPS);
		n->v[n->n] = (struct step){.kind = &kinds[i], .form = kinds[i].form};
		return kinds[i].read == NULL ? (n->n++, 0) : kinds[i].read(&n->v[n->n++], j, name);
	}
	return unknown(type, name);
}

int
normalizer_parse(struct normalizer **out, const json_t *j, const char *name)
{
	struct normalizer *n = mem_new(1, sizeof(*n));
	int rc = j == NULL || json_is_null(j) ? 0 : read_steps(n, j, name, 0);

	if (rc != 0) {
		normalizer_free(n);
		n = NULL;
	}
	*out = n;
	return rc;
}

void
normalizer_free(struct normalizer *n)
{
	if (n == NULL)
		return;
	for (size_t i = 0; i < n->n; i++) {
		free(n->v[i].content);
		regex_close(n->v[i].regex);
	}
	free(n);
}

bool
normalizer_is_empty(const struct normalizer *n)
{
	return n->n == 0;
}

int
normalizer_apply(const struct normalizer *n, const char *text, size_t size, struct buf *out)
{
	struct buf in = {0};
	int rc = 0;

	buf_clear(out);
	buf_add(out, text, size);
	for (size_t i = 0; i < n->n && rc == 0; i++) {
		struct buf swap = in;

		in = *out;
		*out = swap;
		buf_clear(out);
		rc = n->v[i].kind->apply(&n->v[i], &in, out);
		if (rc == 0)
			rc = check_growth(out, size);
	}
	buf_release(&in);
	return rc;
}
