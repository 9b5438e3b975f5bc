#include "qjob/model/bpe.h"

#include "tests/t.h"

static struct bpe *
parse(const char *json)
{
	struct bpe *b;
	json_t *j;

	assert_ok(json_parse(&j, json, strlen(json), "model"));
	assert_ok(bpe_parse(&b, j, "model"));
	json_decref(j);
	return b;
}

static void
refuses(int code, const char *json, const char *words)
{
	struct bpe *b;
	json_t *j;

	assert_ok(json_parse(&j, json, strlen(json), "model"));
	assert_int_equal(bpe_parse(&b, j, "model"), code);
	assert_null(b);
	assert_string_equal(err_text(), words);
	json_decref(j);
}

static void
gives(struct bpe *b, const char *word, const char *ids)
{
	struct bpe_run *r = bpe_run_new(b);

	for (int again = 0; again < 2; again++) {      /* worked out, then remembered */
		struct ids got = {0};
		struct buf text = {0};

		assert_ok(bpe_word(r, word, strlen(word), &got));
		for (size_t i = 0; i < got.n; i++)
			buf_printf(&text, i == 0 ? "%d" : " %d", got.v[i]);
		assert_string_equal(buf_text(&text), ids);
		ids_release(&got);
		buf_release(&text);
	}
	bpe_run_free(r);
}

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"ab\":4,\"bc\":5,\"abc\":6,\"cd\":7,\"<unk>\":8,\"whole\":9,\"aa\":10}"
#define MERGES "\"merges\":[\"b c\",\"a b\",\"c d\",[\"a\",\"bc\"],\"a a\"]"

static void
merges_by_rank_then_place(void **state)
{
	struct bpe *b = parse("{" VOCAB "," MERGES "}");

	(void)state;
	gives(b, "abcd", "6 3");
	gives(b, "abd", "4 3");
	gives(b, "acd", "0 7");
	gives(b, "aaa", "10 0");
	gives(b, "aaaaa", "10 10 0");
	gives(b, "azb", "4");            /* without unk_token, what is unknown vanishes, and its neighbours meet */
	gives(b, "z", "");
	gives(b, "whole", "");
	assert_int_equal(bpe_tokens(b), 11);
	assert_int_equal(bpe_top(b), 10);
	assert_int_equal(bpe_find(b, "bcx", 2), 5);
	assert_int_equal(bpe_find(b, "zz", 2), -1);
	bpe_free(b);
}

static void
takes_words_whole(void **state)
{
	struct bpe *b = parse("{\"ignore_merges\":true," VOCAB "," MERGES "}");

	(void)state;
	gives(b, "whole", "9");
	gives(b, "abcd", "6 3");
	bpe_free(b);
}

static void
marks_what_is_unknown(void **state)
{
	struct bpe *b = parse("{\"unk_token\":\"<unk>\"," VOCAB "," MERGES "}");

	(void)state;
	gives(b, "zzab", "8 8 4");
	gives(b, "abz", "4 8");
	bpe_free(b);
	b = parse("{\"unk_token\":\"<unk>\",\"fuse_unk\":true," VOCAB "," MERGES "}");
	gives(b, "zzabzz", "8 4 8");
	bpe_free(b);
}

static void
falls_back_to_bytes(void **state)
{
	struct bpe *b = parse("{\"unk_token\":\"u\",\"byte_fallback\":true,"
	        "\"vocab\":{\"u\":0,\"a\":1,\"<0xC3>\":2,\"<0xA9>\":3},\"merges\":[]}");

	(void)state;
	gives(b, "a\xc3\xa9", "1 2 3");
	gives(b, "a\xc3\xa8", "1 0");     /* a byte without a token: the character is unknown */
	bpe_free(b);
}

static void
an_absent_unk_token_is_told_when_met(void **state)
{
	struct bpe *b = parse("{\"unk_token\":\"nope\"," VOCAB "," MERGES "}");
	struct bpe_run *r = bpe_run_new(b);
	struct ids ids = {0};

	(void)state;
	assert_ok(bpe_word(r, "ab", 2, &ids));
	assert_int_equal(bpe_word(r, "z", 1, &ids), E_DATA);
	assert_string_equal(err_text(), "model: unk_token 'nope' is not in the vocabulary");
	ids_release(&ids);
	bpe_run_free(r);
	bpe_free(b);
}

