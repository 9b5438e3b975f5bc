#include "qjob/engine/recipe.h"

#include <math.h>
#include <unistd.h>

#include "qjob/base/buf.h"
#include "tests/t.h"

#define HEAD "qjob: 1\nmodel: {source: m}\noutput: o\n"

static char *folder;

static int
enter(void **state)
{
	(void)state;
	folder = t_dir();
	return chdir(folder);
}

static int
leave(void **state)
{
	(void)state;
	if (chdir("..") != 0)
		return -1;
	t_dir_end(folder);
	return 0;
}

static void
put(const char *name, const char *text)
{
	assert_ok(file_replace(name, text, strlen(text)));
}

/* Loads r.yaml and gives all messages, joined by newlines; the caller frees. */
static char *
messages(struct recipe *r, const char *const *sets, size_t nsets)
{
	struct diag d = {0};
	struct buf b = {0};
	int rc = recipe_load(r, "r.yaml", sets, nsets, &d);

	for (size_t i = 0; i < d.n; i++)
		buf_printf(&b, "%s%s", i ? "\n" : "", d.v[i]);
	assert_int_equal(rc, d.n ? E_USE : 0);
	diag_release(&d);
	return buf_detach(&b);
}

static void
load_sets(struct recipe *r, const char *text, const char *const *sets, size_t nsets)
{
	char *said;

	put("r.yaml", text);
	said = messages(r, sets, nsets);
	assert_string_equal(said, "");
	free(said);
}

static void
load(struct recipe *r, const char *text)
{
	load_sets(r, text, NULL, 0);
}

/* ---- refusals ---- */

struct bad {
	const char *text;
	const char *set;          /* NULL: none */
	const char *want;
};

