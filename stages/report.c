#include "stages/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stages/pack/format.h"
#include "stages/pack/shard.h"

static const char protocol[] = "windows of seqlen tokens in order, no overlap, the tail dropped; context restarts with each window; "
	"mean negative log likelihood over the seqlen - 1 predicted tokens of a window; perplexity = exp(mean of the window means)";

/* ---- settings ---- */

void
report_settings(const struct project *p, struct buf *lines)
{
	for (const struct section *s = sections; s->name; s++) {
		struct param_block blocks[2];
		int n;

		if (strcmp(s->name, "model") == 0 || (strcmp(s->name, "calibration") == 0 && !p->wish.needs))
			continue;
		n = settings_blocks(p->s, s, blocks);
		for (int i = 0; i < n; i++)
			param_key(&blocks[i], s->name, lines);
	}
}

static json_t *
settings_json(const struct project *p)
{
	json_t *j = json_object();
	struct buf lines = {0};
	const char *line, *end;

	report_settings(p, &lines);
	for (line = buf_text(&lines); *line; line = end + 1) {
		const char *name = line + strlen("set "), *space;

		end = strchr(line, '\n');
		space = memchr(name, ' ', (size_t)(end - name));
		if (space) {
			char *key = mem_format("%.*s", (int)(space - name), name);

			json_object_set_new(j, key, json_stringn(space + 1, (size_t)(end - space - 1)));
			free(key);
		}
	}
	buf_release(&lines);
	return j;
}

/* ---- sizes ---- */

static json_t *
size_json(const struct project *p, const struct shards *s)
{
	double packed = 0, linear = 0, before = 0, other = 0;

	for (size_t i = 0; i < s->ntensors; i++) {
		const struct packed_tensor *t = &s->tensors[i];

		if (t->choice)
			packed += (double)t->t.bytes;
		else
			other += (double)t->t.bytes;
	}
	for (size_t i = 0; i < p->nchoices; i++) {
		const struct choice *c = &p->choices[i];
		char name[300];
		const struct tensor *t;

		if (c->skip)
			continue;
		snprintf(name, sizeof(name), "%s.weight", c->name);
		t = weights_find(&p->weights, name);
		linear += (double)c->rows * (double)c->cols;
		before += t ? (double)t->bytes : 0;
	}
	return json_pack("{s:I, s:I, s:f, s:I, s:I, s:I, s:f, s:f}",
	                 "bytes_before", (json_int_t)(before + other), "bytes_after", (json_int_t)(packed + other),
	                 "ratio", (packed + other) / (before + other), "linear_weights", (json_int_t)linear,
	                 "linear_bytes_before", (json_int_t)before, "linear_bytes_after", (json_int_t)packed,
	                 "bits_per_weight_before", 8 * before / linear, "bits_per_weight_after", 8 * packed / linear);
}

/* ---- the whole ---- */

static json_t *
perplexity_json(const struct project *p, const json_t *original, const json_t *quantized)
{
	const json_t *before = json_object_get(original, "perplexity"), *after = json_object_get(quantized, "perplexity");
	json_t *facts = json_array(), *j;
	const char *line = p->device_facts, *end;

	if (!json_is_real(before) || !json_is_real(after)) {
		json_decref(facts);
		return json_null();
	}
	for (; *line; line = *end ? end + 1 : end) {
		end = line + strcspn(line, "\n");
		json_array_append_new(facts, json_stringn(line, (size_t)(end - line)));
	}
	j = json_pack("{s:f, s:f, s:f, s:I, s:I, s:I, s:s, s:s, s:o}",
	              "original", json_real_value(before), "quantized", json_real_value(after),
	              "increase", json_real_value(after) / json_real_value(before) - 1,
	              "windows", json_integer_value(json_object_get(quantized, "windows")),
	              "seqlen", json_integer_value(json_object_get(quantized, "seqlen")),
	              "tokens", json_integer_value(json_object_get(quantized, "tokens")),
	              "dtype", json_string_value(json_object_get(quantized, "dtype")), "protocol", protocol, "device", facts);
	return j;
}

static double
sum_of(const json_t *linears, const char *key)
{
	double sum = 0;
	size_t i;
	json_t *v;

	json_array_foreach((json_t *)linears, i, v)
		sum += json_number_value(json_object_get(v, key));
	return sum;
}

json_t *
report_make(const struct project *p, const struct shards *s, const json_t *blocks, const json_t *original, const json_t *quantized)
{
	const struct config *c = &p->weights.config;
	json_t *linears = json_array(), *skipped = json_array(), *notes = json_array(), *block;
	size_t i;

	json_array_foreach((json_t *)blocks, i, block)
		json_array_extend(linears, json_object_get(block, "linears"));
	for (i = 0; i < p->nchoices; i++)
		if (p->choices[i].skip)
			json_array_append_new(skipped, json_string(p->choices[i].name));
	p->s->format->notes(p, notes);
	return json_pack("{s:s, s:{s:s, s:I}, s:s, s:s, s:o, s:o, s:o, s:f, s:I, s:o, s:o, s:o}",
	                 "qjob", QJOB_VERSION, "model", "model_type", c->family->model_type, "blocks", (json_int_t)c->L,
	                 "format", p->s->format->name, "method", p->s->method->name, "settings", settings_json(p),
	                 "size", size_json(p, s), "perplexity", perplexity_json(p, original, quantized),
	                 "loss", sum_of(linears, "loss"), "dead", (json_int_t)sum_of(linears, "dead"),
	                 "linears", linears, "skipped", skipped, "notes", notes);
}

