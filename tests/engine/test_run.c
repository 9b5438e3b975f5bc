#include <errno.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/engine/fake.h"

#define KINDS 10    /* of states */

static struct world w;
static bool locks_lie;

/* In place of the system's, for the file systems that let everybody through. */
int
flock(int fd, int op)
{
	return locks_lie ? 0 : (int)syscall(SYS_flock, fd, op);
}

static int
set_up(void **state)
{
	(void)state;
	locks_lie = false;
	world_open(&w, 6);
	return 0;
}

/* The same world, whose blocks are written beside the run of the next one. */
static int
set_up_late(void **state)
{
	set_up(state);
	w.p.late = true;
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	world_close(&w);
	return 0;
}

static void
run_well(size_t hits, size_t ran)
{
	struct run_result r;

	assert_ok(world_run(&w, (struct run_options){.output = w.output}, &r));
	assert_int_equal(r.hits, hits);
	assert_int_equal(r.ran, ran);
	assert_int_equal(r.failed, 0);
	run_result_release(&r);
}

/* What an undisturbed run in a fresh store gives. */
static char *
fresh_output(void)
{
	struct world own = w;
	struct run_result r;
	char *out;

	own.store = path_join(w.root, "fresh-store");
	own.output = path_join(w.root, "fresh-output");
	own.log = path_join(w.root, "fresh-log");
	own.p.log = own.log;
	assert_ok(dir_remove(own.store));
	assert_ok(dir_remove(own.output));
	assert_ok(world_run(&own, (struct run_options){.output = own.output}, &r));
	run_result_release(&r);
	out = world_output(&own);
	free(own.store);
	free(own.output);
	free(own.log);
	return out;
}

static void
assert_as_fresh(void)
{
	char *is = world_output(&w), *want = fresh_output();

	assert_string_equal(is, want);
	free(is);
	free(want);
}

/* ---- */

#define FETCHES "run fetch/0, run fetch/1, run fetch/2, run fetch/3, run fetch/4, run fetch/5"
#define BLOCKS "run block/0, run block/1, run block/2, run block/3, run block/4, run block/5"

static void
runs_once_then_hits(void **state)
{
	(void)state;
	run_well(0, 16);
	assert_did(&w, BLOCKS ", run config, " FETCHES ", run pack/0, run pack/1, run pack/2");
	run_well(16, 0);
	assert_did(&w, "");
	assert_as_fresh();
}

static void
a_changed_parameter_reruns_what_it_touches(void **state)
{
	(void)state;
	run_well(0, 16);
	assert_did(&w, BLOCKS ", run config, " FETCHES ", run pack/0, run pack/1, run pack/2");
	w.p.v = 3;
	run_well(6, 10);
	assert_did(&w, BLOCKS ", run config, run pack/0, run pack/1, run pack/2");
	assert_as_fresh();
	w.p.v = 4;
	run_well(16, 0);
	assert_did(&w, "");
	assert_as_fresh();
}

static void
a_changed_tensor_replays_to_its_block(void **state)
{
	(void)state;
	run_well(0, 16);
	free(world_did(&w));
	fake_write(w.model, "4.txt", "other");
	run_well(5 + 4 + 2 + 1, 1 + 2 + 1);
	assert_did(&w, "replay block/0, replay block/1, replay block/2, replay block/3, "
		"run block/4, run block/5, run fetch/4, run pack/2");
	assert_as_fresh();
}

static void
a_touched_file_reruns_only_its_digest(void **state)
{
	(void)state;
	run_well(0, 16);
	free(world_did(&w));
	fake_write(w.model, "4.txt", "4.txt");
	run_well(15, 1);
	assert_did(&w, "run fetch/4");
	run_well(16, 0);
	assert_did(&w, "");
}

static void
forget(const char *node, int v)
{
	struct graph g;
	struct store *s;
	char key[SHA256_HEX], *path;

	w.p.v = v;
	assert_ok(store_open(&s, w.store));
	fake_graph(&g, &w.p);
	assert_int_equal(last_get(s, "the project", node, key), 1);
	path = mem_format("%s/ac/%.2s/%s", w.store, key, key);
	assert_int_equal(unlink(path), 0);
	free(path);
	graph_release(&g);
	store_close(s);
}