static const struct bad bads[] = {
	/* files */
	{"", NULL, "r.yaml:1:1: nothing is written here"},
	{"# only a comment\n", NULL, "r.yaml:2:1: nothing is written here"},
	{"just a text\n", NULL, "r.yaml:1:1: a recipe is a map of sections; `qjob init MODEL` writes one"},
	{"- a\n- b\n", NULL, "r.yaml:1:1: a recipe is a map of sections; `qjob init MODEL` writes one"},
	{"qjob: 1\nmodel:\n\tsource: m\n", NULL, "r.yaml:3:1: not YAML: found character that cannot start any token"},
	{"qjob: 1\nmodel: {source: \xff\xfe}\n", NULL, "r.yaml:2:17: not UTF-8 text: invalid leading UTF-8 octet (0xff)"},
	{"qjob: 1\n---\nqjob: 1\n", NULL, "r.yaml:2:1: a second document begins here; only one is read"},
	{"qjob: 1\nmodel: !!map {source: m}\noutput: o\n", NULL,
	 "r.yaml:2:8: tags are not supported, found 'tag:yaml.org,2002:map'"},
	{"qjob: [1\n", NULL,
	 "r.yaml:2:1: not YAML: did not find expected ',' or ']', while parsing a flow sequence that began in line 1"},
	/* keys of the recipe */
	{HEAD "qjob: 1\n", NULL, "r.yaml:4:1: 'qjob' stands here again; it was already given in line 1, column 1"},
	{HEAD "quantise: {bits: 4}\n", NULL, "r.yaml:4:1: quantise: unknown section; did you mean quantize?"},
	{HEAD "zzz: 1\n", NULL, "r.yaml:4:1: zzz: unknown section"},
	{"model: {source: m}\noutput: o\n", NULL, "r.yaml:1:1: qjob: missing; a recipe begins with qjob: 1"},
	{"qjob: 2\nmodel: {source: m}\noutput: o\n", NULL,
	 "r.yaml:1:7: qjob: 2 is not 1, the only version of the recipe language that this program knows"},
	{"qjob: [1]\nmodel: {source: m}\noutput: o\n", NULL,
	 "r.yaml:1:7: qjob: the version of the recipe language is wanted here: 1"},
	{"qjob: 1\nmodel: {source: m}\n", NULL, "r.yaml:1:1: output: missing; name the folder to write, as in output: out/model"},
	{"qjob: 1\nmodel: {source: m}\noutput: [o]\n", NULL, "r.yaml:3:9: output: the path of a folder is wanted here"},
	{"qjob: 1\nmodel: {source: m}\noutput:\n", NULL, "r.yaml:3:8: output: the path of a folder is wanted here"},
	/* sections */
	{"qjob: 1\noutput: o\n", NULL, "r.yaml:1:1: model.source: is missing; name the model's folder"},
	{"qjob: 1\nmodel:\noutput: o\n", NULL, "r.yaml:2:7: model.source: is missing; name the model's folder"},
	{"qjob: 1\nmodel: {revision: main}\noutput: o\n", NULL, "r.yaml:2:8: model.source: is missing"},
	{"qjob: 1\nmodel: m\noutput: o\n", NULL, "r.yaml:2:8: model: 'm' is not a map"},
	{HEAD "quantize: [gptq]\n", NULL, "r.yaml:4:11: quantize: a list is not a map"},
	{HEAD "quantize:\n  bits: 5\n", NULL, "r.yaml:5:9: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq"},
	{HEAD "quantize: {bits: four}\n", NULL, "r.yaml:4:18: quantize.bits: 'four' is not a whole number"},
	{HEAD "quantize: {bits: \"4\"}\n", NULL, "r.yaml:4:18: quantize.bits: '4' is not a whole number (it is quoted)"},
	{HEAD "quantize: {bits: 4.5}\n", NULL, "r.yaml:4:18: quantize.bits: '4.5' is not a whole number"},
	{HEAD "quantize: {bits: [4]}\n", NULL, "r.yaml:4:18: quantize.bits: a list is not a whole number"},
	{HEAD "quantize: {bitz: 4}\n", NULL, "r.yaml:4:12: quantize.bitz: unknown; did you mean 'bits'?"},
	{HEAD "quantize:\n  bits: 4\n  bits: 3\n", NULL, "r.yaml:6:3: 'bits' stands here again; it was already given in line 5, column 3"},
	{HEAD "quantize: {sym: 1}\n", NULL, "r.yaml:4:17: quantize.sym: '1' is not true or false"},
	{HEAD "quantize: {damp_percent: 2}\n", NULL, "r.yaml:4:26: quantize.damp_percent: 2 is outside 0..1 for method gptq"},
	{HEAD "quantize: {damp_percent: .nan}\n", NULL, "r.yaml:4:26: quantize.damp_percent: '.nan' is not a number"},
	{HEAD "quantize: {scale_search: best}\n", NULL,
	 "r.yaml:4:26: quantize.scale_search: 'best' is not one of minmax, mse, hessian for method gptq"},
	{HEAD "quantize: {method: awq}\n", NULL, "r.yaml:4:20: quantize.method: 'awq' is not one of gptq, rtn"},
	{HEAD "quantize: {method: [gptq]}\n", NULL, "r.yaml:4:20: quantize.method: a list is not one of gptq, rtn"},
	{HEAD "quantize: {method: awq, bits: 77, damp_percent: x}\n", NULL,
	 "r.yaml:4:20: quantize.method: 'awq' is not one of gptq, rtn"},
	{HEAD "quantize: {method: awq, bits: 77, damp_percnt: x}\n", NULL,
	 "r.yaml:4:20: quantize.method: 'awq' is not one of gptq, rtn\n"
	 "r.yaml:4:35: quantize.damp_percnt: unknown; did you mean 'damp_percent'?"},
	{HEAD "quantize: {method: rtn, damp_percent: 0.1}\n", NULL,
	 "r.yaml:4:25: quantize.damp_percent: method rtn has no such parameter, gptq has"},
	{HEAD "quantize:\n  group_size: 0\n", NULL, "r.yaml:5:3: quantize.group_size: 0 is no size of a group; -1 is one group a row"},
	{HEAD "quantize: {overrides: {match: x}}\n", NULL, "r.yaml:4:23: quantize.overrides: a map is not a list of maps"},
	{HEAD "quantize: {overrides: [{bits: 8}]}\n", NULL, "r.yaml:4:24: quantize.overrides[0].match: is missing"},
	{HEAD "quantize: {overrides: [{match: \"\", bits: 8}]}\n", NULL,
	 "r.yaml:4:32: quantize.overrides[0].match: an empty pattern matches nothing"},
	{HEAD "quantize: {overrides: [{match: a, bits: 8}, {match: \"re:(\", bits: 8}]}\n", NULL,
	 "r.yaml:4:53: quantize.overrides[1].match: ( is no regular expression: Unmatched ( or \\("},
	{HEAD "quantize: {overrides: [{match: a, bits: 5}]}\n", NULL,
	 "r.yaml:4:41: quantize.overrides[0].bits: 5 is not one of 0, 2, 3, 4, 8"},
	{HEAD "quantize: {overrides: [{match: a, sym: maybe}]}\n", NULL,
	 "r.yaml:4:40: quantize.overrides[0].sym: 'maybe' is not one of true, false"},
	{HEAD "calibration: {samples: 0}\n", NULL, "r.yaml:4:24: calibration.samples: 0 is outside 1..1048576"},
	{HEAD "calibration: {seqlen: 99999999999}\n", NULL,
	 "r.yaml:4:23: calibration.seqlen: '99999999999' is not a number that fits in 32 bits"},
	{HEAD "calibration: {windows: shuffled}\n", NULL, "r.yaml:4:24: calibration.windows: 'shuffled' is not one of concat, random"},
	{HEAD "pack: {format: awq}\n", NULL, "r.yaml:4:16: pack.format: 'awq' is not one of gptq, compressed-tensors"},
	{HEAD "pack: {max_shard_size: big}\n", NULL, "r.yaml:4:24: pack.max_shard_size: big is not a size like 5GB, 200MB or 1GiB"},
	{HEAD "pack: {kernel: cuda}\n", NULL,
	 "r.yaml:4:16: pack.kernel: 'cuda' is not one of any, marlin, machete, exllama, exllamav2, triton, torch"},
	{HEAD "pack: {format: compressed-tensors, checkpoint_format: gptq}\n", NULL,
	 "r.yaml:4:36: pack.checkpoint_format: format compressed-tensors has no such parameter, gptq has"},
	{HEAD "validate: {max_perplexity_increase: 0.1}\n", NULL,
	 "r.yaml:4:37: validate.max_perplexity_increase: nothing to measure; add validate.perplexity.dataset"},
	{HEAD "validate: {perplexity: text.txt}\n", NULL, "r.yaml:4:24: validate.perplexity: 'text.txt' is not a map"},
	{HEAD "validate: {perplexity: {seqlen: 1, data: x}}\n", NULL,
	 "r.yaml:4:33: validate.perplexity.seqlen: 1 is outside 2..1048576\n"
	 "r.yaml:4:36: validate.perplexity.data: unknown; did you mean 'dataset'?"},
	/* several, sorted by place */
	{"output: o\nquantize: {bits: 5, sym: x}\nmodel: {sorce: m}\nqjob: 1\n", NULL,
	 "r.yaml:2:18: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq\n"
	 "r.yaml:2:26: quantize.sym: 'x' is not true or false\n"
	 "r.yaml:3:8: model.source: is missing\n"
	 "r.yaml:3:9: model.sorce: unknown; did you mean 'source'?"},
	/* --set */
	{HEAD, "quantize.bits=5", "--set: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq"},
	{HEAD, "bits", "--set: bits: wanted NAME=VALUE, as in quantize.bits=3"},
	{HEAD, "=3", "--set: =3: wanted NAME=VALUE, as in quantize.bits=3"},
	{HEAD, "quantise.bits=3", "--set: quantise: unknown section; did you mean quantize?"},
	{HEAD, "quantize.bitz=3", "--set: quantize.bitz: unknown; did you mean 'bits'?"},
	{HEAD, "quantize.bits=[3",
	 "--set: quantize.bits=[3: --set:2:1: not YAML: did not find expected ',' or ']', "
	 "while parsing a flow sequence that began in line 1"},
	{HEAD, "output.x=3", "--set: output.x=3: 'output' is not a map"},
	{HEAD, "quantize..bits=3", "--set: quantize..bits=3: 'quantize..bits' is not a name like quantize.bits"},
	/* matrix */
	{HEAD "matrix: [1]\n", NULL, "r.yaml:4:9: matrix: a map of parameters to lists of values is wanted here"},
	{HEAD "matrix: {bits: [4, 3]}\n", NULL, "r.yaml:4:10: matrix: bits is not a parameter; write SECTION.NAME, as in quantize.bits"},
	{HEAD "matrix: {quantize.bits: 4}\n", NULL, "r.yaml:4:25: matrix.quantize.bits: a list of values is wanted here"},
	{HEAD "matrix: {quantize.bits: []}\n", NULL, "r.yaml:4:25: matrix.quantize.bits: a list of values is wanted here"},
	{HEAD "matrix: {quantize.bits: [4, 3, 4]}\n", NULL, "r.yaml:4:32: matrix.quantize.bits: 4 is listed twice"},
	{HEAD "matrix: {quantize.bits: [4, 5, 7]}\n", NULL,
	 "r.yaml:4:29: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq\n"
	 "r.yaml:4:32: quantize.bits: 7 is not one of 2, 3, 4, 8 for method gptq"},
	{HEAD "matrix: {quantize.bitz: [4, 3]}\n", NULL, "r.yaml:4:10: quantize.bitz: unknown; did you mean 'bits'?"},
	{HEAD "matrix: {output.x: [4, 3]}\n", NULL,
	 "r.yaml:4:10: matrix: output.x is not a parameter; write SECTION.NAME, as in quantize.bits"},
	{HEAD "matrix: {calibration.field: [a/b, a b]}\n", NULL,
	 "r.yaml:4:9: matrix: calibration.field=a/b and calibration.field=a b would write the same folder"},
	/* extends */
	{HEAD "extends: nowhere.yaml\n", NULL, "r.yaml:4:10: extends: nowhere.yaml: no such file"},
	{HEAD "extends: .\n", NULL, "r.yaml:4:10: extends: .: not a file"},
	{HEAD "extends: /dev/zero\n", NULL, "r.yaml:4:10: extends: /dev/zero: not a file"},
	{HEAD "extends: [a]\n", NULL, "r.yaml:4:10: extends: the path of a recipe is wanted here"},
	{HEAD "extends: r.yaml\n", NULL, "r.yaml:4:10: extends: r.yaml builds on itself"},
};

