#include "qjob/engine/stamp.h"

#include <time.h>
#include <unistd.h>

#include "qjob/base/buf.h"
#include "qjob/engine/recipe.h"
#include "tests/t.h"

struct fixture {
	char *dir, *store, *input, *output;
	struct recipe recipe;
	struct stamp stamp;
};

static void
put(const char *path, const char *text)
{
	assert_ok(file_replace(path, text, strlen(text)));
}

static void
wait_a_moment(void)
{
	struct timespec moment = {0, 60 * 1000 * 1000};

	nanosleep(&moment, NULL);
}

static void
open_recipe(struct fixture *f, const char *bits)
{
	char *path = mem_format("%s/r.yaml", f->dir);
	char *text = mem_format("qjob: 1\nmodel: {source: m}\nquantize: {bits: %s}\noutput: o\n", bits);
	struct diag d = {0};

	recipe_release(&f->recipe);
	put(path, text);
	assert_ok(recipe_load(&f->recipe, path, NULL, 0, &d));
	free(path);
	free(text);
}

static int
make(void **state)
{
	struct fixture *f = mem_new(1, sizeof(*f));

	f->dir = t_dir();
	f->store = mem_format("%s/store", f->dir);
	f->input = mem_format("%s/in put", f->dir);
	f->output = mem_format("%s/output", f->dir);
	put(f->input, "input");
	open_recipe(f, "4");
	wait_a_moment();
	*state = f;
	return 0;
}

static int
end(void **state)
{
	struct fixture *f = *state;

	stamp_release(&f->stamp);
	recipe_release(&f->recipe);
	t_dir_end(f->dir);
	free(f->store);
	free(f->input);
	free(f->output);
	free(f);
	return 0;
}

static void
begin(struct fixture *f, const char *further)
{
	stamp_release(&f->stamp);
	stamp_begin(&f->stamp, &f->recipe.v[0].settings, further);
}

/* What follows begin in a run: the input is asked, the output written, both stamped. */
static void
stamp_begun(struct fixture *f)
{
	stamp_add(&f->stamp, f->input);
	put(f->output, "output");
	stamp_add_output(&f->stamp, f->output);
	stamp_add_libraries(&f->stamp);
	stamp_save(&f->stamp, f->store, "two\nlines\n");
}

static void
stamp(struct fixture *f)
{
	begin(f, "device cpu");
	stamp_begun(f);
}

/* A run that began so long after the input's last change: told, not waited for, as a busy machine takes its time. */
static void
stamp_after(struct fixture *f, int64_t ns)
{
	struct file_id id;

	assert_ok(file_id(&id, f->input));
	begin(f, "device cpu");
	f->stamp.since = id.ctime_ns + ns;
	stamp_begun(f);
}

static void
assert_check(struct fixture *f, const char *further, const char *want)
{
	struct buf text = {0};

	begin(f, further);
	assert_int_equal(stamp_check(&f->stamp, f->store, &text), want != NULL);
	assert_string_equal(buf_text(&text), want ? want : "");
	buf_release(&text);
}

static void
knows_that_nothing_changed(void **state)
{
	struct fixture *f = *state;

	assert_check(f, "device cpu", NULL);
	stamp(f);
	assert_check(f, "device cpu", "two\nlines\n");
	assert_check(f, "device cpu", "two\nlines\n");
}

static void
sees_every_change(void **state)
{
	struct fixture *f = *state;

	stamp(f);
	assert_check(f, "device cuda", NULL);
	open_recipe(f, "3");
	assert_check(f, "device cpu", NULL);
	open_recipe(f, "4");
	assert_check(f, "device cpu", "two\nlines\n");

	put(f->output, "OUTPUT");
	assert_check(f, "device cpu", NULL);
	stamp(f);
	assert_int_equal(unlink(f->output), 0);
	assert_check(f, "device cpu", NULL);
	stamp(f);
	put(f->input, "INPUT");          /* the same size */
	assert_check(f, "device cpu", NULL);
}

static void
doubts_what_is_young(void **state)
{
	struct fixture *f = *state;

	put(f->input, "changed just now");
	stamp_after(f, 19 * 1000 * 1000);
	assert_check(f, "device cpu", NULL);
	stamp_after(f, 20 * 1000 * 1000);
	assert_check(f, "device cpu", "two\nlines\n");
	/* changed while the run read it */
	begin(f, "device cpu");
	put(f->input, "again");
	wait_a_moment();
	stamp_add(&f->stamp, f->input);
	assert_true(f->stamp.doubtful);
	/* gone, or not to be written on a line */
	begin(f, "device cpu");
	stamp_add_output(&f->stamp, "/no/such/file");
	assert_true(f->stamp.doubtful);
	begin(f, "device cpu");
	stamp_add_output(&f->stamp, "a\nb");
	assert_true(f->stamp.doubtful);
}

/* Whatever a stamp holds, it is read as far as it makes sense, and no further. */
static void
stands_a_damaged_stamp(void **state)
{
	struct fixture *f = *state;
	struct buf whole = {0};
	char *path;

	stamp(f);
	begin(f, "device cpu");
	path = mem_format("%s/stamp/%s", f->store, f->stamp.name);
	assert_ok(file_read(&whole, path, 1 << 20));
	for (size_t n = 0; n < whole.n - strlen("two\nlines\n"); n += 61) {
		assert_ok(file_replace(path, whole.p, n));
		assert_check(f, "device cpu", NULL);
	}
	for (size_t i = 0; i < whole.n - strlen("two\nlines\n"); i += 67) {
		whole.p[i] ^= 1;
		assert_ok(file_replace(path, whole.p, whole.n));
		assert_check(f, "device cpu", NULL);
		whole.p[i] ^= 1;
	}
	buf_release(&whole);
	free(path);
}

/* Another driver, another card or one card less is another machine. */
static void
cards_and_drivers_count(void **state)
{
	struct fixture *f = *state;
	char *driver = path_join(f->dir, "nvidia"), *gpu = path_join(driver, "gpus/0000:01:00.0");
	char *version = path_join(driver, "version"), *card = path_join(gpu, "information");
	struct buf none = {0}, some = {0}, other = {0}, newer = {0};

	stamp_machine(&none, driver);
	assert_null(strstr(buf_text(&none), "cards"));
	assert_ok(dir_make(gpu));
	put(version, "NVRM version: 550.54.15\n");
	put(card, "Model: H100\n");
	stamp_machine(&some, driver);
	assert_non_null(strstr(buf_text(&some), "\ncards "));
	put(card, "Model: H200\n");
	stamp_machine(&other, driver);
	put(version, "NVRM version: 560.28.03\n");
	stamp_machine(&newer, driver);
	assert_string_not_equal(buf_text(&some), buf_text(&other));
	assert_string_not_equal(buf_text(&newer), buf_text(&other));
	buf_clear(&other);
	stamp_machine(&other, driver);
	assert_string_equal(buf_text(&newer), buf_text(&other));
	buf_release(&none);
	buf_release(&some);
	buf_release(&other);
	buf_release(&newer);
	free(card);
	free(version);
	free(gpu);
	free(driver);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(knows_that_nothing_changed, make, end),
		cmocka_unit_test_setup_teardown(sees_every_change, make, end),
		cmocka_unit_test_setup_teardown(doubts_what_is_young, make, end),
		cmocka_unit_test_setup_teardown(stands_a_damaged_stamp, make, end),
		cmocka_unit_test_setup_teardown(cards_and_drivers_count, make, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