/* ---- for people ---- */

static double
number(const json_t *j, const char *key)
{
	return json_number_value(json_object_get(j, key));
}

static const char *
text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static void
add_bytes(struct buf *out, double bytes)
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
	size_t u = 0;

	while (bytes >= 1000 && u < 4) {
		bytes /= 1000;
		u++;
	}
	buf_printf(out, u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
}

static void
markdown_head(const json_t *r, struct buf *out)
{
	const json_t *size = json_object_get(r, "size"), *ppl = json_object_get(r, "perplexity");

	buf_printf(out, "# Quantization report\n\n%s, %.0f blocks, method %s, format %s, qjob %s\n\n",
	           text(json_object_get(r, "model"), "model_type"),
	           number(json_object_get(r, "model"), "blocks"), text(r, "method"), text(r, "format"), text(r, "qjob"));
	buf_puts(out, "| | before | after | |\n|---|---|---|---|\n");
	if (json_is_object(ppl))
		buf_printf(out, "| perplexity | %.4f | %.4f | %+.2f %% |\n", number(ppl, "original"),
		           number(ppl, "quantized"), 100 * number(ppl, "increase"));
	buf_puts(out, "| size | ");
	add_bytes(out, number(size, "bytes_before"));
	buf_puts(out, " | ");
	add_bytes(out, number(size, "bytes_after"));
	buf_printf(out, " | %.1f %% |\n", 100 * number(size, "ratio"));
	buf_printf(out, "| bits a weight of the quantized linears | %.2f | %.3f | |\n", number(size, "bits_per_weight_before"),
	           number(size, "bits_per_weight_after"));
	if (json_is_object(ppl))
		buf_printf(out, "\nPerplexity: %.0f windows of %.0f tokens, %.0f predicted tokens, %s arithmetic; "
		           "%s.\n", number(ppl, "windows"),
		           number(ppl, "seqlen"), number(ppl, "tokens"), text(ppl, "dtype"), text(ppl, "protocol"));
	else
		buf_puts(out, "\nNo perplexity was asked for (validate.perplexity.dataset); the structure of the files was checked.\n");
}

static void
markdown_list(const json_t *list, const char *title, struct buf *out)
{
	size_t i;
	json_t *v;

	if (json_array_size(list))
		buf_printf(out, "\n## %s\n\n", title);
	json_array_foreach((json_t *)list, i, v)
		buf_printf(out, "- %s\n", json_string_value(v));
}

static void
markdown_linears(const json_t *linears, struct buf *out)
{
	size_t i;
	json_t *v;

	buf_puts(out, "\n## Linears\n\nLoss: of outputs, a token, by the method's statistics; without statistics, of weights.\n\n"
	         "| linear | out x in | bits | group | sym | loss | damp | dead inputs | fallback |\n"
	         "|---|---|---|---|---|---|---|---|---|\n");
	json_array_foreach((json_t *)linears, i, v)
		buf_printf(out, "| %s | %.0f x %.0f | %.0f | %.0f | %s | %.5g | %.4g | %.0f | %s |\n",
		           text(v, "name"), number(v, "rows"), number(v, "cols"),
		           number(v, "bits"), number(v, "group_size"),
		           json_is_true(json_object_get(v, "sym")) ? "yes" : "no", number(v, "loss"),
		           number(v, "damp"), number(v, "dead"), text(v, "fallback"));
}

void
report_markdown(const json_t *r, struct buf *out)
{
	const char *key;
	json_t *v;

	markdown_head(r, out);
	markdown_list(json_object_get(r, "notes"), "Notes", out);
	buf_puts(out, "\n## Settings\n\n| setting | value |\n|---|---|\n");
	json_object_foreach(json_object_get(r, "settings"), key, v)
		buf_printf(out, "| %s | %s |\n", key, json_string_value(v));
	markdown_linears(json_object_get(r, "linears"), out);
	markdown_list(json_object_get(r, "skipped"), "Left in full precision", out);
}

static size_t
count_fallbacks(const json_t *linears)
{
	size_t n = 0, i;
	json_t *v;

	json_array_foreach((json_t *)linears, i, v)
		n += *text(v, "fallback") != '\0';
	return n;
}

void
report_summary(const json_t *r, struct buf *out)
{
	const json_t *size = json_object_get(r, "size"), *ppl = json_object_get(r, "perplexity"), *linears = json_object_get(r, "linears");
	struct buf before = {0}, after = {0};
	size_t fallbacks = count_fallbacks(linears);

	add_bytes(&before, number(size, "bytes_before"));
	add_bytes(&after, number(size, "bytes_after"));
	buf_printf(out, "%-16s %12s %12s\n", "", "before", "after");
	if (json_is_object(ppl))
		buf_printf(out, "%-16s %12.4f %12.4f  %+.2f %%  (%.0f windows of %.0f tokens)\n", "perplexity", number(ppl, "original"),
		           number(ppl, "quantized"), 100 * number(ppl, "increase"), number(ppl, "windows"), number(ppl, "seqlen"));
	buf_printf(out, "%-16s %12s %12s  %.1f %%\n", "size", buf_text(&before), buf_text(&after), 100 * number(size, "ratio"));
	buf_printf(out, "%-16s %12.2f %12.3f  (%zu quantized linears)\n", "bits a weight", number(size, "bits_per_weight_before"),
	           number(size, "bits_per_weight_after"), json_array_size(linears));
	if (fallbacks)
		buf_printf(out, "%zu linears needed a fallback: see report.md\n", fallbacks);
	buf_release(&before);
	buf_release(&after);
}
