#include "qjob/base/chunks.h"

#include "qjob/base/hash.h"
#include "tests/t.h"

enum { LONGEST = 3 * CHUNK_BYTES + 17, RANGES = 7 };

/* Around every place where a range is cut; their sum is not a multiple of a chunk. */
static const size_t sizes[RANGES] = {
	1, CHUNK_BYTES - 1, 0, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, LONGEST,
};

static unsigned char *bytes;

static int
set_up(void **state)
{
	(void)state;
	bytes = mem_new(LONGEST, 1);
	for (size_t i = 0; i < LONGEST; i++)
		bytes[i] = (unsigned char)(i * i >> 7);
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	free(bytes);
	return 0;
}

/* The list by its definition, chunk by chunk. */
static void
list_plainly(const unsigned char *p, size_t n, struct buf *out)
{
	char hex[SHA256_HEX];

	for (; n > 0; p += CHUNK_BYTES) {
		size_t some = n < CHUNK_BYTES ? n : CHUNK_BYTES;

		sha256_of(p, some, hex);
		buf_printf(out, "%s\n", hex);
		n -= some;
	}
}

static void
assert_list(const struct chunks *c, size_t range, const unsigned char *p, size_t n)
{
	struct buf have = {0}, want = {0};

	chunks_list(c, range, &have);
	list_plainly(p, n, &want);
	assert_string_equal(buf_text(&have), buf_text(&want));
	assert_int_equal(have.n, (n + CHUNK_BYTES - 1) / CHUNK_BYTES * SHA256_HEX);
	buf_release(&have);
	buf_release(&want);
}

static void
lists_each_chunk_of_a_range(void **state)
{
	(void)state;
	for (size_t i = 0; i < RANGES; i++) {
		struct chunks c = {0};

		chunks_add(&c, bytes, sizes[i]);
		assert_int_equal(c.bytes, sizes[i]);
		assert_ok(chunks_digest(&c, 2, NULL, NULL));
		assert_list(&c, 0, bytes, sizes[i]);
		chunks_release(&c);
	}
}

/* Neither the threads nor what is digested beside it change a range's list. */
static void
ranges_are_apart_for_any_number_of_threads(void **state)
{
	(void)state;
	for (int threads = 1; threads <= 9; threads += 4) {
		struct chunks c = {0};
		size_t sum = 0;

		for (size_t i = 0; i < RANGES; i++) {
			chunks_add(&c, bytes + LONGEST - sizes[i], sizes[i]);
			sum += sizes[i];
		}
		assert_int_equal(c.ranges, RANGES);
		assert_int_equal(c.bytes, sum);
		assert_ok(chunks_digest(&c, threads, NULL, NULL));
		for (size_t i = RANGES; i-- > 0;)
			assert_list(&c, i, bytes + LONGEST - sizes[i], sizes[i]);
		chunks_release(&c);
	}
}

static void
nothing_has_no_chunk(void **state)
{
	struct chunks c = {0};
	struct buf list = {0};

	(void)state;
	assert_ok(chunks_digest(&c, 4, NULL, NULL));
	chunks_release(&c);
	chunks_add(&c, NULL, 0);
	assert_ok(chunks_digest(&c, 4, NULL, NULL));
	chunks_list(&c, 0, &list);
	assert_string_equal(buf_text(&list), "");
	chunks_release(&c);
}

struct watcher {
	size_t seen, stop_at;
};

static int
watch(void *own, size_t done)
{
	struct watcher *w = own;

	assert_true(done >= w->seen);
	w->seen = done;
	return done < w->stop_at ? 0 : err_set(E_SYS, "interrupted");
}

static void
is_watched_by_bytes_and_stopped(void **state)
{
	(void)state;
	for (int threads = 1; threads <= 4; threads++) {
		struct watcher w = {.stop_at = SIZE_MAX};
		struct chunks c = {0};

		chunks_add(&c, bytes, LONGEST);
		assert_ok(chunks_digest(&c, threads, watch, &w));
		assert_true(w.seen > 0 && w.seen <= LONGEST);
		w = (struct watcher){0};
		assert_int_equal(chunks_digest(&c, threads, watch, &w), E_SYS);
		assert_string_equal(err_text(), "interrupted");
		chunks_release(&c);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_each_chunk_of_a_range),
		cmocka_unit_test(ranges_are_apart_for_any_number_of_threads),
		cmocka_unit_test(nothing_has_no_chunk),
		cmocka_unit_test(is_watched_by_bytes_and_stopped),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