/* Two holes in a lane: replay to the first, run it, replay on to the second. */
static void
replays_between_holes(void **state)
{
	(void)state;
	run_well(0, 16);
	free(world_did(&w));
	forget("block/1", 4);
	forget("block/4", 4);
	run_well(14, 2);
	assert_did(&w, "replay block/0, replay block/2, replay block/3, run block/1, run block/4");
	assert_as_fresh();
}

static void
equal_output_stops_the_rebuild(void **state)
{
	struct graph g = {.project = mem_text("the project")};
	struct store *s;
	struct run_result r;
	enum node_state want[2][3] = {
		{NODE_DONE, NODE_CUTOFF, NODE_HIT},     /* v 2 -> 3: halves to the same */
		{NODE_DONE, NODE_DONE, NODE_DONE},      /* v 3 -> 4: does not */
	};

	(void)state;
	graph_release(&g);
	for (int v = 2; v <= 4; v++) {
		struct node *n;

		assert_ok(store_open(&s, w.store));
		g = (struct graph){0};
		w.p.v = v;
		w.p.blocks = 1;
		add_fetch(&g, &w.p, 0);
		add_block(&g, &w.p, 0);
		n = graph_add(&g, &fake_half, 0, "half/0");
		node_need(n, graph_find(&g, "block/0"), "out", "block");
		n = graph_add(&g, &fake_pack, 0, "pack/0");
		node_need(n, graph_find(&g, "half/0"), "out", "half");
		assert_ok(engine_run(&g, &w.p, &(struct run_options){.store = s}, &r));
		for (int i = 0; v > 2 && i < 3; i++)
			assert_int_equal(r.v[i + 1].state, want[v - 3][i]);
		run_result_release(&r);
		graph_release(&g);
		store_close(s);
	}
}

static void
a_failure_spares_what_does_not_need_it(void **state)
{
	struct run_result r;

	(void)state;
	w.p.fails = "block/3";
	assert_int_equal(world_run(&w, (struct run_options){.output = w.output}, &r), E_NUMERIC);
	assert_string_equal(err_text(), "block/3: pivot 7 is not positive");
	assert_int_equal(r.failed, 1);
	assert_int_equal(r.v[6 + 3].state, NODE_FAILED);
	assert_string_equal(r.v[6 + 3].why, "pivot 7 is not positive");
	assert_int_equal(r.v[6 + 2].state, NODE_DONE);
	assert_int_equal(r.v[6 + 4].state, NODE_SKIPPED);
	assert_int_equal(r.v[6 + 5].state, NODE_SKIPPED);
	assert_int_equal(r.v[12].state, NODE_DONE);       /* pack of 0 and 1 */
	assert_int_equal(r.v[13].state, NODE_SKIPPED);
	assert_int_equal(r.v[15].state, NODE_DONE);       /* config */
	run_result_release(&r);
	assert_false(file_exists(w.output));
	free(world_did(&w));
	w.p.fails = NULL;
	run_well(11, 5);
	assert_did(&w, "replay block/0, replay block/1, replay block/2, run block/3, run block/4, run block/5, run pack/1, run pack/2");
	assert_as_fresh();
}

static void
lists_every_failure(void **state)
{
	struct run_result r;
	char *path = path_join(w.model, "2.txt"), *want;

	(void)state;
	w.p.fails = "block/1";
	assert_int_equal(unlink(path), 0);
	assert_int_equal(world_run(&w, (struct run_options){0}, &r), E_SYS);
	want = mem_format("fetch/2: %s: No such file or directory (and 1 more failed)", path);
	assert_string_equal(err_text(), want);
	assert_int_equal(r.failed, 2);
	assert_int_equal(r.v[2].state, NODE_FAILED);
	assert_int_equal(r.v[7].state, NODE_FAILED);
	run_result_release(&r);
	free(want);
	free(path);
}

