#include "stages/settings.h"

#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "stages/pack/format.h"
#include "stages/quant/method.h"

#define AT(type, field) offsetof(struct type, field)

static const struct param model_rows[] = {
	{"source", PARAM_TEXT, AT(model_params, source), NULL, 0, 0, NULL,
	 "the model: a folder with config.json and safetensors files, or synthetic:NAME", NULL, 0, PARAM_REQUIRED | PARAM_UNKEYED},
	{"revision", PARAM_TEXT, AT(model_params, revision), NULL, 0, 0, NULL,
	 "branch, tag or commit of a hub model", NULL, 0, PARAM_UNKEYED},
	{0},
};

static const struct param calibration_rows[] = {
	{"dataset", PARAM_TREE, AT(calibration_params, dataset), NULL, 0, 0, NULL,
	 "text that the model meets in use: a file (.txt, .jsonl, .parquet), a folder, {file, field, kind}, a list, or synthetic:tokens",
	 NULL, 0, PARAM_UNKEYED},
	{"field", PARAM_TEXT, AT(calibration_params, field), "text", 0, 0, NULL,
	 "the field of JSONL lines, or the column of Parquet files, that holds the text", NULL, 0, 0},
	{"windows", PARAM_WORD, AT(calibration_params, windows), "concat", 0, 0, "concat random",
	 "how samples are cut from the joined text: in order, or at places drawn by the seed", NULL, 0, 0},
	{"samples", PARAM_INT, AT(calibration_params, samples), "128", 1, 1 << 20, NULL,
	 "how many windows", NULL, 0, 0},
	{"seqlen", PARAM_INT, AT(calibration_params, seqlen), "2048", 2, 1 << 20, NULL,
	 "tokens a window", NULL, 0, 0},
	{"seed", PARAM_INT, AT(calibration_params, seed), "0", 0, 2147483647, NULL,
	 "of the generator that draws random windows", NULL, 0, 0},
	{"dtype", PARAM_WORD, AT(calibration_params, dtype), "auto", 0, 0, "auto float32 bfloat16 float16",
	 "arithmetic of the calibration pass; auto: bfloat16 where the device has it; float16: closer, but ends at 65504", NULL, 0, 0},
	{0},
};

static const struct param override_rows[] = {
	{"match", PARAM_TEXT, AT(override, match), NULL, 0, 0, NULL,
	 "names of linears: a glob, or re: and a regular expression", NULL, 0, PARAM_REQUIRED},
	{"bits", PARAM_INT, AT(override, bits), "0", 0, 0, "0 2 3 4 8",
	 "bits a weight of these; 0: as the section says", NULL, 0, 0},
	{"group_size", PARAM_INT, AT(override, group_size), "0", -1, 1 << 20, NULL,
	 "inputs that share a scale; -1: all of a row; 0: as the section says", NULL, 0, 0},
	{"sym", PARAM_WORD, AT(override, sym), NULL, 0, 0, "true false",
	 "symmetric around zero", NULL, 0, 0},
	{"skip", PARAM_BOOL, AT(override, skip), "false", 0, 0, NULL,
	 "leave these in full precision", NULL, 0, 0},
	{0},
};

/* The words of method and format come from their tables; read_choice checks them. */
static const struct param quantize_rows[] = {
	{"method", PARAM_TEXT, AT(quantize_params, method), "gptq", 0, 0, NULL,
	 "how codes are chosen", NULL, 0, 0},
	{"overrides", PARAM_MAPS, AT(quantize_params, overrides), NULL, 0, 0, NULL,
	 "other settings for some linears; later ones win", override_rows, sizeof(struct override), 0},
	{0},
};

static const struct param pack_rows[] = {
	{"format", PARAM_TEXT, AT(pack_params, format), "gptq", 0, 0, NULL,
	 "how codes are written", NULL, 0, 0},
	{"kernel", PARAM_WORD, AT(pack_params, kernel), "any", 0, 0, "any marlin machete exllama exllamav2 triton torch",
	 "what will run the result: its limits are checked before any work", NULL, 0, PARAM_UNKEYED},
	{"tensor_parallel", PARAM_INT, AT(pack_params, tensor_parallel), "1", 1, 1024, NULL,
	 "how many devices will share each linear: checked with the kernel", NULL, 0, PARAM_UNKEYED},
	{"max_shard_size", PARAM_TEXT, AT(pack_params, max_shard_size), "5GB", 0, 0, NULL,
	 "most bytes in a file of tensors (kB, MB, GB, KiB, MiB, GiB)", NULL, 0, 0},
	{0},
};

