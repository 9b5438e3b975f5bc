/* Oniguruma to PCRE2.  The differences that matter, and what becomes of them:
 *
 *     \s \S            PCRE2 counts U+180E as white space       -> \p{WSpace} \P{WSpace}
 *     \w \W            PCRE2 10.42 leaves out marks             -> the class of UTS 18 as Oniguruma has it
 *     \h \H            a hexadecimal digit, not a blank         -> its class
 *     \uHHHH           unknown to PCRE2                         -> \x{HHHH}
 *     \p{Han}          PCRE2 takes Script_Extensions            -> \p{sc:Han}
 *     \p{Letter}       PCRE2 knows only the short names         -> \p{L}
 *     (?m)             dot matches newlines                     -> (?s)
 *     {,3}             from zero                                -> {0,3}
 *     [[:punct:]] ..   other sets of characters                 -> Oniguruma's, as properties
 *     [a[bc]]          nested classes                           -> [abc]; negated ones and && are refused
 *     {1,3}+           repeats, PCRE2: possessive               -> refused */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "qjob/model/regex.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "qjob/base/err.h"

#define POSIX_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD       POSIX_WORD "\\xb2\\xb3\\xb9\\xbc-\\xbe"      /* Oniguruma counts the fractions of Latin-1 */
#define HEX        "0-9A-Fa-f"

static const struct { const char *name, *is; } categories[] = {
	{"Other", "C"}, {"Control", "Cc"}, {"Format", "Cf"}, {"Unassigned", "Cn"}, {"Private_Use", "Co"}, {"Surrogate", "Cs"},
	{"Letter", "L"}, {"Lowercase_Letter", "Ll"}, {"Modifier_Letter", "Lm"}, {"Other_Letter", "Lo"}, {"Titlecase_Letter", "Lt"},
	{"Uppercase_Letter", "Lu"}, {"Cased_Letter", "L&"}, {"Mark", "M"}, {"Combining_Mark", "M"}, {"Spacing_Mark", "Mc"},
	{"Enclosing_Mark", "Me"}, {"Nonspacing_Mark", "Mn"}, {"Number", "N"}, {"Decimal_Number", "Nd"}, {"Letter_Number", "Nl"},
	{"Other_Number", "No"}, {"Punctuation", "P"}, {"Connector_Punctuation", "Pc"}, {"Dash_Punctuation", "Pd"},
	{"Close_Punctuation", "Pe"}, {"Final_Punctuation", "Pf"}, {"Initial_Punctuation", "Pi"}, {"Other_Punctuation", "Po"},
	{"Open_Punctuation", "Ps"}, {"Symbol", "S"}, {"Currency_Symbol", "Sc"}, {"Modifier_Symbol", "Sk"}, {"Math_Symbol", "Sm"},
	{"Other_Symbol", "So"}, {"Separator", "Z"}, {"Line_Separator", "Zl"}, {"Paragraph_Separator", "Zp"}, {"Space_Separator", "Zs"},
	{"White_Space", "WSpace"}, {"Punct", "P"},
};

/* [:name:] and \p{name} */
static const struct { const char *name, *is; } sets[] = {
	{"alnum", "\\p{Alphabetic}\\p{Nd}"}, {"alpha", "\\p{Alphabetic}"}, {"ascii", "\\x00-\\x7f"}, {"blank", "\\p{Zs}\\t"},
	{"cntrl", "\\p{Cc}"}, {"digit", "\\p{Nd}"}, {"lower", "\\p{Lowercase}"}, {"punct", "\\p{P}\\p{S}"},
	{"space", "\\p{WSpace}"}, {"upper", "\\p{Uppercase}"}, {"word", POSIX_WORD}, {"xdigit", HEX},
};

struct rewrite {
	const char *p;           /* the pattern */
	size_t n, at;
	const char *name;
	struct buf *out;
	int classes;             /* how deep in [ ] */
};

static int
refuse(const struct rewrite *w, const char *what)
{
	return err_set(E_USE, "%s: pattern '%.200s': %s is not supported", w->name, w->p, what);
}

static char
look(const struct rewrite *w, size_t ahead)
{
	return w->at + ahead < w->n ? w->p[w->at + ahead] : '\0';
}

static void
copy(struct rewrite *w, size_t n)
{
	if (n > w->n - w->at)
		n = w->n - w->at;
	buf_add(w->out, w->p + w->at, n);
	w->at += n;
}

static bool
is_script(const char *name)
{
	char text[80];
	PCRE2_SIZE where;
	pcre2_code *code;
	int err;

	snprintf(text, sizeof(text), "\\p{sc:%s}", name);
	code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &err, &where, NULL);
	pcre2_code_free(code);
	return code != NULL;
}

/* A set of characters: its text inside [ ], or in a class of its own. */
static int
put_set(struct rewrite *w, const char *set, bool negated)
{
	if (w->classes > 0 && negated)
		return refuse(w, "a negated set inside [ ]");
	if (w->classes > 0)
		buf_puts(w->out, set);
	else
		buf_printf(w->out, "[%s%s]", negated ? "^" : "", set);
	return 0;
}

static const char *
set_of(const char *name)
{
	for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++)
		if (strcasecmp(sets[i].name, name) == 0)
			return sets[i].is;
	return NULL;
}

static const char *
category_of(const char *name)
{
	for (size_t i = 0; i < sizeof(categories) / sizeof(*categories); i++)
		if (strcasecmp(categories[i].name, name) == 0)
			return categories[i].is;
	return NULL;
}

