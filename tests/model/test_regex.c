#include "qjob/model/regex.h"

#include "tests/t.h"

static void
becomes(const char *pattern, const char *want)
{
	struct buf b = {0};

	assert_ok(pattern_rewrite(&b, pattern, strlen(pattern), "part"));
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
}

static void
refuses(const char *pattern, const char *what)
{
	struct buf b = {0};
	char *words = mem_format("part: pattern '%s': %s is not supported", pattern, what);

	assert_int_equal(pattern_rewrite(&b, pattern, strlen(pattern), "part"), E_USE);
	assert_string_equal(err_text(), words);
	buf_release(&b);
	free(words);
}

#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xb2\\xb3\\xb9\\xbc-\\xbe"

static void
rewrites_what_differs(void **state)
{
	static const struct { const char *from, *to; } rows[] = {
		{" ?\\p{L}+|\\s+(?!\\S)", " ?\\p{L}+|\\p{WSpace}+(?!\\P{WSpace})"},
		{"[^\\s\\p{L}\\p{N}]+[\\r\\n]*", "[^\\p{WSpace}\\p{L}\\p{N}]+[\\r\\n]*"},
		{"(?i:'s|'t)", "(?i:'s|'t)"},
		{"(?m:a.)(?-m)", "(?s:a.)(?-s)"},
		{"(?=a)(?<=b)(?<x>c)(?>d)(?:e)", "(?=a)(?<=b)(?<x>c)(?>d)(?:e)"},
		{"\\w\\W[\\w.]", "[" WORD "][^" WORD "][" WORD ".]"},
		{"\\h[^\\h]", "[0-9A-Fa-f][^0-9A-Fa-f]"},
		{"\\u00e9[\\u4e00-\\u9fa5]", "\\x{00e9}[\\x{4e00}-\\x{9fa5}]"},
		{"\\p{Han}\\P{Greek}\\p{^Lu}", "\\p{sc:Han}\\P{sc:Greek}\\P{Lu}"},
		{"\\p{Letter}\\p{Decimal_Number}\\p{punct}", "\\p{L}\\p{Nd}\\p{P}"},
		{"\\p{Alnum}[\\p{Word}]", "[\\p{Alphabetic}\\p{Nd}][" WORD "]"},
		{"[[:punct:]x]", "[\\p{P}\\p{S}x]"},
		{"[^(\\s|[.,!?])]+", "[^(\\p{WSpace}|.,!?)]+"},
		{"[a[-b][c-]]", "[a\\-bc\\-]"},
		{"[]a]", "[]a]"},
		{"a{,3}b{2,}c{x", "a{0,3}b{2,}c{x"},
		{"\\\\s\\[", "\\\\s\\["},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		becomes(rows[i].from, rows[i].to);
}

static void
refuses_what_has_no_like(void **state)
{
	(void)state;
	refuses("[a&&b]", "&& inside [ ]");
	refuses("[a[^b]]", "a negated class inside [ ]");
	refuses("[\\W]", "a negated set inside [ ]");
	refuses("a{1,3}+", "{n,m}+");
	refuses("\\u12", "\\u without four hexadecimal digits");
	refuses("\\Qa\\E", "\\Q, \\E or \\C");
	refuses("\\p{L", "a property without an end");
	refuses("[[:graph:]]", "[: :] with this name");
	refuses("[[:alpha", "[: without :]");
}

/* Matches as "start-end start-end". */
static void
finds(const char *pattern, bool literal, const char *text, const char *want)
{
	struct buf b = {0};
	struct regex *r;
	struct finder *f;
	size_t start, end;
	int rc;

	assert_ok(regex_open(&r, pattern, strlen(pattern), literal, "part"));
	f = finder_new(r);
	finder_start(f, text, strlen(text));
	for (rc = finder_next(f, &start, &end); rc == 1; rc = finder_next(f, &start, &end))
		buf_printf(&b, "%s%zu-%zu", b.n > 0 ? " " : "", start, end);
	assert_ok(rc);
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
	finder_free(f);
	regex_close(r);
}

static void
finds_as_oniguruma(void **state)
{
	(void)state;
	finds("a+", false, "aab a", "0-2 4-5");
	finds("x*", false, "axb\xc3\xa9", "0-0 1-2 3-3 5-5");
	finds("", false, "\xc3\xa9", "0-0 2-2");
	finds(".[", true, "a.[.", "1-3");
	finds("\\s+", false, "\xe1\xa0\x8e \xc2\x85\xe2\x80\x8b\xe3\x80\x80", "3-6 9-12");      /* U+180E and U+200B are no spaces */
	finds("^b|a$", false, "a\nb\na", "0-1 2-3 4-5");                                  /* of every line */
	finds("a.", false, "a\nab", "2-4");
	finds("(?m)a.", false, "a\nab", "0-2 2-4");
	finds("(?i:'s|k)", false, "'S'\xc5\xbf\xe2\x84\xaa", "0-2 2-5 5-8");
	finds("\\p{Han}", false, "\xe4\xb8\x80\xe3\x80\x81", "0-3");                       /* the script, not its extensions */
	finds("\\w+", false, "e\xcc\x81\xc2\xb2_\xe2\x82\xac", "0-6");
}

/* Exponential in the text, but for the limit. */
static void
endless_backtracking_is_an_error(void **state)
{
	static const char pattern[] = "(a+)+[bc]";
	char text[64];
	struct regex *r;
	struct finder *f;
	size_t start, end;

	(void)state;
	memset(text, 'a', sizeof(text));
	assert_ok(regex_open(&r, pattern, sizeof(pattern) - 1, false, "part"));
	f = finder_new(r);
	finder_start(f, text, sizeof(text));
	assert_int_equal(finder_next(f, &start, &end), E_DATA);
	assert_string_equal(err_text(), "part: the pattern fails on this text at byte 0: match limit exceeded");
	finder_free(f);
	regex_close(r);
}

/* A match as long as a text may be, with steps to go back at each character. */
static void
long_matches_are_found(void **state)
{
	static const char *const patterns[] = {"\\s+(?!\\S)|\\s+", "(?:a|\\s)+(?!\\S)|\\s", "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"};
	size_t n = 10 * 1000 * 1000;
	char *text = mem_new(n, 1);

	(void)state;
	memset(text, ' ', n);
	text[n - 1] = 'x';
	for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
		struct regex *r;
		struct finder *f;
		size_t start, end;
		int rc;

		assert_ok(regex_open(&r, patterns[i], strlen(patterns[i]), false, "part"));
		f = finder_new(r);
		finder_start(f, text, n);
		rc = finder_next(f, &start, &end);
		if (i == 1) {                    /* a group needs memory for each turn: found or refused, never a crash */
			assert_true(rc == 1 || rc == E_DATA);
		} else {
			assert_int_equal(rc, 1);
			assert_int_equal(start, 0);
			assert_int_equal(end, n - 2);
		}
		finder_free(f);
		regex_close(r);
	}
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rewrites_what_differs),
		cmocka_unit_test(refuses_what_has_no_like),
		cmocka_unit_test(finds_as_oniguruma),
		cmocka_unit_test(endless_backtracking_is_an_error),
		cmocka_unit_test(long_matches_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
