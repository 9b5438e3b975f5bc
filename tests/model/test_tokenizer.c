/* Tokenizers against what the `tokenizers` library gave: tests/golden/tokenizers. */
#include "qjob/model/tokenizer.h"

#include "qjob/base/json.h"
#include "tests/t.h"
#include "tests/unxz.h"

static struct tokenizer *
parse(const char *json)
{
	struct tokenizer *t;

	assert_ok(tokenizer_parse(&t, json, strlen(json), "tokenizer.json"));
	return t;
}

static void
refuses(int code, const char *json, const char *words)
{
	struct tokenizer *t = (struct tokenizer *)1;

	assert_int_equal(tokenizer_parse(&t, json, strlen(json), "tokenizer.json"), code);
	assert_null(t);
	assert_string_equal(err_text(), words);
}

/* Ids as "1 2 3". */
static char *
encode(const struct tokenizer *t, const char *text, bool special)
{
	struct ids ids = {0};
	struct buf b = {0};

	assert_ok(tokenizer_encode(t, text, strlen(text), special, &ids));
	for (size_t i = 0; i < ids.n; i++)
		buf_printf(&b, i == 0 ? "%d" : " %d", ids.v[i]);
	ids_release(&ids);
	return buf_detach(&b);
}

static void
gives(const struct tokenizer *t, const char *text, const char *ids)
{
	char *got = encode(t, text, false);

	if (strcmp(got, ids) != 0)
		fail_msg("'%s' gives %s, not %s", text, got, ids);
	free(got);
}

/* ---- goldens ---- */

static void
same_ids(const struct tokenizer *t, const json_t *row, const char *key, bool special, size_t line)
{
	const json_t *text = json_object_get(row, "text"), *want = json_object_get(row, key);
	struct ids ids = {0};

	if (want == NULL)
		return;
	assert_ok(tokenizer_encode(t, json_string_value(text), json_string_length(text), special, &ids));
	for (size_t i = 0; i < ids.n && i < json_array_size(want); i++)
		if (ids.v[i] != json_integer_value(json_array_get(want, i)))
			fail_msg("line %zu, %s: id %zu is %d", line, key, i, ids.v[i]);
	if (ids.n != json_array_size(want))
		fail_msg("line %zu, %s: %zu ids", line, key, ids.n);
	ids_release(&ids);
}

static void
same_as_golden(const struct tokenizer *t, const char *name, size_t lines)
{
	char *path = mem_format("%s/golden/tokenizers/%s", QJOB_TESTS_DIR, name), *line = NULL;
	FILE *f = fopen(path, "r");
	size_t cap = 0, n = 0;

	assert_non_null(f);
	while (getline(&line, &cap, f) > 0) {
		json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);

		n++;
		assert_non_null(row);
		same_ids(t, row, "ids", false, n);
		same_ids(t, row, "ids_special", true, n);
		json_decref(row);
	}
	assert_int_equal(n, lines);
	fclose(f);
	free(line);
	free(path);
}

static struct tokenizer *
golden(const char *name)
{
	char *path = mem_format("tokenizers/%s/tokenizer.json.xz", name);
	struct tokenizer *t;
	struct buf json = {0};

	t_unxz(&json, path);
	assert_ok(tokenizer_parse(&t, buf_text(&json), json.n, "tokenizer.json"));
	buf_release(&json);
	free(path);
	return t;
}

static void
put(const char *dir, const char *file, const char *packed)
{
	char *path = path_join(dir, file);
	struct buf b = {0};

	t_unxz(&b, packed);
	assert_ok(file_replace(path, b.p, b.n));
	buf_release(&b);
	free(path);
}

static void
put_text(const char *dir, const char *file, const char *text)
{
	char *path = path_join(dir, file);

	assert_ok(file_replace(path, text, strlen(text)));
	free(path);
}

static void
llama3_is_golden(void **state)
{
	struct tokenizer *t = golden("llama3_1");

	(void)state;
	same_as_golden(t, "llama3_1/golden.jsonl", 33);
	same_as_golden(t, "llama3_1/chat.jsonl", 6);
	assert_int_equal(tokenizer_size(t), 128256);
	tokenizer_close(t);
}

static void
qwen3_is_golden(void **state)
{
	struct tokenizer *t = golden("qwen3");

	(void)state;
	same_as_golden(t, "qwen3/golden.jsonl", 33);
	same_as_golden(t, "qwen3/chat.jsonl", 6);
	assert_int_equal(tokenizer_size(t), 151669);
	tokenizer_close(t);
}

