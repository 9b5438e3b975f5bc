#include "qjob/cli/summary.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "qjob/base/mem.h"

enum { REPORT_MOST = 256 << 20 };

static bool
is_tensors(const char *name)
{
	size_t n = strlen(name);

	return n > 12 && strcmp(name + n - 12, ".safetensors") == 0;
}

static json_int_t
file_bytes(const char *path)
{
	struct file_id id;

	return is_tensors(path) && file_id(&id, path) == 0 ? (json_int_t)id.size : 0;
}

static json_int_t
original_bytes(const struct project *p)
{
	const char *const *paths;
	json_int_t bytes = 0;
	size_t n;

	paths = project_inputs(p, &n);
	for (size_t i = 0; i < n; i++)
		bytes += file_bytes(paths[i]);
	return bytes;
}

static json_int_t
folder_bytes(const char *folder)
{
	json_int_t bytes = 0;
	char **names;
	size_t n;

	if (!file_exists(folder) || dir_names(&names, &n, folder) < 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		char *path = path_join(folder, names[i]);

		bytes += file_bytes(path);
		free(path);
	}
	dir_names_free(names, n);
	return bytes;
}

static json_int_t
peak_memory(void)
{
	struct rusage u;

	return getrusage(RUSAGE_SELF, &u) == 0 ? (json_int_t)u.ru_maxrss * 1024 : 0;
}

static void
count(json_t *stage, const char *what, double n)
{
	json_t *old = json_object_get(stage, what);

	if (json_is_real(old))
		json_real_set(old, json_real_value(old) + n);
	else
		json_integer_set(old, json_integer_value(old) + (json_int_t)n);
}

static void
add_stages(json_t *summary, const struct graph *g, const struct run_result *r)
{
	json_t *stages_done = json_array(), *s = NULL, *failed = json_array();

	for (size_t i = 0; i < g->n && i < r->n; i++) {
		const struct node_outcome *o = &r->v[i];
		const char *name = g->v[i]->stage->name;

		if (!s || strcmp(json_string_value(json_object_get(s, "stage")), name) != 0) {
			s = json_pack("{s:s, s:i, s:i, s:i, s:i, s:f}", "stage", name, "nodes", 0, "hits", 0, "ran", 0, "failed", 0,
			              "seconds", 0.0);
			json_array_append_new(stages_done, s);
		}
		count(s, "nodes", 1);
		count(s, "hits", o->state == NODE_HIT);
		count(s, "ran", o->state == NODE_DONE || o->state == NODE_CUTOFF);
		count(s, "failed", o->state == NODE_FAILED);
		count(s, "seconds", o->seconds);
		if (o->state == NODE_FAILED)
			json_array_append_new(failed, json_pack("{s:s, s:s}", "node", g->v[i]->name, "why", o->why ? o->why : ""));
	}
	json_object_set_new(summary, "stages", stages_done);
	json_object_set_new(summary, "failed", failed);
}

static void
add_perplexity(json_t *summary, const char *folder)
{
	char *path = path_join(folder, "report.json");
	json_t *report = NULL, *perplexity;

	if (file_exists(path) && json_load_path(&report, path, REPORT_MOST) == 0) {
		perplexity = json_object_get(report, "perplexity");
		if (json_is_object(perplexity))
			json_object_set(summary, "perplexity", perplexity);
	}
	json_decref(report);
	free(path);
}

json_t *
summary_make(const struct opened *v, const struct variant *of, const struct run_result *r, const char *result,
             const char *verdict)
{
	json_t *o = json_object(), *lines = json_array();

	json_object_set_new(o, "variant", json_string(of->name));
	json_object_set_new(o, "result", json_string(result));
	json_object_set_new(o, "seconds", json_real(r->seconds));
	json_object_set_new(o, "output", json_string(of->output));
	json_object_set_new(o, "peak_memory", json_integer(peak_memory()));
	json_object_set_new(o, "original_bytes", json_integer(original_bytes(v->project)));
	json_object_set_new(o, "quantized_bytes", json_integer(folder_bytes(of->output)));
	add_perplexity(o, of->output);
	add_stages(o, &v->graph, r);
	for (size_t n; verdict && *verdict; verdict += n + (verdict[n] == '\n')) {
		n = strcspn(verdict, "\n");
		json_array_append_new(lines, json_stringn(verdict, n));
	}
	json_object_set_new(o, "verdict", lines);
	return o;
}

