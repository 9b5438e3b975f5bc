#include "qjob/base/diag.h"

#include "tests/t.h"

static void
says_the_place(void **state)
{
	struct diag d = {0};

	(void)state;
	diag_add(&d, (struct place){"recipe.yaml", 7, 15}, "quantize.bits: %d is not one of 2, 3", 5);
	diag_add(&d, (struct place){.file = "--set a=b"}, "a: unknown");
	diag_add(&d, (struct place){0}, "no place");
	assert_int_equal(d.n, 3);
	assert_string_equal(d.v[0], "recipe.yaml:7:15: quantize.bits: 5 is not one of 2, 3");
	assert_string_equal(d.v[1], "--set a=b: a: unknown");
	assert_string_equal(d.v[2], "no place");
	diag_release(&d);
	assert_int_equal(d.n, 0);
}

static void
is_one_short_line(void **state)
{
	struct diag d = {0};
	char text[5000];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	diag_add(&d, (struct place){0}, "'%s'", "a\nfile.c:1:1: forged\x1b[0m");
	diag_add(&d, (struct place){0}, "%s", text);
	assert_string_equal(d.v[0], "'a?file.c:1:1: forged?[0m'");
	assert_int_equal(strlen(d.v[1]), 1003);
	assert_string_equal(d.v[1] + 1000, "...");
	diag_release(&d);
}

static void
ends_some_day(void **state)
{
	struct diag d = {0};

	(void)state;
	for (int i = 0; i < 5000; i++)
		diag_add(&d, (struct place){0}, "%d", i);
	assert_int_equal(d.n, 1001);
	assert_string_equal(d.v[999], "999");
	assert_string_equal(d.v[1000], "and more");
	diag_release(&d);
}

static void
knows_the_nearest_name(void **state)
{
	static const char *const names[] = {"bits", "group_size", "sym", "desc_act", "damp_percent"};
	static const char *const rows[][2] = {
		{"bitz", "bits"}, {"btis", "bits"}, {"Bits", "bits"}, {"bit", "bits"}, {"groupsize", "group_size"},
		{"group", "group_size"}, {"group-size", "group_size"}, {"dampening_percent", "damp_percent"},
		{"symm", "sym"}, {"a", NULL}, {"act", NULL}, {"xyz", NULL}, {"", NULL}, {"method", NULL},
		{"a_name_that_is_much_longer_than_any_that_a_table_has_in_it", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *near = nearest_name(rows[i][0], names, 5);

		if (rows[i][1])
			assert_string_equal(near ? near : "(none)", rows[i][1]);
		else
			assert_string_equal(near ? near : "(none)", "(none)");
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_the_place),
		cmocka_unit_test(is_one_short_line),
		cmocka_unit_test(ends_some_day),
		cmocka_unit_test(knows_the_nearest_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
