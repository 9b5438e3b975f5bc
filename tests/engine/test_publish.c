#include <sys/stat.h>
#include <sys/wait.h>

#include "qjob/base/fault.h"
#include "tests/engine/fake.h"

static struct world w;

static int
set_up(void **state)
{
	(void)state;
	world_open(&w, 4);
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	fault_arm(-1);
	world_close(&w);
	return 0;
}

static int
try_run(const char *identity)
{
	struct run_result r;
	int rc = world_run(&w, (struct run_options){.output = w.output, .identity = identity}, &r);

	run_result_release(&r);
	return rc;
}

static struct file_id
id_of(const char *name)
{
	char *path = path_join(w.output, name);
	struct file_id id;

	assert_ok(file_id(&id, path));
	free(path);
	return id;
}

static bool
is_there(const char *name)
{
	char *path = path_join(w.output, name);
	bool is = file_exists(path);

	free(path);
	return is;
}

static void
assert_names(const char *want)
{
	struct buf b = {0};
	char **names;
	size_t n;

	assert_ok(dir_names(&names, &n, w.output));
	for (size_t i = 0; i < n; i++)
		buf_printf(&b, "%s ", names[i]);
	assert_string_equal(buf_text(&b), want);
	dir_names_free(names, n);
	buf_release(&b);
}

/* ---- */

static void
publishes_with_an_account(void **state)
{
	char *text, *moved = path_join(w.root, "elsewhere"), *again;
	struct world other = w;

	(void)state;
	assert_ok(try_run("qjob: 1\n"));
	assert_names("config.json out-0.txt out-1.txt qjob.json ");
	text = fake_read(w.output, "qjob.json");
	assert_ptr_equal(strstr(text, "{\n  \"qjob\": {\n    \"version\": \"" QJOB_VERSION "\"\n  },\n"
		"  \"recipe\": \"qjob: 1\\n\",\n  \"files\": {\n    \"out-0.txt\": \"sha256:"), text);
	assert_non_null(strstr(text, "\"name\": \"fetch/0\",\n      \"exports\": {\n        \"content\": \"sha256:"));
	assert_non_null(strstr(text, "\"name\": \"block/1\",\n      \"key\": \""));
	assert_non_null(strstr(text, "\"activations\": \"sha256:"));
	assert_null(strstr(text, w.root));
	/* Another store, another folder, the same bytes. */
	other.store = path_join(w.root, "other-store");
	other.output = moved;
	{
		struct run_result r;

		assert_ok(world_run(&other, (struct run_options){.output = moved, .identity = "qjob: 1\n"}, &r));
		run_result_release(&r);
	}
	again = fake_read(moved, "qjob.json");
	assert_string_equal(again, text);
	free(other.store);
	free(again);
	free(moved);
	free(text);
}

static void
leaves_alone_what_did_not_change(void **state)
{
	struct file_id config, out0, out1, about;

	(void)state;
	assert_ok(try_run("a"));
	config = id_of("config.json");
	out0 = id_of("out-0.txt");
	out1 = id_of("out-1.txt");
	about = id_of("qjob.json");
	assert_ok(try_run("a"));
	assert_memory_equal(&about, &(struct file_id[1]){id_of("qjob.json")}, sizeof(about));
	assert_memory_equal(&config, &(struct file_id[1]){id_of("config.json")}, sizeof(config));
	assert_ok(try_run("b"));    /* only the account changes */
	assert_int_not_equal(about.ino, id_of("qjob.json").ino);
	assert_memory_equal(&config, &(struct file_id[1]){id_of("config.json")}, sizeof(config));
	assert_memory_equal(&out0, &(struct file_id[1]){id_of("out-0.txt")}, sizeof(out0));
	fake_write(w.model, "3.txt", "other");
	assert_ok(try_run("b"));
	assert_memory_equal(&out0, &(struct file_id[1]){id_of("out-0.txt")}, sizeof(out0));
	assert_int_not_equal(out1.ino, id_of("out-1.txt").ino);
	assert_int_equal(config.ino, id_of("config.json").ino);    /* was aside for a moment */
	assert_int_equal(config.mtime_ns, id_of("config.json").mtime_ns);
	assert_names("config.json out-0.txt out-1.txt qjob.json ");
}

static void
restores_what_was_damaged(void **state)
{
	static const char *const names[] = {"config.json", "out-1.txt", "qjob.json"};
	char *was, *is, *path;

	(void)state;
	assert_ok(try_run("a"));
	was = world_output(&w);
	for (size_t i = 0; i < 3; i++) {
		path = path_join(w.output, names[i]);
		if (i < 2) {
			fake_write(w.output, names[i], "damaged");
			assert_ok(try_run("a"));
			is = world_output(&w);
			assert_string_equal(is, was);
			free(is);
		}
		assert_int_equal(unlink(path), 0);
		if (i < 2)
			assert_ok(try_run("a"));
		free(path);
	}
	/* Without its account the folder is not known as ours. */
	assert_int_equal(try_run("a"), E_USE);
	free(was);
}