json_t *
summary_unchanged(const struct variant *of)
{
	json_t *o = json_pack("{s:s, s:s, s:f, s:s, s:I}", "variant", of->name, "result", "up to date", "seconds", 0.0, "output",
	                      of->output, "quantized_bytes", folder_bytes(of->output));

	add_perplexity(o, of->output);
	return o;
}

static double
number(const json_t *o, const char *name)
{
	return json_number_value(json_object_get(o, name));
}

static void
print_stages(const json_t *list, FILE *to)
{
	char took[32];
	json_t *s;
	size_t i;

	fprintf(to, "%-10s %6s %9s %5s %10s\n", "stage", "nodes", "in store", "ran", "time");
	json_array_foreach(list, i, s) {
		time_text(number(s, "seconds"), took, sizeof(took));
		fprintf(to, "%-10s %6.0f %9.0f %5.0f %10s\n", json_string_value(json_object_get(s, "stage")), number(s, "nodes"),
		        number(s, "hits"), number(s, "ran"), took);
	}
}

void
summary_print(const json_t *o, FILE *to)
{
	double before = number(o, "original_bytes"), after = number(o, "quantized_bytes");
	char a[32], b[32], *folder = short_path(json_string_value(json_object_get(o, "output")));
	const char *variant = json_string_value(json_object_get(o, "variant"));
	json_t *line;
	size_t i;

	if (variant && *variant)
		fprintf(to, "%s\n", variant);
	print_stages(json_object_get(o, "stages"), to);
	time_text(number(o, "seconds"), a, sizeof(a));
	size_text(number(o, "peak_memory"), b, sizeof(b));
	fprintf(to, "%-10s %33s   peak memory %s\n", "total", a, b);
	if (before > 0 && after > 0 && !json_array_size(json_object_get(o, "verdict"))) {
		size_text(before, a, sizeof(a));
		size_text(after, b, sizeof(b));
		fprintf(to, "%-10s %s -> %s (%.1f %%)\n", "size", a, b, 100 * after / before);
	}
	json_array_foreach(json_object_get(o, "verdict"), i, line)
		fprintf(to, "%s\n", json_string_value(line));
	fprintf(to, "%-10s %s (%s)\n", "result", folder, json_string_value(json_object_get(o, "result")));
	free(folder);
}

static size_t
longest_name(const json_t *list)
{
	size_t longest = 7;
	json_t *o;
	size_t i;

	json_array_foreach(list, i, o) {
		size_t n = strlen(json_string_value(json_object_get(o, "variant")));

		longest = n > longest ? n : longest;
	}
	return longest;
}

void
summary_compare(const json_t *list, FILE *to)
{
	int width = (int)longest_name(list);
	json_t *o;
	size_t i;

	fprintf(to, "\n%-*s %10s %9s %11s %9s  %s\n", width, "variant", "perplexity", "change", "size", "time", "result");
	json_array_foreach(list, i, o) {
		const json_t *perplexity = json_object_get(o, "perplexity");
		char ppl[32] = "-", change[32] = "-", size[32] = "-", took[32];

		if (json_object_get(perplexity, "quantized"))
			snprintf(ppl, sizeof(ppl), "%.4f", number(perplexity, "quantized"));
		if (json_object_get(perplexity, "increase"))
			snprintf(change, sizeof(change), "%+.2f %%", 100 * number(perplexity, "increase"));
		if (number(o, "quantized_bytes") > 0)
			size_text(number(o, "quantized_bytes"), size, sizeof(size));
		time_text(number(o, "seconds"), took, sizeof(took));
		fprintf(to, "%-*s %10s %9s %11s %9s  %s\n", width, json_string_value(json_object_get(o, "variant")), ppl, change, size,
		        took, json_string_value(json_object_get(o, "result")));
	}
}