static void
refuses_what_it_cannot_do(void **state)
{
	(void)state;
	refuses(E_USE, "{\"end_of_word_suffix\":\"</w>\"," VOCAB "," MERGES "}",
	        "model: end_of_word_suffix is set, which is not supported");
	refuses(E_USE, "{\"continuing_subword_prefix\":\"##\"," VOCAB "," MERGES "}",
	        "model: continuing_subword_prefix is set, which is not supported");
	refuses(E_USE, "{\"dropout\":0.1," VOCAB "," MERGES "}", "model: dropout is set, which gives a text other ids each time");
	refuses(E_DATA, "{\"fuse_unk\":3," VOCAB "," MERGES "}", "model: fuse_unk is neither true nor false");
	refuses(E_DATA, "{\"vocab\":{\"a\":-1},\"merges\":[]}", "model: vocab: the id of 'a' is not a whole number from 0 to 2147483646");
	refuses(E_DATA, "{\"vocab\":{\"a\":2147483647},\"merges\":[]}",
	        "model: vocab: the id of 'a' is not a whole number from 0 to 2147483646");
	refuses(E_DATA, "{\"vocab\":{\"a\":1.5},\"merges\":[]}", "model: vocab: the id of 'a' is not a whole number from 0 to 2147483646");
	refuses(E_DATA, "{\"vocab\":[],\"merges\":[]}", "model: vocab is not a map of tokens to ids");
	refuses(E_DATA, "{" VOCAB "}", "model: merges is not a list");
	refuses(E_DATA, "{" VOCAB ",\"merges\":[\"a x\"]}", "model: merge 1: 'x' is not in the vocabulary");
	refuses(E_DATA, "{" VOCAB ",\"merges\":[\"a b\",\"b d\"]}", "model: merge 2: 'bd' is not in the vocabulary");
	refuses(E_DATA, "{" VOCAB ",\"merges\":[\"a b c\"]}", "model: merge 1: 'a b c' is not two tokens with a space between");
	refuses(E_DATA, "{" VOCAB ",\"merges\":[\"ab\"]}", "model: merge 1: 'ab' is not two tokens with a space between");
	refuses(E_DATA, "{" VOCAB ",\"merges\":[[\"a\"]]}", "model: merge 1 is neither \"a b\" nor [\"a\", \"b\"]");
}

/* Ids may be far apart, and shared: nothing is as large as they are. */
static void
ids_need_no_room(void **state)
{
	struct bpe *b = parse("{\"vocab\":{\"a\":2147483646,\"b\":7,\"ab\":7},\"merges\":[\"a b\"]}");

	(void)state;
	gives(b, "ab", "7");
	gives(b, "aa", "2147483646 2147483646");
	bpe_free(b);
}

/* A merge that gives one of its own parts ends all the same: every merge makes the word shorter. */
static void
merges_that_turn_in_circles_end(void **state)
{
	struct bpe *b = parse("{\"vocab\":{\"a\":0,\"b\":1,\"ab\":0,\"aab\":1},\"merges\":[\"a b\",\"a ab\"]}");

	(void)state;
	gives(b, "abbb", "0");
	gives(b, "aab", "1");
	bpe_free(b);
}

/* Ten million characters in one word, in well under the square of their number. */
static void
long_words_end(void **state)
{
	struct bpe *b = parse("{" VOCAB "," MERGES "}");
	struct bpe_run *r = bpe_run_new(b);
	size_t n = 10 * 1000 * 1000 + 1;
	char *word = mem_new(n, 1);
	struct ids ids = {0};

	(void)state;
	memset(word, 'a', n);
	assert_ok(bpe_word(r, word, n, &ids));
	assert_int_equal(ids.n, n / 2 + 1);
	assert_int_equal(ids.v[0], 10);
	assert_int_equal(ids.v[ids.n - 1], 0);
	free(word);
	ids_release(&ids);
	bpe_run_free(r);
	bpe_free(b);
}

static void
reads_files_of_gpt2(void **state)
{
	static const char merges[] = "#version: 0.2\r\na b\r\nab c\n";
	const char *vocab = "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4}";
	struct bpe *b;
	json_t *j;

	(void)state;
	assert_ok(json_parse(&j, vocab, strlen(vocab), "vocab.json"));
	assert_ok(bpe_parse_files(&b, j, merges, sizeof(merges) - 1, "gpt2"));
	gives(b, "abc", "4");
	bpe_free(b);
	assert_int_equal(bpe_parse_files(&b, j, "a b\n\na b\n", 9, "gpt2"), E_DATA);
	assert_string_equal(err_text(), "gpt2: merge 2: '' is not two tokens with a space between");
	json_decref(j);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merges_by_rank_then_place),
		cmocka_unit_test(takes_words_whole),
		cmocka_unit_test(marks_what_is_unknown),
		cmocka_unit_test(falls_back_to_bytes),
		cmocka_unit_test(an_absent_unk_token_is_told_when_met),
		cmocka_unit_test(refuses_what_it_cannot_do),
		cmocka_unit_test(ids_need_no_room),
		cmocka_unit_test(merges_that_turn_in_circles_end),
		cmocka_unit_test(long_words_end),
		cmocka_unit_test(reads_files_of_gpt2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
