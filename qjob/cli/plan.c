#include "qjob/engine/plan.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"
#include "qjob/cli/session.h"

/* What a prediction of time assumes of one thread: a modest share of what oneDNN reaches with AVX-512 in fp32. */
#define FLOPS_A_THREAD 1e11

static const char *const action_names[] = {
	[PLAN_HIT] = "hit", [PLAN_RESUME] = "resume", [PLAN_RUN] = "run", [PLAN_MAYBE] = "maybe",
};

/* Neighbours of a stage with the same fate, shown as one line. */
struct range {
	size_t from, to;          /* numbers of nodes, inclusive */
	uint64_t host, device, disk;
	double flops;
};

static double
rate_of(const struct session *s)
{
	long threads = s->dev.threads > 0 ? s->dev.threads : sysconf(_SC_NPROCESSORS_ONLN);

	return FLOPS_A_THREAD * (double)(threads > 0 ? threads : 1);
}

static void
widen(struct range *r, const struct plan_entry *e, size_t number)
{
	const struct cost *c = &e->node->cost;

	r->to = number;
	if (e->action == PLAN_HIT)
		return;
	r->host = c->host > r->host ? c->host : r->host;
	r->device = c->device > r->device ? c->device : r->device;
	r->disk += c->disk;
	r->flops += c->flops;
}

static bool
is_alike(const struct plan_entry *a, const struct plan_entry *b)
{
	return a->node->stage == b->node->stage && a->action == b->action &&
	       strcmp(a->reason ? a->reason : "", b->reason ? b->reason : "") == 0;
}

/* "quantize/0..29", "fetch/config.json" */
static void
name_range(const struct plan *p, const struct range *r, char *text, size_t n)
{
	const char *first = p->v[r->from].node->name, *last = p->v[r->to].node->name;

	if (r->from == r->to)
		snprintf(text, n, "%s", first);
	else if (strchr(last, '/'))
		snprintf(text, n, "%s .. %s", first, strchr(last, '/') + 1);
	else
		snprintf(text, n, "%s .. %s", first, last);
}

static void
print_costs(const struct range *r, double rate)
{
	char host[32] = "-", device[32] = "-", disk[32] = "-", took[32] = "-";

	if (r->host > 0)
		size_text((double)r->host, host, sizeof(host));
	if (r->device > 0)
		size_text((double)r->device, device, sizeof(device));
	if (r->disk > 0)
		size_text((double)r->disk, disk, sizeof(disk));
	if (r->flops > 0)
		time_text(r->flops / rate, took, sizeof(took));
	printf(" %9s %9s %9s %9s", host, device, disk, took);
}

static void
print_range(const struct plan *p, const struct range *r, double rate)
{
	const struct plan_entry *e = &p->v[r->from];
	const char *reason = e->reason ? e->reason : "";
	char name[256];
	int lines = 0;

	name_range(p, r, name, sizeof(name));
	printf("%-34s %-6s", name, action_names[e->action]);
	print_costs(r, rate);
	do {
		size_t n = strcspn(reason, "\n");

		if (n)
			printf("%s%.*s", lines ? "; " : "  ", (int)n, reason);
		reason += n + (reason[n] == '\n');
	} while (*reason && ++lines < 3);
	printf("%s\n", *reason ? "; ..." : "");
}

static void
print_table(const struct plan *p, bool all, double rate)
{
	struct range total = {0};

	printf("%-34s %-6s %9s %9s %9s %9s  %s\n", "node", "", "memory", "card", "disk", "time", "reason");
	for (size_t i = 0; i < p->n;) {
		struct range r = {.from = i};

		do {
			widen(&r, &p->v[i], i);
			i++;
		} while (!all && i < p->n && is_alike(&p->v[r.from], &p->v[i]));
		print_range(p, &r, rate);
		total.host = r.host > total.host ? r.host : total.host;
		total.device = r.device > total.device ? r.device : total.device;
		total.disk += r.disk;
		total.flops += r.flops;
	}
	printf("%-34s %-6s", "total", "");
	print_costs(&total, rate);
	printf("  time at %.0f GFLOP/s\n", rate / 1e9);
}

static void
print_recipe(const struct variant *of)
{
	struct buf b = {0};

	recipe_write(&of->settings, true, false, &b);
	fputs(buf_text(&b), stdout);
	buf_release(&b);
}

static json_t *
variant_json(const struct opened *v, const struct variant *of, const struct plan *p, double rate)
{
	json_t *o = json_object();
	struct buf b = {0};

	recipe_write(&of->settings, false, false, &b);
	json_object_set_new(o, "variant", json_string(of->name));
	json_object_set_new(o, "output", json_string(of->output));
	json_object_set_new(o, "recipe", json_string(buf_text(&b)));
	json_object_set_new(o, "flops_per_second", json_real(rate));
	json_object_set_new(o, "plan", plan_json(&v->graph, p));
	buf_release(&b);
	return o;
}

static int
plan_variant(const struct session *s, const struct variant *of, const struct plan_options *o, json_t *all)
{
	struct opened v = {0};
	struct plan p = {0};
	int code, rc;

	if (o->recipe_only) {
		print_recipe(of);
		return EXIT_OK;
	}
	code = variant_open(&v, s, of);
	if (code < 0) {
		rc = plan_make(&v.graph, s->store, &p);
		code = rc < 0 ? report_error(rc) : EXIT_OK;
	}
	if (code == EXIT_OK && o->r.json) {
		json_array_append_new(all, variant_json(&v, of, &p, rate_of(s)));
	} else if (code == EXIT_OK) {
		if (*of->name)
			printf("# %s\n", of->name);
		print_recipe(of);
		printf("\n");
		print_table(&p, o->all, rate_of(s));
	}
	plan_release(&p);
	variant_close(&v);
	return code;
}

int
cmd_plan(int argc, char **argv)
{
	struct plan_options o = {0};
	struct session s = {0};
	struct buf b = {0};
	json_t *all;
	int code = options_read("plan", argc, argv, &o);

	if (code >= 0)
		return code;
	code = session_open(&s, "plan", &o.r);
	all = json_array();
	for (size_t i = 0; code < 0 || (code == EXIT_OK && i < s.recipe.n); i++) {
		if (i && !o.r.json)
			printf("%s\n", o.recipe_only ? "---" : "");
		code = plan_variant(&s, &s.recipe.v[i], &o, all);
	}
	if (code == EXIT_OK && o.r.json && !o.recipe_only) {
		json_write(all, &b);
		fputs(buf_text(&b), stdout);
		buf_release(&b);
	}
	json_decref(all);
	session_close(&s);
	return code;
}
