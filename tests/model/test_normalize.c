#include "qjob/model/normalize.h"

#include "tests/t.h"

static struct normalizer *
parse(const char *json)
{
	struct normalizer *n;
	json_t *j;

	assert_ok(json_parse(&j, json, strlen(json), "part"));
	assert_ok(normalizer_parse(&n, j, "part"));
	json_decref(j);
	return n;
}

static void
makes(const char *json, const char *text, const char *want)
{
	struct normalizer *n = parse(json);
	struct buf out = {0};

	assert_ok(normalizer_apply(n, text, strlen(text), &out));
	if (strcmp(buf_text(&out), want) != 0)
		fail_msg("%s makes '%s' of '%s', not '%s'", json, buf_text(&out), text, want);
	buf_release(&out);
	normalizer_free(n);
}

static void
fails(const char *json, const char *text, size_t size, const char *words)
{
	struct normalizer *n = parse(json);
	struct buf out = {0};

	assert_int_equal(normalizer_apply(n, text, size, &out), E_DATA);
	assert_string_equal(err_text(), words);
	buf_release(&out);
	normalizer_free(n);
}

static void
refuses(int code, const char *json, const char *words)
{
	struct normalizer *n;
	json_t *j;

	assert_ok(json_parse(&j, json, strlen(json), "part"));
	assert_int_equal(normalizer_parse(&n, j, "part"), code);
	assert_null(n);
	assert_string_equal(err_text(), words);
	json_decref(j);
}

#define LIGATURE "\xef\xac\x81"        /* fi */
#define E_ACUTE  "\xc3\xa9"
#define E_AND    "e\xcc\x81"

static void
knows_its_kinds(void **state)
{
	static const struct { const char *json, *text, *want; } rows[] = {
		{"null", "A", "A"},
		{"{\"type\":\"NFC\"}", E_AND LIGATURE, E_ACUTE LIGATURE},
		{"{\"type\":\"NFD\"}", E_ACUTE LIGATURE, E_AND LIGATURE},
		{"{\"type\":\"NFKC\"}", E_AND LIGATURE, E_ACUTE "fi"},
		{"{\"type\":\"NFKD\"}", E_ACUTE LIGATURE, E_AND "fi"},
		{"{\"type\":\"NFC\"}", "plain", "plain"},
		{"{\"type\":\"Lowercase\"}", "A\xc3\x89\xc4\xb0\xe1\xba\x9e", "a" E_ACUTE "i\xcc\x87\xc3\x9f"},
		{"{\"type\":\"StripAccents\"}", E_AND, "e"},
		{"{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}", "\xe3\x80\x80 a b\n", "a b"},
		{"{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", " a ", " a"},
		{"{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}", " \n ", ""},
		{"{\"type\":\"Prepend\",\"prepend\":\"_\"}", "a", "_a"},
		{"{\"type\":\"Prepend\",\"prepend\":\"_\"}", "", ""},
		{"{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}", "a  b", "a__b"},
		{"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\s+\"},\"content\":\"\"}", "a \n b", "ab"},
		{"{\"type\":\"ByteLevel\"}", " \xc3\xa9", "\xc4\xa0\xc3\x83\xc2\xa9"},
		{"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"X\"},{\"type\":\"Lowercase\"}]}", "Y", "xy"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		makes(rows[i].json, rows[i].text, rows[i].want);
}

static void
says_what_is_wrong(void **state)
{
	(void)state;
	refuses(E_DATA, "[]", "part has no type");
	refuses(E_DATA, "{\"type\":\"Prepend\"}", "part: prepend of Prepend is not a text");
	refuses(E_DATA, "{\"type\":\"Replace\",\"content\":\"\",\"pattern\":3}",
	        "part: pattern of Replace is neither {String: ..} nor {Regex: ..}");
	refuses(E_DATA, "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}", "part: content of Replace is not a text");
}

static void
growth_is_bounded(void **state)
{
	struct buf json = {0}, content = {0};
	char *text = mem_new(100000, 1);

	(void)state;
	for (int i = 0; i < 10000; i++)
		buf_puts(&content, "x");
	buf_printf(&json, "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"%s\"}", buf_text(&content));
	memset(text, ' ', 100000);
	fails(buf_text(&json), text, 100000, "the normalizer makes more than 67108864 bytes of a text");
	buf_clear(&json);
	buf_puts(&json, "{\"type\":\"Sequence\",\"normalizers\":[");
	for (int i = 0; i < 60; i++)
		buf_printf(&json, "%s{\"type\":\"ByteLevel\"}", i > 0 ? "," : "");
	buf_puts(&json, "]}");
	fails(buf_text(&json), text, 1, "the normalizer makes more than 67108864 bytes of a text");
	buf_release(&json);
	buf_release(&content);
	free(text);
}

/* Ordering marks takes the square of their number. */
static void
runs_of_marks_are_bounded(void **state)
{
	struct buf text = {0};

	(void)state;
	for (int i = 0; i < 2048; i++)
		buf_puts(&text, "\xcc\x81\xcc\xa7");
	makes("{\"type\":\"Lowercase\"}", buf_text(&text), buf_text(&text));
	buf_puts(&text, "\xcc\x81");
	fails("{\"type\":\"NFC\"}", text.p, text.n, "the text has more than 4096 combining marks in a row at byte 8192");
	buf_release(&text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(knows_its_kinds),
		cmocka_unit_test(says_what_is_wrong),
		cmocka_unit_test(growth_is_bounded),
		cmocka_unit_test(runs_of_marks_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
