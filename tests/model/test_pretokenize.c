/* Words as the pre-tokenizers of the `tokenizers` library 0.23 cut them. */
#include "qjob/model/pretokenize.h"

#include "qjob/base/buf.h"
#include "tests/t.h"

static int
on_word(void *own, const char *p, size_t n)
{
	struct buf *b = own;

	if (b->n > 0)
		buf_puts(b, "|");
	buf_add(b, p, n);
	return 0;
}

static struct pretokenizer *
parse(const char *json)
{
	struct pretokenizer *p;
	json_t *j;

	assert_ok(json_parse(&j, json, strlen(json), "part"));
	assert_ok(pretokenizer_parse(&p, j, "part"));
	json_decref(j);
	return p;
}

static void
cuts(const char *json, const char *text, const char *words)
{
	struct pretokenizer *p = parse(json);
	struct pretok_run *r = pretok_run_new(p);
	struct buf b = {0};

	assert_ok(pretok_words(r, text, strlen(text), true, (struct word_sink){.word = on_word, .own = &b}));
	if (strcmp(buf_text(&b), words) != 0)
		fail_msg("%s: '%s' becomes %s, not %s", json, text, buf_text(&b), words);
	buf_release(&b);
	pretok_run_free(r);
	pretokenizer_free(p);
}

static void
refuses(int code, const char *json, const char *words)
{
	struct pretokenizer *p;
	json_t *j;

	assert_ok(json_parse(&j, json, strlen(json), "part"));
	assert_int_equal(pretokenizer_parse(&p, j, "part"), code);
	assert_null(p);
	assert_string_equal(err_text(), words);
	json_decref(j);
}