static void
a_failing_replay_fails_the_node(void **state)
{
	struct run_result r;

	(void)state;
	run_well(0, 16);
	free(world_did(&w));
	forget("block/4", 4);
	w.p.fails_replay = "block/2";
	assert_int_equal(world_run(&w, (struct run_options){0}, &r), E_DATA);
	assert_string_equal(err_text(), "block/4: replay of block/2: cannot go on from here");
	assert_int_equal(r.v[6 + 2].state, NODE_HIT);
	assert_int_equal(r.v[6 + 4].state, NODE_FAILED);
	run_result_release(&r);
	assert_did(&w, "replay block/0, replay block/1, replay block/2");
}

static void
stops_cleanly_and_goes_on(void **state)
{
	struct run_result r;
	char **names, *work = path_join(w.store, "work");
	size_t n;
	int stop = 0;

	(void)state;
	w.p.stop = &stop;
	w.p.stops = "block/3";
	assert_int_equal(world_run(&w, (struct run_options){.stop = &stop, .output = w.output}, &r), E_SYS);
	assert_string_equal(err_text(), "interrupted");
	assert_int_equal(r.v[6 + 2].state, NODE_DONE);
	assert_int_equal(r.v[6 + 3].state, NODE_WAITS);
	assert_int_equal(r.failed, 0);
	run_result_release(&r);
	assert_ok(dir_names(&names, &n, work));
	assert_int_equal(n, 0);
	dir_names_free(names, n);
	free(work);
	free(world_did(&w));
	stop = 1;    /* before anything */
	assert_int_equal(world_run(&w, (struct run_options){.stop = &stop}, &r), E_SYS);
	assert_int_equal(r.hits + r.ran, 0);
	run_result_release(&r);
	assert_did(&w, "");
	stop = 0;
	w.p.stops = NULL;
	assert_ok(world_run(&w, (struct run_options){.stop = &stop, .output = w.output}, &r));
	run_result_release(&r);
	assert_as_fresh();
}

static void
a_job_sees_only_what_it_needs(void **state)
{
	(void)state;
	w.p.asks = "block/4";
	run_well(0, 16);
}

static void
a_need_without_export_is_an_error(void **state)
{
	struct graph g = {0};
	struct store *s;
	struct run_result r;
	struct node *n;

	(void)state;
	assert_ok(store_open(&s, w.store));
	add_fetch(&g, &w.p, 0);
	n = graph_add(&g, &fake_pack, 0, "pack/0");
	node_need(n, graph_find(&g, "fetch/0"), "model.norm.weight", "tensor model.norm.weight");
	assert_int_equal(engine_run(&g, &w.p, &(struct run_options){.store = s}, &r), E_DATA);
	assert_string_equal(err_text(), "pack/0: it needs model.norm.weight of fetch/0, which has none");
	run_result_release(&r);
	graph_release(&g);
	store_close(s);
}

static void
bad_blobs_are_made_again(void **state)
{
	struct graph g;
	struct store *s;
	struct run_result r;
	char *path;

	(void)state;
	run_well(0, 16);
	free(world_did(&w));
	assert_ok(store_open(&s, w.store));
	fake_graph(&g, &w.p);
	assert_ok(engine_run(&g, &w.p, &(struct run_options){.store = s}, &r));
	path = engine_output(s, &r, graph_find(&g, "block/2"), "out");
	assert_null(engine_output(s, &r, graph_find(&g, "block/2"), "activations"));
	assert_null(engine_output(s, &r, graph_find(&g, "fetch/2"), "content"));
	assert_non_null(path);
	assert_int_equal(truncate(path, 3), 0);
	run_result_release(&r);
	graph_release(&g);
	store_close(s);
	run_well(15, 1);
	assert_did(&w, "replay block/0, replay block/1, run block/2");
	assert_as_fresh();
	free(path);
}

/* ---- events ---- */

struct seen {
	struct buf text, blocks;    /* blocks: of what concerns them, for other threads speak in between */
	int inside, count[KINDS];
};

