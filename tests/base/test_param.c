#include "qjob/base/param.h"

#include <math.h>

#include "tests/t.h"

struct rule {
	const char *match;
	int bits;
	double damp;
};

struct inner {
	int seqlen;
	const char *split;
};

struct own {
	const char *method;
	int threads;
	struct param_list overrides;    /* struct rule */
	struct inner perplexity;
	const struct yaml *dataset;
};

struct method {
	const char *preset, *name;
	int bits, group_size;
	double damp, qep;
	bool sym;
	struct texts skip;
};

static const struct param rule_table[] = {
	{.name = "match", .type = PARAM_TEXT, .at = offsetof(struct rule, match), .flags = PARAM_REQUIRED, .help = "which linears"},
	{.name = "bits", .type = PARAM_INT, .at = offsetof(struct rule, bits), .words = "2 3 4 8"},
	{.name = "damp", .type = PARAM_REAL, .at = offsetof(struct rule, damp), .max = 1},
	{0},
};

static const struct param inner_table[] = {
	{.name = "seqlen", .type = PARAM_INT, .at = offsetof(struct inner, seqlen), .usual = "2048", .min = 1, .max = 1 << 20},
	{.name = "split", .type = PARAM_TEXT, .at = offsetof(struct inner, split), .usual = "test"},
	{0},
};

static const struct param own_table[] = {
	{.name = "method", .type = PARAM_WORD, .at = offsetof(struct own, method), .usual = "gptq", .words = "gptq rtn", .help = "how"},
	{.name = "threads", .type = PARAM_INT, .at = offsetof(struct own, threads), .usual = "0", .flags = PARAM_UNKEYED},
	{.name = "overrides", .type = PARAM_MAPS, .at = offsetof(struct own, overrides), .sub = rule_table, .sub_size = sizeof(struct rule),
	 .help = "other settings for some"},
	{.name = "perplexity", .type = PARAM_MAP, .at = offsetof(struct own, perplexity), .sub = inner_table,
	 .sub_size = sizeof(struct inner)},
	{.name = "dataset", .type = PARAM_TREE, .at = offsetof(struct own, dataset), .usual = "[a, {file: b}]"},
	{0},
};

static const struct param method_table[] = {
	{.name = "preset", .type = PARAM_WORD, .at = offsetof(struct method, preset), .usual = "default", .words = "default compat"},
	{.name = "bits", .type = PARAM_INT, .at = offsetof(struct method, bits), .usual = "4", .words = "2 3 4 8", .help = "of a weight"},
	{.name = "group_size", .type = PARAM_INT, .at = offsetof(struct method, group_size), .usual = "128", .min = -1, .max = INFINITY},
	{.name = "damp", .type = PARAM_REAL, .at = offsetof(struct method, damp), .usual = "0.05", .max = 1,
	 .help = "share of the diagonal"},
	{.name = "qep", .type = PARAM_REAL, .at = offsetof(struct method, qep), .max = 1},
	{.name = "sym", .type = PARAM_BOOL, .at = offsetof(struct method, sym), .usual = "true"},
	{.name = "skip", .type = PARAM_TEXTS, .at = offsetof(struct method, skip), .usual = "[lm_head]"},
	{.name = "name", .type = PARAM_TEXT, .at = offsetof(struct method, name)},
	{0},
};

static const struct param_when method_when[] = {
	{"preset", "compat", "damp", "0.01"},
	{"preset", "compat", "sym", "false"},
	{"sym", "false", "group_size", "64"},
	{"sym", "false", "skip", NULL},
	{0},
};

/* The values of one read, and what it complained of. */
struct reading {
	struct own own;
	struct method method;
	struct param_block blocks[2];
	struct param_pool *pool;
	struct yaml *tree;
	struct diag d;
};

static struct reading *
read_text(const char *text)
{
	struct reading *r = mem_new(1, sizeof(*r));

	memset(&r->own, 0x55, sizeof(r->own));    /* every field must be set */
	memset(&r->method, 0x55, sizeof(r->method));
	r->pool = param_pool_new();
	r->blocks[0] = (struct param_block){.table = own_table, .values = &r->own};
	r->blocks[1] = (struct param_block){method_table, method_when, &r->method, "for method gptq"};
	if (text)
		r->tree = yaml_parse(text, strlen(text), "r.yaml", &r->d);
	param_read(r->blocks, 2, r->tree, "quantize", r->pool, &r->d);
	return r;
}