static void
refuses_with_places(void **state)
{
	int wrong = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		const struct bad *b = &bads[i];
		struct recipe r;
		char *said;

		put("r.yaml", b->text);
		said = messages(&r, &b->set, b->set != NULL);
		if (strcmp(said, b->want) != 0) {
			print_error("row %zu: %s\nwanted: %s\nfound:  %s\n", i, b->text, b->want, said);
			wrong++;
		}
		free(said);
		recipe_release(&r);
	}
	assert_int_equal(wrong, 0);
}

static void
refuses_a_missing_file(void **state)
{
	struct diag d = {0};
	struct recipe r;

	(void)state;
	assert_int_equal(recipe_load(&r, "nowhere.yaml", NULL, 0, &d), E_USE);
	assert_int_equal(d.n, 1);
	assert_string_equal(d.v[0], "nowhere.yaml: No such file or directory");
	diag_release(&d);
	recipe_release(&r);
}

/* A thousand levels, a thousand keys, a million variants: one or a few messages, at once. */
static void
stands_odd_files(void **state)
{
	struct buf b = {0};
	struct recipe r;
	char *said;

	(void)state;
	for (int i = 0; i < 1000; i++)
		buf_puts(&b, "[");
	put("r.yaml", buf_text(&b));
	said = messages(&r, NULL, 0);
	assert_string_equal(said, "r.yaml:1:66: more than 64 levels deep");
	free(said);
	recipe_release(&r);

	buf_clear(&b);
	buf_puts(&b, HEAD "matrix:\n");
	for (int i = 0; i < 6; i++)
		buf_printf(&b, "  calibration.f%d: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n", i);
	put("r.yaml", buf_text(&b));
	said = messages(&r, NULL, 0);
	assert_string_equal(said, "r.yaml:5:3: matrix: more than 1000 variants");
	free(said);
	recipe_release(&r);
	buf_release(&b);
}

