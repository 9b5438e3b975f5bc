#include "qjob/engine/plan.h"
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
	world_close(&w);
	return 0;
}

static void
run(void)
{
	struct run_result r;

	assert_ok(world_run(&w, (struct run_options){0}, &r));
	run_result_release(&r);
}

/* "fetch/0 hit\nblock/0 run never ran\n..." */
static char *
plan_text(void)
{
	static const char *const names[] = {"hit", "resume", "run", "maybe"};
	struct buf out = {0};
	struct graph g;
	struct store *s;
	struct plan p;

	assert_ok(store_open(&s, w.store));
	fake_graph(&g, &w.p);
	assert_ok(plan_make(&g, s, &p));
	assert_int_equal(p.n, g.n);
	for (size_t i = 0; i < p.n; i++) {
		assert_ptr_equal(p.v[i].node, g.v[i]);
		buf_printf(&out, "%s %s%s%s\n", g.v[i]->name, names[p.v[i].action], p.v[i].reason[0] ? " " : "", p.v[i].reason);
	}
	plan_release(&p);
	graph_release(&g);
	store_close(s);
	free(world_did(&w));
	return buf_detach(&out);
}

static void
assert_plan(const char *want)
{
	char *text = plan_text();

	assert_string_equal(text, want);
	free(text);
}

#define HITS "fetch/0 hit\nfetch/1 hit\nfetch/2 hit\nfetch/3 hit\n"
#define NEW "its file is new or was changed\n"

static void
nothing_ran_yet(void **state)
{
	(void)state;
	assert_plan("fetch/0 run " NEW "fetch/1 run " NEW "fetch/2 run " NEW "fetch/3 run " NEW
		"block/0 run never ran\nblock/1 run never ran\nblock/2 run never ran\nblock/3 run never ran\n"
		"pack/0 run never ran\npack/1 run never ran\nconfig run never ran\n");
}

static void
everything_is_there(void **state)
{
	(void)state;
	run();
	assert_plan(HITS "block/0 hit\nblock/1 hit\nblock/2 hit\nblock/3 hit\npack/0 hit\npack/1 hit\nconfig hit\n");
}

static void
a_changed_parameter_is_named_everywhere(void **state)
{
	(void)state;
	run();
	w.p.v = 3;
	assert_plan(HITS "block/0 run block.v: 4 -> 3\nblock/1 run block.v: 4 -> 3\nblock/2 run block.v: 4 -> 3\n"
		"block/3 run block.v: 4 -> 3\npack/0 maybe depends on what block/0 gives\n"
		"pack/1 maybe depends on what block/2 gives\nconfig run config.v: 4 -> 3\n");
	run();
	w.p.v = 4;    /* both are there now */
	assert_plan(HITS "block/0 hit\nblock/1 hit\nblock/2 hit\nblock/3 hit\npack/0 hit\npack/1 hit\nconfig hit\n");
}

static void
a_changed_file_may_change_what_follows(void **state)
{
	(void)state;
	run();
	fake_write(w.model, "2.txt", "other");
	assert_plan("fetch/0 hit\nfetch/1 hit\nfetch/2 run " NEW "fetch/3 hit\n"
		"block/0 hit\nblock/1 hit\nblock/2 maybe depends on what fetch/2 gives\nblock/3 maybe depends on what block/2 gives\n"
		"pack/0 hit\npack/1 maybe depends on what block/2 gives\nconfig hit\n");
}

static void
a_stopped_lane_resumes(void **state)
{
	struct run_result r;

	(void)state;
	w.p.fails = "block/2";
	assert_int_equal(world_run(&w, (struct run_options){0}, &r), E_NUMERIC);
	run_result_release(&r);
	assert_plan(HITS "block/0 hit\nblock/1 hit\nblock/2 resume never ran\nblock/3 run never ran\npack/0 hit\n"
		"pack/1 run never ran\nconfig hit\n");
}

