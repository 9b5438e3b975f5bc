#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/cli/interrupt.h"
#include "qjob/cli/progress.h"
#include "qjob/cli/runlog.h"
#include "qjob/cli/session.h"
#include "qjob/cli/summary.h"
#include "qjob/engine/plan.h"
#include "qjob/engine/stamp.h"
#include "stages/pack/format.h"
#include "stages/quant/method.h"

/* ---- nothing to do ---- */

/* What the recipe does not say: where it runs, and by which versions of what. */
static void
begin_stamp(struct stamp *stamp, const struct session *s, const struct variant *v)
{
	const struct settings *set = &v->settings;
	struct buf further = {0};

	buf_printf(&further, "device %s isa %s", s->dev.name ? s->dev.name : "auto", s->dev.isa ? s->dev.isa : "auto");
	for (const struct stage *const *stage = stages; *stage; stage++)
		buf_printf(&further, " %s %d", (*stage)->name, (*stage)->version);
	buf_printf(&further, " method %s %d format %s %d", set->method->name, set->method->version, set->format->name,
	           set->format->version);
	stamp_begin(stamp, set, buf_text(&further));
	buf_release(&further);
}

static void
stamp_folder(struct stamp *stamp, const char *path)
{
	char *inside = mem_format("%s/.", path);

	if (file_exists(inside))
		stamp_add(stamp, path);
	free(inside);
}

/* The folders that a data set names, by itself, in a map or in maps of a list (where a text is a text). */
static void
stamp_data(struct stamp *stamp, const struct yaml *data)
{
	const struct yaml *path = data && data->kind == YAML_MAP ? yaml_get(data, "file") : data;

	if (path && path->kind == YAML_TEXT)
		stamp_folder(stamp, path->text);
	for (size_t i = 0; data && data->kind == YAML_LIST && i < data->n; i++)
		if (data->v[i]->kind == YAML_MAP)
			stamp_data(stamp, data->v[i]);
}

/* A file that joins the model's folder or a folder of texts counts too. */
static void
stamp_inputs(struct stamp *stamp, const struct project *p, const struct settings *s)
{
	const char *const *paths;
	size_t n;

	paths = project_inputs(p, &n);
	for (size_t i = 0; i < n; i++)
		stamp_add(stamp, paths[i]);
	stamp_folder(stamp, s->model.source);
	stamp_data(stamp, s->calibration.dataset);
	stamp_data(stamp, s->validate.perplexity.dataset);
}

static void
stamp_outputs(struct stamp *stamp, const char *folder)
{
	char **names;
	size_t n;

	stamp_add_output(stamp, folder);
	if (dir_names(&names, &n, folder) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		char *path = path_join(folder, names[i]);

		stamp_add_output(stamp, path);
		free(path);
	}
	dir_names_free(names, n);
}

/* ---- one variant ---- */

struct running {
	struct session s;
	const struct run_cli_options *o;
	FILE *events;
	json_t *all, *log;        /* a summary a variant; of those that ran */
};

static const char *
result_name(int code)
{
	switch (code) {
	case EXIT_OK:          return "ok";
	case EXIT_GATE:        return "limit exceeded";
	case EXIT_INTERRUPTED: return "interrupted";
	default:               return "failed";
	}
}

/* The report of validate, in the store; NULL: there is none. */
static char *
report_path(const struct session *s, const struct graph *g, const struct run_result *r)
{
	for (size_t i = g->n; i-- > 0;)
		for (size_t k = 0; k < g->v[i]->npublish; k++)
			if (strcmp(g->v[i]->publish[k], "report.json") == 0)
				return engine_output(s->store, r, g->v[i], "report.json");
	return NULL;
}

static int
judge(const struct session *s, const struct opened *v, const struct run_result *r, struct buf *verdict)
{
	char *path = report_path(s, &v->graph, r);
	int rc = path ? project_verdict(v->project, path, verdict) : 0;

	free(path);
	if (rc == 0)
		return EXIT_OK;
	fprintf(stderr, "qjob: %s\n", err_text());
	return EXIT_GATE;
}

