#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/cli/runlog.h"
#include "qjob/cli/session.h"
#include "qjob/engine/plan.h"
#include "qjob/engine/run.h"

enum { RUNS_BACK = 100 };

/* Why a node ran in the latest run that made it, from the run log; NULL when it is not known.  Borrowed from log. */
static const json_t *
last_reason(const json_t *log, const char *output, const char *node, const char **when)
{
	json_t *run;
	size_t i;

	json_array_foreach(log, i, run) {
		const char *where = json_string_value(json_object_get(run, "output"));
		const json_t *why = json_object_get(json_object_get(run, "why"), node);

		if (!why || !where || strcmp(where, output) != 0)
			continue;
		*when = json_string_value(json_object_get(run, "time"));
		return why;
	}
	return NULL;
}

static json_t *
entry_json(const struct plan_entry *e, const struct variant *of, const json_t *log)
{
	static const char *const names[] = {
		[PLAN_HIT] = "hit", [PLAN_RESUME] = "resume", [PLAN_RUN] = "run", [PLAN_MAYBE] = "maybe",
	};
	json_t *o = json_object();
	const char *when = NULL;
	const json_t *last = last_reason(log, of->output, e->node->name, &when);

	json_object_set_new(o, "node", json_string(e->node->name));
	json_object_set_new(o, "action", json_string(names[e->action]));
	if (e->action != PLAN_HIT)
		json_object_set_new(o, "reason", json_string(e->reason ? e->reason : ""));
	if (last) {
		json_object_set_new(o, "last_ran", json_string(when ? when : ""));
		json_object_set_new(o, "last_reason", json_copy((json_t *)last));
	}
	return o;
}

/* {"time", "parameters": {"quantize.bits": "4 -> 3"}}: how the recipe differs from that of the latest run into the same
 * folder; NULL: it does not, or there was none. */
static json_t *
recipe_changes(const json_t *log, const struct variant *of)
{
	json_t *now = parameters_json(&of->settings), *all = json_object(), *run, *before = NULL, *value;
	const char *name, *when = NULL;
	size_t i;

	json_array_foreach(log, i, run) {
		const char *where = json_string_value(json_object_get(run, "output"));

		before = json_object_get(run, "parameters");
		when = json_string_value(json_object_get(run, "time"));
		if (where && before && strcmp(where, of->output) == 0)
			break;
		before = NULL;
	}
	json_object_foreach(before, name, value)
		if (!json_object_get(now, name))
			json_object_set_new(all, name, json_sprintf("%s -> not set", json_string_value(value)));
	json_object_foreach(before ? now : NULL, name, value) {
		const char *old = json_string_value(json_object_get(before, name));

		if (!old || strcmp(old, json_string_value(value)) != 0)
			json_object_set_new(all, name, json_sprintf("%s -> %s", old ? old : "not set", json_string_value(value)));
	}
	json_decref(now);
	if (json_object_size(all))
		return json_pack("{s:s, s:o}", "time", when ? when : "", "parameters", all);
	json_decref(all);
	return NULL;
}

static void
print_changes(const json_t *changes)
{
	const char *name;
	json_t *value;

	if (!changes)
		return;
	printf("the recipe has changed since the run of %s:\n", json_string_value(json_object_get(changes, "time")));
	json_object_foreach(json_object_get(changes, "parameters"), name, value)
		printf("    %s: %s\n", name, json_string_value(value));
}

/* Each line of a reason on its own. */
static void
print_reason(const char *text)
{
	do {
		size_t n = strcspn(text, "\n");

		printf("    %.*s\n", (int)n, text);
		text += n + (text[n] == '\n');
	} while (*text);
}

