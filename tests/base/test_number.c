#include "qjob/base/number.h"

#include <float.h>
#include <math.h>

#include "tests/t.h"

static void
reads_whole_numbers(void **state)
{
	static const char *const wrong[] = {
		"", "-", "+", "1.5", "1e3", "0x10", " 1", "1 ", "1_000", "9223372036854775808", "--1", "four",
	};
	int64_t x;

	(void)state;
	assert_true(whole_parse("-9223372036854775808", &x) && x == INT64_MIN);
	assert_true(whole_parse("+7", &x) && x == 7);
	assert_true(whole_parse("010", &x) && x == 10);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_false(whole_parse(wrong[i], &x));
}

static void
reads_reals(void **state)
{
	static const char *const wrong[] = {
		"", ".", "-", "1e", "1e+", "e5", "inf", "nan", ".inf", "0x1p3", "1,5", " 1", "1.5 ", "1e999", "1.5.2",
	};
	double x;

	(void)state;
	assert_true(real_parse("0.01", &x) && x == 0.01);
	assert_true(real_parse("-.5", &x) && x == -0.5);
	assert_true(real_parse("5.", &x) && x == 5);
	assert_true(real_parse("1e-3", &x) && x == 0.001);
	assert_true(real_parse("+2E+2", &x) && x == 200);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_false(real_parse(wrong[i], &x));
}

static void
writes_the_shortest(void **state)
{
	static const struct {
		double x;
		const char *text;
	} rows[] = {
		{0.01, "0.01"}, {4, "4"}, {0.1 + 0.2, "0.30000000000000004"}, {1e-5, "1e-05"}, {1e22, "1e+22"},
		{0, "0"}, {-2.5, "-2.5"}, {123456789, "123456789"}, {DBL_MAX, "1.7976931348623157e+308"}, {1.0 / 3, "0.3333333333333333"},
	};
	char text[REAL_TEXT];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		real_text(rows[i].x, text);
		assert_string_equal(text, rows[i].text);
	}
	real_text(INFINITY, text);
	assert_string_equal(text, "inf");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_whole_numbers),
		cmocka_unit_test(reads_reals),
		cmocka_unit_test(writes_the_shortest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
