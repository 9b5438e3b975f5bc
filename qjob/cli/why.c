#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/cli/runlog.h"
#include "qjob/cli/session.h"
#include "qjob/engine/plan.h"

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

static int
why_variant(const struct session *s, const struct variant *of, const struct why_options *o, const json_t *log, json_t *all)
{
	struct opened v = {0};
	struct plan p = {0};
	int code = variant_open(&v, s, of), rc;
	size_t found = 0;

	if (code < 0) {
		rc = plan_make(&v.graph, s->store, &p);
		code = rc < 0 ? report_error(rc) : EXIT_OK;
	}
	if (code == EXIT_OK && o->node && !graph_find(&v.graph, o->node))
		code = usage_error("why", "no node is called %s; `qjob plan --all` lists them", o->node);
	if (code == EXIT_OK && *of->name && !o->r.json)
		printf("# %s\n", of->name);
	for (size_t i = 0; code == EXIT_OK && i < p.n; i++) {
		json_t *e;

		if (o->node ? strcmp(p.v[i].node->name, o->node) != 0 : p.v[i].action == PLAN_HIT)
			continue;
		e = entry_json(&p.v[i], of, log);
		found++;
		if (o->r.json)
			json_array_append(all, e);
		else
			print_entry(e);
		json_decref(e);
	}
	if (code == EXIT_OK && !found && !o->r.json)
		printf("nothing would run: all %zu nodes are in the store; `qjob why RECIPE NODE` says why one ran last\n", p.n);
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
	code = session_open(&s, &o.r);
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