static void
print_entry(const json_t *o)
{
	const char *action = json_string_value(json_object_get(o, "action"));
	const char *reason = json_string_value(json_object_get(o, "reason"));
	const char *last = json_string_value(json_object_get(o, "last_reason"));

	printf("%s: %s\n", json_string_value(json_object_get(o, "node")),
	       strcmp(action, "hit") == 0 ? "in the store" : strcmp(action, "maybe") == 0 ? "may run" : "would run");
	if (reason)
		print_reason(reason);
	if (last) {
		printf("    last ran %s because\n", json_string_value(json_object_get(o, "last_ran")));
		print_reason(last);
	}
}

/* The nodes asked for: one by its name, else all that would run. */
static json_t *
entries(const struct plan *p, const struct variant *of, const struct why_options *o, const json_t *log)
{
	json_t *list = json_array();

	for (size_t i = 0; i < p->n; i++)
		if (o->node ? strcmp(p->v[i].node->name, o->node) == 0 : p->v[i].action != PLAN_HIT)
			json_array_append_new(list, entry_json(&p->v[i], of, log));
	return list;
}

static void
print_why(const struct plan *p, const struct variant *of, const json_t *changes, const json_t *list)
{
	json_t *e;
	size_t i;

	if (*of->name)
		printf("# %s\n", of->name);
	print_changes(changes);
	json_array_foreach(list, i, e)
		print_entry(e);
	if (!json_array_size(list))
		printf("nothing would run: all %zu nodes are in the store; `qjob why RECIPE NODE` says why one ran last\n", p->n);
}

/* Digests the files that changed, as a run would begin: only then can a reason name a tensor.  They are declared first. */
static int
know_sources(const struct session *s, const struct opened *v)
{
	struct graph sources = v->graph;
	struct run_options o = {.store = s->store};
	struct run_result r;
	int rc;

	for (sources.n = 0; sources.n < v->graph.n && v->graph.v[sources.n]->source; sources.n++)
		;
	rc = engine_run(&sources, v->project, &o, &r);
	run_result_release(&r);
	return rc;
}

static int
why_variant(const struct session *s, const struct variant *of, const struct why_options *o, const json_t *log, json_t *all)
{
	struct opened v = {0};
	struct plan p = {0};
	json_t *changes, *list;
	int code = variant_open(&v, s, of), rc;

	if (code < 0) {
		rc = know_sources(s, &v);
		if (rc == 0)
			rc = plan_make(&v.graph, s->store, &p);
		code = rc < 0 ? report_error(rc) : EXIT_OK;
	}
	if (code == EXIT_OK && o->node && !graph_find(&v.graph, o->node))
		code = usage_error("why", "no node is called %s; `qjob plan --all` lists them", o->node);
	if (code == EXIT_OK) {
		changes = recipe_changes(log, of);
		list = entries(&p, of, o, log);
		if (o->r.json)
			json_array_append_new(all, json_pack("{s:s, s:s, s:O*, s:O}", "variant", of->name, "output", of->output, "changed",
			                                     changes, "nodes", list));
		else
			print_why(&p, of, changes, list);
		json_decref(changes);
		json_decref(list);
	}
	plan_release(&p);
	variant_close(&v);
	return code;
}

int
cmd_why(int argc, char **argv)
{
	struct why_options o = {0};
	struct session s = {0};
	json_t *all = NULL, *log = NULL;
	struct buf b = {0};
	int code = options_read("why", argc, argv, &o);

	if (code >= 0)
		return code;
	code = session_open(&s, "why", &o.r);
	if (code < 0) {
		all = json_array();
		log = runlog_read(store_root(s.store), RUNS_BACK);
		code = EXIT_OK;
		for (size_t i = 0; code == EXIT_OK && i < s.recipe.n; i++)
			code = why_variant(&s, &s.recipe.v[i], &o, log, all);
	}
	if (code == EXIT_OK && o.r.json) {
		json_write(all, &b);
		fputs(buf_text(&b), stdout);
		buf_release(&b);
	}
	json_decref(all);
	json_decref(log);
	session_close(&s);
	return code;
}