static void
see(void *own, const struct event *e)
{
	static const char *const names[] = {"waits", "hit", "replays", "runs", "done", "cutoff", "failed", "skipped"};
	struct seen *s = own;
	size_t before = s->text.n;

	assert_int_equal(__atomic_add_fetch(&s->inside, 1, __ATOMIC_SEQ_CST), 1);
	s->count[e->kind]++;
	if (e->kind == EV_STATE)
		buf_printf(&s->text, "%s %s%s%s\n", e->node->name, names[e->state], e->text ? ": " : "", e->text ? e->text : "");
	else if (e->kind == EV_LOG && e->node)
		buf_printf(&s->text, "%s says %s\n", e->node->name, e->text);
	else if (e->kind == EV_PROGRESS)
		buf_printf(&s->text, "%s %g of %g %s\n", e->node->name, e->done, e->of, e->text);
	if (e->node && strncmp(e->node->name, "block/", 6) == 0)
		buf_puts(&s->blocks, s->text.p + before);
	__atomic_sub_fetch(&s->inside, 1, __ATOMIC_SEQ_CST);
}

static void
tells_what_happens(void **state)
{
	struct seen seen = {0};
	struct run_result r;

	(void)state;
	w.p.blocks = 2;
	assert_ok(world_run(&w, (struct run_options){.on_event = see, .own = &seen, .io_jobs = 1}, &r));
	run_result_release(&r);
	assert_int_equal(seen.count[EV_START], 1);
	assert_int_equal(seen.count[EV_END], 1);
	assert_int_equal(seen.count[EV_PROGRESS], 2);
	assert_non_null(strstr(seen.blocks.p, "block/0 runs\nblock/0 1 of 1 loss 0.5\nblock/0 says odd\nblock/0 done\nblock/1 runs\n"));
	buf_release(&seen.blocks);
	buf_clear(&seen.text);
	forget("block/1", 4);
	w.p.fails = "block/1";
	assert_int_equal(world_run(&w, (struct run_options){.on_event = see, .own = &seen}, &r), E_NUMERIC);
	run_result_release(&r);
	buf_release(&seen.blocks);
	assert_string_equal(seen.text.p, "fetch/0 hit\nfetch/1 hit\nblock/0 hit\nconfig hit\nblock/0 replays\nblock/0 hit\n"
		"block/1 runs\nblock/1 failed: pivot 7 is not positive\npack/0 skipped\n");
	buf_release(&seen.text);
}

/* ---- writing beside the next run ---- */

static void
writes_beside_the_next_run(void **state)
{
	(void)state;
	w.p.waits = "block/2";
	run_well(0, 16);
	assert_did(&w, BLOCKS ", run config, " FETCHES ", run pack/0, run pack/1, run pack/2");
	assert_int_equal(atomic_load(&w.p.dropped), 0);
	assert_int_equal(atomic_load(&w.p.warmed), 1);
	assert_int_equal(atomic_load(&w.p.cooled), 1);
	run_well(16, 0);
	assert_int_equal(atomic_load(&w.p.warmed), 1);    /* nothing waits for anything */
	assert_int_equal(atomic_load(&w.p.cooled), 1);
	assert_as_fresh();
}

/* The next one runs already when the disk is full: it ends, and is dropped. */
static void
a_failing_finish_fails_the_node(void **state)
{
	static const enum node_state want[] = {
		NODE_DONE, NODE_DONE, NODE_FAILED, NODE_SKIPPED, NODE_SKIPPED, NODE_SKIPPED,    /* blocks */
		NODE_DONE, NODE_SKIPPED, NODE_SKIPPED, NODE_DONE,
	};
	struct run_result r;
	char **names, *work = path_join(w.store, "work");
	size_t n;

	(void)state;
	w.p.waits = w.p.fails_finish = "block/2";
	assert_int_equal(world_run(&w, (struct run_options){.output = w.output}, &r), E_SYS);
	assert_string_equal(err_text(), "block/2: the disk is full");
	assert_int_equal(r.failed, 1);
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		assert_int_equal(r.v[6 + i].state, want[i]);
	run_result_release(&r);
	assert_int_equal(atomic_load(&w.p.dropped), 1);
	assert_ok(dir_names(&names, &n, work));
	assert_int_equal(n, 0);
	dir_names_free(names, n);
	free(work);
	assert_did(&w, "run block/0, run block/1, run block/2, run block/3, run config, " FETCHES ", run pack/0");
	w.p.waits = w.p.fails_finish = NULL;
	run_well(10, 6);
	assert_as_fresh();
}

