#include "stages/settings.h"

#include <math.h>

#include "qjob/base/buf.h"
#include "qjob/base/mem.h"
#include "stages/pack/format.h"
#include "stages/quant/method.h"
#include "tests/t.h"

struct read {
	struct yaml *tree;
	struct settings s;
	struct diag d;
};

static void
read_text(struct read *r, const char *text)
{
	*r = (struct read){0};
	r->tree = yaml_parse(text, strlen(text), "r.yaml", &r->d);
	assert_non_null(r->tree);
	settings_read(&r->s, r->tree, &r->d);
}

static void
release(struct read *r)
{
	settings_release(&r->s);
	yaml_free(r->tree);
	diag_release(&r->d);
}

static void
has_defaults(void **state)
{
	struct read r;

	(void)state;
	read_text(&r, "model: {source: m}\nother: ignored\n");
	assert_int_equal(r.d.n, 0);
	assert_string_equal(r.s.model.source, "m");
	assert_null(r.s.model.revision);
	assert_null(r.s.calibration.dataset);
	assert_string_equal(r.s.calibration.field, "text");
	assert_string_equal(r.s.calibration.windows, "concat");
	assert_int_equal(r.s.calibration.samples, 128);
	assert_int_equal(r.s.calibration.seqlen, 2048);
	assert_int_equal(r.s.calibration.seed, 0);
	assert_string_equal(r.s.calibration.dtype, "auto");
	assert_string_equal(r.s.quantize.method, "gptq");
	assert_ptr_equal(r.s.method, method_find("gptq"));
	assert_int_equal(r.s.quantize.overrides.n, 0);
	assert_string_equal(r.s.pack.format, "gptq");
	assert_ptr_equal(r.s.format, format_find("gptq"));
	assert_string_equal(r.s.pack.kernel, "any");
	assert_int_equal(r.s.pack.tensor_parallel, 1);
	assert_string_equal(r.s.pack.max_shard_size, "5GB");
	assert_null(r.s.validate.perplexity.dataset);
	assert_int_equal(r.s.validate.perplexity.seqlen, 2048);
	assert_int_equal(r.s.validate.perplexity.windows, 0);
	assert_true(isnan(r.s.validate.max_perplexity_increase));
	assert_string_equal(r.s.validate.dtype, "auto");
	assert_null(r.s.output);
	release(&r);
}

static void
reads_arithmetic(void **state)
{
	static const char *const words[] = {"auto", "float32", "bfloat16", "float16"};
	struct read r;

	(void)state;
	for (int i = 0; i < 4; i++) {
		char *text = mem_format("model: {source: m}\ncalibration: {dtype: %s}\nvalidate: {dtype: %s}\n", words[i], words[i]);

		read_text(&r, text);
		assert_int_equal(r.d.n, 0);
		assert_string_equal(r.s.calibration.dtype, words[i]);
		assert_string_equal(r.s.validate.dtype, words[i]);
		release(&r);
		free(text);
	}
	read_text(&r, "model: {source: m}\ncalibration: {dtype: half}\n");
	assert_int_equal(r.d.n, 1);
	assert_string_equal(r.d.v[0], "r.yaml:2:22: calibration.dtype: 'half' is not one of auto, float32, bfloat16, float16");
	release(&r);
}

static void
reads_overrides(void **state)
{
	const struct override *o;
	struct read r;

	(void)state;
	read_text(&r, "model: {source: m}\nquantize:\n  overrides:\n  - {match: '*.down_proj', bits: 8, group_size: -1}\n"
	              "  - {match: 're:^a|b$', sym: false}\n  - {match: c, skip: true}\n");
	assert_int_equal(r.d.n, 0);
	assert_int_equal(r.s.quantize.overrides.n, 3);
	o = r.s.quantize.overrides.v;
	assert_string_equal(o[0].match, "*.down_proj");
	assert_int_equal(o[0].bits, 8);
	assert_int_equal(o[0].group_size, -1);
	assert_null(o[0].sym);
	assert_false(o[0].skip);
	assert_string_equal(o[1].sym, "false");
	assert_int_equal(o[1].bits, 0);
	assert_true(o[2].skip);
	release(&r);
}

