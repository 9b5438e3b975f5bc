/* What is predicted of memory is what is taken, and less of it changes no byte. */
#include "stages/memory.h"

#include "qjob/base/hash.h"
#include "tests/t.h"

/* A recipe opened on the quick start's model, and a host for its nodes. */
struct run {
	struct settings s;
	struct yaml *tree;
	struct project *p;
	struct graph g;
	char *dir;
	char *paths[64];
	size_t npaths;
};

static char *
folder_of(const struct run *r, const char *node)
{
	char *path = mem_format("%s/%s", r->dir, node);

	for (char *c = path + strlen(r->dir) + 1; *c; c++)
		*c = *c == '/' ? '-' : *c;
	return path;
}

static const char *
input(struct job *j, const char *node, const char *what)
{
	struct run *r = j->own;
	char *folder = folder_of(r, node);

	assert_true(r->npaths < 64);
	r->paths[r->npaths] = path_join(folder, what);
	free(folder);
	return r->paths[r->npaths++];
}

static const char *
digest(struct job *j, const char *label)
{
	(void)j;
	return label;
}

static void
exports(struct job *j, const char *what, const char *sha256)
{
	(void)j;
	(void)what;
	(void)sha256;
}

static void
progress(struct job *j, double done, double of, const char *text)
{
	(void)j;
	(void)done;
	(void)of;
	(void)text;
}

static void
log_text(struct job *j, enum log_level level, const char *text)
{
	(void)j;
	(void)level;
	(void)text;
}

static bool
stop(struct job *j)
{
	(void)j;
	return false;
}

static const struct job_host host = {input, digest, exports, progress, log_text, stop};

struct variant {
	const char *quantize;        /* more of that section */
	const char *dtype;           /* of the calibration */
};

/* NULL project: messages in text. */
static void
open_run(struct run *r, const struct variant *v, int seqlen, size_t memory, struct buf *text)
{
	char *recipe = mem_format("model: {source: %s/../examples/quickstart/model}\n"
	                          "calibration: {dataset: %s/../examples/quickstart/text/calibration.txt, samples: 24, seqlen: %d, "
	                          "dtype: %s}\n"
	                          "quantize: {group_size: 32%s}\n", QJOB_TESTS_DIR, QJOB_TESTS_DIR, seqlen, v->dtype, v->quantize);
	const struct dev_options o = {.name = "cpu", .threads = 2, .memory = memory};
	struct diag d = {0};

	*r = (struct run){.dir = t_dir()};
	r->tree = yaml_parse(recipe, strlen(recipe), "r.yaml", &d);
	assert_non_null(r->tree);
	settings_read(&r->s, r->tree, &d);
	assert_int_equal(d.n, 0);
	r->p = project_open(&r->s, r->tree, &o, &d);
	for (size_t i = 0; i < d.n; i++)
		buf_puts(text, d.v[i]);
	if (r->p)
		assert_ok(project_graph(r->p, &r->g));
	diag_release(&d);
	free(recipe);
}

static void
close_run(struct run *r)
{
	graph_release(&r->g);
	if (r->p)
		project_close(r->p);
	for (size_t i = 0; i < r->npaths; i++)
		free(r->paths[i]);
	settings_release(&r->s);
	yaml_free(r->tree);
	t_dir_end(r->dir);
}

/* Runs the nodes of a stage; a digest of all that they leave is added to h. */
static void
run_stage(struct run *r, const char *stage, const char *file, struct sha256 *h)
{
	void *carry = NULL;
	const struct stage *of = NULL;

	for (size_t i = 0; i < r->g.n; i++) {
		struct node *n = r->g.v[i];
		char *out = folder_of(r, n->name), *path = path_join(out, file), hex[SHA256_HEX];
		struct job job = {.node = n, .project = r->p, .out = out, .carry = &carry, .host = &host, .own = r};

		if (strcmp(n->stage->name, stage) == 0) {
			of = n->stage;
			assert_ok(dir_make(out));
			assert_ok(of->run(&job));
			if (of->finish)
				assert_ok(of->finish(&job));
			assert_ok(sha256_file(path, hex));
			sha256_add(h, hex, strlen(hex));
		}
		free(path);
		free(out);
	}
	if (of && of->drop)
		of->drop(carry);
}

struct outcome {
	char digest[SHA256_HEX];
	size_t peak, predicted;
};

static void
measure(struct outcome *o, const struct variant *v, int seqlen, size_t memory)
{
	struct sha256 *h = sha256_new();
	struct buf text = {0};
	struct run r;
	struct dev *d;

	open_run(&r, v, seqlen, memory, &text);
	assert_string_equal(buf_text(&text), "");
	run_stage(&r, "tokenize", "ids.safetensors", h);
	run_stage(&r, "calibrate", "statistics.safetensors", h);
	run_stage(&r, "quantize", "block.safetensors", h);
	sha256_end(h, o->digest);
	assert_ok(project_dev(r.p, &d));
	o->peak = dev_peak(d);
	o->predicted = r.p->memory.stream.host;
	assert_true(memory == 0 || o->peak <= memory);
	close_run(&r);
	buf_release(&text);
}

static const struct variant variants[] = {
	{"", "auto"}, {", qep: 0.5", "float16"}, {", propagate: original", "auto"}, {", true_sequential: false", "auto"},
	{", qep: 0.5", "auto"}, {", actorder: group", "auto"}, {", preset: compat", "auto"}, {"", "bfloat16"}, {"", "float16"},
};