/* ---- extends ---- */

static void
extends_and_keeps_places(void **state)
{
	struct recipe r;
	char *said;

	(void)state;
	assert_ok(dir_make("base"));
	put("base/one.yaml", "qjob: 1\nmodel: {source: m}\nquantize: {bits: 3, group_size: 32}\nextends: two.yaml\n");
	put("base/two.yaml", "output: o\nquantize: {bits: 2, sym: false}\npack: {kernel: any}\n");
	load(&r, "extends: base/one.yaml\nquantize: {bits: 8}\n");
	assert_int_equal(r.nfiles, 3);
	assert_int_equal(r.n, 1);
	said = NULL;
	{
		struct buf b = {0};

		recipe_write(&r.v[0].settings, false, true, &b);
		assert_non_null(strstr(buf_text(&b), "\n  bits: 8\n"));
		assert_non_null(strstr(buf_text(&b), "\n  group_size: 32\n"));
		assert_non_null(strstr(buf_text(&b), "\n  sym: false\n"));
		buf_release(&b);
	}
	recipe_release(&r);

	put("base/two.yaml", "output: o\nquantize: {bits: 2, sym: maybe}\npack: {kernel: any}\n");
	put("base/one.yaml", "qjob: 1\nmodel: {source: m}\nquantize: {bits: 3, group_size: x}\nextends: two.yaml\n");
	put("r.yaml", "extends: base/one.yaml\nquantize: {bits: 9}\n");
	said = messages(&r, NULL, 0);
	assert_string_equal(said, "r.yaml:2:18: quantize.bits: 9 is not one of 2, 3, 4, 8 for method gptq\n"
	                          "base/one.yaml:3:33: quantize.group_size: 'x' is not a whole number\n"
	                          "base/two.yaml:2:26: quantize.sym: 'maybe' is not true or false");
	free(said);
	recipe_release(&r);
}