static void
both_may_fail(void **state)
{
	struct run_result r;

	(void)state;
	w.p.waits = w.p.fails_finish = "block/2";
	w.p.fails = "block/3";
	assert_int_equal(world_run(&w, (struct run_options){.output = w.output}, &r), E_SYS);
	assert_string_equal(err_text(), "block/2: the disk is full (and 1 more failed)");
	assert_int_equal(r.v[6 + 3].state, NODE_FAILED);
	assert_int_equal(r.v[6 + 4].state, NODE_SKIPPED);
	run_result_release(&r);
	w.p.waits = w.p.fails_finish = w.p.fails = NULL;
	free(world_did(&w));
	run_well(10, 6);
	assert_as_fresh();
}

/* What has run is kept: only what runs at that moment is lost. */
static void
a_stop_lets_the_finish_end(void **state)
{
	struct run_result r;
	char *did;
	int stop = 0;

	(void)state;
	w.p.stop = &stop;
	w.p.waits = w.p.stops_finish = "block/2";
	assert_int_equal(world_run(&w, (struct run_options){.output = w.output, .stop = &stop}, &r), E_SYS);
	assert_string_equal(err_text(), "interrupted");
	assert_int_equal(r.v[6 + 2].state, NODE_DONE);
	assert_int_equal(r.v[6 + 3].state, NODE_DONE);    /* its run, which asks nobody, came to its end */
	assert_int_equal(r.v[6 + 4].state, NODE_WAITS);
	assert_int_equal(r.failed, 0);
	run_result_release(&r);
	free(world_did(&w));
	stop = 0;
	w.p.waits = w.p.stops_finish = NULL;
	assert_ok(world_run(&w, (struct run_options){.stop = &stop, .output = w.output}, &r));
	run_result_release(&r);
	did = world_did(&w);
	assert_non_null(strstr(did, "replay block/3, run block/4, run block/5"));
	free(did);
	assert_as_fresh();
}

static void
tells_what_happens_late(void **state)
{
	struct seen seen = {0};
	struct run_result r;

	(void)state;
	w.p.blocks = 2;
	w.p.waits = "block/0";
	assert_ok(world_run(&w, (struct run_options){.on_event = see, .own = &seen, .io_jobs = 1}, &r));
	run_result_release(&r);
	assert_int_equal(seen.count[EV_END], 1);
	assert_non_null(strstr(seen.blocks.p, "block/0 runs\nblock/0 1 of 1 loss 0.5\nblock/0 says odd\nblock/1 runs\n"));
	assert_true(strstr(seen.blocks.p, "block/0 done\n") > strstr(seen.blocks.p, "block/1 runs\n"));
	assert_true(strstr(seen.blocks.p, "block/1 done\n") > strstr(seen.blocks.p, "block/0 done\n"));
	buf_release(&seen.blocks);
	buf_release(&seen.text);
}

/* ---- many at once ---- */

static void
keeps_to_its_lanes_and_threads(void **state)
{
	struct run_result r;
	bool late = w.p.late;

	(void)state;
	world_close(&w);
	world_open(&w, 60);
	w.p.late = late;
	w.p.delay_us = 300;
	assert_ok(world_run(&w, (struct run_options){.io_jobs = 8, .output = w.output}, &r));
	assert_int_equal(r.ran, 60 + 60 + 30 + 1);
	run_result_release(&r);
	assert_int_equal(atomic_load(&w.p.most[RES_COMPUTE]), 1);
	assert_in_range(atomic_load(&w.p.most[RES_IO]), 2, 8);
	assert_as_fresh();
}

enum { PROCESSES = 16 };