static void
a_changed_tensor_is_named_once_its_digest_is_known(void **state)
{
	struct run_result r;

	(void)state;
	run();
	fake_write(w.model, "2.txt", "other");
	w.p.fails = "block/2";    /* the file is digested, the block is not made */
	assert_int_equal(world_run(&w, (struct run_options){0}, &r), E_NUMERIC);
	run_result_release(&r);
	assert_plan(HITS "block/0 hit\nblock/1 hit\nblock/2 resume tensor 2 changed\n"
		"block/3 maybe depends on what block/2 gives\npack/0 hit\npack/1 maybe depends on what block/2 gives\nconfig hit\n");
}

static void
a_lost_result_says_so(void **state)
{
	char *path = path_join(w.store, "ac");

	(void)state;
	run();
	assert_ok(dir_remove(path));
	assert_plan(HITS "block/0 run its result is no longer in the store\nblock/1 maybe depends on what block/0 gives\n"
		"block/2 maybe depends on what block/1 gives\nblock/3 maybe depends on what block/2 gives\n"
		"pack/0 maybe depends on what block/0 gives\npack/1 maybe depends on what block/2 gives\n"
		"config run its result is no longer in the store\n");
	free(path);
}

static void
writes_json(void **state)
{
	struct graph g;
	struct store *s;
	struct plan p;
	struct buf text = {0};
	json_t *j;

	(void)state;
	w.p.blocks = 1;
	assert_ok(store_open(&s, w.store));
	fake_graph(&g, &w.p);
	graph_find(&g, "block/0")->cost = (struct cost){.flops = 1.5e9, .host = 100, .disk = 7};
	graph_find(&g, "pack/0")->cost = (struct cost){.host = 30, .disk = 5};
	assert_ok(plan_make(&g, s, &p));
	j = plan_json(&g, &p);
	json_write_line(j, &text);
	assert_string_equal(buf_text(&text), "{\"nodes\":["
		"{\"name\":\"fetch/0\",\"stage\":\"fetch\",\"action\":\"run\",\"key\":null,\"reason\":\"its file is new or was changed\","
		"\"needs\":[],\"cost\":{\"flops\":0.0,\"host_bytes\":0,\"device_bytes\":0,\"disk_bytes\":0}},"
		"{\"name\":\"block/0\",\"stage\":\"block\",\"action\":\"run\",\"key\":null,\"reason\":\"never ran\","
		"\"needs\":[\"fetch/0\"],\"cost\":{\"flops\":1.5e+09,\"host_bytes\":100,\"device_bytes\":0,\"disk_bytes\":7}},"
		"{\"name\":\"pack/0\",\"stage\":\"pack\",\"action\":\"run\",\"key\":null,\"reason\":\"never ran\","
		"\"needs\":[\"block/0\"],\"cost\":{\"flops\":0.0,\"host_bytes\":30,\"device_bytes\":0,\"disk_bytes\":5}},"
		"{\"name\":\"config\",\"stage\":\"config\",\"action\":\"run\","
		"\"key\":\"3cc0533c50df1d9056db67abc6811dfc31bffb418e77a5ed646172ade7fabf76\",\"reason\":\"never ran\","
		"\"needs\":[],\"cost\":{\"flops\":0.0,\"host_bytes\":0,\"device_bytes\":0,\"disk_bytes\":0}}],"
		"\"count\":{\"hit\":0,\"resume\":0,\"run\":4,\"maybe\":0},"
		"\"cost\":{\"flops\":1.5e+09,\"host_bytes\":100,\"device_bytes\":0,\"disk_bytes\":12}}");
	json_decref(j);
	buf_release(&text);
	plan_release(&p);
	graph_release(&g);
	store_close(s);
}