static void
read_end(struct reading *r)
{
	param_pool_free(r->pool);
	yaml_free(r->tree);
	diag_release(&r->d);
	free(r);
}

static struct reading *
read_good(const char *text)
{
	struct reading *r = read_text(text);

	for (size_t i = 0; i < r->d.n; i++)
		print_error("%s\n", r->d.v[i]);
	assert_int_equal(r->d.n, 0);
	return r;
}

static void
assert_problems(const char *text, const char *want)
{
	struct reading *r = read_text(text);
	struct buf b = {0};

	for (size_t i = 0; i < r->d.n; i++)
		buf_printf(&b, "%s%s", i ? "\n" : "", r->d.v[i]);
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
	read_end(r);
}

static void
fills_defaults(void **state)
{
	static const char *const nothing[] = {NULL, "~", "{}", "qep: null\nname: ~\nperplexity: \noverrides:\n"};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct reading *r = read_good(nothing[i]);

		assert_string_equal(r->own.method, "gptq");
		assert_int_equal(r->own.threads, 0);
		assert_int_equal(r->own.overrides.n, 0);
		assert_null(r->own.overrides.v);
		assert_int_equal(r->own.perplexity.seqlen, 2048);
		assert_string_equal(r->own.perplexity.split, "test");
		assert_string_equal(r->own.dataset->v[0]->text, "a");
		assert_string_equal(r->method.preset, "default");
		assert_int_equal(r->method.bits, 4);
		assert_int_equal(r->method.group_size, 128);
		assert_true(r->method.damp == 0.05);
		assert_true(isnan(r->method.qep));
		assert_true(r->method.sym);
		assert_int_equal(r->method.skip.n, 1);
		assert_string_equal(r->method.skip.v[0], "lm_head");
		assert_null(r->method.name);
		read_end(r);
	}
}

static void
reads_every_type(void **state)
{
	struct reading *r = read_good(
		"method: rtn\nthreads: +3\noverrides:\n  - {match: \"*.down\", bits: 8}\n  - match: x\n    damp: 1e-2\n"
		"perplexity: {seqlen: 512}\ndataset: {file: a.txt}\nbits: 08\ngroup_size: -1\ndamp: 1\nqep: .5\nsym: False\n"
		"skip: [a, \"2\"]\nname: 12\n");
	const struct rule *rules = r->own.overrides.v;

	(void)state;
	assert_string_equal(r->own.method, "rtn");
	assert_int_equal(r->own.threads, 3);
	assert_int_equal(r->own.overrides.n, 2);
	assert_string_equal(rules[0].match, "*.down");
	assert_int_equal(rules[0].bits, 8);
	assert_true(isnan(rules[0].damp));
	assert_string_equal(rules[1].match, "x");
	assert_int_equal(rules[1].bits, 0);
	assert_true(rules[1].damp == 0.01);
	assert_int_equal(r->own.perplexity.seqlen, 512);
	assert_string_equal(r->own.perplexity.split, "test");
	assert_string_equal(yaml_get(r->own.dataset, "file")->text, "a.txt");
	assert_int_equal(r->method.bits, 8);
	assert_int_equal(r->method.group_size, -1);
	assert_true(r->method.damp == 1 && r->method.qep == 0.5);
	assert_false(r->method.sym);
	assert_int_equal(r->method.skip.n, 2);
	assert_string_equal(r->method.skip.v[1], "2");
	assert_string_equal(r->method.name, "12");
	read_end(r);
}

static void
takes_one_text_for_a_list(void **state)
{
	struct reading *r = read_good("skip: a\n");

	(void)state;
	assert_int_equal(r->method.skip.n, 1);
	assert_string_equal(r->method.skip.v[0], "a");
	read_end(r);
	r = read_good("skip: []\n");
	assert_int_equal(r->method.skip.n, 0);
	read_end(r);
}