static void
removes_what_is_stale_and_ours(void **state)
{
	(void)state;
	assert_ok(try_run("a"));
	fake_write(w.output, "notes.txt", "mine");
	w.p.blocks = 2;
	assert_ok(try_run("a"));
	assert_names("config.json notes.txt out-0.txt qjob.json ");
	w.p.blocks = 4;
	assert_ok(try_run("a"));
	fake_write(w.output, "out-1.txt", "edited by its user");
	w.p.blocks = 2;
	assert_ok(try_run("a"));
	assert_names("config.json notes.txt out-0.txt out-1.txt qjob.json ");
}

static void
refuses_folders_that_are_not_ours(void **state)
{
	char *want;

	(void)state;
	assert_ok(dir_make(w.output));
	fake_write(w.output, "thesis.tex", "mine");
	assert_int_equal(try_run("a"), E_USE);
	want = mem_format("%s: has files that qjob did not write; choose another output folder, or empty it", w.output);
	assert_string_equal(err_text(), want);
	free(want);
	assert_did(&w, "");    /* before any work */
	fake_write(w.output, "qjob.json", "{\"name\": \"other\"}");
	assert_int_equal(try_run("a"), E_USE);
	want = mem_format("%s/qjob.json: not written by qjob, or damaged; remove it, or choose another output folder", w.output);
	assert_string_equal(err_text(), want);
	fake_write(w.output, "qjob.json", "{\"qjob\": ");
	assert_int_equal(try_run("a"), E_USE);
	assert_string_equal(err_text(), want);
	free(want);
	assert_names("qjob.json thesis.tex ");
	assert_ok(dir_remove(w.output));
	assert_ok(dir_make(w.output));    /* an empty folder is welcome */
	assert_ok(try_run("a"));
}

static void
assert_refuses_place(const char *output, const char *blames, const char *why)
{
	char *was = w.output, *path = path_join(w.root, blames), *want = mem_format("output folder: %s: %s", path, why);

	w.output = path_join(w.root, output);
	assert_int_equal(try_run("a"), E_USE);
	assert_string_equal(err_text(), want);
	assert_did(&w, "");    /* before any work */
	free(w.output);
	w.output = was;
	free(want);
	free(path);
}

static void
refuses_places_that_are_no_folder(void **state)
{
	char *link = path_join(w.root, "link");

	(void)state;
	fake_write(w.root, "file", "in the way");
	assert_int_equal(symlink("nowhere", link), 0);
	free(link);
	assert_refuses_place("file", "file", "Not a directory");
	assert_refuses_place("file/far/out", "file", "exists and is not a folder");
	assert_refuses_place("link", "link", "exists and is not a folder");
	assert_refuses_place("link/far/out", "link", "exists and is not a folder");
}

static void
refuses_places_that_cannot_be_written(void **state)
{
	char *locked = path_join(w.root, "locked");

	(void)state;
	assert_int_equal(mkdir(locked, 0555), 0);
	if (access(locked, W_OK) == 0) {
		free(locked);
		print_message("skipped: root may write everywhere\n");
		skip();
	}
	free(locked);
	assert_refuses_place("locked", "locked", "Permission denied");
	assert_refuses_place("locked/far/out", "locked", "Permission denied");
	/* What is there already, and right, needs no writing. */
	assert_ok(try_run("a"));
	assert_int_equal(chmod(w.output, 0555), 0);
	assert_ok(dir_remove(w.store));
	assert_ok(try_run("a"));
	assert_int_equal(chmod(w.output, 0777), 0);
}

/* An account that names files elsewhere must not reach them. */
static void
an_account_cannot_reach_out(void **state)
{
	char hex[SHA256_HEX], *text;

	(void)state;
	assert_ok(try_run("a"));
	fake_write(w.root, "precious", "x");
	sha256_of("x", 1, hex);
	text = mem_format("{\"qjob\": {}, \"files\": {\"../precious\": \"sha256:%s\", \"out-9\": 7, \"..\": \"sha256:%s\"}}", hex, hex);
	fake_write(w.output, "qjob.json", text);
	assert_ok(try_run("a"));
	free(text);
	text = path_join(w.root, "precious");
	assert_true(file_exists(text));
	free(text);
	assert_names("config.json out-0.txt out-1.txt qjob.json ");
}