/* Nine facts change at once: seven of one kind are told as one, the rest is counted. */
static void
many_changes_are_told_shortly(void **state)
{
	struct store *s;
	struct plan p;
	struct run_result r;

	(void)state;
	assert_ok(store_open(&s, w.store));
	for (int bits = 4; bits > 2; bits--) {
		struct graph g = {0};
		struct node *n = graph_add(&g, &fake_config, 0, "config");

		for (int i = 0; i < 7; i++)
			node_fact(n, "linear l.%d bits %d sym true", i, bits);
		for (int i = 0; i < 6; i++)
			node_fact(n, "set x.%d %d", i, bits + i);
		if (bits == 4) {
			assert_ok(engine_run(&g, &w.p, &(struct run_options){.store = s}, &r));
			run_result_release(&r);
		} else {
			assert_ok(plan_make(&g, s, &p));
			assert_string_equal(p.v[0].reason,
				"linear l.0 and 6 more: bits 4 -> 3; x.0: 4 -> 3; x.1: 5 -> 4; x.2: 6 -> 5; and 3 more");
			plan_release(&p);
		}
		graph_release(&g);
	}
	store_close(s);
}

static void
names_every_kind_of_change(void **state)
{
	static const struct {
		const char *old, *new, *want;
	} rows[] = {
		{"set quantize.bits 4\n", "set quantize.bits 3\n", "quantize.bits: 4 -> 3\n"},
		{"set a one two\n", "set a one three\n", "a: one two -> one three\n"},
		{"stage quantize 1\n", "stage quantize 2\n", "stage quantize: version 1 -> 2\n"},
		{"library onednn 2.6.3\n", "library onednn 3.1\n", "library onednn: 2.6.3 -> 3.1\n"},
		{"linear q bits 4 sym true\n", "linear q bits 3 sym true\n", "linear q: bits 4 -> 3\n"},
		{"linear q bits 4 sym true\n", "linear q bits 3 sym false\n", "linear q: bits 4 -> 3, sym true -> false\n"},
		{"linear q bits 4 sym true\n", "linear q bits 3\n", "linear q: bits 4 sym true -> bits 3\n"},
		{"linear q a b c d\n", "linear q a b x d\n", "linear q: a b c d -> a b x d\n"},
		{"out 3 t I32 6 16\n", "out 3 t I32 6 12\n", "out 3: t I32 6 16 -> t I32 6 12\n"},
		{"set q a b c d\n", "set q a b c x\n", "q: a b c d -> a b c x\n"},
		{"device cpu\n", "device cuda\n", "device: cpu -> cuda\n"},
		{"in tensor model.norm.weight sha256:aa\n", "in tensor model.norm.weight sha256:ab\n",
		 "tensor model.norm.weight changed\n"},
		{"in activations sha256:aa\n", "in activations sha256:ab\n", "input activations changed\n"},
		{"", "in activations sha256:ab\n", "input activations is new\n"},
		{"in tensor a sha256:ab\n", "", "tensor a is no longer used\n"},
		{"", "set quantize.qep 0.5\n", "quantize.qep: 0.5 is new\n"},
		{"set quantize.qep 0.5\n", "", "quantize.qep: 0.5 is gone\n"},
		{"math float32\n", "math bfloat16\n", "math: float32 -> bfloat16\n"},
		{"qjob-key 1\n", "qjob-key 2\n", "qjob-key: 1 -> 2\n"},
		{"set a 1\nin x sha256:aa\nset b 1\n", "set a 2\nin x sha256:ab\nset b 2\n", "a: 1 -> 2\nb: 1 -> 2\ninput x changed\n"},
		{"skip layer 1\nskip layer 2\n", "skip layer 1\nskip layer 3\n", "skip layer 3 is new\nskip layer 2 is gone\n"},
		{"set a 1\nin x sha256:aa\n", "set a 1\nin x sha256:aa\n", ""},
		{"lonely\n", "", "lonely is gone\n"},
		{"", "", ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct buf out = {0};

		why_diff(rows[i].old, rows[i].new, &out);
		assert_string_equal(buf_text(&out), rows[i].want);
		buf_release(&out);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		T(nothing_ran_yet),
		T(everything_is_there),
		T(a_changed_parameter_is_named_everywhere),
		T(a_changed_file_may_change_what_follows),
		T(a_stopped_lane_resumes),
		T(a_changed_tensor_is_named_once_its_digest_is_known),
		T(a_lost_result_says_so),
		T(writes_json),
		T(many_changes_are_told_shortly),
		cmocka_unit_test(names_every_kind_of_change),
#undef T
	};

	in_memory();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
