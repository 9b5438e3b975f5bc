/* Commands: one file a command, one row in commands.c.
 *
 * A command gets the arguments after the program's name, argv[0] being its own, and returns an exit code.  It begins
 * with options_read, which fills its struct by the rows of commands.c, answers --help, and refuses what it does not know:
 *
 *     struct tokenize_options o = {0};
 *     int code = options_read("tokenize", argc, argv, &o);
 *
 *     if (code >= 0)
 *             return code;
 *
 * Results go to stdout, words about the work to stderr. */
#ifndef QJOB_CLI_COMMANDS_H
#define QJOB_CLI_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum exit_code {
	EXIT_OK          = 0,
	EXIT_FAILED      = 1,     /* the work failed */
	EXIT_BAD_INPUT   = 2,     /* the recipe or command line is wrong; no work was done */
	EXIT_GATE        = 3,     /* a limit of the recipe is exceeded; the result is there */
	EXIT_INTERRUPTED = 130,
};

int cmd_run(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_why(int argc, char **argv);
int cmd_log(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_schema(int argc, char **argv);
int cmd_forward(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_help(int argc, char **argv);
int cmd_version(int argc, char **argv);

/* ---- options ---- */

/* What every command that computes understands. */
struct device_options {
	const char *device;       /* "auto", "cpu", "cuda", "cuda:1"; NULL: auto */
	const char *isa;          /* NULL: auto */
	int threads;              /* 0: as many as the process may use */
	const char *memory;       /* "24G"; NULL: what the device has */
};

enum { ARGS_MAX = 256 };

struct arg_list {                 /* a repeated option, in order; the texts are argv's */
	const char *v[ARGS_MAX];
	size_t n;
};

struct forward_options {
	const char *model, *ids, *output;     /* never NULL after options_read */
	bool hidden;
	const char *dtype;        /* of matrix products: as math_find knows them; NULL: float32 */
	struct device_options on;
};

struct tokenize_options {
	const char *model;        /* never NULL */
	const char *file;         /* NULL: stdin */
	bool special;
};

enum opt_type { OPT_END, OPT_FLAG, OPT_INT, OPT_TEXT, OPT_TEXTS, OPT_ARG };

/* Fields: OPT_FLAG bool · OPT_INT int · OPT_TEXT const char * · OPT_TEXTS struct arg_list · OPT_ARG const char *
 * (positional, in the order of the rows). */
struct opt {
	const char *name;         /* "threads" for --threads; OPT_ARG: "RECIPE" */
	enum opt_type type;
	size_t at;
	char letter;              /* 'q' for -q; 0: none */
	const char *value;        /* what follows: "N", "FILE", "auto|cpu|cuda:N" (these words only, N a number); completion looks at it */
	bool required;
	const char *help;
};

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;         /* one line */
	const char *about;        /* more lines for `qjob help NAME`; may be NULL */
	const struct opt *opts;   /* ends with OPT_END */
};

extern const struct command commands[];     /* ends with name NULL */
const struct command *command_find(const char *name);

/* -1: go on; else the exit code to return at once (after --help: EXIT_OK; a usage error was printed: EXIT_BAD_INPUT). */
int options_read(const char *command, int argc, char **argv, void *values);
void command_usage(const struct command *c, FILE *to);       /* usage, options, about */

/* ---- words ---- */

/* What a device is opened with; -1, or an exit code after a message. */
struct dev_options;
int device_read(const char *command, const struct device_options *on, struct dev_options *o);

/* Prints "qjob COMMAND: sentence" to stderr; EXIT_BAD_INPUT. */
int usage_error(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints "qjob: err_text" to stderr; the exit code for an error of err.h: E_USE EXIT_BAD_INPUT, else EXIT_FAILED. */
int report_error(int code);

#endif
