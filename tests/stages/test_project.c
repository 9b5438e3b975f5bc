/* Whose turn it is when several want all processors. */
#include "stages/project.h"

#include <time.h>

#include "tests/t.h"

enum { COMERS = 8 };

static struct project p = {.turn = {.lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER}};
static atomic_int inside;                /* of a turn: one at most */
static atomic_bool crowded;
static int order[COMERS];                /* who had a turn; written in one */
static atomic_int n;

static void
pause_ms(long ms)
{
	nanosleep(&(struct timespec){0, ms * 1000000}, NULL);
}

static void *
come(void *own)
{
	project_turn(&p, *(const int *)own);
	if (atomic_fetch_add(&inside, 1) > 0)
		atomic_store(&crowded, true);
	order[atomic_fetch_add(&n, 1) % COMERS] = *(const int *)own;
	pause_ms(1);
	atomic_fetch_sub(&inside, 1);
	project_turn_over(&p);
	return NULL;
}

static int
waiting(void)
{
	int count = 0;

	pthread_mutex_lock(&p.turn.lock);
	for (const struct waiter *w = p.turn.first; w; w = w->next)
		count++;
	pthread_mutex_unlock(&p.turn.lock);
	return count;
}

/* Whoever comes first: the first turn lasts until all others wait. */
static void
the_lowest_index_is_next(void **state)
{
	static const int comes[COMERS] = {5, 2, 7, 2, 0, 6, 1, 3}, goes[COMERS] = {0, 1, 2, 2, 3, 5, 6, 7};
	pthread_t thread[COMERS];

	(void)state;
	atomic_store(&n, 0);
	project_turn(&p, 9);
	for (int i = 0; i < COMERS; i++) {
		assert_int_equal(pthread_create(&thread[i], NULL, come, (void *)&comes[i]), 0);
		while (waiting() <= i)
			pause_ms(1);
	}
	assert_int_equal(atomic_load(&n), 0);
	project_turn_over(&p);
	for (int i = 0; i < COMERS; i++)
		pthread_join(thread[i], NULL);
	assert_memory_equal(order, goes, sizeof(goes));
	assert_false(atomic_load(&crowded));
	assert_null(p.turn.first);
}

static void
a_free_turn_is_taken_at_once(void **state)
{
	(void)state;
	for (int i = 3; i >= 0; i--) {
		project_turn(&p, i);
		project_turn_over(&p);
	}
	assert_int_equal(waiting(), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_lowest_index_is_next),
		cmocka_unit_test(a_free_turn_is_taken_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