static void
predictions_are_what_is_taken(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		struct outcome o;

		measure(&o, &variants[i], 256, 0);
		if (o.peak > o.predicted || (double)o.predicted > 1.1 * (double)o.peak)
			fail_msg("%s, %s: %zu bytes predicted, %zu taken", variants[i].quantize, variants[i].dtype, o.predicted, o.peak);
	}
}

/* The least memory that the recipe opens with. */
static size_t
least_memory(const struct variant *v, int seqlen)
{
	size_t step = 250000, memory = step;

	for (;; memory += step) {
		struct buf text = {0};
		struct run r;
		bool fits;

		open_run(&r, v, seqlen, memory, &text);
		fits = r.p != NULL;
		close_run(&r);
		buf_release(&text);
		if (fits)
			return memory;
	}
}

static void
less_memory_gives_the_same_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; i < 4; i++) {
		int seqlen = i % 2 ? 256 : 300;
		struct outcome plenty, little, some;
		size_t least = least_memory(&variants[i], seqlen);

		measure(&plenty, &variants[i], seqlen, 0);
		measure(&little, &variants[i], seqlen, least);
		measure(&some, &variants[i], seqlen, (least + plenty.peak) / 2);
		assert_true(little.peak < plenty.peak);
		assert_string_equal(little.digest, plenty.digest);
		assert_string_equal(some.digest, plenty.digest);
	}
}

static void
too_little_is_told_before_any_work(void **state)
{
	struct buf text = {0};
	struct run r;

	(void)state;
	open_run(&r, &variants[0], 256, 2000000, &text);
	assert_null(r.p);
	assert_non_null(strstr(buf_text(&text), "memory: calibration and quantization need "));
	assert_non_null(strstr(buf_text(&text), " MB of the device's memory at least, and 2.0 MB are there to use; "
	                                        "give more (--memory), or lower seqlen"));
	close_run(&r);
	buf_release(&text);
}

/* Cards are predicted without any: a 7B model with all its tokens, and the same beside a smaller card. */
static void
dry_cards_tell_what_a_card_would_hold(void **state)
{
	struct dev_options o = {.name = "cuda", .memory = 24000000000};
	const struct span lists[] = {{"", 3000}, {"", 1000}, {"", 2000}};
	struct mat m;
	struct dev *d;
	size_t device, on_host;

	(void)state;
	assert_ok(dev_dry(&d, &o));
	assert_true(dev_is_dry(d));
	assert_int_equal(dev_operand(d), BF16);
	assert_int_equal(dev_math(d, MATH_F16), MATH_F16);
	assert_int_equal(dev_operand(d), F16);
	assert_int_equal(dev_tokens(d), 8192);
	m = dev_mat(d, BF16, 1000, 1000);
	assert_non_null(m.p);
	assert_non_null(dev_room(d, 5000));
	dev_taken(d, &device, &on_host);
	assert_int_equal(device, ((size_t)DEV_BESIDE_MIB + 256) << 20);      /* it grows by so much at a time */
	assert_int_equal(on_host, 5000);
	dev_ahead(d, lists, 2);
	dev_ahead(d, lists, 0);
	dev_ahead(d, lists + 2, 1);
	dev_taken(d, &device, &on_host);
	assert_int_equal(on_host, 5000 + 12 * 256 + 4 * 256);
	dev_mat(d, BF16, 1000000, 12000);
	assert_true(dev_failed(d));
	dev_close(d);
}

/* Bytes of a card that 128 x 2048 tokens of 7B shapes take; 0: they do not fit. */
static size_t
card_of_7b(size_t memory, size_t *on_host)
{
	static const char recipe[] = "model: {source: 'synthetic:qwen2-7b'}\ncalibration: {dataset: 'synthetic:tokens'}\n";
	const struct dev_options o = {.name = "cpu"};
	struct diag d = {0};
	struct yaml *tree = yaml_parse(recipe, strlen(recipe), "r.yaml", &d);
	struct settings s;
	struct project *p;
	size_t device;

	settings_read(&s, tree, &d);
	p = project_open(&s, tree, &o, &d);
	assert_non_null(p);
	p->device.memory = memory;
	snprintf(p->device_facts, sizeof(p->device_facts), "device cuda\n");
	device = memory_predict(p) == 0 ? p->memory.stream.device : 0;
	*on_host = p->memory.stream.host;
	project_close(p);
	settings_release(&s);
	yaml_free(tree);
	diag_release(&d);
	return device;
}

static void
a_7b_model_is_made_to_fit_a_card(void **state)
{
	const size_t ahead = (size_t)2 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18944);      /* the next block's linears, in bf16 */
	char *root = t_dir();
	size_t none, some, all, on_host;

	(void)state;
	setenv("QJOB_SYNTHETIC", root, 1);
	none = card_of_7b(0, &on_host);
	assert_int_equal(on_host, ahead);
	some = card_of_7b(24000000000, &on_host);
	assert_true(none > 20000000000 && some > 0 && some <= 24000000000);
	all = card_of_7b(8000000000, &on_host);
	assert_true(all > 6000000000 && all <= 8000000000);
	assert_int_equal(on_host, (size_t)128 * 2048 * (3584 * 4 + (3584 + 18944) * 2) + ahead);
	assert_int_equal(card_of_7b(4000000000, &on_host), 0);
	unsetenv("QJOB_SYNTHETIC");
	t_dir_end(root);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dry_cards_tell_what_a_card_would_hold),
		cmocka_unit_test(a_7b_model_is_made_to_fit_a_card),
		cmocka_unit_test(too_little_is_told_before_any_work),
		cmocka_unit_test(predictions_are_what_is_taken),
		cmocka_unit_test(less_memory_gives_the_same_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