static void
tells_where(void **state)
{
	struct read r;
	struct place at;

	(void)state;
	read_text(&r, "model:\n  source: m\nvalidate:\n  perplexity:\n    seqlen: 64\nempty:\n");
	at = settings_place(r.tree, "model", "source");
	assert_int_equal(at.line * 100 + at.column, 211);
	at = settings_place(r.tree, "model", "revision");
	assert_int_equal(at.line * 100 + at.column, 101);
	at = settings_place(r.tree, "validate", "perplexity.seqlen");
	assert_int_equal(at.line * 100 + at.column, 513);
	at = settings_place(r.tree, "validate", "perplexity.windows");
	assert_int_equal(at.line * 100 + at.column, 505);
	at = settings_place(r.tree, "quantize", "bits");
	assert_int_equal(at.line * 100 + at.column, 101);
	release(&r);
}

static void
gives_blocks(void **state)
{
	struct param_block blocks[2];
	struct read r;

	(void)state;
	read_text(&r, "model: {source: m}\nquantize: {method: rtn}\npack: {format: compressed-tensors}\n");
	for (const struct section *s = sections; s->name; s++) {
		int n = settings_blocks(&r.s, s, blocks);

		assert_ptr_equal(blocks[0].table, s->params);
		assert_int_equal(n, strcmp(s->name, "quantize") == 0 || (strcmp(s->name, "pack") == 0 && r.s.format->params) ? 2 : 1);
		if (strcmp(s->name, "quantize") == 0) {
			assert_ptr_equal(blocks[1].table, method_find("rtn")->params);
			assert_ptr_equal(blocks[1].values, r.s.method_params);
		}
	}
	assert_false(settings_learns(&r.s));
	release(&r);
	read_text(&r, "model: {source: m}\n");
	assert_true(settings_learns(&r.s));
	release(&r);
}

static void
reads_sizes(void **state)
{
	static const struct { const char *text; uint64_t bytes; } rows[] = {
		{"5GB", 5000000000}, {"200MB", 200000000}, {"1GiB", 1073741824}, {"1.5 kB", 1500}, {"4096", 4096}, {"2mib", 2097152},
		{"1B", 1}, {"0.5KiB", 512},
		{"", 0}, {"GB", 0}, {"0", 0}, {"-1", 0}, {"5 G B", 0}, {"5GBs", 0}, {"1e9", 0}, {"99999999999999TB", 0}, {".5GB", 0},
		{"5,5GB", 0}, {"nan", 0}, {"0x10", 0},
	};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int rc = settings_bytes(rows[i].text, &bytes);

		assert_int_equal(rc, rows[i].bytes ? 0 : E_USE);
		if (rows[i].bytes)
			assert_int_equal(bytes, rows[i].bytes);
	}
	settings_bytes("5 apples", &bytes);
	assert_string_equal(err_text(), "5 apples is not a size like 5GB, 200MB or 1GiB");
}

/* Every row of every section has a help text, and every default is one that its own row accepts. */
static void
documents_every_row(void **state)
{
	(void)state;
	for (const struct section *s = sections; s->name; s++)
		for (const struct param *p = s->params; p->name; p++) {
			assert_non_null(p->help);
			for (const struct param *q = p->sub; q && q->name; q++)
				assert_non_null(q->help);
		}
	for (size_t i = 0; methods[i]; i++)
		for (const struct param *p = methods[i]->params; p && p->name; p++)
			assert_non_null(p->help);
	for (size_t i = 0; formats[i]; i++)
		for (const struct param *p = formats[i]->params; p && p->name; p++)
			assert_non_null(p->help);
}

static void
makes_a_portable_copy(void **state)
{
	struct settings bare;
	struct read r;

	(void)state;
	read_text(&r, "model: {source: /a/b/}\ncalibration: {dataset: [/kept/text, {file: /a/c.txt}]}\n"
	              "validate: {perplexity: {dataset: /a/d.txt}}\n");
	assert_int_equal(r.d.n, 0);
	settings_portable(&bare, &r.s);
	assert_string_equal(bare.model.source, "b");
	assert_string_equal(bare.calibration.dataset->v[0]->text, "/kept/text");
	assert_string_equal(yaml_get(bare.calibration.dataset->v[1], "file")->text, "c.txt");
	assert_string_equal(bare.validate.perplexity.dataset->text, "d.txt");
	assert_string_equal(r.s.model.source, "/a/b/");
	settings_release(&bare);
	release(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(has_defaults),
		cmocka_unit_test(reads_arithmetic),
		cmocka_unit_test(reads_overrides),
		cmocka_unit_test(tells_where),
		cmocka_unit_test(gives_blocks),
		cmocka_unit_test(reads_sizes),
		cmocka_unit_test(documents_every_row),
		cmocka_unit_test(makes_a_portable_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
