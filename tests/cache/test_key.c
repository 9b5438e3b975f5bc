#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cache/key.h"

static char key[SHA256_HEX];

static const char *
manifest_of(const char *facts, struct buf *out)
{
	struct buf in = {0};

	buf_puts(&in, facts);
	key_make(&in, out, key);
	buf_release(&in);
	return buf_text(out);
}

static void
sorts_and_drops_doubles(void **state)
{
	struct buf m = {0};

	(void)state;
	assert_string_equal(manifest_of("set b 2\nstage quantize 1\nset a 1\nset b 2\n\nin ids sha256:00\n", &m),
		"qjob-key 1\nin ids sha256:00\nset a 1\nset b 2\nstage quantize 1\n");
	/* printf '...' | sha256sum */
	assert_string_equal(key, "60e668a029c1304c256661a71c4209630123135cec94f12ed46daa6978a04f44");
	buf_release(&m);
}

static void
order_of_facts_does_not_matter(void **state)
{
	struct buf m = {0};
	char first[SHA256_HEX];

	(void)state;
	manifest_of("b\na\nab\n", &m);
	memcpy(first, key, sizeof(first));
	assert_string_equal(manifest_of("ab\nb\na", &m), "qjob-key 1\na\nab\nb\n");
	assert_string_equal(key, first);
	manifest_of("ab\nb\n", &m);
	assert_string_not_equal(key, first);
	buf_release(&m);
}

static void
nothing_is_a_key_too(void **state)
{
	struct buf m = {0};

	(void)state;
	assert_string_equal(manifest_of("", &m), "qjob-key 1\n");
	buf_release(&m);
}

static void
sorts_by_unsigned_bytes(void **state)
{
	struct buf m = {0};

	(void)state;
	assert_string_equal(manifest_of("\xc3\xa9\nz\n", &m), "qjob-key 1\nz\n\xc3\xa9\n");
	buf_release(&m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sorts_and_drops_doubles),
		cmocka_unit_test(order_of_facts_does_not_matter),
		cmocka_unit_test(nothing_is_a_key_too),
		cmocka_unit_test(sorts_by_unsigned_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