static json_t *
log_line(const struct running *run, json_t *summary, const char *started)
{
	json_t *line = json_object();

	json_object_set_new(line, "time", json_string(started));
	json_object_set_new(line, "recipe", json_string(run->s.recipe.files[0]));
	json_object_set_new(line, "version", json_string(QJOB_VERSION));
	json_object_update(line, summary);
	return line;
}

static int
engine_code(int rc, const struct run_result *r)
{
	if (rc == 0)
		return EXIT_OK;
	if (interrupted()) {
		fprintf(stderr, "qjob: interrupted; run the same command again to continue\n");
		return EXIT_INTERRUPTED;
	}
	if (!r->failed)
		return report_error(rc);
	/* Each has been told as it failed. */
	fprintf(stderr, "qjob: %zu of %zu nodes failed; run the same command again to continue\n", r->failed, r->n);
	return EXIT_FAILED;
}

/* {"quantize/3": "quantize.bits: 4 -> 3"}: what would run and why, asked before the run changes it. */
static json_t *
reasons(const struct session *s, const struct graph *g)
{
	json_t *o = json_object();
	struct plan p = {0};

	if (plan_make(g, s->store, &p) == 0)
		for (size_t i = 0; i < p.n; i++)
			if (p.v[i].action != PLAN_HIT)
				json_object_set_new(o, p.v[i].node->name, json_string(p.v[i].reason ? p.v[i].reason : ""));
	plan_release(&p);
	return o;
}

/* Leaves out what turned out to need no run; of what ran, the run knows more than the plan did. */
static void
keep_ran(json_t *why, const struct graph *g, const struct run_result *r)
{
	for (size_t i = 0; i < g->n && i < r->n; i++) {
		if (r->v[i].state != NODE_DONE && r->v[i].state != NODE_CUTOFF && r->v[i].state != NODE_FAILED)
			json_object_del(why, g->v[i]->name);
		else if (r->v[i].reason)
			json_object_set_new(why, g->v[i]->name, json_string(r->v[i].reason));
	}
}

/* Takes why. */
static void
finish(struct running *run, const struct opened *v, const struct variant *of, const struct run_result *r, int code,
       const struct buf *verdict, json_t *why)
{
	json_t *summary = summary_make(v, of, r, result_name(code), buf_text(verdict));
	struct timespec now;
	char started[32];
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	now.tv_sec -= (time_t)r->seconds;
	gmtime_r(&now.tv_sec, &tm);
	strftime(started, sizeof(started), "%Y-%m-%dT%H:%M:%SZ", &tm);
	if (!run->o->quiet && !run->o->r.json)
		summary_print(summary, stdout);
	keep_ran(why, &v->graph, r);
	json_object_set_new(summary, "why", why);
	json_object_set_new(summary, "parameters", parameters_json(&of->settings));
	json_array_append(run->all, summary);
	json_array_append_new(run->log, log_line(run, summary, started));
	json_decref(summary);
}

static int
run_opened(struct running *run, const struct opened *v, const struct variant *of, struct buf *verdict)
{
	struct progress_options po = {
		.to = stderr, .live = isatty(STDERR_FILENO), .quiet = run->o->quiet, .events = run->events, .variant = of->name,
	};
	struct progress *progress = progress_open(&v->graph, &po);
	struct buf identity = {0};
	struct run_options o = {
		.store = run->s.store, .output = of->output, .on_event = progress_event, .own = progress, .stop = interrupt_flag(),
	};
	json_t *why = reasons(&run->s, &v->graph);
	struct run_result r = {0};
	int rc, code;

	recipe_write(&of->settings, false, true, &identity);
	o.identity = buf_text(&identity);
	rc = engine_run(&v->graph, v->project, &o, &r);
	progress_close(progress);
	code = engine_code(rc, &r);
	if (code == EXIT_OK)
		code = judge(&run->s, v, &r, verdict);
	finish(run, v, of, &r, code, verdict, why);
	run_result_release(&r);
	buf_release(&identity);
	return code;
}

