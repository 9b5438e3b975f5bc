#include "qjob/model/synthetic.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qjob/base/fault.h"
#include "tests/t.h"

static const char source[] = "synthetic:qwen2-0.5b?layers=1&seed=7";

static char *root;

static int
set_up(void **state)
{
	(void)state;
	root = t_dir();
	setenv("QJOB_SYNTHETIC", root, 1);
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	unsetenv("QJOB_SYNTHETIC");
	t_dir_end(root);
	return 0;
}

static float
at(const struct tensor *t, size_t i)
{
	uint32_t u = (uint32_t)((const uint16_t *)t->p)[i] << 16;
	float x;

	memcpy(&x, &u, sizeof(x));
	return x;
}

static void
open_model(struct weights *w, const char *from)
{
	char *folder;

	assert_ok(synthetic_open(&folder, from));
	assert_ok(weights_open(w, folder));
	assert_ok(weights_check(w));
	free(folder);
}

static void
fill(const struct weights *w)
{
	for (size_t i = 0; i < w->nfiles; i++)
		assert_ok(synthetic_fill(&w->files[i]));
}

static void
headers_alone_take_no_memory(void **state)
{
	struct weights w;
	struct stat st;

	(void)state;
	open_model(&w, "synthetic:llama-3-70b");
	assert_int_equal(w.config.L, 80);
	assert_int_equal(w.config.D, 8192);
	assert_true(w.nfiles > 60);
	for (size_t i = 0; i < w.nfiles; i++) {
		assert_int_equal(stat(w.files[i].path, &st), 0);
		assert_true(st.st_size > 1000000);
		assert_true(st.st_blocks < 64);
	}
	weights_close(&w);
}

static void
weights_are_normal_and_follow_the_seed(void **state)
{
	struct weights a, b;
	const struct tensor *t, *u;
	double sum = 0, squares = 0, n;

	(void)state;
	open_model(&a, source);
	fill(&a);
	t = weights_find(&a, "model.layers.0.mlp.down_proj.weight");
	n = 896.0 * 4864;
	for (size_t i = 0; i < (size_t)n; i++) {
		sum += (double)at(t, i);
		squares += (double)at(t, i) * (double)at(t, i);
	}
	assert_true(fabs(sum / n) < 1e-4);
	assert_true(fabs(sqrt(squares / n) - 0.02) < 1e-4);
	assert_true(at(weights_find(&a, "model.norm.weight"), 895) == 1.f);
	assert_true(at(weights_find(&a, "model.layers.0.self_attn.q_proj.bias"), 3) != 0.f);
	assert_null(weights_find(&a, "lm_head.weight"));
	open_model(&b, "synthetic:qwen2-0.5b?seed=8&layers=2");
	fill(&b);
	u = weights_find(&b, "model.layers.0.mlp.down_proj.weight");
	assert_memory_not_equal(t->p, u->p, t->bytes);
	assert_memory_not_equal(u->p, weights_find(&b, "model.layers.1.mlp.down_proj.weight")->p, u->bytes);
	weights_close(&b);
	weights_close(&a);
}

/* The first bytes, written down: a change would make every published figure another model's. */
static void
the_same_bytes_everywhere(void **state)
{
	static const uint16_t want[] = {0xbb7d, 0xbcb6, 0xbcf6, 0xbce7, 0x3c36, 0x3c18, 0x3905, 0x3cab};
	struct weights w;

	(void)state;
	open_model(&w, source);
	fill(&w);
	assert_memory_equal(weights_find(&w, "model.layers.0.self_attn.k_proj.weight")->p, want, sizeof(want));
	weights_close(&w);
}