static int
publish_named(const char *one, const char *two)
{
	struct graph g = {0};
	struct store *s;
	struct run_result r;
	int rc;

	assert_ok(store_open(&s, w.store));
	node_publish(graph_add(&g, &fake_config, 0, "one"), one);
	if (two)
		node_publish(graph_add(&g, &fake_config, 1, "two"), two);
	rc = engine_run(&g, &w.p, &(struct run_options){.store = s, .output = w.output}, &r);
	run_result_release(&r);
	graph_release(&g);
	store_close(s);
	return rc;
}

static void
refuses_bad_names(void **state)
{
	static const struct {
		const char *one, *two, *want;
		int rc;
	} rows[] = {
		{"a/b", NULL, "one wants to publish \"a/b\", which is no name for it", E_USE},
		{"..", NULL, "one wants to publish \"..\", which is no name for it", E_USE},
		{"", NULL, "one wants to publish \"\", which is no name for it", E_USE},
		{"qjob.json", NULL, "one wants to publish \"qjob.json\", which is no name for it", E_USE},
		{"x", "x", "two nodes publish x, one of them is two", E_USE},
		{"config.json", "absent", "publish: absent was to be published, and no stage made it", E_DATA},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(publish_named(rows[i].one, rows[i].two), rows[i].rc);
		assert_string_equal(err_text(), rows[i].want);
	}
}

/* Files that were ready are gone again, and so is the folder that was made for them. */
static void
a_failed_run_leaves_nothing_aside(void **state)
{
	(void)state;
	w.p.fails = "pack/1";
	assert_int_equal(try_run("a"), E_NUMERIC);
	assert_false(file_exists(w.output));
	w.p.fails = NULL;
	assert_ok(try_run("a"));
	w.p.v++;
	w.p.fails = "pack/1";
	assert_int_equal(try_run("a"), E_NUMERIC);
	assert_names("config.json out-0.txt out-1.txt qjob.json ");
}

static void
sweeps_what_killed_runs_laid_aside(void **state)
{
	char *of_the_living = mem_format("%s/.qjob-publishing.%ld", w.output, (long)getppid()), *of_the_dead;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	of_the_dead = mem_format("%s/.qjob-publishing.%ld", w.output, (long)pid);
	assert_ok(dir_make(of_the_dead));
	assert_ok(dir_make(of_the_living));
	fake_write(of_the_dead, "out-0.txt", "half");
	assert_ok(try_run("a"));
	assert_false(file_exists(of_the_dead));
	assert_true(file_exists(of_the_living));
	assert_ok(dir_remove(of_the_living));
	assert_names("config.json out-0.txt out-1.txt qjob.json ");
	free(of_the_dead);
	free(of_the_living);
}

/* Both versions are in the store, the first is published; then every fault point of publishing the second. */
static void
survives_every_fault(void **state)
{
	char *want;
	int n = 0, refused = 0;

	(void)state;
	w.p.blocks = 2;
	w.p.v = 3;
	assert_ok(try_run("3"));
	want = world_output(&w);
	for (bool met = true; met; n++) {
		char *is;
		int rc;

		assert_ok(dir_remove(w.output));
		w.p.v = 4;
		assert_ok(try_run("4"));
		w.p.v = 3;
		{
			struct run_result r;
			struct graph g;
			struct store *s;

			assert_ok(store_open(&s, w.store));
			fake_graph(&g, &w.p);
			fault_arm(n);
			rc = engine_run(&g, &w.p, &(struct run_options){.store = s, .output = w.output, .identity = "3"}, &r);
			met = fault_fired();
			fault_arm(-1);
			run_result_release(&r);
			graph_release(&g);
			store_close(s);
		}
		if (rc < 0) {
			refused++;
			assert_string_not_equal(err_text(), "");
			assert_true(met);
			/* A config is there only beside its own weights. */
			if (is_there("config.json")) {
				char *config = fake_read(w.output, "config.json"), *out = fake_read(w.output, "out-0.txt");

				assert_int_equal(strstr(config, "\"v\": 3") != NULL, strstr(out, "v=3") != NULL);
				free(config);
				free(out);
			}
			assert_ok(try_run("3"));
		}
		is = world_output(&w);
		assert_string_equal(is, want);
		free(is);
	}
	print_message("%d fault points, %d refusals\n", n - 1, refused);
	assert_in_range(refused, 25, n);
	free(want);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		T(publishes_with_an_account),
		T(leaves_alone_what_did_not_change),
		T(restores_what_was_damaged),
		T(removes_what_is_stale_and_ours),
		T(refuses_folders_that_are_not_ours),
		T(refuses_places_that_are_no_folder),
		T(refuses_places_that_cannot_be_written),
		T(an_account_cannot_reach_out),
		T(refuses_bad_names),
		T(a_failed_run_leaves_nothing_aside),
		T(sweeps_what_killed_runs_laid_aside),
		T(survives_every_fault),
#undef T
	};

	in_memory();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
