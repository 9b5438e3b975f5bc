#include "qjob/cli/options.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/diag.h"
#include "qjob/base/err.h"
#include "qjob/base/number.h"
#include "stages/settings.h"

struct reading {
	const struct command *c;
	char *values;
	bool seen[32];
	int args;                 /* positional ones so far */
};

int
usage_error(const char *command, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "qjob%s%s: ", command ? " " : "", command ? command : "");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; try `qjob help%s%s`\n", command ? " " : "", command ? command : "");
	return EXIT_BAD_INPUT;
}

int
device_read(const char *command, const struct device_options *on, struct dev_options *o)
{
	uint64_t bytes = 0;

	if (on->memory && settings_bytes(on->memory, &bytes) < 0)
		return usage_error(command, "--memory: %s", err_text());
	*o = (struct dev_options){.name = on->device, .isa = on->isa, .threads = on->threads, .memory = (size_t)bytes};
	return -1;
}

int
report_error(int code)
{
	fprintf(stderr, "qjob: %s\n", err_text());
	return code == E_USE ? EXIT_BAD_INPUT : EXIT_FAILED;
}

static const struct opt *
find_long(const struct command *c, const char *name, size_t n)
{
	for (const struct opt *o = c->opts; o->type != OPT_END; o++)
		if (o->type != OPT_ARG && strlen(o->name) == n && memcmp(o->name, name, n) == 0)
			return o;
	return NULL;
}

static const struct opt *
find_letter(const struct command *c, char letter)
{
	for (const struct opt *o = c->opts; o->type != OPT_END; o++)
		if (o->type != OPT_ARG && o->letter == letter)
			return o;
	return NULL;
}

static const char *
near_option(const struct command *c, const char *name)
{
	const char *names[32];
	size_t n = 0;

	for (const struct opt *o = c->opts; o->type != OPT_END; o++)
		if (o->type != OPT_ARG)
			names[n++] = o->name;
	return nearest_name(name, names, n);
}

/* A choice "cuda:N" stands for cuda:0, cuda:1 and so on. */
static bool
is_numbered(const char *choice, size_t length, const char *value)
{
	size_t stem = length - 1, digits;

	if (length < 2 || memcmp(choice + length - 2, ":N", 2) != 0 || strncmp(choice, value, stem) != 0)
		return false;
	digits = strspn(value + stem, "0123456789");
	return digits > 0 && digits < 4 && !value[stem + digits];
}

static bool
is_choice(const char *choices, const char *value)
{
	size_t n = strlen(value), each;

	for (const char *p = choices; *p; p += each + (p[each] == '|')) {
		each = strcspn(p, "|");
		if ((each == n && memcmp(p, value, n) == 0) || is_numbered(p, each, value))
			return true;
	}
	return false;
}

/* -1, or an exit code after a message. */
static int
set_value(struct reading *r, const struct opt *o, const char *value)
{
	char *field = r->values + o->at;
	int64_t x;

	if (o->value && strchr(o->value, '|') && !is_choice(o->value, value))
		return usage_error(r->c->name, "--%s: %s is not one of %s", o->name, value, o->value);
	if (r->seen[o - r->c->opts] && o->type != OPT_TEXTS)
		return usage_error(r->c->name, "--%s is given twice", o->name);
	r->seen[o - r->c->opts] = true;
	if (o->type == OPT_TEXTS) {
		struct arg_list *list = (struct arg_list *)(void *)field;

		if (list->n == ARGS_MAX)
			return usage_error(r->c->name, "--%s is given more than %d times", o->name, ARGS_MAX);
		list->v[list->n++] = value;
	} else if (o->type == OPT_INT) {
		if (!whole_parse(value, &x) || x < 1 || x > 4096)
			return usage_error(r->c->name, "--%s: %s is not a whole number from 1 to 4096", o->name, value);
		*(int *)(void *)field = (int)x;
	} else {
		*(const char **)(void *)field = value;
	}
	return -1;
}