static void
splits_in_every_way(void **state)
{
	static const struct { const char *behavior, *invert, *words; } rows[] = {
		{"Isolated",           "false", "the|-|final|-|-|countdown|-"},
		{"Isolated",           "true",  "the|-|final|-|-|countdown|-"},
		{"Removed",            "false", "the|final|countdown"},
		{"Removed",            "true",  "-|-|-|-"},
		{"Contiguous",         "false", "the|-|final|--|countdown|-"},
		{"Contiguous",         "true",  "the|-|final|--|countdown|-"},
		{"MergedWithPrevious", "false", "the-|final-|-|countdown-"},
		{"MergedWithPrevious", "true",  "the|-final|-|-countdown|-"},
		{"MergedWithNext",     "false", "the|-final|-|-countdown|-"},
		{"MergedWithNext",     "true",  "the-|final-|-|countdown-"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		char *json = mem_format("{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},\"behavior\":\"%s\",\"invert\":%s}",
		                        rows[i].behavior, rows[i].invert);

		cuts(json, "the-final--countdown-", rows[i].words);
		free(json);
	}
	cuts("{\"type\":\"Split\",\"pattern\":{\"String\":\"a.\"},\"behavior\":\"Isolated\",\"invert\":false}", "aba.c", "ab|a.|c");
	cuts("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a.\"},\"behavior\":\"Isolated\",\"invert\":false}", "aba.c", "ab|a.|c");
	cuts("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x*\"},\"behavior\":\"Isolated\",\"invert\":false}",
	     "axb\xc3\xa9", "a|x|b|\xc3\xa9");
}

static void
knows_its_kinds(void **state)
{
	static const struct { const char *json, *text, *words; } rows[] = {
		{"null", "a b", "a b"},
		{"{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "I'm 12\xc3\xa9\n\n x",
		 "\xc4\xa0I|'m|\xc4\xa0" "12|\xc3\x83\xc2\xa9|\xc4\x8a\xc4\x8a|\xc4\xa0x"},
		{"{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", "a b", "a\xc4\xa0" "b"},
		{"{\"type\":\"Digits\",\"individual_digits\":true}", "a12\xc2\xbd" "b", "a|1|2|\xc2\xbd|b"},
		{"{\"type\":\"Digits\",\"individual_digits\":false}", "a12\xc2\xbd" "b", "a|12\xc2\xbd|b"},
		{"{\"type\":\"Punctuation\"}", "a,b$\xe2\x80\x94" "c", "a|,|b|$|\xe2\x80\x94|c"},
		{"{\"type\":\"Whitespace\"}", "Hey man! a\xe2\x80\x8d" "b", "Hey|man|!|a\xe2\x80\x8d" "b"},
		{"{\"type\":\"WhitespaceSplit\"}", "Hey \xe3\x80\x80man\xe1\xa0\x8e!", "Hey|man\xe1\xa0\x8e!"},
		{"{\"type\":\"CharDelimiterSplit\",\"delimiter\":\".\"}", "a.b..c", "a|b|c"},
		{"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}", "a  b", "_a|_|_b"},
		{"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"never\"}", "a  b", "a|_|_b"},
		{"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false,\"split\":false}", "a b",
		 "a_b"},
		{"{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}", " a", "_a"},
		{"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},"
		 "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}]}", "a b", "_a|b"},
		{"{\"type\":\"Sequence\",\"pretokenizers\":[]}", "a b", "a b"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		cuts(rows[i].json, rows[i].text, rows[i].words);
}

static void
says_what_is_wrong(void **state)
{
	(void)state;
	refuses(E_DATA, "{}", "part has no type");
	refuses(E_DATA, "{\"type\":\"Sequence\"}", "part: a Sequence has no list of pretokenizers, or lies too deep");
	refuses(E_DATA, "{\"type\":\"Split\"}", "part: pattern of Split is neither {Regex: ..} nor {String: ..}");
	refuses(E_USE, "{\"type\":\"Split\",\"behavior\":\"Merged\"}",
	        "part: behavior 'Merged' is not one of Isolated, Removed, Contiguous, MergedWithPrevious, MergedWithNext");
	refuses(E_DATA, "{\"type\":\"Digits\",\"individual_digits\":1}", "part: individual_digits is neither true nor false");
	refuses(E_DATA, "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}", "part: replacement is not one character");
	refuses(E_DATA, "{\"type\":\"CharDelimiterSplit\"}", "part: delimiter is not one character");
	refuses(E_USE, "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}",
	        "part: prepend_scheme 'last' is not one of always, first, never");
	refuses(E_USE, "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}",
	        "part: pattern '(a' is not understood: missing closing parenthesis");
}

/* Each step may double what it gets; sixty of them must not. */
static void
growth_is_bounded(void **state)
{
	struct pretok_run *r;
	struct pretokenizer *p;
	struct buf json = {0}, out = {0};

	(void)state;
	buf_puts(&json, "{\"type\":\"Sequence\",\"pretokenizers\":[");
	for (int i = 0; i < 60; i++)
		buf_printf(&json, "%s{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", i > 0 ? "," : "");
	buf_puts(&json, "]}");
	p = parse(buf_text(&json));
	r = pretok_run_new(p);
	assert_int_equal(pretok_words(r, "\n", 1, true, (struct word_sink){.word = on_word, .own = &out}), E_DATA);
	assert_string_equal(err_text(), "the pre-tokenizer makes more than 67108864 bytes of a word");
	pretok_run_free(r);
	pretokenizer_free(p);
	buf_release(&json);
	buf_release(&out);
}

static void
steps_are_bounded(void **state)
{
	struct buf json = {0};

	(void)state;
	buf_puts(&json, "{\"type\":\"Sequence\",\"pretokenizers\":[");
	for (int i = 0; i < 65; i++)
		buf_printf(&json, "%s{\"type\":\"WhitespaceSplit\"}", i > 0 ? "," : "");
	buf_puts(&json, "]}");
	refuses(E_DATA, buf_text(&json), "part has more than 64 steps");
	buf_release(&json);
}

static int
stop(void *own, const char *p, size_t n)
{
	(void)p;
	(void)n;
	return ++*(int *)own == 2 ? err_set(E_SYS, "enough") : 0;
}

static void
the_sink_may_stop_it(void **state)
{
	struct pretokenizer *p = parse("{\"type\":\"WhitespaceSplit\"}");
	struct pretok_run *r = pretok_run_new(p);
	int words = 0;

	(void)state;
	assert_int_equal(pretok_words(r, "a b c d", 7, true, (struct word_sink){.word = stop, .own = &words}), E_SYS);
	assert_int_equal(words, 2);
	pretok_run_free(r);
	pretokenizer_free(p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(splits_in_every_way),
		cmocka_unit_test(knows_its_kinds),
		cmocka_unit_test(says_what_is_wrong),
		cmocka_unit_test(growth_is_bounded),
		cmocka_unit_test(steps_are_bounded),
		cmocka_unit_test(the_sink_may_stop_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