static void
llama2_is_golden(void **state)
{
	struct tokenizer *t = golden("llama2");

	(void)state;
	same_as_golden(t, "llama2/golden.jsonl", 33);
	tokenizer_close(t);
}

static void
gpt2_files_are_golden(void **state)
{
	char *dir = t_dir();
	struct tokenizer *t;

	(void)state;
	put(dir, "vocab.json", "tokenizers/gpt2/vocab.json.xz");
	assert_null(tokenizer_files_in(dir));
	put(dir, "merges.txt", "tokenizers/gpt2/merges.txt.xz");
	assert_ok(tokenizer_open(&t, dir));
	same_as_golden(t, "gpt2/golden.jsonl", 33);
	assert_string_equal(tokenizer_files(t)[0], "vocab.json");
	assert_string_equal(tokenizer_files(t)[1], "merges.txt");
	assert_null(tokenizer_files(t)[2]);
	assert_ptr_equal(tokenizer_files_in(dir), tokenizer_files(t));
	tokenizer_close(t);
	put_text(dir, "tokenizer_config.json", "{\"add_bos_token\": true}");
	assert_int_equal(tokenizer_open(&t, dir), E_USE);
	assert_non_null(strstr(err_text(), "add_bos_token is not supported with vocab.json and merges.txt; save a tokenizer.json"));
	t_dir_end(dir);
}

/* The class named in tokenizer_config.json wins over the steps of tokenizer.json, as in Transformers 5. */
static void
smollm2_is_golden(void **state)
{
	char *dir = t_dir();
	struct tokenizer *t;

	(void)state;
	put(dir, "tokenizer.json", "tokenizers/smollm2/tokenizer.json.xz");
	assert_ok(tokenizer_open(&t, dir));
	assert_null(tokenizer_class(dir));
	gives(t, "   1", "333 33");          /* each digit alone, as the file has it */
	gives(t, "\x04\x13 control", "1533");    /* bytes without a token vanish */
	tokenizer_close(t);
	put_text(dir, "config.json", "{\"model_type\": \"llama\"}");
	put_text(dir, "tokenizer_config.json", "{\"tokenizer_class\": \"GPT2Tokenizer\"}");
	assert_string_equal(tokenizer_class(dir), "GPT2Tokenizer");
	assert_ok(tokenizer_open(&t, dir));
	gives(t, "   1", "256 216 33");
	same_as_golden(t, "smollm2/golden.jsonl", 12);
	tokenizer_close(t);
	t_dir_end(dir);
}

/* ---- parts ---- */

#define VOCAB "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4,\"\\u0120\":5,\"\\u0120a\":6,\"<u>\":7}"
#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":[\"a b\",[\"ab\",\"c\"],\"\\u0120 a\"]}"
#define ADDED(flags) "{\"added_tokens\":[{\"id\":8,\"content\":\"<x>\"" flags "},{\"id\":9,\"content\":\"<x><y>\"}]," MODEL "}"

static void
added_tokens_are_found(void **state)
{
	struct tokenizer *t = parse(ADDED(""));

	(void)state;
	gives(t, "ab<x>c", "3 8 2");
	gives(t, "<x><y>a<x<x>", "9 0 8");           /* the longest; '<' has no token */
	gives(t, "", "");
	tokenizer_close(t);
	t = parse(ADDED(",\"lstrip\":true,\"rstrip\":true"));
	gives(t, "a \n<x>\xe3\x80\x80" "b", "0 8 1");
	gives(t, " <x> <x>", "8 8");
	tokenizer_close(t);
	t = parse(ADDED(",\"single_word\":true"));
	gives(t, "a<x>", "0");
	gives(t, "<x>b", "1");
	gives(t, "\xcc\x81<x>", "");                 /* a mark is of a word */
	gives(t, ".<x>.", "8");
	tokenizer_close(t);
}