static const struct param perplexity_rows[] = {
	{"dataset", PARAM_TREE, AT(perplexity_params, dataset), NULL, 0, 0, NULL,
	 "text to measure perplexity on, original and quantized: as calibration.dataset", NULL, 0, PARAM_UNKEYED},
	{"field", PARAM_TEXT, AT(perplexity_params, field), "text", 0, 0, NULL,
	 "the field of JSONL lines, or the column of Parquet files, that holds the text", NULL, 0, 0},
	{"split", PARAM_TEXT, AT(perplexity_params, split), NULL, 0, 0, NULL,
	 "the split of a named data set", NULL, 0, 0},
	{"seqlen", PARAM_INT, AT(perplexity_params, seqlen), "2048", 2, 1 << 20, NULL,
	 "tokens a window; context restarts with each", NULL, 0, 0},
	{"windows", PARAM_INT, AT(perplexity_params, windows), "0", 0, 1 << 30, NULL,
	 "measure only so many windows; 0: all", NULL, 0, 0},
	{0},
};

static const struct param validate_rows[] = {
	{"perplexity", PARAM_MAP, AT(validate_params, perplexity), NULL, 0, 0, NULL,
	 "perplexity of the original and of the quantized model", perplexity_rows, sizeof(struct perplexity_params), 0},
	{"max_perplexity_increase", PARAM_REAL, AT(validate_params, max_perplexity_increase), NULL, 0, 1000, NULL,
	 "fail with exit code 3 when perplexity grows by more: 0.10 is 10 %", NULL, 0, PARAM_UNKEYED},
	{"dtype", PARAM_WORD, AT(validate_params, dtype), "auto", 0, 0, "auto float32 bfloat16 float16",
	 "arithmetic of the evaluation; auto: float32 on a CPU, bfloat16 products on a card; float16: as for calibration", NULL, 0, 0},
	{0},
};

const struct section sections[] = {
	{"model", "What to quantize", model_rows, AT(settings, model)},
	{"calibration", "Text that the method learns from", calibration_rows, AT(settings, calibration)},
	{"quantize", "How weights become codes", quantize_rows, AT(settings, quantize)},
	{"pack", "How the result is written", pack_rows, AT(settings, pack)},
	{"validate", "What the result must prove", validate_rows, AT(settings, validate)},
	{0},
};

int
settings_blocks(const struct settings *s, const struct section *section, struct param_block blocks[2])
{
	blocks[0] = (struct param_block){section->params, NULL, (char *)s + section->at, NULL};
	if (section->params == quantize_rows)
		blocks[1] = (struct param_block){s->method->params, s->method->when, s->method_params, NULL};
	else if (section->params == pack_rows && s->format->params)
		blocks[1] = (struct param_block){s->format->params, s->format->when, s->format_params, NULL};
	else
		return 1;
	return 2;
}

struct place
settings_place(const struct yaml *tree, const char *section, const char *name)
{
	const struct yaml *map = yaml_get(tree, section), *v = map;
	char part[128];

	if (!map)
		return tree->at;
	while (v && *name) {
		size_t n = strcspn(name, ".");

		if (n >= sizeof(part))
			break;
		memcpy(part, name, n);
		part[n] = '\0';
		map = v;
		v = yaml_get(v, part);
		name += n + (name[n] == '.');
	}
	if (v)
		return v->at;
	return yaml_get(tree, section) == map && yaml_key(tree, section) ? yaml_key(tree, section)->at : map->at;
}

/* ---- reading ---- */

/* The map of a section; NULL when it is absent, empty, or (told) something else. */
static const struct yaml *
section_map(const struct yaml *tree, const char *name, struct diag *d)
{
	const struct yaml *map = yaml_get(tree, name);

	if (!map || yaml_is_null(map))
		return NULL;
	if (map->kind == YAML_MAP)
		return map;
	if (map->kind == YAML_LIST)
		diag_add(d, map->at, "%s: a list is not a map", name);
	else
		diag_add(d, map->at, "%s: '%s' is not a map", name, map->text);
	return NULL;
}

static bool
has_row(const struct param *rows, const char *name)
{
	for (; rows && rows->name; rows++)
		if (strcmp(rows->name, name) == 0)
			return true;
	return false;
}

static void
list_names(struct buf *out, const char *names)
{
	for (; *names; names++)
		buf_puts(out, *names == ' ' ? ", " : (char[2]){*names, '\0'});
}

static bool
is_method(const char *name)
{
	return method_find(name);
}

static bool
is_format(const char *name)
{
	return format_find(name);
}

