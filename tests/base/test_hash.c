#include "qjob/base/hash.h"

#include "qjob/base/fault.h"
#include "tests/t.h"

static const char abc_sha256[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

static void
gives_published_digests(void **state)
{
	char hex[SHA256_HEX], quick[XXH3_HEX];

	(void)state;
	sha256_of("", 0, hex);
	assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	sha256_of("abc", 3, hex);
	assert_string_equal(hex, abc_sha256);
	xxh3_of("", 0, quick);
	assert_string_equal(quick, "99aa06d3014798d86001c324468d497f");
}

static void
adds_piece_by_piece(void **state)
{
	struct sha256 *h = sha256_new();
	char hex[SHA256_HEX];

	(void)state;
	sha256_add(h, "a", 1);
	sha256_add(h, "", 0);
	sha256_add(h, "bc", 2);
	sha256_end(h, hex);
	assert_string_equal(hex, abc_sha256);
}

static void
reads_files(void **state)
{
	size_t n = 3 * 1048576 + 17;
	char *big = mem_new(n, 1), *dir = t_dir(), *path = path_join(dir, "big");
	char hex[SHA256_HEX], want[SHA256_HEX], quick[XXH3_HEX], quick_want[XXH3_HEX];

	(void)state;
	for (size_t i = 0; i < n; i++)
		big[i] = (char)(i * i >> 5);
	assert_ok(file_replace(path, big, n));
	sha256_of(big, n, want);
	assert_ok(sha256_file(path, hex));
	assert_string_equal(hex, want);
	xxh3_of(big, n, quick_want);
	assert_ok(xxh3_file(path, quick));
	assert_string_equal(quick, quick_want);
	free(big);
	free(path);
	t_dir_end(dir);
}

static void
reports_what_it_cannot_read(void **state)
{
	char hex[SHA256_HEX], quick[XXH3_HEX];

	(void)state;
	assert_int_equal(sha256_file("absent", hex), E_SYS);
	assert_string_equal(err_text(), "absent: No such file or directory");
	assert_string_equal(hex, "");
	assert_int_equal(xxh3_file("/", quick), E_SYS);
	assert_string_equal(err_text(), "/: Is a directory");
	fault_arm(1);
	assert_int_equal(sha256_file("/dev/null", hex), E_SYS);
	assert_string_equal(err_text(), "/dev/null: Input/output error");
	fault_arm(-1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_published_digests),
		cmocka_unit_test(adds_piece_by_piece),
		cmocka_unit_test(reads_files),
		cmocka_unit_test(reports_what_it_cannot_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