static void
added_tokens_are_normalized(void **state)
{
	struct tokenizer *t = parse("{\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":["
	                            "{\"id\":8,\"content\":\"Day\",\"normalized\":true},{\"id\":9,\"content\":\"NIGHT\"}]," MODEL "}");

	(void)state;
	gives(t, "DAYday", "8 8");
	gives(t, "AB", "3");
	gives(t, "NIGHTnight", "9");
	tokenizer_close(t);
}

static void
added_tokens_are_checked(void **state)
{
	char *big = mem_new(2000, 1), *json;

	(void)state;
	refuses(E_DATA, "{\"added_tokens\":[{\"id\":12,\"content\":\"<x>\"}]," MODEL "}",
	        "tokenizer.json: added_tokens: '<x>' has id 12, but loaders would give it 8");
	refuses(E_DATA, "{\"added_tokens\":[{\"id\":8,\"content\":\"<x>\"},{\"id\":9,\"content\":\"<x>\"}]," MODEL "}",
	        "tokenizer.json: added_tokens: '<x>' is there twice");
	refuses(E_DATA, "{\"added_tokens\":[{\"id\":8}]," MODEL "}", "tokenizer.json: added_tokens: entry 1 has no content");
	refuses(E_DATA, "{\"added_tokens\":[7]," MODEL "}", "tokenizer.json: added_tokens: entry 1 has no content");
	refuses(E_DATA, "{\"added_tokens\":{}," MODEL "}", "tokenizer.json: added_tokens is not a list");
	refuses(E_DATA, "{\"added_tokens\":[{\"content\":\"a\"}]," MODEL "}", "tokenizer.json: added_tokens: 'a' has no id");
	refuses(E_DATA, "{\"added_tokens\":[{\"id\":0,\"content\":\"a\",\"lstrip\":1}]," MODEL "}",
	        "tokenizer.json: added_tokens: lstrip is neither true nor false");
	refuses(E_DATA, "{\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[{\"id\":8,\"content\":\"Q\",\"normalized\":true},"
	        "{\"id\":9,\"content\":\"q\",\"normalized\":true}]," MODEL "}", "tokenizer.json: added_tokens: 'q' is there twice");
	memset(big, 'x', 1001);
	json = mem_format("{\"added_tokens\":[{\"id\":8,\"content\":\"%s\"}]," MODEL "}", big);
	refuses(E_DATA, json, "tokenizer.json: added_tokens: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' is longer than 1000 bytes");
	free(json);
	free(big);
}

#define TEMPLATE(single, specials) "{\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," \
	"{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{" specials "}}]}," MODEL "}"
#define BOS "{\"SpecialToken\":{\"id\":\"s\"}}"
#define TEXT_A "{\"Sequence\":{\"id\":\"A\"}}"

static void
templates_are_applied(void **state)
{
	struct tokenizer *t = parse(TEMPLATE(BOS "," TEXT_A "," BOS "," TEXT_A, "\"s\":{\"ids\":[7,40]}"));
	char *ids;

	(void)state;
	assert_int_equal(tokenizer_size(t), 41);
	ids = encode(t, "abc", true);
	assert_string_equal(ids, "7 40 4 7 40 4");
	free(ids);
	gives(t, "abc", "4 4");
	tokenizer_close(t);
	t = parse("{\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"b\",1],\"cls\":[\"<u>\",7]}," MODEL "}");
	ids = encode(t, "", true);
	assert_string_equal(ids, "7 1");
	free(ids);
	tokenizer_close(t);
	refuses(E_DATA, TEMPLATE(BOS, ""), "tokenizer.json: post_processor: special_tokens does not say what 's' is");
	refuses(E_USE, TEMPLATE("{\"Sequence\":{\"id\":\"B\"}}", ""),
	        "tokenizer.json: post_processor: 'single' has the sequence 'B', known: A");
	refuses(E_DATA, TEMPLATE(BOS, "\"s\":{\"ids\":[4294967296]}"),
	        "tokenizer.json: post_processor: an id is not a whole number from 0 to 2147483646");
	refuses(E_DATA, TEMPLATE("3", ""),
	        "tokenizer.json: post_processor: 'single' has a piece that is neither a SpecialToken nor a Sequence");
}

static void
unknown_parts_are_named(void **state)
{
	(void)state;
	refuses(E_USE, "{\"pre_tokenizer\":{\"type\":\"Foo\"}," MODEL "}",
	        "tokenizer.json: pre_tokenizer 'Foo' is not known; known: ByteLevel, Split, Digits, Punctuation, Whitespace, "
	        "WhitespaceSplit, "
	        "CharDelimiterSplit, Metaspace, Sequence");
	refuses(E_USE, "{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}",
	        "tokenizer.json: normalizer 'Precompiled' is not known; known: NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
	        "StripAccents, Prepend, "
	        "Replace, ByteLevel, Sequence");
	refuses(E_USE, "{\"post_processor\":{\"type\":\"Foo\"}," MODEL "}",
	        "tokenizer.json: post_processor 'Foo' is not known; known: ByteLevel, TemplateProcessing, BertProcessing, "
	        "RobertaProcessing, "
	        "Sequence");
	refuses(E_USE, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "tokenizer.json: model 'Unigram' is not known; known: BPE");
	refuses(E_USE, "{\"version\":\"2.0\"," MODEL "}", "tokenizer.json: version is not \"1.0\"");
	refuses(E_DATA, "{\"version\":\"1.0\"}", "tokenizer.json has no model");
	refuses(E_DATA, "[1]", "tokenizer.json is not a map");
}

/* Sequences in each other, deeper than any file has them. */
static void
depth_is_bounded(void **state)
{
	static const struct { const char *part, *list, *name; } rows[] = {
		{"normalizer", "normalizers", "a Sequence has no list of normalizers, or lies too deep"},
		{"pre_tokenizer", "pretokenizers", "a Sequence has no list of pretokenizers, or lies too deep"},
		{"post_processor", "processors", "a Sequence has no list of processors, or lies too deep"},
	};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct buf b = {0};
		char *words = mem_format("tokenizer.json: %s: %s", rows[i].part, rows[i].name);

		buf_printf(&b, "{\"%s\":", rows[i].part);
		for (int k = 0; k < 500; k++)
			buf_printf(&b, "{\"type\":\"Sequence\",\"%s\":[", rows[i].list);
		for (int k = 0; k < 500; k++)
			buf_puts(&b, "]}");
		buf_puts(&b, "," MODEL "}");
		refuses(E_DATA, buf_text(&b), words);
		buf_release(&b);
		free(words);
	}
}

