/* Recipes as they are written: with every default, as a start for a new one, and as a schema for editors. */
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"
#include "qjob/engine/recipe.h"

static void
write_sections(const struct settings *s, bool with_help, struct buf *out)
{
	struct param_block blocks[2];

	for (const struct section *section = sections; section->name; section++) {
		int n = settings_blocks(s, section, blocks);

		if (with_help)
			buf_printf(out, "\n# %s\n", section->help);
		buf_printf(out, "%s:\n", section->name);
		for (int i = 0; i < n; i++)
			param_yaml(&blocks[i], 2, with_help, out);
	}
}

void
recipe_write(const struct settings *s, bool with_help, bool portable, struct buf *out)
{
	struct settings bare = {0};

	buf_puts(out, "qjob: 1\n");
	if (portable) {
		settings_portable(&bare, s);
		write_sections(&bare, with_help, out);
		settings_release(&bare);
		return;
	}
	write_sections(s, with_help, out);
	if (with_help)
		buf_puts(out, "\n# The folder to write; relative to the current folder, not to this file\n");
	if (s->output) {
		buf_puts(out, "output: ");
		yaml_scalar(out, s->output);
		buf_puts(out, "\n");
	}
}

/* ---- qjob init ---- */

/* Some text of several kinds, so that the recipe runs before anything is prepared.  Written for this purpose. */
static const char *const starter[] = {
	"The harbour was quiet before sunrise. Fishermen mended their nets under yellow lamps, and the smell of "
	"salt and diesel hung over the quay. An old woman sold coffee from a cart; she knew every captain by "
	"name, and most of their secrets as well.",
	"To compute the mean of a list, add its elements and divide by how many there are. The variance is the "
	"mean of the squared differences from that mean; its square root, the standard deviation, has the unit of "
	"the data.",
	"def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return "
	"a\n\nprint([fibonacci(i) for i in range(10)])\n",
	"Question: Why does ice float on water? Answer: Water expands when it freezes, because its molecules "
	"arrange themselves in an open lattice. Ice is therefore less dense than the liquid around it, and what "
	"is less dense floats.",
	"The treaty was signed in the autumn of that year, after eleven months of negotiation. It fixed the "
	"border along the river, gave both towns the right to hold a market, and required that disputes be "
	"brought before three judges chosen by lot.",
	"Preheat the oven to 200 degrees. Mix 300 g of flour with a pinch of salt, rub in the butter, and add "
	"cold water by the spoon until the dough just holds together. Let it rest for half an hour, then roll it "
	"out and line the tin.",
	"From: support@example.com\nSubject: Your order 48213\n\nDear customer, thank you for your message. The "
	"parcel left our warehouse on Tuesday and should arrive within three working days. If it does not, please "
	"answer to this mail.",
	"In 1887 two physicists tried to measure the motion of the Earth through a medium that was supposed to "
	"carry light. They found nothing. The result puzzled everyone for almost twenty years, until it became "
	"the starting point of a new theory.",
	"{\"name\": \"valve-7\", \"pressure\": 2.31, \"unit\": \"bar\", \"open\": false, \"checked\": "
	"[\"2021-04-02\", \"2021-10-11\"]}",
	"He said that he would come on Friday, but on Friday it rained, and nobody crossed the pass in the rain. "
	"So we waited, played cards, and ate what was left of the cheese. On Sunday the sky cleared and we saw "
	"him far below, a dot on the white road.",
};

static void
add_comment(struct buf *out, const char *text)
{
	buf_printf(out, "  # %s\n", text);
}

static void
init_calibration(struct buf *out, bool wanted)
{
	buf_puts(out, "\n# Text that the method learns from\ncalibration:\n");
	if (!wanted) {
		add_comment(out, "this method needs none; gptq would take a file, a folder or a list of texts:");
		buf_puts(out, "  # dataset: calibration.txt\n");
		return;
	}
	add_comment(out, "A few texts to start with. For real use give a file (.txt, .jsonl), a folder or a list of");
	add_comment(out, "texts of the kind that the model will meet, and take 128 samples of 2048 tokens.");
	buf_puts(out, "  dataset:\n");
	for (size_t i = 0; i < sizeof(starter) / sizeof(starter[0]); i++) {
		buf_puts(out, "    - ");
		yaml_scalar(out, starter[i]);
		buf_puts(out, "\n");
	}
	buf_puts(out, "  samples: 8\n  seqlen: 64\n");
	add_comment(out, "samples: 128");
	add_comment(out, "seqlen: 2048");
}

/* Every further row of a block as a comment with its default, so that nothing must be looked up. */
static void
init_rows(struct buf *out, const struct param_block *b, const char *const *given)
{
	for (const struct param *row = b->table; row && row->name; row++) {
		struct buf value = {0};
		bool skip = false;

		for (size_t i = 0; given[i]; i++)
			skip = skip || strcmp(given[i], row->name) == 0;
		if (!skip && row->type != PARAM_MAP && row->type != PARAM_MAPS && row->type != PARAM_TREE) {
			param_value(row, b->values, &value);
			if (row->help)
				add_comment(out, row->help);
			if (row->words)
				buf_printf(out, "  # (%s)\n", row->words);
			buf_printf(out, "  # %s: %s\n", row->name, buf_text(&value));
		}
		buf_release(&value);
	}
}

