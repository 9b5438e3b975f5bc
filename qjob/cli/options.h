/* Options of the commands in this folder, as options_read fills them. */
#ifndef QJOB_CLI_OPTIONS_H
#define QJOB_CLI_OPTIONS_H

#include "qjob/base/json.h"
#include "qjob/cli/commands.h"

/* Of every command that reads a recipe. */
struct recipe_options {
	const char *recipe;       /* never NULL */
	struct arg_list sets;     /* "quantize.bits=3" */
	const char *output;       /* NULL: the recipe's */
	const char *cache_dir;    /* NULL: store.h's */
	struct device_options on;
	bool json;
};

struct run_cli_options {
	struct recipe_options r;
	const char *events;       /* NULL: none */
	bool quiet;
};

struct plan_options {
	struct recipe_options r;
	bool recipe_only, all;
};

struct why_options {
	struct recipe_options r;
	const char *node;         /* NULL: all */
};

struct log_options {
	const char *number;       /* NULL: a table of the last runs */
	const char *cache_dir;
	bool json;
};

struct init_options {
	const char *model;
	const char *method;       /* NULL: the default */
	const char *output;       /* NULL: stdout */
};

struct doctor_options {
	const char *cache_dir;
	bool json;
};

struct help_options {
	const char *topic;        /* NULL: all commands */
	const char *as;           /* NULL: text; "man", "bash", "zsh" */
};

struct no_options {
	bool json;
};

/* {"openssl": "3.0.11"...}: of what is linked; the backends' own are asked for by the runs that load them.  Caller decrefs. */
json_t *library_versions(void);

#endif