/* Every prefix of a file is refused, none crashes. */
static void
cut_files_are_refused(void **state)
{
	const char *json = TEMPLATE(BOS "," TEXT_A, "\"s\":{\"ids\":[7]}");

	(void)state;
	for (size_t n = 0; n < strlen(json); n++) {
		struct tokenizer *t;

		assert_int_equal(tokenizer_parse(&t, json, n, "tokenizer.json"), E_DATA);
		assert_null(t);
		assert_non_null(strstr(err_text(), "tokenizer.json:1:"));
	}
}

static void
bad_text_is_refused(void **state)
{
	static const char *const texts[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "ab\x80"};
	static const size_t at[] = {0, 1, 0, 0, 0, 2};
	struct tokenizer *t = parse(ADDED(""));
	struct ids ids = {0};

	(void)state;
	ids_add(&ids, 5);
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		char *words = mem_format("the text is not UTF-8 at byte %zu (0x%02x)", at[i], (unsigned char)texts[i][at[i]]);

		assert_int_equal(tokenizer_encode(t, texts[i], strlen(texts[i]), true, &ids), E_DATA);
		assert_string_equal(err_text(), words);
		assert_int_equal(ids.n, 1);
		free(words);
	}
	assert_ok(tokenizer_encode(t, "a\0b", 3, false, &ids));        /* valid, but without a token */
	assert_int_equal(ids.n, 2);
	assert_int_equal(ids.v[1], 3);
	ids_release(&ids);
	tokenizer_close(t);
}

static void
folders_without_are_refused(void **state)
{
	char *dir = t_dir(), *words = mem_format("%s has no tokenizer.json, and no vocab.json with merges.txt", dir);
	struct tokenizer *t;

	(void)state;
	assert_int_equal(tokenizer_open(&t, dir), E_USE);
	assert_string_equal(err_text(), words);
	free(words);
	t_dir_end(dir);
}

static void
libraries_are_named(void **state)
{
	char text[256];
	unsigned a, b;

	(void)state;
	tokenizer_libraries(text, sizeof(text));
	assert_int_equal(sscanf(text, "pcre2 %u.%u unicode", &a, &b), 2);
	assert_non_null(strstr(text, ", utf8proc "));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(llama3_is_golden),
		cmocka_unit_test(qwen3_is_golden),
		cmocka_unit_test(llama2_is_golden),
		cmocka_unit_test(gpt2_files_are_golden),
		cmocka_unit_test(smollm2_is_golden),
		cmocka_unit_test(added_tokens_are_found),
		cmocka_unit_test(added_tokens_are_normalized),
		cmocka_unit_test(added_tokens_are_checked),
		cmocka_unit_test(templates_are_applied),
		cmocka_unit_test(unknown_parts_are_named),
		cmocka_unit_test(depth_is_bounded),
		cmocka_unit_test(cut_files_are_refused),
		cmocka_unit_test(bad_text_is_refused),
		cmocka_unit_test(folders_without_are_refused),
		cmocka_unit_test(libraries_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