/* At \p{ or \P{. */
static int
property(struct rewrite *w)
{
	const char *from = w->p + w->at + 3;
	const char *end = memchr(from, '}', w->n - w->at - 3);
	bool not, outer = w->p[w->at + 1] == 'P';
	const char *set, *is;
	char name[64];

	if (end == NULL || (size_t)(end - from) >= sizeof(name))
		return refuse(w, "a property without an end");
	not = *from == '^';
	snprintf(name, sizeof(name), "%.*s", (int)(end - from - not), from + not);
	w->at = (size_t)(end - w->p) + 1;
	is = category_of(name);
	set = strcasecmp(name, "word") == 0 ? WORD : set_of(name);
	if (is == NULL && set != NULL)
		return put_set(w, set, not != outer);
	buf_printf(w->out, "\\%c{", not != outer ? 'P' : 'p');
	buf_printf(w->out, "%s%s}", is == NULL && is_script(name) ? "sc:" : "", is != NULL ? is : name);
	return 0;
}

/* At [: inside a class. */
static int
posix_set(struct rewrite *w)
{
	const char *from = w->p + w->at + 2;
	const char *end = memchr(from, ':', w->n - w->at - 2);
	const char *set;
	char name[16];

	if (end == NULL || end + 1 == w->p + w->n || end[1] != ']')
		return refuse(w, "[: without :]");
	snprintf(name, sizeof(name), "%.*s", (int)(end - from < 15 ? end - from : 15), from);
	set = set_of(name);
	if (set == NULL)
		return refuse(w, "[: :] with this name");
	buf_puts(w->out, set);
	w->at = (size_t)(end - w->p) + 2;
	return 0;
}

static int
escape(struct rewrite *w)
{
	char c = look(w, 1);

	switch (c) {
	case 's': case 'S':
		buf_printf(w->out, "\\%c{WSpace}", c == 's' ? 'p' : 'P');
		w->at += 2;
		return 0;
	case 'w': case 'W':
	case 'h': case 'H':
		w->at += 2;
		return put_set(w, tolower((unsigned char)c) == 'w' ? WORD : HEX, isupper((unsigned char)c));
	case 'p': case 'P':
		if (look(w, 2) == '{')
			return property(w);
		break;
	case 'u':
		for (size_t i = 2; i < 6; i++)
			if (!isxdigit((unsigned char)look(w, i)))
				return refuse(w, "\\u without four hexadecimal digits");
		buf_printf(w->out, "\\x{%.4s}", w->p + w->at + 2);
		w->at += 6;
		return 0;
	case 'Q': case 'E': case 'C':
		return refuse(w, "\\Q, \\E or \\C");
	}
	copy(w, 2);
	return 0;
}

static int
open_class(struct rewrite *w)
{
	if (w->classes == 0) {
		size_t n = look(w, 1) == '^' ? 2 : 1;

		copy(w, look(w, n) == ']' ? n + 1 : n);       /* a ] that comes first stands for itself */
	} else if (look(w, 1) == ':') {
		return posix_set(w);
	} else if (look(w, 1) == '^' || look(w, 1) == ']') {
		return refuse(w, "a negated class inside [ ]");
	} else {
		w->at++;
		if (look(w, 0) == '-') {
			buf_puts(w->out, "\\-");
			w->at++;
		}
	}
	w->classes++;
	return 0;
}

static int
in_class(struct rewrite *w)
{
	switch (look(w, 0)) {
	case '\\':
		return escape(w);
	case '[':
		return open_class(w);
	case ']':
		if (--w->classes > 0)
			w->at++;
		else
			copy(w, 1);
		return 0;
	case '&':
		if (look(w, 1) == '&')
			return refuse(w, "&& inside [ ]");
		break;
	case '-':
		if (w->classes > 1 && look(w, 1) == ']')
			buf_puts(w->out, "\\");
		break;
	}
	copy(w, 1);
	return 0;
}

/* At (?, when what follows are option letters: m is Ruby's for s. */
static bool
options(struct rewrite *w)
{
	size_t n = 2;

	while (look(w, n) == '-' || isalpha((unsigned char)look(w, n)))
		n++;
	if (n == 2 || (look(w, n) != ':' && look(w, n) != ')') || look(w, 2) == 'P')
		return false;
	copy(w, 2);
	for (; n > 2; n--, w->at++)
		buf_printf(w->out, "%c", look(w, 0) == 'm' ? 's' : look(w, 0));
	return true;
}

static int
interval(struct rewrite *w)
{
	size_t n = 1;

	while (isdigit((unsigned char)look(w, n)) || look(w, n) == ',')
		n++;
	if (look(w, n) == '}' && n > 1) {
		if (look(w, n + 1) == '+')
			return refuse(w, "{n,m}+");
		if (look(w, 1) == ',') {
			buf_puts(w->out, "{0");
			w->at++;
			n--;
		}
		n++;
	}
	copy(w, n);
	return 0;
}

int
pattern_rewrite(struct buf *out, const char *pattern, size_t n, const char *name)
{
	struct rewrite w = {.p = pattern, .n = n, .name = name, .out = out};
	int rc = 0;

	while (rc == 0 && w.at < w.n) {
		if (w.classes > 0)
			rc = in_class(&w);
		else if (pattern[w.at] == '\\')
			rc = escape(&w);
		else if (pattern[w.at] == '[')
			rc = open_class(&w);
		else if (pattern[w.at] == '{')
			rc = interval(&w);
		else if (pattern[w.at] != '(' || look(&w, 1) != '?' || !options(&w))
			copy(&w, 1);
	}
	return rc;
}
