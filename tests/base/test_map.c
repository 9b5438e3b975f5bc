#include "qjob/base/map.h"

#include "tests/t.h"

static void
finds_what_was_put_in_order(void **state)
{
	struct map m = {0};
	char key[32];
	bool added;

	(void)state;
	assert_null(map_find(&m, "a"));
	for (int i = 0; i < 5000; i++) {
		snprintf(key, sizeof(key), "key%d", (i * 7919) % 5000);
		map_put(&m, key, &added)->v.i = i;
		assert_true(added);
	}
	assert_int_equal(m.n, 5000);
	for (int i = 0; i < 5000; i++) {
		snprintf(key, sizeof(key), "key%d", (i * 7919) % 5000);
		assert_string_equal(m.v[i].key, key);
		assert_int_equal(map_find(&m, key)->v.i, i);
		map_put(&m, key, &added)->v.i++;
		assert_false(added);
	}
	assert_int_equal(m.n, 5000);
	assert_int_equal(map_find(&m, "key7919") == NULL, 1);
	map_release(&m);
	assert_null(map_find(&m, "key1"));
}

static void
takes_keys_by_length(void **state)
{
	struct map m = {0};

	(void)state;
	map_put(&m, "ab", NULL)->v.i = 2;
	map_put(&m, "abc", NULL)->v.i = 3;
	map_put(&m, "", NULL)->v.i = 9;
	assert_int_equal(map_find_n(&m, "abcd", 2)->v.i, 2);
	assert_int_equal(map_find_n(&m, "abcd", 3)->v.i, 3);
	assert_int_equal(map_find_n(&m, "abcd", 0)->v.i, 9);
	assert_null(map_find_n(&m, "abcd", 4));
	assert_null(map_find_n(&m, "ab\0", 3));
	assert_null(map_find_n(&m, "a", 1));
	map_release(&m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_what_was_put_in_order),
		cmocka_unit_test(takes_keys_by_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