/* The name of the method or format; NULL after a message when it is none. */
static const char *
chosen(const struct yaml *map, const struct param *row, bool (*is_one)(const char *), const char *names, struct diag *d)
{
	const struct yaml *v = yaml_get(map, row->name);
	const char *section = is_one == is_method ? "quantize" : "pack";
	struct buf list = {0};

	if (yaml_is_null(v))
		return row->usual;
	if (v->kind == YAML_TEXT && is_one(v->text))
		return v->text;
	list_names(&list, names);
	if (v->kind == YAML_TEXT)
		diag_add(d, v->at, "%s.%s: '%s' is not one of %s", section, row->name, v->text, buf_text(&list));
	else
		diag_add(d, v->at, "%s.%s: a %s is not one of %s", section, row->name, v->kind == YAML_LIST ? "list" : "map",
		         buf_text(&list));
	buf_release(&list);
	return NULL;
}

static void
drop_entry(struct yaml *map, size_t i)
{
	yaml_free(map->keys[i]);
	yaml_free(map->v[i]);
	map->n--;
	memmove(map->keys + i, map->keys + i + 1, (map->n - i) * sizeof(map->keys[0]));
	memmove(map->v + i, map->v + i + 1, (map->n - i) * sizeof(map->v[0]));
}

/* A method or format, as far as reading a section is concerned. */
struct kind {
	const char *section, *what;      /* "quantize", "method" */
	const char *name;                /* NULL: a wrong one was given */
	const char *(*owner)(const char *key);     /* a kind that has this key; NULL: none */
};

static const char *
method_with(const char *key)
{
	for (size_t i = 0; methods[i]; i++)
		if (has_row(methods[i]->params, key))
			return methods[i]->name;
	return NULL;
}

static const char *
format_with(const char *key)
{
	for (size_t i = 0; formats[i]; i++)
		if (has_row(formats[i]->params, key))
			return formats[i]->name;
	return NULL;
}

/* Reads a section whose further rows depend on a name in it.  Keys of another kind are told as such.  After a wrong name
 * values are not judged by rows that were perhaps not meant: only keys that no kind knows are told. */
static void
read_kind(const struct kind *k, struct param_block blocks[2], const struct yaml *map, struct param_pool *pool, struct diag *d)
{
	char *note = k->name ? mem_format("for %s %s", k->what, k->name) : NULL;
	struct yaml *copy = yaml_copy(map);

	for (size_t i = copy ? copy->n : 0; i-- > 0;) {
		const struct yaml *key = copy->keys[i];
		const char *owner = has_row(blocks[0].table, key->text) ? NULL : k->owner(key->text);

		if (!k->name && (owner || strcmp(key->text, k->what) == 0)) {
			drop_entry(copy, i);
		} else if (owner && !has_row(blocks[1].table, key->text)) {
			diag_add(d, key->at, "%s.%s: %s %s has no such parameter, %s has", k->section, key->text, k->what, k->name, owner);
			drop_entry(copy, i);
		}
	}
	blocks[1].note = note;
	param_read(blocks, blocks[1].table ? 2 : 1, copy, k->section, pool, d);
	yaml_free(copy);
	free(note);
}

/* Did the section and what it hangs on read well? */
static bool
read_quantize(struct settings *s, const struct yaml *tree, struct diag *d)
{
	size_t before = d->n;
	const struct yaml *map = section_map(tree, "quantize", d);
	struct kind k = {"quantize", "method", chosen(map, &quantize_rows[0], is_method, method_names(), d), method_with};
	const struct method *m = method_find(k.name ? k.name : quantize_rows[0].usual);
	struct param_block blocks[2] = {{.table = quantize_rows, .values = &s->quantize}, {.table = m->params, .when = m->when}};

	s->method = m;
	s->method_params = blocks[1].values = mem_new(1, m->params_size ? m->params_size : 1);
	read_kind(&k, blocks, map, s->pool, d);
	return d->n == before;
}

static bool
read_pack(struct settings *s, const struct yaml *tree, struct diag *d)
{
	size_t before = d->n;
	const struct yaml *map = section_map(tree, "pack", d);
	struct kind k = {"pack", "format", chosen(map, &pack_rows[0], is_format, format_names(), d), format_with};
	const struct format *f = format_find(k.name ? k.name : pack_rows[0].usual);
	struct param_block blocks[2] = {{.table = pack_rows, .values = &s->pack}, {.table = f->params, .when = f->when}};

	s->format = f;
	s->format_params = blocks[1].values = mem_new(1, f->params_size ? f->params_size : 1);
	read_kind(&k, blocks, map, s->pool, d);
	return d->n == before;
}

static void
read_plain(const struct section *section, void *values, struct settings *s, const struct yaml *tree, struct diag *d)
{
	struct param_block block = {section->params, NULL, values, NULL};

	param_read(&block, 1, section_map(tree, section->name, d), section->name, s->pool, d);
}

