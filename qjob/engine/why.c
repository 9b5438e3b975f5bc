#include <stdlib.h>
#include <string.h>

#include "qjob/base/map.h"
#include "qjob/base/mem.h"
#include "qjob/engine/plan.h"

/* A line of a manifest, taken apart:
 *
 *     set quantize.bits 4               quantize.bits: 4 -> 3
 *     stage quantize 1                  stage quantize: version 1 -> 2
 *     library onednn 2.6.3              library onednn: 2.6.3 -> 3.1
 *     in tensor model.norm.weight ..    tensor model.norm.weight changed
 *     in activations sha256:..          input activations changed
 *     linear q_proj bits 4 sym true     linear q_proj: bits 4 -> 3
 *     device cpu                        device: cpu -> cuda */
struct fact {
	char *field;               /* "quantize.bits", as sentences name it */
	char *value;
	const char *sep;           /* between the two */
	bool input;                /* its value is a digest, which tells a person nothing */
	bool pairs;                /* its value may be names and values in turn */
};

struct facts {
	struct fact *v;
	size_t n;
	struct map by_field;       /* -> index; of several lines with one field each has its whole text as its field */
};

static char *
text_of(const char *p, const char *end)
{
	size_t n = end > p ? (size_t)(end - p) : 0;
	char *s = mem_new(n + 1, 1);

	if (n)
		memcpy(s, p, n);
	return s;
}

static bool
starts(const char *p, const char *end, const char *word)
{
	size_t n = strlen(word);

	return (size_t)(end - p) >= n && memcmp(p, word, n) == 0;
}

static struct fact
input_of(const char *p, const char *end)
{
	const char *digest = end;
	struct fact f = {.input = true};

	while (digest > p && digest[-1] != ' ')
		digest--;
	f.value = text_of(digest, end);
	f.field = text_of(p, digest > p ? digest - 1 : p);
	if (!strchr(f.field, ' ')) {
		char *named = mem_format("input %s", f.field);

		free(f.field);
		f.field = named;
	}
	return f;
}

static struct fact
fact_of(const char *p, const char *end)
{
	const char *one, *two;
	struct fact f = {.sep = ": "};

	if (starts(p, end, "in "))
		return input_of(p + 3, end);
	one = memchr(p, ' ', (size_t)(end - p));
	if (!one)
		return (struct fact){.field = text_of(p, end), .value = text_of(end, end), .sep = ""};
	two = memchr(one + 1, ' ', (size_t)(end - one - 1));
	if (!two)
		return (struct fact){.field = text_of(p, one), .value = text_of(one + 1, end), .sep = ": "};
	f.pairs = !starts(p, end, "set ");
	f.field = f.pairs ? text_of(p, two) : text_of(one + 1, two);
	f.value = text_of(two + 1, end);
	if (starts(p, end, "stage "))
		f.sep = ": version ";
	return f;
}

static void
keep(struct facts *all, struct fact f)
{
	struct map_entry *e;
	bool added;

	e = map_put(&all->by_field, f.field, &added);
	if (!added) {
		char *whole = mem_format("%s %s", f.field, f.value);

		free(f.field);
		f.field = whole;
		f.value[0] = '\0';
		f.sep = "";
		e = map_put(&all->by_field, whole, &added);
	}
	if (!added) {
		free(f.field);
		free(f.value);
		return;
	}
	e->v.i = (int64_t)all->n;
	if ((all->n & (all->n - 1)) == 0)
		all->v = mem_grow(all->v, all->n ? 2 * all->n : 1, sizeof(*all->v));
	all->v[all->n++] = f;
}

static void
take_apart(struct facts *all, const char *text)
{
	const char *end;

	for (; *text; text = *end ? end + 1 : end) {
		end = strchr(text, '\n');
		if (!end)
			end = text + strlen(text);
		if (end > text)
			keep(all, fact_of(text, end));
	}
}