static int
say_up_to_date(const struct running *run, const struct variant *of, const struct buf *text)
{
	char *folder = short_path(of->output);

	if (!run->o->quiet && !run->o->r.json)
		printf("%s%s%s is up to date\n%s", of->name, *of->name ? ": " : "", folder, buf_text(text));
	if (run->o->r.json || run->s.recipe.n > 1)
		json_array_append_new(run->all, summary_unchanged(of));
	free(folder);
	return EXIT_OK;
}

/* That a run took minutes for seconds should not be found out from its report. */
static void
warn_of_cpu(const struct project *p)
{
	char why[1024];

	if (project_passed_over(p, why, sizeof(why)))
		fprintf(stderr, "warning: the CPU computes, since no card can be used: %s\n", why);
}

static int
run_variant(struct running *run, const struct variant *of)
{
	struct buf text = {0}, verdict = {0};
	struct stamp stamp = {0};
	struct opened v = {0};
	int code;

	begin_stamp(&stamp, &run->s, of);
	if (!run->events && stamp_check(&stamp, store_root(run->s.store), &text)) {
		code = say_up_to_date(run, of, &text);
		buf_release(&text);
		stamp_release(&stamp);
		return code;
	}
	code = variant_open(&v, &run->s, of);
	if (code < 0)
		warn_of_cpu(v.project);
	if (code < 0 && project_prepare(v.project) < 0)
		code = report_error(E_SYS);
	if (code < 0) {
		stamp_inputs(&stamp, v.project, &of->settings);
		code = run_opened(run, &v, of, &verdict);
	}
	if (code == EXIT_OK) {
		stamp_outputs(&stamp, of->output);
		stamp_add_libraries(&stamp);
		stamp_save(&stamp, store_root(run->s.store), buf_text(&verdict));
	}
	stamp_release(&stamp);
	buf_release(&verdict);
	variant_close(&v);
	return code;
}

/* ---- the command ---- */

/* What is worse comes later: ok, limit exceeded, bad input, failed, interrupted. */
static int
worse(int a, int b)
{
	static const int order[] = {EXIT_OK, EXIT_GATE, EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED};
	size_t i;

	for (i = sizeof(order) / sizeof(order[0]); i-- > 0;)
		if (order[i] == a || order[i] == b)
			return order[i];
	return EXIT_FAILED;
}

static void
print_json(const json_t *runs)
{
	struct buf b = {0};

	json_write(runs, &b);
	fputs(buf_text(&b), stdout);
	buf_release(&b);
}

static int
run_all(struct running *run)
{
	int code = EXIT_OK;

	run->all = json_array();
	run->log = json_array();
	for (size_t i = 0; i < run->s.recipe.n; i++)
		code = worse(code, interrupted() ? EXIT_INTERRUPTED : run_variant(run, &run->s.recipe.v[i]));
	if (run->o->r.json)
		print_json(run->all);
	else if (json_array_size(run->all) > 1 && !run->o->quiet)
		summary_compare(run->all, stdout);
	json_decref(run->all);
	if (json_array_size(run->log))
		runlog_write(store_root(run->s.store), run->log);
	else
		json_decref(run->log);
	return code;
}

int
cmd_run(int argc, char **argv)
{
	struct run_cli_options o = {0};
	struct running run = {.o = &o};
	int code = options_read("run", argc, argv, &o);

	if (code >= 0)
		return code;
	code = session_open(&run.s, "run", &o.r);
	if (code < 0 && o.events) {
		run.events = fopen(o.events, "w");
		if (!run.events)
			code = usage_error("run", "--events: %s: %s", o.events, strerror(errno));
	}
	if (code < 0) {
		interrupt_catch();
		code = run_all(&run);
	}
	if (run.events && fclose(run.events) != 0 && code == EXIT_OK) {
		fprintf(stderr, "qjob: %s: %s\n", o.events, strerror(errno));
		code = EXIT_FAILED;
	}
	session_close(&run.s);
	return code;
}