static void
refuses_a_cycle(void **state)
{
	struct recipe r;
	char *said;

	(void)state;
	put("a.yaml", "extends: b.yaml\n");
	put("b.yaml", "extends: ./a.yaml\n");
	put("r.yaml", HEAD "extends: a.yaml\n");
	said = messages(&r, NULL, 0);
	assert_string_equal(said, "b.yaml:1:10: extends: ./a.yaml builds on itself");
	free(said);
	recipe_release(&r);
}

/* ---- paths ---- */

static void
resolves_paths_from_their_file(void **state)
{
	static const char *const sets[] = {"validate.perplexity.dataset=text.txt"};
	struct recipe r;
	char *want;

	(void)state;
	assert_ok(dir_make("sub/model"));
	put("sub/text.txt", "x");
	put("text.txt", "x");
	put("sub/base.yaml", "qjob: 1\nmodel: {source: model}\ncalibration: {dataset: text.txt}\noutput: o/p/\n");
	load_sets(&r, "extends: sub/base.yaml\n", sets, 1);
	want = mem_format("%s/sub/model", folder);
	assert_string_equal(r.v[0].settings.model.source, want);
	free(want);
	want = mem_format("%s/sub/text.txt", folder);
	assert_string_equal(r.v[0].settings.calibration.dataset->text, want);
	free(want);
	want = mem_format("%s/text.txt", folder);
	assert_string_equal(r.v[0].settings.validate.perplexity.dataset->text, want);
	free(want);
	want = mem_format("%s/o/p", folder);
	assert_string_equal(r.v[0].settings.output, want);
	free(want);
	recipe_release(&r);

	load(&r, "qjob: 1\nmodel: {source: Qwen/Qwen2-7B}\ncalibration: {dataset: [a, {file: text.txt}]}\noutput: /abs\n");
	assert_string_equal(r.v[0].settings.model.source, "Qwen/Qwen2-7B");
	want = mem_format("%s/text.txt", folder);
	assert_string_equal(yaml_get(r.v[0].settings.calibration.dataset->v[1], "file")->text, want);
	assert_string_equal(r.v[0].settings.calibration.dataset->v[0]->text, "a");
	assert_string_equal(r.v[0].settings.output, "/abs");
	free(want);
	recipe_release(&r);
}

