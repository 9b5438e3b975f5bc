#include "qjob/model/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "qjob/base/buf.h"
#include "qjob/base/err.h"
#include "qjob/base/fault.h"

static const char path[] = "t.safetensors";

/* A file of this header, announced as `length` bytes, and so many bytes of data 0, 1, 2... */
static void
write_file(const void *header, size_t n, uint64_t length, size_t data)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	for (int i = 0; i < 8; i++)
		fputc((int)(length >> 8 * i & 255), f);
	fwrite(header, 1, n, f);
	for (size_t i = 0; i < data; i++)
		fputc((int)(i & 255), f);
	assert_int_equal(fclose(f), 0);
}

static void
refused(const char *header, size_t data, const char *message)
{
	struct safetensors s;

	write_file(header, strlen(header), strlen(header), data);
	assert_int_equal(safetensors_open(&s, path), E_DATA);
	assert_string_equal(err_text(), message);
	assert_null(s.v);
	assert_null(s.view.p);
}

static void
accepted(struct safetensors *s, const char *header, size_t data)
{
	write_file(header, strlen(header), strlen(header), data);
	if (safetensors_open(s, path) < 0)
		fail_msg("%s", err_text());
}

static void
tensors_come_in_order_of_offset(void **state)
{
	struct safetensors s;

	(void)state;
	accepted(&s, "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},\n \"__metadata__\":{\"format\":\"pt\"},"
	             "\"a\":{\"data_offsets\":[0,3],\"shape\":[3],\"dtype\":\"U8\"}}   ", 11);
	assert_int_equal(s.n, 2);
	assert_string_equal(s.v[0].name, "a");
	assert_int_equal(s.v[0].type, U8);
	assert_int_equal(s.v[0].rank, 1);
	assert_int_equal(s.v[0].shape[0], 3);
	assert_int_equal(s.v[0].bytes, 3);
	assert_int_equal(((const unsigned char *)s.v[0].p)[2], 2);
	assert_string_equal(s.v[1].name, "b");
	assert_int_equal(s.v[1].type, F32);
	assert_int_equal(s.v[1].rank, 2);
	assert_int_equal(s.v[1].bytes, 8);
	assert_int_equal(*(const unsigned char *)s.v[1].p, 3);
	assert_ptr_equal(safetensors_find(&s, "b"), &s.v[1]);
	assert_null(safetensors_find(&s, "c"));
	assert_null(safetensors_find(&s, "__metadata__"));
	safetensors_close(&s);
}

static void
empty_and_scalar_tensors_are_allowed(void **state)
{
	struct safetensors s;

	(void)state;
	accepted(&s, "{}", 0);
	assert_int_equal(s.n, 0);
	safetensors_close(&s);
	accepted(&s, "{\"z\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[2,2]},"
	             "\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,2]},"
	             "\"y\":{\"dtype\":\"I64\",\"shape\":[0,9223372036854775807,9223372036854775807],\"data_offsets\":[0,0]}}", 2);
	assert_int_equal(s.n, 3);
	assert_string_equal(s.v[0].name, "y");
	assert_int_equal(s.v[0].bytes, 0);
	assert_string_equal(s.v[1].name, "s");
	assert_int_equal(s.v[1].rank, 0);
	assert_int_equal(s.v[1].bytes, 2);
	assert_string_equal(s.v[2].name, "z");
	safetensors_close(&s);
}

