/* Parquet files that pyarrow wrote (tests/golden/parquet), and what is wrong with others. */
#include "qjob/base/json.h"
#include "stages/data/kind.h"
#include "tests/t.h"

#define GOLDEN QJOB_TESTS_DIR "/golden/parquet/"

static int
collect(void *own, const char *text, size_t n)
{
	json_array_append_new(own, json_stringn(text, n));
	return 0;
}

static int
read_bytes(const char *p, size_t n, const char *field, json_t *to)
{
	struct document_sink sink = {.document = collect, .own = to};

	err_set(0, "nothing said");
	return read_parquet("x.parquet", p, n, field, sink);
}

static int
read_file(const char *name, const char *field, json_t *to)
{
	char *path = mem_format(GOLDEN "%s.parquet", name);
	struct content c;
	int rc;

	assert_ok(content_open(&c, path));
	rc = read_bytes(c.p, c.n, field, to);
	content_close(&c);
	free(path);
	return rc;
}

static void
every_file_gives_its_texts(void **state)
{
	json_t *all, *want;
	const char *name;
	size_t n = 0;

	(void)state;
	assert_ok(json_load_path(&all, GOLDEN "texts.json", 1 << 20));
	json_object_foreach(all, name, want) {
		json_t *got = json_array();

		if (read_file(name, "text", got) != 0)
			fail_msg("%s: %s", name, err_text());
		if (!json_equal(got, want))
			fail_msg("%s: other texts", name);
		json_decref(got);
		n++;
	}
	assert_in_range(n, 13, 100);
	json_decref(all);
}

static void
columns_that_are_none(void **state)
{
	static const struct { const char *file, *field, *says; int rc; } rows[] = {
		{"none",   "body",   "no column 'body'; `field` names the one that holds the text (text)",               E_USE},
		{"none",   "number", "the column 'number' holds no texts, but numbers, lists or records",                E_USE},
		{"none",   "list",   "the column 'list' holds no texts, but numbers, lists or records",                  E_USE},
		{"brotli", "text",   "its pages are packed by brotli, and only snappy, gzip, zstd and lz4 are read",     E_DATA},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		json_t *got = json_array();

		assert_int_equal(read_file(rows[i].file, rows[i].field, got), rows[i].rc);
		assert_string_equal(err_text(), rows[i].says);
		json_decref(got);
	}
}

static int
end_after_two(void *own, const char *text, size_t n)
{
	(void)text;
	(void)n;
	return ++*(int *)own == 2;
}

static void
the_sink_may_end_it(void **state)
{
	struct content c;
	int count = 0;

	(void)state;
	assert_ok(content_open(&c, GOLDEN "groups-and-pages.parquet"));
	assert_int_equal(read_parquet("x", c.p, c.n, "text", (struct document_sink){.document = end_after_two, .own = &count}), 1);
	assert_int_equal(count, 2);
	content_close(&c);
}

/* Every file cut anywhere, and with any one byte changed: texts, or a sentence, never more than that. */
static void
damage_is_told(void **state)
{
	static const char *const files[] = {"snappy", "second-version", "delta", "delta-length", "groups-and-pages"};
	size_t told = 0, read = 0;

	(void)state;
	for (size_t k = 0; k < sizeof(files) / sizeof(files[0]); k++) {
		char *path = mem_format(GOLDEN "%s.parquet", files[k]), *copy;
		struct content c;

		assert_ok(content_open(&c, path));
		for (size_t i = 0; i < c.n; i++) {
			json_t *got = json_array();
			int rc;

			copy = mem_new(c.n, 1);
			memcpy(copy, c.p, c.n);
			if (i % 2)
				copy[i] = (char)(copy[i] ^ (1 << i / 2 % 8));
			rc = read_bytes(copy, i % 2 ? c.n : i, "text", got);
			assert_true(rc == 0 || rc == E_DATA || rc == E_USE);
			assert_true(rc == 0 || strcmp(err_text(), "nothing said") != 0);
			told += rc != 0;
			read += rc == 0;
			json_decref(got);
			free(copy);
		}
		content_close(&c);
		free(path);
	}
	print_message("%zu times told, %zu times read\n", told, read);
	assert_true(told > 2000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_file_gives_its_texts),
		cmocka_unit_test(columns_that_are_none),
		cmocka_unit_test(the_sink_may_end_it),
		cmocka_unit_test(damage_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