/* Every process runs the whole graph; returns when all are done. */
static void
run_together(const char *output)
{
	pid_t pids[PROCESSES];
	int status;

	for (int i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			struct run_result r;
			int rc = world_run(&w, (struct run_options){.output = output}, &r);

			if (rc < 0)
				fprintf(stderr, "%s\n", err_text());
			_exit(rc != 0);
		}
	}
	for (int i = 0; i < PROCESSES; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
}

static void
many_processes_do_each_node_once(void **state)
{
	char *did, *blocks;

	(void)state;
	w.p.delay_us = 2000;
	run_together(w.output);
	did = world_did(&w);
	blocks = strstr(did, BLOCKS ", run config, ");
	assert_non_null(blocks);
	assert_non_null(strstr(did, ", run pack/0, run pack/1, run pack/2"));
	assert_null(strstr(did, "run pack/2, run pack/2"));
	free(did);
	assert_as_fresh();
}

static void
many_processes_are_right_without_locks(void **state)
{
	(void)state;
	locks_lie = true;
	run_together(w.output);
	locks_lie = false;
	free(world_did(&w));
	run_well(16, 0);
	assert_did(&w, "");
	assert_as_fresh();
}

static void
nothing_changed_costs_next_to_nothing(void **state)
{
	struct store *s;
	struct graph g;
	struct run_result r;
	double best = 1;

	(void)state;
	world_close(&w);
	world_open(&w, 120);
	assert_ok(world_run(&w, (struct run_options){.output = w.output, .identity = "recipe"}, &r));
	run_result_release(&r);
	for (int i = 0; i < 5; i++) {
		double began, took;
		struct timespec t;

		clock_gettime(CLOCK_MONOTONIC, &t);
		began = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
		assert_ok(store_open(&s, w.store));
		fake_graph(&g, &w.p);
		assert_ok(engine_run(&g, &w.p, &(struct run_options){.store = s, .output = w.output, .identity = "recipe"}, &r));
		clock_gettime(CLOCK_MONOTONIC, &t);
		took = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec - began;
		best = took < best ? took : best;
		assert_int_equal(r.hits, 301);
		run_result_release(&r);
		graph_release(&g);
		store_close(s);
	}
	print_message("301 nodes, nothing changed: %.2f ms\n", 1e3 * best);
	assert_true(best < 0.1);    /* a guard against reading contents again, not a measurement */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		T(runs_once_then_hits),
		T(a_changed_parameter_reruns_what_it_touches),
		T(a_changed_tensor_replays_to_its_block),
		T(a_touched_file_reruns_only_its_digest),
		T(replays_between_holes),
		T(equal_output_stops_the_rebuild),
		T(a_failure_spares_what_does_not_need_it),
		T(lists_every_failure),
		T(a_failing_replay_fails_the_node),
		T(stops_cleanly_and_goes_on),
		T(a_job_sees_only_what_it_needs),
		T(a_need_without_export_is_an_error),
		T(bad_blobs_are_made_again),
		T(tells_what_happens),
		T(keeps_to_its_lanes_and_threads),
		T(many_processes_do_each_node_once),
		T(many_processes_are_right_without_locks),
		T(nothing_changed_costs_next_to_nothing),
#define L(name) cmocka_unit_test_setup_teardown(name, set_up_late, tear_down)
		L(runs_once_then_hits),
		L(a_changed_tensor_replays_to_its_block),
		L(replays_between_holes),
		L(a_failure_spares_what_does_not_need_it),
		L(lists_every_failure),
		L(a_failing_replay_fails_the_node),
		L(stops_cleanly_and_goes_on),
		L(a_job_sees_only_what_it_needs),
		L(bad_blobs_are_made_again),
		L(writes_beside_the_next_run),
		L(a_failing_finish_fails_the_node),
		L(both_may_fail),
		L(a_stop_lets_the_finish_end),
		L(tells_what_happens_late),
		L(keeps_to_its_lanes_and_threads),
		L(many_processes_do_each_node_once),
		L(many_processes_are_right_without_locks),
#undef L
#undef T
	};

	in_memory();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
