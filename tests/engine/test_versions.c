/* Version constants: when one of them grows, exactly the nodes whose bytes it stands for are to run, and what follows
 * them waits to see what they give.  Every stage, method and format has a row. */
#include <unistd.h>

#include "cache/store.h"
#include "qjob/engine/plan.h"
#include "qjob/engine/recipe.h"
#include "stages/pack/format.h"
#include "stages/quant/method.h"
#include "tests/t.h"

#define MODEL "model: {source: " QJOB_TESTS_DIR "/../examples/quickstart/model}\n"
#define TEXT QJOB_TESTS_DIR "/../examples/quickstart/text/"
#define COMMON "qjob: 1\noutput: o\n" MODEL \
	"validate: {perplexity: {dataset: " TEXT "evaluation.txt, seqlen: 16, windows: 1}}\n"
#define LEARN "calibration: {dataset: " TEXT "calibration.txt, samples: 2, seqlen: 16}\n"

enum { QUANTIZED, ORIGINAL, PLAIN, RECIPES };

static const char *const recipes[RECIPES] = {
	[QUANTIZED] = COMMON LEARN "quantize: {group_size: 32}\n",
	[ORIGINAL]  = COMMON LEARN "quantize: {group_size: 32, propagate: original}\n",
	[PLAIN]     = COMMON "quantize: {method: rtn, group_size: 32}\npack: {format: compressed-tensors}\n",
};

/* `line` begins the fact that tells the version.  A name stands for all nodes that begin with it. */
static const struct row {
	int recipe;
	const char *line, *run, *maybe;
} rows[] = {
	{QUANTIZED, "stage fetch ",              "fetch/",                     "tokenize/ quantize/ pack/ validate/"},
	{QUANTIZED, "stage tokenize ",           "tokenize/",                  "quantize/ pack/shard-0 validate/"},
	{QUANTIZED, "stage quantize ",           "quantize/",                  "pack/shard-0 validate/quantized validate/report"},
	{QUANTIZED, "method gptq ",              "quantize/",                  "pack/shard-0 validate/quantized validate/report"},
	{QUANTIZED, "stage pack ",               "pack/",                      "validate/quantized validate/report"},
	{QUANTIZED, "format gptq ",              "pack/ validate/quantized validate/report", ""},
	{QUANTIZED, "stage validate ",           "validate/",                  ""},
	{QUANTIZED, "library ",                  "tokenize/",                  "quantize/ pack/shard-0 validate/"},
	{QUANTIZED, "onednn ",                   "quantize/ validate/",        "pack/shard-0"},
	{QUANTIZED, "writer qjob ",              "validate/report",            ""},
	{ORIGINAL,  "stage fetch ",              "fetch/",                     "tokenize/ calibrate/ quantize/ pack/ validate/"},
	{ORIGINAL,  "stage tokenize ",           "tokenize/",                  "calibrate/ quantize/ pack/shard-0 validate/"},
	{ORIGINAL,  "stage calibrate ",          "calibrate/",                 "quantize/ pack/shard-0 validate/quantized validate/report"},
	{ORIGINAL,  "stage quantize ",           "quantize/",                  "pack/shard-0 validate/quantized validate/report"},
	{ORIGINAL,  "method gptq ",              "quantize/",                  "pack/shard-0 validate/quantized validate/report"},
	{ORIGINAL,  "onednn ",                   "calibrate/ quantize/ validate/", "pack/shard-0"},
	{PLAIN,     "stage tokenize ",           "tokenize/",                  "validate/"},
	{PLAIN,     "stage quantize ",           "quantize/",                  "pack/shard-0 validate/quantized validate/report"},
	{PLAIN,     "method rtn ",               "quantize/",                  "pack/shard-0 validate/quantized validate/report"},
	{PLAIN,     "format compressed-tensors ", "pack/ validate/quantized validate/report", ""},
	{PLAIN,     "onednn ",                   "quantize/ validate/",        "pack/shard-0"},
};

/* A recipe opened as a process would. */
struct opened {
	struct recipe recipe;
	struct project *project;
	struct graph graph;
	struct stage later[8];     /* the stages, their versions one higher */
};

static char *folder;
static struct store *store;

static void
project_is_open(struct opened *o, const char *text)
{
	struct diag d = {0};
	int rc;

	assert_ok(file_replace("r.yaml", text, strlen(text)));
	rc = recipe_load(&o->recipe, "r.yaml", NULL, 0, &d);
	assert_string_equal(d.n ? d.v[0] : "", "");
	assert_ok(rc);
	o->project = project_open(&o->recipe.v[0].settings, o->recipe.v[0].tree, &(struct dev_options){.threads = 1}, &d);
	assert_string_equal(d.n ? d.v[0] : "", "");
	assert_non_null(o->project);
	o->graph = (struct graph){.project = mem_text(text)};
	assert_ok(project_graph(o->project, &o->graph));
	diag_release(&d);
}

static void
project_is_closed(struct opened *o)
{
	graph_release(&o->graph);
	project_close(o->project);
	recipe_release(&o->recipe);
}