static void
defaults_hang_on_settings(void **state)
{
	struct reading *r = read_good("preset: compat\n");

	(void)state;
	assert_true(r->method.damp == 0.01);
	assert_false(r->method.sym);                      /* from preset */
	assert_int_equal(r->method.group_size, 64);       /* from sym, which nobody wrote */
	assert_int_equal(r->method.skip.n, 0);
	read_end(r);
	r = read_good("preset: compat\ndamp: 0.5\nsym: true\n");
	assert_true(r->method.damp == 0.5);
	assert_true(r->method.sym);
	assert_int_equal(r->method.group_size, 128);
	assert_int_equal(r->method.skip.n, 1);
	read_end(r);
	r = read_good("sym: false\ngroup_size: 32\nskip: [b]\n");
	assert_int_equal(r->method.group_size, 32);
	assert_string_equal(r->method.skip.v[0], "b");
	read_end(r);
}

static void
reports_unknown_names(void **state)
{
	(void)state;
	assert_problems("bitz: 4\n  \nMethod: gptq\n", "r.yaml:1:1: quantize.bitz: unknown; did you mean 'bits'?\n"
	                "r.yaml:3:1: quantize.Method: unknown; did you mean 'method'?");
	assert_problems("zzzz: 4\n", "r.yaml:1:1: quantize.zzzz: unknown; known are method, threads, overrides, perplexity, dataset, "
	                "preset, bits, group_size, damp, qep, sym, skip, name");
	assert_problems("overrides: [{match: a, bit: 4}]\n", "r.yaml:1:24: quantize.overrides[0].bit: unknown; did you mean 'bits'?");
	assert_problems("perplexity: {length: 4}\n", "r.yaml:1:14: quantize.perplexity.length: unknown; known are seqlen, split");
}