static void
init_quantize(struct buf *out, const struct settings *s)
{
	static const char *const given[] = {"method", "bits", "group_size", NULL};
	struct param_block blocks[2];
	int n = settings_blocks(s, &sections[2], blocks);

	buf_printf(out, "\n# How weights become codes\nquantize:\n  method: %s\n", s->quantize.method);
	for (int i = 0; i < n; i++)
		for (const struct param *row = blocks[i].table; row && row->name; row++)
			if (strcmp(row->name, "bits") == 0 || strcmp(row->name, "group_size") == 0) {
				buf_printf(out, "  %s: ", row->name);
				param_value(row, blocks[i].values, out);
				buf_printf(out, "    # %s\n", row->help ? row->help : "");
			}
	for (int i = 0; i < n; i++)
		init_rows(out, &blocks[i], given);
	buf_puts(out, "  # other settings for some linears, by glob or re: and a regular expression\n"
	              "  # overrides:\n  #   - {match: \"*.mlp.down_proj\", bits: 8}\n");
}

static void
init_rest(struct buf *out, const struct settings *s, const char *model)
{
	static const char *const given[] = {"format", NULL};
	struct param_block blocks[2];
	int n = settings_blocks(s, &sections[3], blocks);
	size_t end = strlen(model), start;

	buf_printf(out, "\n# How the result is written\npack:\n  format: %s\n", s->pack.format);
	for (int i = 0; i < n; i++)
		init_rows(out, &blocks[i], given);
	buf_puts(out, "\n# What the result must prove: perplexity before and after, and the most it may grow (exit code 3)\n"
	              "validate:\n  # perplexity: {dataset: evaluation.txt, seqlen: 2048}\n  # max_perplexity_increase: 0.10\n");
	buf_puts(out, "\n# Several recipes in one: every combination, sharing what does not differ\n"
	              "# matrix:\n#   quantize.bits: [4, 3]\n");
	while (end > 1 && model[end - 1] == '/')
		end--;
	for (start = end; start > 0 && model[start - 1] != '/'; start--)
		;
	buf_puts(out, "\n# The folder to write; relative to the current folder, not to this file\noutput: ");
	if (end - start == 1 && model[start] == '.')
		buf_puts(out, "out/model");
	else {
		char *name = mem_format("out/%.*s-%s", (int)(end - start), model + start, s->quantize.method);

		yaml_scalar(out, name);
		free(name);
	}
	buf_puts(out, "\n");
}

int
recipe_init(const char *model, const char *method, struct buf *out)
{
	static const char text[] = "model: {source: x}\n";
	struct diag d = {0};
	struct yaml *tree = yaml_parse(text, sizeof(text) - 1, "init", &d);
	struct buf value = {0};
	char *real = path_real(model);
	struct settings s = {0};
	int rc = 0;

	if (method) {
		yaml_scalar(&value, method);
		rc = yaml_set(tree, "quantize.method", buf_text(&value), "--method");
	}
	settings_read(&s, tree, &d);
	if (d.n)
		rc = err_set(E_USE, "%s", d.v[0]);
	else if (strstr(model, "\n"))
		rc = err_set(E_USE, "the name of a folder must not hold a line break");
	if (rc == 0) {
		buf_puts(out, "# qjob run THIS_FILE\nqjob: 1\n\n"
		              "# What to quantize: a folder with config.json and safetensors files\nmodel:\n  source: ");
		yaml_scalar(out, real ? real : model);
		buf_puts(out, "\n");
		init_calibration(out, settings_learns(&s));
		init_quantize(out, &s);
		init_rest(out, &s, real ? real : model);
	}
	diag_release(&d);
	settings_release(&s);
	yaml_free(tree);
	buf_release(&value);
	free(real);
	return rc;
}

/* ---- qjob schema ---- */

static json_t *
matrix_schema(void)
{
	json_t *schema = json_object(), *pattern = json_object();
	struct buf name = {0};

	buf_puts(&name, "^(");
	for (size_t i = 0; sections[i].name; i++)
		buf_printf(&name, "%s%s", i ? "|" : "", sections[i].name);
	buf_puts(&name, ")(\\.[^.]+)+$");
	json_object_set_new(pattern, buf_text(&name), json_pack("{s:s, s:i}", "type", "array", "minItems", 1));
	buf_release(&name);
	json_object_set_new(schema, "description", json_string("parameters (SECTION.NAME) and the lists of values to combine"));
	json_object_set_new(schema, "type", json_string("object"));
	json_object_set_new(schema, "patternProperties", pattern);
	json_object_set_new(schema, "additionalProperties", json_false());
	return schema;
}

json_t *
recipe_schema(void)
{
	json_t *schema = json_object(), *properties = json_object(), *rows = settings_schema();

	json_object_set_new(properties, "qjob", json_pack("{s:s, s:i}", "description", "version of the recipe language", "const", 1));
	json_object_set_new(properties, "extends",
	                    json_pack("{s:s, s:s}", "description", "a recipe to build on, relative to this file", "type", "string"));
	json_object_update(properties, rows);
	json_decref(rows);
	json_object_set_new(properties, "matrix", matrix_schema());
	json_object_set_new(properties, "output", json_pack("{s:s, s:s}", "description",
	                                                    "the folder to write, relative to the current folder", "type", "string"));
	json_object_set_new(schema, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
	json_object_set_new(schema, "title", json_string("qjob recipe"));
	json_object_set_new(schema, "type", json_string("object"));
	json_object_set_new(schema, "properties", properties);
	json_object_set_new(schema, "additionalProperties", json_false());
	/* What is missing may stand in the recipe that this one extends, or come from the matrix. */
	json_object_set_new(schema, "if", json_pack("{s:[{s:[s]}, {s:[s]}]}", "anyOf", "required", "extends", "required", "matrix"));
	json_object_set_new(schema, "then", json_true());
	json_object_set_new(schema, "else", json_pack("{s:[s, s, s]}", "required", "qjob", "model", "output"));
	return schema;
}