/* Every recipe has run once. */
static int
set_up(void **state)
{
	(void)state;
	folder = t_dir();
	if (chdir(folder) != 0)
		return -1;
	assert_ok(store_open(&store, "store"));
	for (int i = 0; i < RECIPES; i++) {
		struct run_options options = {.store = store};
		struct run_result r;
		struct opened o = {0};

		project_is_open(&o, recipes[i]);
		assert_ok(engine_run(&o.graph, o.project, &options, &r));
		assert_int_equal(r.failed, 0);
		run_result_release(&r);
		project_is_closed(&o);
	}
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	store_close(store);
	if (chdir("..") != 0)
		return -1;
	t_dir_end(folder);
	return 0;
}

/* ---- a later version ---- */

/* "stage pack 1" becomes "stage pack 1+": how the number is written does not matter. */
static bool
lift_line(struct node *n, const char *line)
{
	struct buf out = {0};
	const char *p, *end;
	bool found = false;

	for (p = buf_text(&n->facts); *p; p = end + 1) {
		bool is = strncmp(p, line, strlen(line)) == 0;

		end = strchr(p, '\n');
		buf_add(&out, p, (size_t)(end - p));
		buf_puts(&out, is ? "+\n" : "\n");
		found = found || is;
	}
	buf_release(&n->facts);
	n->facts = out;
	return found;
}

/* The stage itself, for what is not told by facts: a node that only digests a file has no key. */
static void
lift_stage(struct opened *o, struct node *n, const char *line)
{
	for (size_t i = 0; stages[i]; i++) {
		char *name = mem_format("stage %s ", stages[i]->name);

		if (n->stage == stages[i] && strcmp(line, name) == 0) {
			o->later[i] = *stages[i];
			o->later[i].version++;
			n->stage = &o->later[i];
		}
		free(name);
	}
}

static void
lift(struct opened *o, const char *line)
{
	size_t found = 0;

	for (size_t i = 0; i < o->graph.n; i++) {
		found += lift_line(o->graph.v[i], line);
		lift_stage(o, o->graph.v[i], line);
	}
	if (!found)
		fail_msg("no node tells \"%s\"", line);
}

/* ---- what is to run ---- */

static bool
is_among(const char *name, const char *names)
{
	while (*names) {
		size_t n = strcspn(names, " ");

		if (strncmp(name, names, n) == 0 && (names[n - 1] == '/' || !name[n]))
			return true;
		names += n + (names[n] == ' ');
	}
	return false;
}

static const char *
wanted(const struct row *row, const char *name)
{
	return row && is_among(name, row->run) ? "run" : row && is_among(name, row->maybe) ? "maybe" : "hit";
}

static size_t
check_plan(const struct opened *o, const struct row *row)
{
	static const char *const names[] = {"hit", "run", "run", "maybe"};
	struct plan p;
	size_t wrong = 0;

	assert_ok(plan_make(&o->graph, store, &p));
	for (size_t i = 0; i < p.n; i++) {
		const char *name = p.v[i].node->name, *want = wanted(row, name);

		if (strcmp(names[p.v[i].action], want) == 0)
			continue;
		print_error("%s: %s: %s (%s), not %s\n", row ? row->line : "as it was", name, names[p.v[i].action], p.v[i].reason, want);
		wrong++;
	}
	plan_release(&p);
	return wrong;
}

static void
nothing_runs_as_it_is(void **state)
{
	(void)state;
	for (int i = 0; i < RECIPES; i++) {
		struct opened o = {0};

		project_is_open(&o, recipes[i]);
		assert_int_equal(check_plan(&o, NULL), 0);
		project_is_closed(&o);
	}
}

static void
a_later_version_runs_its_nodes(void **state)
{
	size_t wrong = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct opened o = {0};

		project_is_open(&o, recipes[rows[i].recipe]);
		lift(&o, rows[i].line);
		wrong += check_plan(&o, &rows[i]);
		project_is_closed(&o);
	}
	assert_int_equal(wrong, 0);
}

/* The constant is what the key tells, in every node of the stage. */
static void
every_node_tells_the_version_of_its_stage(void **state)
{
	(void)state;
	for (int i = 0; i < RECIPES; i++) {
		struct opened o = {0};

		project_is_open(&o, recipes[i]);
		for (size_t k = 0; k < o.graph.n; k++) {
			const struct node *n = o.graph.v[k];
			char *line = mem_format("stage %s %d\n", n->stage->name, n->stage->version);

			assert_memory_equal(buf_text(&n->facts), line, strlen(line));
			free(line);
		}
		project_is_closed(&o);
	}
}

static void
need_row(const char *what, const char *name, int version)
{
	char *line = mem_format("%s %s ", what, name);
	bool found = false;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		found = found || strcmp(rows[i].line, line) == 0;
	if (!found)
		fail_msg("no row for the version of %s", line);
	assert_true(version >= 1);
	free(line);
}

static void
every_constant_has_a_row(void **state)
{
	(void)state;
	for (size_t i = 0; stages[i]; i++)
		need_row("stage", stages[i]->name, stages[i]->version);
	for (size_t i = 0; methods[i]; i++)
		need_row("method", methods[i]->name, methods[i]->version);
	for (size_t i = 0; formats[i]; i++)
		need_row("format", formats[i]->name, formats[i]->version);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_runs_as_it_is),
		cmocka_unit_test(a_later_version_runs_its_nodes),
		cmocka_unit_test(every_node_tells_the_version_of_its_stage),
		cmocka_unit_test(every_constant_has_a_row),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