static void
facts_release(struct facts *all)
{
	for (size_t i = 0; i < all->n; i++) {
		free(all->v[i].field);
		free(all->v[i].value);
	}
	free(all->v);
	map_release(&all->by_field);
}

static const struct fact *
same_field(const struct facts *all, const struct fact *f)
{
	const struct map_entry *e = map_find(&all->by_field, f->field);

	return e ? &all->v[e->v.i] : NULL;
}

/* Steps over a word and the space behind it; returns its length. */
static size_t
take_word(const char **p, const char **word)
{
	size_t n = strcspn(*p, " ");

	*word = *p;
	*p += n + ((*p)[n] == ' ');
	return n;
}

static bool
is_same_word(const char *a, size_t n, const char *b, size_t m)
{
	return n == m && memcmp(a, b, n) == 0;
}

/* "bits 4 sym true" to "bits 3 sym true" is "bits 4 -> 3".  False, and nothing said, when they are not
 * pairs, two at least, of equal names. */
static bool
say_pairs(const char *was, const char *now, struct buf *out)
{
	struct buf said = {0};
	size_t pairs = 0;
	bool alike = true;

	while (alike && *was && *now) {
		const char *name, *old_name, *value, *old;
		size_t n = take_word(&now, &name), m = take_word(&was, &old_name);
		bool named = is_same_word(name, n, old_name, m);
		size_t k = take_word(&now, &value), l = take_word(&was, &old);

		alike = named && k && l && ((*name >= 'a' && *name <= 'z') || *name == '_');
		if (alike && !is_same_word(value, k, old, l))
			buf_printf(&said, "%s%.*s %.*s -> %.*s", said.n ? ", " : "", (int)n, name, (int)l, old, (int)k, value);
		pairs++;
	}
	alike = alike && !*was && !*now && pairs > 1;
	if (alike)
		buf_puts(out, buf_text(&said));
	buf_release(&said);
	return alike;
}

static void
say_change(const struct fact *old, const struct fact *f, struct buf *out)
{
	buf_printf(out, "%s%s", f->field, f->sep);
	if (!f->pairs || !say_pairs(old->value, f->value, out))
		buf_printf(out, "%s -> %s", old->value, f->value);
	buf_puts(out, "\n");
}

/* What has another value: it says more than what comes or goes with it. */
static void
say_changes(const struct facts *was, const struct facts *now, bool inputs, struct buf *out)
{
	for (size_t i = 0; i < now->n; i++) {
		const struct fact *f = &now->v[i], *old = same_field(was, f);

		if (f->input != inputs || !old || strcmp(old->value, f->value) == 0)
			continue;
		if (inputs)
			buf_printf(out, "%s changed\n", f->field);
		else
			say_change(old, f, out);
	}
}

static void
say_new(const struct facts *was, const struct fact *f, struct buf *out)
{
	if (same_field(was, f))
		return;
	if (f->input)
		buf_printf(out, "%s is new\n", f->field);
	else
		buf_printf(out, "%s%s%s is new\n", f->field, f->sep, f->value);
}

static void
say_gone(const struct facts *now, const struct fact *f, struct buf *out)
{
	if (same_field(now, f))
		return;
	if (f->input)
		buf_printf(out, "%s is no longer used\n", f->field);
	else
		buf_printf(out, "%s%s%s is gone\n", f->field, f->sep, f->value);
}

/* Inputs last: most of them change because something else did. */
void
why_diff(const char *old_manifest, const char *new_manifest, struct buf *out)
{
	struct facts was = {0}, now = {0};

	take_apart(&was, old_manifest);
	take_apart(&now, new_manifest);
	for (int inputs = 0; inputs < 2; inputs++) {
		say_changes(&was, &now, inputs == 1, out);
		for (size_t i = 0; i < now.n; i++)
			if (now.v[i].input == (inputs == 1))
				say_new(&was, &now.v[i], out);
		for (size_t i = 0; i < was.n; i++)
			if (was.v[i].input == (inputs == 1))
				say_gone(&now, &was.v[i], out);
	}
	facts_release(&was);
	facts_release(&now);
}