static void
names_may_be_escaped(void **state)
{
	struct safetensors s;

	(void)state;
	accepted(&s, "{\"a\\/\\\"\\u00e9\\ud83d\\uDE00\xc3\xa9\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
	assert_string_equal(s.v[0].name, "a/\"\xc3\xa9\xf0\x9f\x98\x80\xc3\xa9");
	safetensors_close(&s);
}

static void
broken_files_are_refused(void **state)
{
	struct safetensors s;
	FILE *f;

	(void)state;
	f = fopen(path, "wb");
	fputs("1234567", f);
	fclose(f);
	assert_int_equal(safetensors_open(&s, path), E_DATA);
	assert_string_equal(err_text(), "t.safetensors: 7 bytes are too few for a safetensors file");
	write_file("{}", 2, 3, 0);
	assert_int_equal(safetensors_open(&s, path), E_DATA);
	assert_string_equal(err_text(),
	                    "t.safetensors: a header of 3 bytes in a file of 10: cut off, or no safetensors file");
	write_file("{}", 2, 100000001, 0);
	assert_int_equal(safetensors_open(&s, path), E_DATA);
	assert_string_equal(err_text(), "t.safetensors: a header of 100000001 bytes, wanted at most 100000000");
	write_file("{}", 2, UINT64_MAX, 0);
	assert_int_equal(safetensors_open(&s, path), E_DATA);
	assert_string_equal(err_text(), "t.safetensors: a header of 18446744073709551615 bytes, wanted at most 100000000");
	assert_int_equal(safetensors_open(&s, "absent.safetensors"), E_SYS);
	refused("", 0, "t.safetensors: header byte 0: wanted '{', found its end");
}

#define ONE(name, dtype, shape, offsets) \
	"{\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void
broken_headers_are_refused(void **state)
{
	static const struct {
		const char *header, *message;
	} rows[] = {
		{"[]", "t.safetensors: header byte 0: wanted '{', found '['"},
		{"{", "t.safetensors: header byte 1: wanted '\"', found its end"},
		{"{}x", "t.safetensors: header byte 2: wanted spaces to the end, found 'x'"},
		{"{},", "t.safetensors: header byte 2: wanted spaces to the end, found ','"},
		{"{\"a\"}", "t.safetensors: header byte 4: wanted ':', found '}'"},
		{"{\"a", "t.safetensors: header byte 3: wanted the end of a text, found its end"},
		{"{\"a\n\":1}", "t.safetensors: header byte 3: wanted the end of a text, found byte 0x0a"},
		{"{\"a\\x\":1}", "t.safetensors: header byte 4: wanted an escape of JSON, found 'x'"},
		{"{\"\\u12g4\":1}", "t.safetensors: header byte 6: wanted a hexadecimal digit, found 'g'"},
		{"{\"\\ud800x\":1}", "t.safetensors: header byte 8: wanted the second half of a surrogate pair, found 'x'"},
		{"{\"\\ud800\\u0041\":1}", "t.safetensors: header byte 14: wanted the second half of a surrogate pair, found '\"'"},
		{"{\"\\udc00\":1}", "t.safetensors: header byte 8: wanted the first half of a surrogate pair, found '\"'"},
		{"{\"\xff\":1}", "t.safetensors: header byte 4: wanted a text in UTF-8 before this, found ':'"},
		{"{\"\":1}", "t.safetensors: a tensor has an empty name"},
		{"{\"a\\u0000b\":1}", "t.safetensors: a tensor's name has control character 0x00 at byte 1"},
		{"{\"\\n\":1}", "t.safetensors: a tensor's name has control character 0x0a at byte 0"},
		{"{\"a\":1}", "t.safetensors: header byte 5: wanted '{', found '1'"},
		{"{\"a\":{}}", "t.safetensors: header byte 6: wanted '\"', found '}'"},
		{"{\"a\":{\"dtype\":\"F32\"}}", "t.safetensors: tensor \"a\" has no shape"},
		{"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", "t.safetensors: tensor \"a\": field \"dtype\" is there twice"},
		{"{\"a\":{\"strides\":[1]}}", "t.safetensors: tensor \"a\": field \"strides\" is not known"},
		{ONE("a", "F8_E8M0", "[1]", "[0,1]"), "t.safetensors: tensor \"a\": dtype \"F8_E8M0\" is not known"},
		{ONE("a", "f32", "[1]", "[0,4]"), "t.safetensors: tensor \"a\": dtype \"f32\" is not known"},
		{ONE("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "t.safetensors: tensor \"a\" has more than 8 dimensions"},
		{ONE("a", "U8", "[-1]", "[0,1]"), "t.safetensors: header byte 28: wanted a whole number, found '-'"},
		{ONE("a", "U8", "[1.5]", "[0,1]"), "t.safetensors: header byte 29: wanted a whole number, found '.'"},
		{ONE("a", "U8", "[1e3]", "[0,1]"), "t.safetensors: header byte 29: wanted a whole number, found 'e'"},
		{ONE("a", "U8", "[01]", "[0,1]"), "t.safetensors: header byte 30: wanted a whole number, found ']'"},
		{ONE("a", "U8", "[9223372036854775808]", "[0,1]"),
		 "t.safetensors: header byte 46: wanted a number below 2^63, found '8'"},
		{ONE("a", "F32", "[4611686018427387904,4611686018427387904]", "[0,4]"),
		 "t.safetensors: tensor \"a\": its shape has more bytes than a file can"},
		{ONE("a", "U8", "[4]", "[4,0]"), "t.safetensors: tensor \"a\": data_offsets [4, 0] end before they begin"},
		{ONE("a", "U8", "[5]", "[0,5]"), "t.safetensors: tensor \"a\": data_offsets [0, 5] reach past the 4 bytes of data"},
		{ONE("a", "F32", "[2]", "[0,4]"), "t.safetensors: tensor \"a\": shape and dtype take 8 bytes, data_offsets 4"},
		{ONE("a", "U8", "[3]", "[0,3]"), "t.safetensors: bytes 3 to 4 of the data belong to no tensor"},
		{ONE("a", "U8", "[3]", "[1,4]"), "t.safetensors: bytes 0 to 1 of the data belong to no tensor"},
		{ONE("a", "U8", "[3]", "[0,3,4]"), "t.safetensors: header byte 50: wanted ']', found ','"},
		{"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
		 "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}",
		 "t.safetensors: tensors \"a\" and \"b\" overlap at byte 1 of the data"},
		{"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
		 "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
		 "t.safetensors: bytes 1 to 3 of the data belong to no tensor"},
		{"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
		 "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
		 "t.safetensors: two tensors are named \"a\""},
		{"{\"__metadata__\":[]}", "__metadata__: t.safetensors: header byte 16: wanted '{', found '['"},
		{"{\"__metadata__\":{\"a\":1}}", "__metadata__: t.safetensors: header byte 21: wanted '\"', found '1'"},
		{"{\"__metadata__\":{},\"__metadata__\":{}}", "t.safetensors: __metadata__ is there twice"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		refused(rows[i].header, 4, rows[i].message);
}

static void
every_cut_of_a_header_is_refused(void **state)
{
	static const char whole[] = "{\"__metadata__\":{\"format\":\"pt\"},\"a\\u00e9\":{\"dtype\":\"F32\",\"shape\":[2,1],"
	                            "\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}}";
	struct safetensors s;

	(void)state;
	for (size_t n = 0; n < sizeof(whole) - 1; n++) {
		write_file(whole, n, n, 9);
		assert_int_equal(safetensors_open(&s, path), E_DATA);
	}
	accepted(&s, whole, 9);
	safetensors_close(&s);
}

static void
long_names_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	buf_puts(&b, "{\"");
	for (int i = 0; i < 1001; i++)
		buf_puts(&b, "x");
	buf_puts(&b, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
	refused(b.p, 1, "t.safetensors: tensor \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...\": a name of 1001 bytes, wanted at most 1000");
	buf_release(&b);
}

static void
many_tensors_open_fast(void **state)
{
	enum { N = 10000 };
	struct safetensors s;
	struct buf b = {0};
	struct timespec t0, t1;

	(void)state;
	for (int i = 0; i < N; i++)
		buf_printf(&b, "%s\"model.layers.%d.mlp.experts.%d.down_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[1,2],"
		           "\"data_offsets\":[%d,%d]}", i ? "," : "{", i / 100, i % 100, 4 * (N - 1 - i), 4 * (N - i));
	buf_puts(&b, "}");
	write_file(b.p, b.n, b.n, 4 * N);
	buf_release(&b);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	assert_int_equal(safetensors_open(&s, path), 0);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	print_message("%d tensors: %.1f ms\n", N,
	              1e3 * (double)(t1.tv_sec - t0.tv_sec) + 1e-6 * (double)(t1.tv_nsec - t0.tv_nsec));
	assert_int_equal(s.n, N);
	assert_string_equal(s.v[0].name, "model.layers.99.mlp.experts.99.down_proj.weight");
	safetensors_close(&s);
}

static void
what_is_written_reads_back(void **state)
{
	const struct tensor v[] = {
		{.name = (char *)"w \"q\"\\", .type = F16, .rank = 2, .shape = {2, 3}},
		{.name = (char *)"empty", .type = F32, .rank = 1, .shape = {0}},
		{.name = (char *)"i", .type = I64, .rank = 0},
	};
	static const char want[] = "{\"__metadata__\":{\"format\":\"pt\"},"
		"\"w \\\"q\\\"\\\\\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
		"\"empty\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[12,12]},"
		"\"i\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[12,20]}}";
	const unsigned char data[20] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
	struct safetensors_out *o;
	struct safetensors s;

	(void)state;
	assert_int_equal(safetensors_begin(&o, path, v, 3), 0);
	assert_int_equal(safetensors_add(o, data, 5), 0);
	assert_int_equal(safetensors_add(o, data + 5, 0), 0);
	assert_int_equal(safetensors_add(o, data + 5, 15), 0);
	assert_int_equal(safetensors_end(o), 0);
	assert_int_equal(safetensors_open(&s, path), 0);
	assert_int_equal(s.n, 3);
	assert_int_equal(s.view.p[0] % 8, 0);
	assert_memory_equal(s.view.p + 8, want, sizeof(want) - 1);
	assert_string_equal(s.v[0].name, "w \"q\"\\");
	assert_int_equal(s.v[0].shape[1], 3);
	assert_memory_equal(s.v[0].p, data, 12);
	assert_memory_equal(safetensors_find(&s, "i")->p, data + 12, 8);
	safetensors_close(&s);
}

static void
writing_says_what_went_wrong(void **state)
{
	const struct tensor v = {.name = (char *)"a", .type = U8, .rank = 1, .shape = {4}};
	struct safetensors_out *o;

	(void)state;
	assert_int_equal(safetensors_begin(&o, path, &v, 1), 0);
	assert_int_equal(safetensors_add(o, "12345", 5), E_DATA);
	assert_string_equal(err_text(), "t.safetensors: 4 bytes of data announced, more given");
	assert_int_equal(safetensors_add(o, "123", 3), 0);
	assert_int_equal(safetensors_end(o), E_DATA);
	assert_string_equal(err_text(), "t.safetensors: 4 bytes of data announced, 3 given");
	assert_int_equal(safetensors_begin(&o, "absent/t.safetensors", &v, 1), E_SYS);
	assert_string_equal(err_text(), "absent/t.safetensors: No such file or directory");
}

static int
write_once(void)
{
	const struct tensor v = {.name = (char *)"a", .type = U8, .rank = 1, .shape = {4}};
	struct safetensors_out *o;
	int r = safetensors_begin(&o, path, &v, 1);

	if (r < 0)
		return r;
	r = safetensors_add(o, "1234", 4);
	if (r < 0) {
		safetensors_abort(o);
		return r;
	}
	return safetensors_end(o);
}

static void
every_refusal_of_the_system_is_reported(void **state)
{
	int n = 0;

	(void)state;
	for (;; n++) {
		int r;

		fault_arm(n);
		r = write_once();
		if (!fault_fired())
			break;
		assert_int_equal(r, E_SYS);
		assert_non_null(strstr(err_text(), "t.safetensors"));
		assert_non_null(strstr(err_text(), ": Input/output error"));
	}
	fault_arm(-1);
	assert_int_equal(n, 5);
}

static void
bytes_of_shapes(void **state)
{
	struct tensor t = {.type = BF16, .rank = 2, .shape = {3, 5}};

	(void)state;
	assert_int_equal(tensor_bytes(&t), 30);
	t.shape[0] = INT64_MAX / 10 + 1;
	assert_true(tensor_bytes(&t) == SIZE_MAX);
	t.shape[1] = 0;
	assert_int_equal(tensor_bytes(&t), 0);
	t.rank = 0;
	assert_int_equal(tensor_bytes(&t), 2);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tensors_come_in_order_of_offset),
		cmocka_unit_test(empty_and_scalar_tensors_are_allowed),
		cmocka_unit_test(names_may_be_escaped),
		cmocka_unit_test(broken_files_are_refused),
		cmocka_unit_test(broken_headers_are_refused),
		cmocka_unit_test(every_cut_of_a_header_is_refused),
		cmocka_unit_test(long_names_are_refused),
		cmocka_unit_test(many_tensors_open_fast),
		cmocka_unit_test(what_is_written_reads_back),
		cmocka_unit_test(writing_says_what_went_wrong),
		cmocka_unit_test(every_refusal_of_the_system_is_reported),
		cmocka_unit_test(bytes_of_shapes),
	};
	char folder[] = "/tmp/qjob-test-XXXXXX";
	int failed;

	if (!mkdtemp(folder) || chdir(folder) != 0)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	if (chdir("/") != 0 || rmdir(folder) != 0)
		return 1;
	return failed;
}