/* ---- matrix ---- */

static void
expands_a_matrix(void **state)
{
	static const char *const names[] = {
		"quantize.bits=4,quantize.sym=true", "quantize.bits=4,quantize.sym=false",
		"quantize.bits=3,quantize.sym=true", "quantize.bits=3,quantize.sym=false",
	};
	struct recipe r;

	(void)state;
	load(&r, HEAD "quantize: {bits: 8}\nmatrix:\n  quantize.bits: [4, 3]\n  quantize.sym: [true, false]\n");
	assert_int_equal(r.n, 4);
	for (size_t i = 0; i < 4; i++) {
		char *want = mem_format("%s/o/%s", folder, names[i]);
		struct buf b = {0};

		assert_string_equal(r.v[i].name, names[i]);
		assert_string_equal(r.v[i].settings.output, want);
		recipe_write(&r.v[i].settings, false, false, &b);
		assert_non_null(strstr(buf_text(&b), i < 2 ? "\n  bits: 4\n" : "\n  bits: 3\n"));
		assert_non_null(strstr(buf_text(&b), i % 2 ? "\n  sym: false\n" : "\n  sym: true\n"));
		buf_release(&b);
		free(want);
	}
	recipe_release(&r);
}

/* ---- what is written ---- */

static char *
resolved(const struct recipe *r, bool help, bool portable)
{
	struct buf b = {0};

	recipe_write(&r->v[0].settings, help, portable, &b);
	return buf_detach(&b);
}

