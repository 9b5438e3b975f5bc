#include "qjob/cli/manual.h"

#include <string.h>

#include "qjob/cli/options.h"
#include "stages/pack/format.h"
#include "stages/quant/method.h"
#include "stages/settings.h"

/* ---- the manual page ---- */

/* Text with what roff would take for commands made harmless. */
static void
roff(FILE *to, const char *s)
{
	bool start = true;

	for (; *s; s++) {
		if (start && (*s == '.' || *s == '\''))
			fputs("\\&", to);
		start = *s == '\n';
		if (*s == '\\')
			fputs("\\e", to);
		else if (*s == '-')
			fputs("\\-", to);
		else
			fputc(*s, to);
	}
}

static void
roff_command(FILE *to, const struct command *c)
{
	fprintf(to, ".SS qjob %s", c->name);
	for (const struct opt *o = c->opts; o->type != OPT_END; o++)
		if (o->type == OPT_ARG)
			fprintf(to, o->required ? " %s" : " [%s]", o->name);
	fprintf(to, "\n%c", c->help[0] - 'a' + 'A');
	roff(to, c->help + 1);
	fputs(".\n", to);
	if (c->about) {
		roff(to, c->about);
		fputs("\n", to);
	}
	for (const struct opt *o = c->opts; o->type != OPT_END; o++) {
		fputs(".TP\n", to);
		if (o->type == OPT_ARG) {
			fprintf(to, ".I %s\n", o->name);
		} else {
			fputs(".B ", to);
			if (o->letter)
				fprintf(to, "\\-%c, ", o->letter);
			fputs("\\-\\-", to);
			roff(to, o->name);
			if (o->value)
				fprintf(to, " \\fI%s\\fR", o->value);
			fputs("\n", to);
		}
		roff(to, o->help);
		fputs("\n", to);
	}
}

static void
roff_rows(FILE *to, const struct param *rows, const char *prefix)
{
	char inner[128];

	for (const struct param *p = rows; p && p->name; p++) {
		fprintf(to, ".TP\n.B %s%s\n", prefix, p->name);
		if (p->help)
			roff(to, p->help);
		if (p->words) {
			fputs(" (", to);
			roff(to, p->words);
			fputs(")", to);
		}
		if (p->usual) {
			fputs("; default ", to);
			roff(to, p->usual);
		}
		fputs("\n", to);
		if (p->sub) {
			snprintf(inner, sizeof(inner), "%s%s.", prefix, p->name);
			roff_rows(to, p->sub, inner);
		}
	}
}

static void
roff_recipe(FILE *to)
{
	fputs(".SH RECIPES\n"
	      "A recipe is a YAML file: \\fBqjob: 1\\fR, the sections below, \\fBoutput\\fR (the folder to write, relative to the current\n"
	      "folder), and if wanted \\fBextends\\fR (a recipe to build on, relative to this one) and \\fBmatrix\\fR (a map of\n"
	      "parameters, as quantize.bits, to lists of values: every combination is run, and writes a folder of its own below output).\n"
	      "All other paths are relative to the folder of the recipe that holds them.\n"
	      "\\fBqjob help\\fR explains each section, method and format; \\fBqjob schema\\fR prints a JSON Schema for editors.\n", to);
	for (const struct section *s = sections; s->name; s++) {
		char prefix[64];

		fprintf(to, ".SS %s\n", s->name);
		roff(to, s->help);
		fputs(".\n", to);
		snprintf(prefix, sizeof(prefix), "%s.", s->name);
		roff_rows(to, s->params, prefix);
	}
	for (size_t i = 0; methods[i]; i++) {
		fprintf(to, ".SS quantize, method %s\n", methods[i]->name);
		roff(to, methods[i]->help);
		fputs(".\n", to);
		roff_rows(to, methods[i]->params, "quantize.");
	}
	for (size_t i = 0; formats[i]; i++) {
		fprintf(to, ".SS pack, format %s\n", formats[i]->name);
		roff(to, formats[i]->help);
		fputs(".\n", to);
		roff_rows(to, formats[i]->params, "pack.");
	}
}

static const char rest[] =
	".SH EVENTS\n"
	"\\fBqjob run \\-\\-events\\fR writes one JSON object a line. Every one has\n"
	"\\fBevent\\fR (start, state, progress, log, end) and \\fBseconds\\fR since the run began; \\fBvariant\\fR when the recipe has a\n"
	"matrix; \\fBstage\\fR and \\fBnode\\fR when it is about one node.\n"
	"\\fIstate\\fR has \\fBstate\\fR (hit: found in the store, replays,\n"
	"runs, done, same: done and equal to before, failed, skipped) and on failure the reason in \\fBtext\\fR; \\fIprogress\\fR has\n"
	"\\fBdone\\fR, \\fBof\\fR and perhaps \\fBtext\\fR; \\fIlog\\fR has \\fBlevel\\fR (info, warning) and \\fBtext\\fR.\n"
	"Fields may be added; none changes its meaning.\n"
	".SH EXIT STATUS\n"
	".TP\n.B 0\nThe work is done.\n"
	".TP\n.B 1\nThe work failed. What is finished is kept.\n"
	".TP\n.B 2\nThe recipe or the command line is wrong. Nothing was done.\n"
	".TP\n.B 3\nThe result is there, but exceeds a limit of the recipe.\n"
	".TP\n.B 130\nInterrupted. What is finished is kept; run the same command again to continue.\n"
	".SH ENVIRONMENT\n"
	".TP\n.B QJOB_CACHE\nThe store; without it $XDG_CACHE_HOME/qjob, or ~/.cache/qjob.\n"
	".SH FILES\n"
	".TP\n.I OUTPUT/qjob.json\nThe resolved recipe, keys, digests and the version: how the result was made.\n"
	".TP\n.I OUTPUT/report.md, OUTPUT/report.json\nLosses, sizes, perplexities and every fallback.\n";