/* Option o, written at argv[*i]; its value is attached or the next argument. */
static int
read_option(struct reading *r, const struct opt *o, const char *attached, int argc, char **argv, int *i)
{
	if (o->type == OPT_FLAG) {
		if (attached)
			return usage_error(r->c->name, "--%s takes no value", o->name);
		*(bool *)(void *)(r->values + o->at) = true;
		return -1;
	}
	if (!attached && *i + 1 >= argc)
		return usage_error(r->c->name, "--%s: %s is missing", o->name, o->value);
	return set_value(r, o, attached ? attached : argv[++*i]);
}

static int
read_positional(struct reading *r, const char *value)
{
	int skip = r->args++;

	for (const struct opt *o = r->c->opts; o->type != OPT_END; o++) {
		if (o->type != OPT_ARG || skip-- > 0)
			continue;
		*(const char **)(void *)(r->values + o->at) = value;
		r->seen[o - r->c->opts] = true;
		return -1;
	}
	return usage_error(r->c->name, "unexpected argument %s", value);
}

static int
read_dashed(struct reading *r, int argc, char **argv, int *i)
{
	const char *arg = argv[*i];
	bool is_long = arg[1] == '-';
	const char *name = arg + (is_long ? 2 : 1), *equals = strchr(name, '=');
	const struct opt *o;
	char typed[64];

	if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
		command_usage(r->c, stdout);
		return EXIT_OK;
	}
	if (!is_long) {
		o = find_letter(r->c, name[0]);
		if (o && (!name[1] || o->type != OPT_FLAG))
			return read_option(r, o, name[1] ? name + 1 : NULL, argc, argv, i);
		return usage_error(r->c->name, "unknown option %s", arg);
	}
	o = find_long(r->c, name, equals ? (size_t)(equals - name) : strlen(name));
	if (o)
		return read_option(r, o, equals ? equals + 1 : NULL, argc, argv, i);
	snprintf(typed, sizeof(typed), "%.*s", (int)(equals ? equals - name : 60), name);
	if (near_option(r->c, typed))
		return usage_error(r->c->name, "unknown option --%s; did you mean --%s?", typed, near_option(r->c, typed));
	return usage_error(r->c->name, "unknown option --%s", typed);
}

int
options_read(const char *command, int argc, char **argv, void *values)
{
	struct reading r = {.c = command_find(command), .values = values};
	bool only_args = false;

	for (int i = 1; i < argc; i++) {
		int code = -1;

		if (!only_args && strcmp(argv[i], "--") == 0)
			only_args = true;
		else if (!only_args && argv[i][0] == '-' && argv[i][1])
			code = read_dashed(&r, argc, argv, &i);
		else
			code = read_positional(&r, argv[i]);
		if (code >= 0)
			return code;
	}
	for (const struct opt *o = r.c->opts; o->type != OPT_END; o++)
		if (o->required && !r.seen[o - r.c->opts])
			return usage_error(command, "%s%s is missing", o->type == OPT_ARG ? "" : "--", o->name);
	return -1;
}

void
command_usage(const struct command *c, FILE *to)
{
	fprintf(to, "usage: qjob %s", c->name);
	for (const struct opt *o = c->opts; o->type != OPT_END; o++) {
		if (o->type == OPT_ARG)
			fprintf(to, o->required ? " %s" : " [%s]", o->name);
		else if (o->required)
			fprintf(to, " --%s %s", o->name, o->value);
	}
	fprintf(to, " [options]\n\n%c%s.\n", c->help[0] - 'a' + 'A', c->help + 1);
	if (c->about)
		fprintf(to, "%s\n", c->about);
	fprintf(to, "\n");
	for (const struct opt *o = c->opts; o->type != OPT_END; o++) {
		char left[64];

		if (o->type == OPT_ARG)
			snprintf(left, sizeof(left), "%s", o->name);
		else if (o->letter)
			snprintf(left, sizeof(left), "-%c, --%s%s%s", o->letter, o->name, o->value ? " " : "", o->value ? o->value : "");
		else
			snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
		fprintf(to, "  %-24s %s\n", left, o->help);
	}
	fprintf(to, "  %-24s %s\n", "-h, --help", "show this");
}