static void
reads_what_it_wrote(void **state)
{
	static const char *const recipes[] = {
		HEAD,
		HEAD "quantize: {method: rtn, bits: 8}\n",
		HEAD "quantize: {preset: compat, group_size: -1}\npack: {format: gptq, checkpoint_format: gptq_v2}\n",
		HEAD "quantize: {accuracy: high, overrides: [{match: \"*.down_proj\", bits: 8}, "
		     "{match: \"re:a|b\", skip: true, sym: false}]}\n",
		HEAD "pack: {format: compressed-tensors, max_shard_size: 1 GiB}\n",
		HEAD "calibration: {dataset: [\"a: b\", 'it''s', {file: x.txt, field: t}], seed: 7, windows: random}\n",
		HEAD "validate: {perplexity: {dataset: /t.txt, windows: 3}, max_perplexity_increase: 1e-3, dtype: bfloat16}\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++)
		for (int help = 0; help < 2; help++) {
			struct recipe r;
			char *first, *second;

			load(&r, recipes[i]);
			first = resolved(&r, help, false);
			recipe_release(&r);
			load(&r, first);
			second = resolved(&r, help, false);
			assert_string_equal(second, first);
			free(first);
			free(second);
			recipe_release(&r);
		}
}

static void
ignores_comments_and_order(void **state)
{
	struct recipe r;
	char *first, *second;

	(void)state;
	load(&r, "qjob: 1\nmodel: {source: m}\nquantize:\n  bits: 3\n  sym: false\n  group_size: 64\noutput: o\n");
	first = resolved(&r, false, false);
	recipe_release(&r);
	load(&r, "# hello\noutput: 'o'\nquantize: {group_size: 64, sym: False, bits: 3}   # x\n\nmodel:\n    source: m\nqjob: 1\n");
	second = resolved(&r, false, false);
	assert_string_equal(second, first);
	recipe_release(&r);
	free(first);
	free(second);
}

static void
leaves_out_paths(void **state)
{
	struct recipe r;
	char *text;

	(void)state;
	load(&r, "qjob: 1\nmodel: {source: /secret/place/model/}\noutput: /secret/out\n"
	         "calibration: {dataset: /secret/a.txt}\nvalidate: {perplexity: {dataset: [x, {file: /secret/b.txt}]}}\n");
	text = resolved(&r, false, true);
	assert_null(strstr(text, "secret"));
	assert_null(strstr(text, "output"));
	assert_non_null(strstr(text, "\n  source: model\n"));
	assert_non_null(strstr(text, "\n  dataset: a.txt\n"));
	assert_non_null(strstr(text, "[x, {file: b.txt}]"));
	recipe_release(&r);
	free(text);
}

/* ---- qjob init, qjob schema ---- */

static void
inits_what_loads(void **state)
{
	static const char *const kinds[] = {NULL, "gptq", "rtn"};

	(void)state;
	assert_ok(dir_make("a model"));
	for (size_t i = 0; i < 3; i++) {
		struct buf b = {0};
		struct recipe r;
		char *want;

		assert_ok(recipe_init("a model/", kinds[i], &b));
		load(&r, buf_text(&b));
		want = mem_format("%s/a model", folder);
		assert_string_equal(r.v[0].settings.model.source, want);
		free(want);
		want = mem_format("%s/out/a model-%s", folder, kinds[i] ? kinds[i] : "gptq");
		assert_string_equal(r.v[0].settings.output, want);
		free(want);
		assert_string_equal(r.v[0].settings.quantize.method, kinds[i] ? kinds[i] : "gptq");
		assert_int_equal(settings_learns(&r.v[0].settings), r.v[0].settings.calibration.dataset != NULL);
		recipe_release(&r);
		buf_release(&b);
	}
}

static void
refuses_to_init_an_unknown_method(void **state)
{
	struct buf b = {0};

	(void)state;
	assert_int_equal(recipe_init("m", "awq", &b), E_USE);
	assert_string_equal(err_text(), "--method: quantize.method: 'awq' is not one of gptq, rtn");
	assert_int_equal(b.n, 0);
	buf_release(&b);
}

static void
makes_a_schema(void **state)
{
	json_t *schema = recipe_schema(), *quantize, *all;

	(void)state;
	assert_string_equal(json_string_value(json_object_get(schema, "$schema")), "https://json-schema.org/draft/2020-12/schema");
	assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
	all = json_object_get(schema, "properties");
	assert_int_equal(json_object_size(all), 9);
	quantize = json_object_get(all, "quantize");
	assert_int_equal(json_array_size(json_object_get(quantize, "allOf")), 2);
	assert_non_null(json_object_get(json_object_get(quantize, "properties"), "damp_percent"));
	json_decref(schema);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_with_places),
		cmocka_unit_test(refuses_a_missing_file),
		cmocka_unit_test(stands_odd_files),
		cmocka_unit_test(extends_and_keeps_places),
		cmocka_unit_test(refuses_a_cycle),
		cmocka_unit_test(resolves_paths_from_their_file),
		cmocka_unit_test(expands_a_matrix),
		cmocka_unit_test(reads_what_it_wrote),
		cmocka_unit_test(ignores_comments_and_order),
		cmocka_unit_test(leaves_out_paths),
		cmocka_unit_test(inits_what_loads),
		cmocka_unit_test(refuses_to_init_an_unknown_method),
		cmocka_unit_test(makes_a_schema),
	};

	return cmocka_run_group_tests(tests, enter, leave);
}