/* ---- what the rows cannot say ---- */

static void
check_match(const struct override *o, const struct yaml *item, size_t i, struct diag *d)
{
	const struct yaml *v = yaml_get(item, "match");
	struct place at = v ? v->at : item->at;
	char why[256];
	regex_t re;
	int rc;

	if (!o->match)
		return;
	if (!*o->match || strcmp(o->match, "re:") == 0) {
		diag_add(d, at, "quantize.overrides[%zu].match: an empty pattern matches nothing", i);
		return;
	}
	if (strncmp(o->match, "re:", 3) != 0)
		return;
	rc = regcomp(&re, o->match + 3, REG_EXTENDED | REG_NOSUB);
	if (rc == 0) {
		regfree(&re);
		return;
	}
	regerror(rc, &re, why, sizeof(why));
	diag_add(d, at, "quantize.overrides[%zu].match: %s is no regular expression: %s", i, o->match + 3, why);
}

static void
check_overrides(const struct settings *s, const struct yaml *tree, struct diag *d)
{
	const struct yaml *list = yaml_get(yaml_get(tree, "quantize"), "overrides");
	const struct override *o = s->quantize.overrides.v;

	for (size_t i = 0; list && i < s->quantize.overrides.n && i < list->n; i++)
		check_match(&o[i], list->v[i], i, d);
}

static void
check_rest(const struct settings *s, const struct yaml *tree, struct diag *d)
{
	uint64_t bytes;

	if (s->pack.max_shard_size && settings_bytes(s->pack.max_shard_size, &bytes) < 0)
		diag_add(d, settings_place(tree, "pack", "max_shard_size"), "pack.max_shard_size: %s", err_text());
	if (!isnan(s->validate.max_perplexity_increase) && !s->validate.perplexity.dataset)
		diag_add(d, settings_place(tree, "validate", "max_perplexity_increase"),
		         "validate.max_perplexity_increase: nothing to measure; add validate.perplexity.dataset");
}

void
settings_read(struct settings *s, const struct yaml *tree, struct diag *d)
{
	size_t before;
	bool methods_ok, formats_ok;

	*s = (struct settings){.pool = param_pool_new(), .own = mem_new(1, sizeof(*s->own))};
	if (yaml_is_null(yaml_get(tree, "model")))
		diag_add(d, settings_place(tree, "model", ""), "model.source: is missing; name the model's folder");
	read_plain(&sections[0], &s->model, s, tree, d);
	read_plain(&sections[1], &s->calibration, s, tree, d);
	before = d->n;
	methods_ok = read_quantize(s, tree, d);
	if (d->n == before)
		check_overrides(s, tree, d);
	formats_ok = read_pack(s, tree, d);
	before = d->n;
	read_plain(&sections[4], &s->validate, s, tree, d);
	settings_resolve(s, tree);
	if (d->n == before)
		check_rest(s, tree, d);
	if (methods_ok && formats_ok && s->method->follow)
		s->method->follow(s->method_params, s->format->name);
	if (methods_ok && s->method->check)
		s->method->check(s->method_params, settings_place(tree, "quantize", ""), d);
}

bool
settings_learns(const struct settings *s)
{
	struct calibration_wish wish = {0};

	s->method->wish(s->method_params, &wish);
	return wish.needs != 0;
}

void
settings_release(struct settings *s)
{
	if (s->own) {
		free(s->own->source);
		yaml_free(s->own->calibration);
		yaml_free(s->own->perplexity);
		free(s->own);
	}
	if (s->pool) {
		param_pool_free(s->pool);
		free(s->method_params);
		free(s->format_params);
	}
	*s = (struct settings){0};
}

int
settings_bytes(const char *text, uint64_t *bytes)
{
	static const struct { const char *name; double bytes; } units[] = {
		{"", 1}, {"B", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12},
		{"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776},
	};
	const char *p = text;
	double x = 0, place = 1;

	for (; *p >= '0' && *p <= '9'; p++)
		x = x * 10 + (*p - '0');
	if (p > text && *p == '.')
		for (p++; *p >= '0' && *p <= '9'; p++)
			x += (*p - '0') * (place /= 10);
	while (p > text && *p == ' ')
		p++;
	for (size_t i = 0; p > text && i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcasecmp(p, units[i].name) != 0)
			continue;
		x *= units[i].bytes;
		if (!(x >= 1 && x <= 1e18))
			break;
		*bytes = (uint64_t)(x + 0.5);
		return 0;
	}
	return err_set(E_USE, "%s is not a size like 5GB, 200MB or 1GiB", text);
}
