#include "qjob/base/err.h"

#include <errno.h>

#include "tests/t.h"

static void
sets_and_prefixes(void **state)
{
	(void)state;
	assert_int_equal(err_set(E_DATA, "pivot %d is not positive", 7), E_DATA);
	assert_string_equal(err_text(), "pivot 7 is not positive");
	assert_int_equal(err_in(E_DATA, "block %d", 17), E_DATA);
	assert_string_equal(err_text(), "block 17: pivot 7 is not positive");
}

static void
takes_its_own_text_as_argument(void **state)
{
	(void)state;
	err_set(E_USE, "no such file");
	err_set(E_SYS, "first: %s; second: %s", err_text(), err_text());
	assert_string_equal(err_text(), "first: no such file; second: no such file");
}

static void
appends_errno(void **state)
{
	(void)state;
	errno = ENOENT;
	assert_int_equal(err_sys("open %s", "a/b"), E_SYS);
	assert_string_equal(err_text(), "open a/b: No such file or directory");
	assert_int_equal(errno, ENOENT);
}

static void
cuts_between_characters(void **state)
{
	char long_text[2000];

	(void)state;
	for (size_t i = 0; i + 2 < sizeof(long_text); i += 2)
		memcpy(long_text + i, "\xc3\xa9", 3);
	for (int shift = 0; shift < 2; shift++) {
		err_set(E_USE, "%s%s", shift ? "x" : "", long_text);
		assert_int_equal(strlen(err_text()), shift ? 1023 : 1022);
		assert_memory_equal(err_text() + strlen(err_text()) - 2, "\xc3\xa9", 2);
	}
	err_in(E_USE, "%s", long_text);
	assert_int_equal(strlen(err_text()), 1022);
	errno = EIO;
	err_sys("%s", long_text);
	assert_int_equal(strlen(err_text()), 1022);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_and_prefixes),
		cmocka_unit_test(takes_its_own_text_as_argument),
		cmocka_unit_test(appends_errno),
		cmocka_unit_test(cuts_between_characters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
