#include "qjob/base/buf.h"

#include "tests/t.h"

static void
grows_and_ends_in_nul(void **state)
{
	struct buf b = {0};
	char *s;

	(void)state;
	assert_string_equal(buf_text(&b), "");
	buf_puts(&b, "ab");
	buf_add(&b, "c\0d", 3);
	buf_printf(&b, "%d%s", 42, "!");
	assert_int_equal(b.n, 8);
	assert_memory_equal(b.p, "abc\0d42!", 9);
	buf_clear(&b);
	assert_string_equal(buf_text(&b), "");
	for (int i = 0; i < 1000; i++)
		buf_printf(&b, "%03d", i);
	assert_int_equal(b.n, 3000);
	assert_memory_equal(b.p + 2997, "999", 4);
	s = buf_detach(&b);
	assert_memory_equal(s, "000001", 6);
	free(s);
	assert_null(b.p);
}

static void
detaches_an_empty_text(void **state)
{
	struct buf b = {0};
	char *s = buf_detach(&b);

	(void)state;
	assert_string_equal(s, "");
	free(s);
	buf_add(&b, NULL, 0);
	assert_int_equal(b.n, 0);
	buf_release(&b);
	buf_release(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_and_ends_in_nul),
		cmocka_unit_test(detaches_an_empty_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
