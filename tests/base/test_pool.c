#include "qjob/base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "tests/t.h"

enum { PIECES = 1000, STOP_AT = 10 };

struct list {
	int made[PIECES];
	size_t fails, fails_too;    /* pieces; PIECES: none */
	atomic_int now, most, started;
	size_t stop_at, seen;       /* of who watches */
	atomic_bool stopped;
	pthread_t caller;
};

static void
pause_us(long us)
{
	nanosleep(&(struct timespec){0, us * 1000}, NULL);
}

static int
make(void *own, size_t i)
{
	struct list *l = own;
	int now = atomic_fetch_add(&l->now, 1) + 1, most = atomic_load(&l->most);

	while (now > most && !atomic_compare_exchange_weak(&l->most, &most, now))
		;
	atomic_fetch_add(&l->started, 1);
	pause_us(i % 7 == 0 ? 100 : 1);
	/* However late who watches comes, there is something left to stop. */
	while (i > PIECES / 2 && l->stop_at == STOP_AT && !pthread_equal(pthread_self(), l->caller) && !atomic_load(&l->stopped))
		pause_us(100);
	l->made[i] = (int)(i * i);
	atomic_fetch_sub(&l->now, 1);
	if (i == l->fails || i == l->fails_too)
		return err_set(E_DATA, "piece %zu is odd", i);
	return 0;
}

static void
does_every_piece_once(void **state)
{
	(void)state;
	for (int threads = -1; threads <= 9; threads += 2) {
		struct list l = {.fails = PIECES, .fails_too = PIECES};

		assert_ok(pool_run(PIECES, threads, make, &l));
		assert_int_equal(atomic_load(&l.started), PIECES);
		assert_in_range(atomic_load(&l.most), 1, threads > 1 ? threads : 1);
		for (int i = 0; i < PIECES; i++)
			assert_int_equal(l.made[i], i * i);
	}
	assert_ok(pool_run(0, 4, make, NULL));
	assert_true(pool_threads() >= 1);
}

static void
tells_the_first_failure(void **state)
{
	(void)state;
	for (int threads = 1; threads <= 8; threads++) {
		struct list l = {.fails = 41, .fails_too = 43};

		assert_int_equal(pool_run(PIECES, threads, make, &l), E_DATA);
		assert_string_equal(err_text(), "piece 41 is odd");
		assert_in_range(atomic_load(&l.started), 42, PIECES - 1);
	}
}

/* On the caller's thread only, and of growing numbers. */
static int
watch(void *own, size_t done)
{
	struct list *l = own;

	assert_true(pthread_equal(pthread_self(), l->caller));
	assert_true(done >= l->seen && done <= PIECES);
	l->seen = done;
	if (done < l->stop_at)
		return 0;
	atomic_store(&l->stopped, true);
	return err_set(E_SYS, "interrupted");
}

static void
is_watched_and_stopped(void **state)
{
	(void)state;
	for (int threads = 1; threads <= 8; threads++) {
		struct list l = {.fails = PIECES, .fails_too = PIECES, .stop_at = PIECES + 1, .caller = pthread_self()};

		assert_ok(pool_watch(PIECES, threads, make, &l, watch));
		assert_true(l.seen > 0);
		l.stop_at = STOP_AT;
		l.seen = 0;
		atomic_store(&l.started, 0);
		assert_int_equal(pool_watch(PIECES, threads, make, &l, watch), E_SYS);
		assert_string_equal(err_text(), "interrupted");
		assert_in_range(atomic_load(&l.started), STOP_AT, PIECES - 1);
	}
}

/* What a piece says is worth more than that somebody stopped waiting. */
static void
a_failure_comes_before_a_stop(void **state)
{
	struct list l = {.fails = 0, .fails_too = PIECES, .stop_at = 1, .caller = pthread_self()};

	(void)state;
	assert_int_equal(pool_watch(PIECES, 2, make, &l, watch), E_DATA);
	assert_string_equal(err_text(), "piece 0 is odd");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(does_every_piece_once),
		cmocka_unit_test(tells_the_first_failure),
		cmocka_unit_test(is_watched_and_stopped),
		cmocka_unit_test(a_failure_comes_before_a_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