/* A file cut short by a crash is written again: only a finished one is read-only. */
static void
filling_can_be_repeated(void **state)
{
	struct weights w;
	const struct tensor *t;
	uint16_t *before;
	struct stat st;
	int rc;

	(void)state;
	open_model(&w, source);
	t = weights_find(&w, "model.layers.0.mlp.up_proj.weight");
	before = mem_new(1, t->bytes);
	for (int i = 0;; i += 1 + i) {
		fault_arm(i);
		rc = synthetic_fill(&w.files[0]);
		if (!fault_fired())
			break;
		assert_true(rc < 0);
		assert_int_equal(stat(w.files[0].path, &st), 0);
		assert_true(st.st_mode & 0200);
	}
	fault_arm(-1);
	assert_ok(rc);
	assert_int_equal(stat(w.files[0].path, &st), 0);
	assert_int_equal(st.st_mode & 0222, 0);
	memcpy(before, t->p, t->bytes);
	assert_int_equal(chmod(w.files[0].path, 0644), 0);
	assert_ok(synthetic_fill(&w.files[0]));
	assert_memory_equal(before, t->p, t->bytes);
	free(before);
	weights_close(&w);
}

static void
a_folder_appears_whole(void **state)
{
	char *folder, **names;
	size_t n;

	(void)state;
	for (int i = 0;; i++) {
		int rc;

		fault_arm(i);
		rc = synthetic_open(&folder, "synthetic:mistral-7b?layers=1");
		if (!fault_fired())
			break;
		assert_true(rc < 0);
		assert_null(folder);
		fault_arm(-1);
		assert_ok(dir_names(&names, &n, root));
		for (size_t k = 0; k < n; k++)
			assert_null(strstr(names[k], "mistral"));
		dir_names_free(names, n);
	}
	fault_arm(-1);
	free(folder);
}

static void
what_is_wrong_is_named(void **state)
{
	static const struct { const char *source, *why; } wrong[] = {
		{"synthetic:qwen2-8b", "synthetic:qwen2-8b: no shapes are called 'qwen2-8b'; did you mean qwen2-7b?; known: "
		 "qwen2-0.5b, qwen2-1.5b, qwen2-7b, qwen2-72b, qwen3-0.6b, qwen3-8b, qwen3-32b, llama-2-7b, llama-3-8b, "
		 "llama-3-70b, llama-3.2-1b, mistral-7b, opt-175b-as-llama"},
		{"synthetic:qwen2-7b?layer=3", "synthetic:qwen2-7b?layer=3: 'layer=3' is not one of layers, seed, as in layers=1"},
		{"synthetic:qwen2-7b?layers=29", "synthetic:qwen2-7b?layers=29: layers=29 is not a whole number from 1 to 28"},
		{"synthetic:qwen2-7b?layers=0", "synthetic:qwen2-7b?layers=0: layers=0 is not a whole number from 1 to 28"},
		{"synthetic:qwen2-7b?layers=2&seed=x",
		 "synthetic:qwen2-7b?layers=2&seed=x: seed=x is not a whole number from 0 to 2147483647"},
	};
	char *folder;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(synthetic_open(&folder, wrong[i].source), E_USE);
		assert_string_equal(err_text(), wrong[i].why);
	}
}

static void
every_shape_is_a_model(void **state)
{
	static const char *const names[] = {
		"qwen2-0.5b", "qwen2-1.5b", "qwen2-7b", "qwen2-72b", "qwen3-0.6b", "qwen3-8b", "qwen3-32b", "llama-2-7b", "llama-3-8b",
		"llama-3-70b", "llama-3.2-1b", "mistral-7b", "opt-175b-as-llama",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *from = mem_format("synthetic:%s", names[i]);
		struct weights w;

		open_model(&w, from);
		weights_close(&w);
		free(from);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filling_can_be_repeated),
		cmocka_unit_test(headers_alone_take_no_memory),
		cmocka_unit_test(weights_are_normal_and_follow_the_seed),
		cmocka_unit_test(the_same_bytes_everywhere),
		cmocka_unit_test(a_folder_appears_whole),
		cmocka_unit_test(what_is_wrong_is_named),
		cmocka_unit_test(every_shape_is_a_model),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
