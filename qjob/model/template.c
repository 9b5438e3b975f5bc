#include "qjob/model/template.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"

enum { DEPTH = 16, TEXTS = 8 /* how often a template may repeat the text */, TEXT = -1 };

struct template {
	struct ids pieces;           /* ids, and TEXT for those of the text */
	int32_t top;
	size_t texts;
	bool set;                    /* false: no component that adds ids; the text alone */
};

static int
add_id(struct template *t, const json_t *id, const char *name)
{
	json_int_t i = json_integer_value(id);

	if (!json_is_integer(id) || i < 0 || i >= INT32_MAX)
		return err_set(E_DATA, "%s: an id is not a whole number from 0 to %d", name, INT32_MAX - 1);
	ids_add(&t->pieces, (int32_t)i);
	if (i > t->top)
		t->top = (int32_t)i;
	return 0;
}

static int
add_text(struct template *t, const char *name)
{
	if (t->texts++ == TEXTS)
		return err_set(E_USE, "%s repeats the text more than %d times", name, TEXTS);
	ids_add(&t->pieces, TEXT);
	return 0;
}

/* {"SpecialToken": {"id": "<s>"}} or {"Sequence": {"id": "A"}} */
static int
read_piece(struct template *t, const json_t *piece, const json_t *specials, const char *name)
{
	const json_t *sequence = json_object_get(piece, "Sequence");
	const char *id = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
	const char *which = json_string_value(json_object_get(sequence, "id"));
	const json_t *ids;
	json_t *value;
	size_t i;
	int rc;

	if (which != NULL && strcmp(which, "A") == 0)
		return add_text(t, name);
	if (which != NULL)
		return err_set(E_USE, "%s: 'single' has the sequence '%.80s', known: A", name, which);
	if (id == NULL)
		return err_set(E_DATA, "%s: 'single' has a piece that is neither a SpecialToken nor a Sequence", name);
	ids = json_object_get(json_object_get(specials, id), "ids");
	if (!json_is_array(ids))
		return err_set(E_DATA, "%s: special_tokens does not say what '%.80s' is", name, id);
	json_array_foreach((json_t *)ids, i, value) {
		rc = add_id(t, value, name);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int
read_template(struct template *t, const json_t *j, const char *name)
{
	const json_t *single = json_object_get(j, "single"), *specials = json_object_get(j, "special_tokens");
	json_t *piece;
	size_t i;
	int rc;

	if (!json_is_array(single))
		return err_set(E_DATA, "%s: TemplateProcessing has no list 'single'", name);
	json_array_foreach((json_t *)single, i, piece) {
		rc = read_piece(t, piece, specials, name);
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* {"cls": ["<s>", 0], "sep": ["</s>", 2]}: cls, the text, sep. */
static int
read_bert(struct template *t, const json_t *j, const char *name)
{
	int rc = add_id(t, json_array_get(json_object_get(j, "cls"), 1), name);

	if (rc == 0)
		rc = add_text(t, name);
	return rc != 0 ? rc : add_id(t, json_array_get(json_object_get(j, "sep"), 1), name);
}

static const struct kind {
	const char *name;
	int (*read)(struct template *t, const json_t *j, const char *name);     /* NULL: adds no ids */
} kinds[] = {
	{"ByteLevel",          NULL},
	{"TemplateProcessing", read_template},
	{"BertProcessing",     read_bert},
	{"RobertaProcessing",  read_bert},
};

static int
read_steps(struct template *t, const json_t *j, const char *name, int depth)
{
	const char *type = json_string_value(json_object_get(j, "type"));
	const json_t *list = json_object_get(j, "processors");
	json_t *item;
	size_t i;
	int rc;

	if (type == NULL)
		return err_set(E_DATA, "%s has no type", name);
	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		if (strcmp(kinds[i].name, type) != 0)
			continue;
		if (kinds[i].read == NULL)
			return 0;
		if (t->set)
			return err_set(E_USE, "%s: a second component that adds ids is not supported ('%s')", name, type);
		t->set = true;
		return kinds[i].read(t, j, name);
	}
	if (strcmp(type, "Sequence") != 0)
		return err_set(E_USE, "%s '%.80s' is not known; known: ByteLevel, TemplateProcessing, BertProcessing, "
		               "RobertaProcessing, Sequence", name, type);
	if (!json_is_array(list) || depth == DEPTH)
		return err_set(E_DATA, "%s: a Sequence has no list of processors, or lies too deep", name);
	json_array_foreach((json_t *)list, i, item) {
		rc = read_steps(t, item, name, depth + 1);
		if (rc != 0)
			return rc;
	}
	return 0;
}

int
template_parse(struct template **out, const json_t *j, const char *name)
{
	struct template *t = mem_new(1, sizeof(*t));
	int rc;

	t->top = -1;
	rc = j == NULL || json_is_null(j) ? 0 : read_steps(t, j, name, 0);
	if (rc != 0) {
		template_free(t);
		t = NULL;
	}
	*out = t;
	return rc;
}

void
template_free(struct template *t)
{
	if (t == NULL)
		return;
	ids_release(&t->pieces);
	free(t);
}

int32_t
template_top(const struct template *t)
{
	return t->top;
}

void
template_apply(const struct template *t, bool special, struct ids *out, size_t from)
{
	size_t n = out->n - from;
	struct ids text = {0};

	if (!t->set || (!special && t->texts == 1))
		return;
	for (size_t i = 0; i < n; i++)
		ids_add(&text, out->v[from + i]);
	out->n = from;
	for (size_t i = 0; i < t->pieces.n; i++) {
		int32_t id = t->pieces.v[i];

		if (id != TEXT && special)
			ids_add(out, id);
		for (size_t k = 0; id == TEXT && k < n; k++)
			ids_add(out, text.v[k]);
	}
	ids_release(&text);
}