void
manual_page(FILE *to)
{
	fprintf(to, ".TH QJOB 1 \"\" \"qjob %s\" \"User Commands\"\n", QJOB_VERSION);
	fputs(".SH NAME\nqjob \\- build quantized models from recipes\n.SH SYNOPSIS\n.B qjob\n.I COMMAND\n[arguments]\n"
	      ".SH DESCRIPTION\nqjob turns a recipe into a quantized model folder that stock software loads. The work is cut into nodes\n"
	      "that are kept in a store by the content of everything that can change them, so that only what is missing is done.\n"
	      ".SH COMMANDS\n", to);
	for (const struct command *c = commands; c->name; c++)
		roff_command(to, c);
	roff_recipe(to);
	fputs(rest, to);
}

/* ---- completion ---- */

static void
words_of_choice(FILE *to, const char *value)
{
	for (; *value; value++)
		fputc(*value == '|' ? ' ' : *value, to);
}

void
manual_bash(FILE *to)
{
	fputs("# bash completion for qjob\n_qjob()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
	      "\tif ((COMP_CWORD == 1)); then\n\t\tCOMPREPLY=($(compgen -W '", to);
	for (const struct command *c = commands; c->name; c++)
		fprintf(to, "%s%s", c == commands ? "" : " ", c->name);
	fputs("' -- \"$cur\"))\n\t\treturn\n\tfi\n\tcase ${COMP_WORDS[1]} in\n", to);
	for (const struct command *c = commands; c->name; c++) {
		fprintf(to, "\t%s)\n\t\tcase $prev in\n", c->name);
		for (const struct opt *o = c->opts; o->type != OPT_END; o++) {
			if (o->type == OPT_ARG || !o->value)
				continue;
			fprintf(to, "\t\t--%s) COMPREPLY=($(compgen ", o->name);
			if (strchr(o->value, '|')) {
				fputs("-W '", to);
				words_of_choice(to, o->value);
				fputs("'", to);
			} else {
				fputs(strcmp(o->value, "FILE") == 0 ? "-f" : strcmp(o->value, "DIR") == 0 ? "-d" : "-W ''", to);
			}
			fputs(" -- \"$cur\")); return ;;\n", to);
		}
		fputs("\t\tesac\n\t\t[[ $cur == -* ]] && COMPREPLY=($(compgen -W '--help", to);
		for (const struct opt *o = c->opts; o->type != OPT_END; o++)
			if (o->type != OPT_ARG)
				fprintf(to, " --%s", o->name);
		fputs("' -- \"$cur\")) && return\n\t\t;;\n", to);
	}
	fputs("\tesac\n\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n}\ncomplete -o filenames -F _qjob qjob\n", to);
}

/* A description inside '...[...]': no quote, bracket or colon. */
static void
zsh_text(FILE *to, const char *s)
{
	for (; *s; s++) {
		if (*s == '\'')
			fputs("'\\''", to);
		else if (strchr("[]:\\", *s))
			fprintf(to, "\\%c", *s);
		else
			fputc(*s, to);
	}
}

static void
zsh_action(FILE *to, const struct opt *o)
{
	fprintf(to, ":%s:", o->type == OPT_ARG ? o->name : o->value && !strchr(o->value, '|') ? o->value : "choice");
	if (o->value && strchr(o->value, '|')) {
		fputs("(", to);
		words_of_choice(to, o->value);
		fputs(")", to);
	} else if (o->value && strcmp(o->value, "FILE") == 0) {
		fputs("_files", to);
	} else if (o->value && strcmp(o->value, "DIR") == 0) {
		fputs("_files -/", to);
	}
}

void
manual_zsh(FILE *to)
{
	fputs("#compdef qjob\n_qjob() {\n\tif ((CURRENT == 2)); then\n\t\tlocal -a names=(\n", to);
	for (const struct command *c = commands; c->name; c++) {
		fprintf(to, "\t\t\t'%s:", c->name);
		zsh_text(to, c->help);
		fputs("'\n", to);
	}
	fputs("\t\t)\n\t\t_describe command names\n\t\treturn\n\tfi\n\tlocal name=$words[2]\n\tshift words\n\t((CURRENT--))\n"
	      "\tcase $name in\n", to);
	for (const struct command *c = commands; c->name; c++) {
		fprintf(to, "\t%s)\n\t\t_arguments '--help[show the options]'", c->name);
		for (const struct opt *o = c->opts; o->type != OPT_END; o++) {
			if (o->type == OPT_ARG) {
				fprintf(to, " \\\n\t\t\t'%s", o->required ? "" : ":");
			} else {
				fprintf(to, " \\\n\t\t\t'%s--%s[", o->type == OPT_TEXTS ? "*" : "", o->name);
				zsh_text(to, o->help);
				fputs("]", to);
			}
			if (o->type == OPT_ARG || o->value)
				zsh_action(to, o);
			fputs("'", to);
		}
		fputs("\n\t\t;;\n", to);
	}
	fputs("\tesac\n}\n_qjob \"$@\"\n", to);
}
