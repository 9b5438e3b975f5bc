#include <stdio.h>
#include <string.h>

#include "qjob/base/buf.h"
#include "qjob/base/diag.h"
#include "qjob/cli/manual.h"
#include "qjob/cli/options.h"
#include "stages/pack/format.h"
#include "stages/quant/method.h"
#include "stages/settings.h"
#include "stages/stage.h"

static void
print_value(const struct param *p)
{
	if (p->words) {
		printf(" (");
		for (const char *w = p->words; *w; w++)
			if (*w == ' ')
				printf(", ");
			else
				putchar(*w);
		printf(")");
	} else if (p->min != 0 || p->max != 0) {
		printf(" (%.10g..%.10g)", p->min, p->max);
	}
}

static void
print_rows(const struct param *rows, int indent)
{
	for (const struct param *p = rows; p && p->name; p++) {
		char left[64];

		snprintf(left, sizeof(left), "%s%s%s", p->name, p->usual ? ": " : "", p->usual ? p->usual : "");
		printf("%*s%-28s %s", indent, "", left, p->help ? p->help : "");
		print_value(p);
		printf("%s\n", (p->flags & PARAM_REQUIRED) ? "; required" : "");
		if (p->sub)
			print_rows(p->sub, indent + 2);
	}
}

static void
print_when(const struct param_when *when)
{
	if (when && when->name)
		printf("\nDefaults that follow another parameter:\n");
	for (; when && when->name; when++)
		printf("  %s: %s sets %s: %s\n", when->name, when->is, when->then, when->usual);
}

static bool
help_section(const char *name)
{
	for (const struct section *s = sections; s->name; s++) {
		if (strcmp(s->name, name) != 0)
			continue;
		printf("%s: %s\n\n", s->name, s->help);
		print_rows(s->params, 2);
		if (strcmp(name, "quantize") == 0)
			printf("\nFurther parameters by method; `qjob help METHOD` lists them: %s\n", method_names());
		if (strcmp(name, "pack") == 0)
			printf("\nFurther parameters by format; `qjob help FORMAT` lists them: %s\n", format_names());
		return true;
	}
	return false;
}

/* gptq is both a method and a format. */
static bool
help_choice(const char *name)
{
	const struct method *m = method_find(name);
	const struct format *f = format_find(name);

	if (m) {
		printf("quantize.method: %s - %s\n\n", m->name, m->help);
		print_rows(m->params, 2);
		print_when(m->when);
	}
	if (f) {
		printf("%spack.format: %s - %s\n", m ? "\n" : "", f->name, f->help);
		printf(f->params && f->params->name ? "\n" : "");
		print_rows(f->params, 2);
		print_when(f->when);
	}
	return m || f;
}

static bool
help_stage(const char *name)
{
	for (size_t i = 0; stages[i]; i++)
		if (strcmp(stages[i]->name, name) == 0) {
			printf("%s: %s\n", stages[i]->name, stages[i]->help ? stages[i]->help : "");
			return true;
		}
	return false;
}

static int
unknown_topic(const char *topic)
{
	const char *names[64], *near;
	size_t n = 0;

	for (const struct command *c = commands; c->name && n < 64; c++)
		names[n++] = c->name;
	for (const struct section *s = sections; s->name && n < 64; s++)
		names[n++] = s->name;
	for (size_t i = 0; methods[i] && n < 64; i++)
		names[n++] = methods[i]->name;
	for (size_t i = 0; formats[i] && n < 64; i++)
		names[n++] = formats[i]->name;
	near = nearest_name(topic, names, n);
	if (near)
		return usage_error("help", "nothing is called %s; did you mean %s?", topic, near);
	return usage_error("help", "nothing is called %s", topic);
}

static int
help_as(const char *as)
{
	if (strcmp(as, "man") == 0)
		manual_page(stdout);
	else if (strcmp(as, "bash") == 0)
		manual_bash(stdout);
	else
		manual_zsh(stdout);
	return EXIT_OK;
}

int
cmd_help(int argc, char **argv)
{
	struct help_options o = {0};
	int code = options_read("help", argc, argv, &o);
	const struct command *c;
	bool found;

	if (code >= 0)
		return code;
	if (o.as)
		return help_as(o.as);
	if (!o.topic)
		return usage_error("help", "TOPIC is missing");
	c = command_find(o.topic);
	if (c) {
		command_usage(c, stdout);
		return EXIT_OK;
	}
	found = help_section(o.topic) || help_stage(o.topic);
	found = help_choice(o.topic) || found;
	return found ? EXIT_OK : unknown_topic(o.topic);
}
