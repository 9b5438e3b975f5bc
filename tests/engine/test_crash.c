/* kill -9 while a graph runs: what is done stays done, and the end is the same to the byte. */
#include <signal.h>
#include <sys/wait.h>

#include "tests/engine/fake.h"

enum { BLOCKS = 12, KILLS = 25 };

static struct world w;
static const char *self;

static void
world_at(const char *root, int blocks)
{
	w = (struct world){.root = mem_text(root)};
	w.model = path_join(w.root, "model");
	w.log = path_join(w.root, "log");
	w.store = path_join(w.root, "store");
	w.output = path_join(w.root, "output");
	w.p = (struct project){.model = w.model, .log = w.log, .blocks = blocks, .v = 4};
}

static int
run(void)
{
	struct run_result r;
	int rc = world_run(&w, (struct run_options){.output = w.output}, &r);

	run_result_release(&r);
	return rc;
}

static int
count(const char *text, const char *word)
{
	int n = 0;

	for (const char *p = strstr(text, word); p; p = strstr(p + 1, word))
		n++;
	return n;
}

static void
survive_kills(bool late)
{
	char *did, *is, *want;
	unsigned random = 12345;
	int kills = 0, status;

	world_open(&w, BLOCKS);
	w.p.late = late;
	w.p.delay_us = 1000;
	while (kills < KILLS) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(run() != 0);
		random = random * 1103515245 + 12345;
		usleep(random >> 16 & 0x3fff);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		kills += WIFSIGNALED(status) != 0;
		if (WIFEXITED(status)) {    /* it got to the end before the signal */
			assert_int_equal(WEXITSTATUS(status), 0);
			break;
		}
	}
	assert_ok(run());
	did = world_did(&w);
	print_message("%d kills, %d blocks run for %d\n", kills, count(did, "run block/"), BLOCKS);
	/* The block that ran, and with late ones the one that was being written beside it. */
	assert_in_range(count(did, "run block/"), BLOCKS, BLOCKS + (late ? 2 : 1) * kills);
	is = world_output(&w);
	assert_ok(dir_remove(w.store));
	assert_ok(dir_remove(w.output));
	assert_ok(run());
	want = world_output(&w);
	assert_string_equal(is, want);
	free(want);
	free(is);
	free(did);
	world_close(&w);
}

static void
survives_random_kills(void **state)
{
	(void)state;
	survive_kills(false);
}

static void
survives_random_kills_while_writing(void **state)
{
	(void)state;
	survive_kills(true);
}

/* Was a child (`how` as main takes it) killed at its n-th fault point?  It ends well when it has none. */
static bool
dies_at(const char *how, int n)
{
	char arm[16];
	int status;
	pid_t pid;

	snprintf(arm, sizeof(arm), "%d!", n);
	pid = fork();
	if (pid == 0) {
		setenv("QJOB_FAULT", arm, 1);
		execl(self, self, how, w.root, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status))
		assert_int_equal(status, 0);
	return WIFSIGNALED(status);
}

/* A child is killed at every fault point of a run of two blocks, which are written beside one another's runs. */
static void
survives_kill_at_every_point_of_a_run(void **state)
{
	char *want;
	int n = 0;

	(void)state;
	world_open(&w, 2);
	w.p.v = 3;
	w.p.late = true;
	assert_ok(run());
	want = world_output(&w);
	for (bool killed = true; killed; n++) {
		char *is;

		assert_ok(dir_remove(w.output));
		assert_ok(dir_remove(w.store));
		killed = dies_at("late", n);
		if (killed)
			assert_ok(run());
		is = world_output(&w);
		assert_string_equal(is, want);
		free(is);
	}
	print_message("%d kills\n", n - 1);
	assert_in_range(n, 60, 1000);
	free(want);
	world_close(&w);
}

/* Both versions are in the store, the first is published; a child is killed at every fault point of publishing the second. */
static void
survives_kill_at_every_point_of_publication(void **state)
{
	char *want;
	int n = 0;

	(void)state;
	world_open(&w, 2);
	w.p.v = 3;
	assert_ok(run());
	want = world_output(&w);
	for (bool killed = true; killed; n++) {
		char *config = path_join(w.output, "config.json"), *is;

		assert_ok(dir_remove(w.output));
		w.p.v = 4;
		assert_ok(run());
		w.p.v = 3;
		killed = dies_at("run", n);
		if (killed && file_exists(config)) {
			char *text = fake_read(w.output, "config.json"), *out = fake_read(w.output, "out-0.txt");

			assert_int_equal(strstr(text, "\"v\": 3") != NULL, strstr(out, "v=3") != NULL);
			free(text);
			free(out);
		}
		if (killed)
			assert_ok(run());
		is = world_output(&w);
		assert_string_equal(is, want);
		free(is);
		free(config);
	}
	print_message("%d kills\n", n - 1);
	assert_in_range(n, 40, 1000);
	free(want);
	world_close(&w);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(survives_random_kills),
		cmocka_unit_test(survives_random_kills_while_writing),
		cmocka_unit_test(survives_kill_at_every_point_of_a_run),
		cmocka_unit_test(survives_kill_at_every_point_of_publication),
	};

	self = path_real("/proc/self/exe");
	if (argc == 3) {
		world_at(argv[2], 2);
		w.p.v = 3;
		w.p.late = strcmp(argv[1], "late") == 0;
		return run() != 0;
	}
	in_memory();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
