#include "qjob/cli/session.h"

#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"

static void
print_messages(const struct diag *d)
{
	for (size_t i = 0; i < d->n; i++)
		fprintf(stderr, "%s\n", d->v[i]);
}

/* --set of the user, then --output as one more. */
static int
load(struct session *s, const struct recipe_options *o)
{
	const char **sets = mem_new(o->sets.n + 1, sizeof(*sets));
	struct buf output = {0};
	struct diag d = {0};
	size_t n = o->sets.n;
	int rc;

	for (size_t i = 0; i < n; i++)
		sets[i] = o->sets.v[i];
	if (o->output) {
		buf_puts(&output, "output=");
		yaml_scalar(&output, o->output);
		sets[n++] = buf_text(&output);
	}
	rc = recipe_load(&s->recipe, o->recipe, sets, n, &d);
	print_messages(&d);
	diag_release(&d);
	buf_release(&output);
	free(sets);
	return rc < 0 ? EXIT_BAD_INPUT : -1;
}

int
session_open(struct session *s, const char *command, const struct recipe_options *o)
{
	int code, rc;

	*s = (struct session){0};
	code = device_read(command, &o->on, &s->dev);
	if (code < 0)
		code = load(s, o);
	if (code >= 0)
		return code;
	rc = store_open(&s->store, o->cache_dir);
	return rc < 0 ? report_error(rc) : -1;
}

void
session_close(struct session *s)
{
	recipe_release(&s->recipe);
	if (s->store)
		store_close(s->store);
	*s = (struct session){0};
}

int
variant_open(struct opened *v, const struct session *s, const struct variant *of)
{
	struct diag d = {0};
	int rc = 0;

	*v = (struct opened){.project = project_open(&of->settings, of->tree, &s->dev, &d)};
	recipe_sort(&s->recipe, &d);
	print_messages(&d);
	diag_release(&d);
	if (!v->project)
		return EXIT_BAD_INPUT;
	v->graph.project = mem_text(of->output);
	rc = project_graph(v->project, &v->graph);
	return rc < 0 ? report_error(rc) : -1;
}

void
variant_close(struct opened *v)
{
	graph_release(&v->graph);
	if (v->project)
		project_close(v->project);
	*v = (struct opened){0};
}

json_t *
parameters_json(const struct settings *s)
{
	struct param_block blocks[2];
	struct buf b = {0};
	json_t *o = json_object();

	for (const struct section *section = sections; section->name; section++) {
		int n = settings_blocks(s, section, blocks);

		for (int i = 0; i < n; i++)
			param_key(&blocks[i], section->name, &b);
	}
	for (const char *p = buf_text(&b); *p; p += strcspn(p, "\n") + 1) {     /* "set quantize.bits 4" */
		const char *name = p + 4;
		size_t length = strcspn(name, " \n"), rest = strcspn(p, "\n") - 4 - length;
		char *key = mem_format("%.*s", (int)length, name);

		json_object_set_new(o, key, json_stringn(name + length + (rest > 0), rest - (rest > 0)));
		free(key);
	}
	buf_release(&b);
	return o;
}

char *
short_path(const char *path)
{
	char *here = path_real(".");
	size_t n = here ? strlen(here) : 0;
	const char *rest = n > 1 && strncmp(path, here, n) == 0 && path[n] == '/' ? path + n + 1 : path;
	char *text = mem_text(rest);

	free(here);
	return text;
}

void
size_text(double bytes, char *text, size_t n)
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
	int i = 0;

	for (; bytes >= 999.5 && i < 4; i++)
		bytes /= 1000;
	snprintf(text, n, i == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, units[i]);
}

void
time_text(double seconds, char *text, size_t n)
{
	long whole = (long)(seconds + 0.5);

	if (seconds < 59.95)
		snprintf(text, n, "%.1f s", seconds);
	else if (whole < 3600)
		snprintf(text, n, "%ld:%02ld", whole / 60, whole % 60);
	else
		snprintf(text, n, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}
