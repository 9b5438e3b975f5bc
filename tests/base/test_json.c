#include "qjob/base/json.h"

#include "tests/t.h"

static void
assert_error(const char *text, const char *want)
{
	json_t *j;

	assert_int_equal(json_parse(&j, text, strlen(text), "a.json"), E_DATA);
	assert_null(j);
	assert_string_equal(err_text(), want);
}

static void
says_where_it_is_wrong(void **state)
{
	(void)state;
	assert_error("{\"a\": 1,\n \"a\": 2}", "a.json:2:4: duplicate object key near '\"a\"'");
	assert_error("{\"a\": }", "a.json:1:7: unexpected token near '}'");
	assert_error("", "a.json:1:1: unexpected token near end of file");
}

static void *
no_memory(size_t n)
{
	(void)n;
	return NULL;
}

static void
says_that_memory_lacks(void **state)
{
	(void)state;
	json_set_alloc_funcs(no_memory, free);
	assert_error("{\"a\": 1}", "a.json:1:1: out of memory");
	json_set_alloc_funcs(malloc, free);
}

static void
writes_what_it_read(void **state)
{
	static const char text[] =
		"{\n"
		"  \"z\": [\n"
		"    1,\n"
		"    -2.5,\n"
		"    3.0,\n"
		"    0.1,\n"
		"    1e-05,\n"
		"    1e+300\n"
		"  ],\n"
		"  \"a\": {\n"
		"    \"empty\": {},\n"
		"    \"none\": [],\n"
		"    \"null\": null,\n"
		"    \"yes\": true,\n"
		"    \"no\": false\n"
		"  },\n"
		"  \"text \\\"\\\\\\n\\t\\u0001\": \"\xc3\xa9\xf0\x9f\x98\x80 / \x7f\"\n"
		"}\n";
	struct buf b = {0};
	json_t *j;

	(void)state;
	assert_ok(json_parse(&j, text, strlen(text), "a"));
	json_write(j, &b);
	assert_string_equal(buf_text(&b), text);
	buf_clear(&b);
	json_write_line(j, &b);
	assert_string_equal(buf_text(&b), "{\"z\":[1,-2.5,3.0,0.1,1e-05,1e+300],\"a\":{\"empty\":{},\"none\":[],\"null\":null,"
	                    "\"yes\":true,\"no\":false},\"text \\\"\\\\\\n\\t\\u0001\":\"\xc3\xa9\xf0\x9f\x98\x80 / \x7f\"}");
	buf_release(&b);
	json_decref(j);
}

static void
reads_any_value(void **state)
{
	json_t *j;

	(void)state;
	assert_ok(json_parse(&j, "\"a\"", 3, "line"));
	assert_string_equal(json_string_value(j), "a");
	json_decref(j);
}

static void
bounds_what_it_reads(void **state)
{
	char *dir = t_dir(), *path = path_join(dir, "a.json"), *deep = mem_new(100001, 1);
	json_t *j;

	(void)state;
	memset(deep, '[', 100000);
	assert_int_equal(json_parse(&j, deep, 100000, "deep"), E_DATA);
	assert_string_equal(err_text(), "deep:1:2049: maximum parsing depth reached near '['");
	assert_ok(file_replace(path, "[1, 2]", 6));
	assert_ok(json_load_path(&j, path, 6));
	assert_int_equal(json_array_size(j), 2);
	json_decref(j);
	assert_int_equal(json_load_path(&j, path, 5), E_DATA);
	assert_null(j);
	assert_string_equal(err_text() + strlen(path), ": larger than 5 bytes");
	assert_int_equal(json_load_path(&j, "absent", 5), E_SYS);
	free(deep);
	free(path);
	t_dir_end(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_where_it_is_wrong),
		cmocka_unit_test(says_that_memory_lacks),
		cmocka_unit_test(writes_what_it_read),
		cmocka_unit_test(reads_any_value),
		cmocka_unit_test(bounds_what_it_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