static void
reports_refused_values(void **state)
{
	static const char *const rows[][2] = {
		{"bits: 5", "r.yaml:1:7: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq"},
		{"bits: four", "r.yaml:1:7: quantize.bits: 'four' is not a whole number"},
		{"bits: '4'", "r.yaml:1:7: quantize.bits: '4' is not a whole number (it is quoted)"},
		{"bits: 4.0", "r.yaml:1:7: quantize.bits: '4.0' is not a whole number"},
		{"bits: 1e0", "r.yaml:1:7: quantize.bits: '1e0' is not a whole number"},
		{"bits: 0x4", "r.yaml:1:7: quantize.bits: '0x4' is not a whole number"},
		{"bits: 4294967300", "r.yaml:1:7: quantize.bits: '4294967300' is not a number that fits in 32 bits"},
		{"bits: 99999999999999999999", "r.yaml:1:7: quantize.bits: '99999999999999999999' is not a whole number"},
		{"bits: [4]", "r.yaml:1:7: quantize.bits: a list is not a whole number"},
		{"bits: {a: 4}", "r.yaml:1:7: quantize.bits: a map is not a whole number"},
		{"bits: ", "r.yaml:1:6: quantize.bits: null is not a whole number"},
		{"group_size: -2", "r.yaml:1:13: quantize.group_size: -2 is less than -1 for method gptq"},
		{"damp: 2.5", "r.yaml:1:7: quantize.damp: 2.5 is outside 0..1 for method gptq"},
		{"damp: nan", "r.yaml:1:7: quantize.damp: 'nan' is not a number"},
		{"damp: 1,5", "r.yaml:1:7: quantize.damp: '1,5' is not a number"},
		{"damp: 1e400", "r.yaml:1:7: quantize.damp: '1e400' is not a number"},
		{"sym: yes", "r.yaml:1:6: quantize.sym: 'yes' is not true or false"},
		{"sym: 'true'", "r.yaml:1:6: quantize.sym: 'true' is not true or false (it is quoted)"},
		{"method: awq", "r.yaml:1:9: quantize.method: 'awq' is not one of gptq, rtn"},
		{"method: ''", "r.yaml:1:9: quantize.method: '' is not one of gptq, rtn"},
		{"method: [gptq]", "r.yaml:1:9: quantize.method: a list is not a text"},
		{"method: ~", "r.yaml:1:9: quantize.method: null is not a text"},
		{"skip: [a, [b], ~]", "r.yaml:1:11: quantize.skip: a list is not a text\nr.yaml:1:16: quantize.skip: null is not a text"},
		{"skip: {a: b}", "r.yaml:1:7: quantize.skip: a map is not a list of texts"},
		{"perplexity: 5", "r.yaml:1:13: quantize.perplexity: '5' is not a map"},
		{"perplexity: {seqlen: 0}", "r.yaml:1:22: quantize.perplexity.seqlen: 0 is outside 1..1048576"},
		{"overrides: {match: a}", "r.yaml:1:12: quantize.overrides: a map is not a list of maps"},
		{"overrides: [{match: a}, b]", "r.yaml:1:25: quantize.overrides[1]: 'b' is not a map"},
		{"overrides: [{match: a, bits: 7}]", "r.yaml:1:30: quantize.overrides[0].bits: 7 is not one of 2, 3, 4, 8"},
		{"overrides: [{bits: 8}]", "r.yaml:1:13: quantize.overrides[0].match: is missing"},
		{"overrides: [{match: ~}]", "r.yaml:1:21: quantize.overrides[0].match: is missing"},
		{"dataset: ~", "r.yaml:1:10: quantize.dataset: null is not a value"},
		{"[a]", "r.yaml:1:1: quantize: a list is not a map"},
		{"text", "r.yaml:1:1: quantize: 'text' is not a map"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_problems(rows[i][0], rows[i][1]);
}

static void
reports_all_of_them(void **state)
{
	(void)state;
	assert_problems("bits: 5\nbitz: 1\ndamp: x\n", "r.yaml:1:7: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq\n"
	                "r.yaml:2:1: quantize.bitz: unknown; did you mean 'bits'?\n"
	                "r.yaml:3:7: quantize.damp: 'x' is not a number");
}

static void
assert_key(const char *text, const char *want)
{
	struct reading *r = read_good(text);
	struct buf b = {0};

	param_key(&r->blocks[0], "quantize", &b);
	param_key(&r->blocks[1], "quantize", &b);
	assert_string_equal(buf_text(&b), want);
	buf_release(&b);
	read_end(r);
}

static void
writes_keys(void **state)
{
	(void)state;
	assert_key(NULL,
		"set quantize.method gptq\nset quantize.perplexity.seqlen 2048\nset quantize.perplexity.split test\n"
		"set quantize.preset default\nset quantize.bits 4\nset quantize.group_size 128\nset quantize.damp 0.05\n"
		"set quantize.sym true\nset quantize.skip.0 lm_head\n");
	assert_key("threads: 9\nname: \"a\\nset quantize.bits 8\\t\\\\n\"\nskip: []\ndamp: 1e-5\nqep: -0\n"
		"overrides: [{match: a, bits: 2}, {match: ''}]\n",
		"set quantize.method gptq\nset quantize.overrides.0.match a\nset quantize.overrides.0.bits 2\n"
		"set quantize.overrides.1.match \n"
		"set quantize.perplexity.seqlen 2048\nset quantize.perplexity.split test\n"
		"set quantize.preset default\nset quantize.bits 4\nset quantize.group_size 128\nset quantize.damp 1e-05\n"
		"set quantize.qep 0\nset quantize.sym true\nset quantize.name a\\nset quantize.bits 8\\x09\\\\n\n");
}

static void
writes_yaml_that_reads_back(void **state)
{
	struct reading *r = read_good(
		"method: rtn\nname: 'a: \"b\"'\nqep: 0.1\nskip: ['1', b c]\noverrides:\n- {match: '*', damp: 0.25}\n- {match: x, bits: 3}\n"
		"dataset: ['4', 4, {file: null}]\n"), *again;
	struct buf b = {0}, second = {0};

	(void)state;
	param_yaml(&r->blocks[0], 2, false, &b);
	param_yaml(&r->blocks[1], 2, false, &b);
	assert_string_equal(buf_text(&b),
		"  method: rtn\n  threads: 0\n  overrides:\n    - match: \"*\"\n      damp: 0.25\n"
		"    - match: x\n      bits: 3\n  perplexity:\n    seqlen: 2048\n    split: test\n"
		"  dataset: [\"4\", 4, {file: null}]\n  preset: default\n  bits: 4\n  group_size: 128\n  damp: 0.05\n  qep: 0.1\n"
		"  sym: true\n  skip: [\"1\", \"b c\"]\n  name: \"a: \\\"b\\\"\"\n");
	again = read_good(buf_text(&b));
	param_yaml(&again->blocks[0], 2, false, &second);
	param_yaml(&again->blocks[1], 2, false, &second);
	assert_string_equal(buf_text(&second), buf_text(&b));
	read_end(again);
	read_end(r);
	buf_release(&second);
	buf_release(&b);
}

static void
writes_help(void **state)
{
	struct reading *r = read_good("overrides: [{match: a}]\n");
	struct buf b = {0};

	(void)state;
	param_yaml(&r->blocks[0], 0, true, &b);
	assert_string_equal(buf_text(&b),
		"method: gptq                        # how (gptq, rtn)\n"
		"threads: 0\n"
		"overrides:                          # other settings for some\n"
		"  - match: a\n"
		"perplexity:\n  seqlen: 2048\n  split: test\n"
		"dataset: [a, {file: b}]\n");
	buf_release(&b);
	read_end(r);
}

static void
writes_values(void **state)
{
	struct reading *r = read_good("overrides: [{match: a b, bits: 3}]\nname: x y\n");
	static const char *const own[] = {"gptq", "0", "[{match: \"a b\", bits: 3, damp: null}]", "{seqlen: 2048, split: test}",
	                                  "[a, {file: b}]"};
	static const char *const method[] = {"default", "4", "128", "0.05", "null", "true", "[lm_head]", "x y"};
	struct buf b = {0};

	(void)state;
	for (size_t i = 0; i < 5 + 8; i++) {
		buf_clear(&b);
		if (i < 5)
			param_value(&own_table[i], &r->own, &b);
		else
			param_value(&method_table[i - 5], &r->method, &b);
		assert_string_equal(buf_text(&b), i < 5 ? own[i] : method[i - 5]);
	}
	buf_release(&b);
	read_end(r);
}

static void
writes_a_schema(void **state)
{
	json_t *j = json_object();
	struct buf b = {0};

	(void)state;
	param_schema(own_table, j);
	json_write_line(j, &b);
	assert_string_equal(buf_text(&b),
		"{\"method\":{\"description\":\"how\",\"enum\":[\"gptq\",\"rtn\"],\"default\":\"gptq\"},"
		"\"threads\":{\"type\":\"integer\",\"default\":0},"
		"\"overrides\":{\"description\":\"other settings for some\",\"type\":[\"array\",\"null\"],\"items\":{\"properties\":{"
		"\"match\":{\"description\":\"which linears\",\"type\":\"string\"},\"bits\":{\"enum\":[2,3,4,8,null]},"
		"\"damp\":{\"type\":[\"number\",\"null\"],\"minimum\":0.0,\"maximum\":1.0}},\"additionalProperties\":false,"
		"\"required\":[\"match\"],\"type\":\"object\"}},"
		"\"perplexity\":{\"type\":[\"object\",\"null\"],\"properties\":{\"seqlen\":{\"type\":\"integer\",\"minimum\":1,"
		"\"maximum\":1048576,\"default\":2048},\"split\":{\"type\":\"string\",\"default\":\"test\"}},"
		"\"additionalProperties\":false},"
		"\"dataset\":{}}");
	buf_clear(&b);
	json_object_clear(j);
	param_schema(method_table, j);
	json_write_line(json_object_get(j, "group_size"), &b);
	assert_string_equal(buf_text(&b), "{\"type\":\"integer\",\"minimum\":-1,\"default\":128}");
	buf_clear(&b);
	json_write_line(json_object_get(j, "skip"), &b);
	assert_string_equal(buf_text(&b), "{\"type\":[\"array\",\"string\"],\"items\":{\"type\":\"string\"}}");
	buf_release(&b);
	json_decref(j);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fills_defaults),
		cmocka_unit_test(reads_every_type),
		cmocka_unit_test(takes_one_text_for_a_list),
		cmocka_unit_test(defaults_hang_on_settings),
		cmocka_unit_test(reports_unknown_names),
		cmocka_unit_test(reports_refused_values),
		cmocka_unit_test(reports_all_of_them),
		cmocka_unit_test(writes_keys),
		cmocka_unit_test(writes_yaml_that_reads_back),
		cmocka_unit_test(writes_help),
		cmocka_unit_test(writes_values),
		cmocka_unit_test(writes_a_schema),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
