/* Numbers are read and written with a point where the user's locale has a comma. */
#include <locale.h>

#include "qjob/base/json.h"
#include "qjob/base/number.h"
#include "qjob/base/param.h"

#include "tests/t.h"

enum { SKIPPED = 77 };

static void
the_locale_has_a_comma(void **state)
{
	char text[REAL_TEXT];

	(void)state;
	snprintf(text, sizeof(text), "%g", 1.5);
	assert_string_equal(text, "1,5");
}

static void
numbers_have_a_point(void **state)
{
	char text[REAL_TEXT];
	double x;

	(void)state;
	real_text(1.5, text);
	assert_string_equal(text, "1.5");
	assert_true(real_parse("1.5", &x) && x == 1.5);
	assert_false(real_parse("1,5", &x));
}

static void
json_has_a_point(void **state)
{
	struct buf b = {0};
	json_t *j;

	(void)state;
	assert_ok(json_parse(&j, "[2.5]", 5, "a"));
	json_write_line(j, &b);
	assert_string_equal(buf_text(&b), "[2.5]");
	json_decref(j);
	buf_release(&b);
}

static void
keys_have_a_point(void **state)
{
	struct { double damp; } v;
	static const struct param table[] = {{.name = "damp", .type = PARAM_REAL, .usual = "0.05"}, {0}};
	struct param_block block = {.table = table, .values = &v};
	struct param_pool *pool = param_pool_new();
	struct diag d = {0};
	struct buf b = {0};

	(void)state;
	param_read(&block, 1, NULL, "quantize", pool, &d);
	assert_int_equal(d.n, 0);
	param_key(&block, "quantize", &b);
	param_yaml(&block, 0, false, &b);
	assert_string_equal(buf_text(&b), "set quantize.damp 0.05\ndamp: 0.05\n");
	buf_release(&b);
	param_pool_free(pool);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_locale_has_a_comma),
		cmocka_unit_test(numbers_have_a_point),
		cmocka_unit_test(json_has_a_point),
		cmocka_unit_test(keys_have_a_point),
	};

	if (!setlocale(LC_ALL, "de_DE.UTF-8")) {
		puts("skipped: no locale de_DE.UTF-8 (Debian: package locales)");
		return SKIPPED;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
