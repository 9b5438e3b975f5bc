#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "qjob/base/diag.h"
#include "qjob/cli/commands.h"

static void
overview(FILE *to)
{
	fprintf(to, "usage: qjob COMMAND [arguments]\n\nBuilds quantized models from recipes.\n\n");
	for (const struct command *c = commands; c->name; c++)
		fprintf(to, "  %-10s %s\n", c->name, c->help);
	fprintf(to, "\n`qjob help COMMAND` says more; `qjob init MODEL` writes a first recipe.\n");
}

static int
unknown(const char *name)
{
	const char *names[32], *near;
	size_t n = 0;

	for (; commands[n].name && n < 32; n++)
		names[n] = commands[n].name;
	near = nearest_name(name, names, n);
	if (near)
		return usage_error(NULL, "unknown command %s; did you mean %s?", name, near);
	return usage_error(NULL, "unknown command %s", name);
}

static int
dispatch(int argc, char **argv)
{
	const struct command *c;

	if (argc < 2) {
		overview(stderr);
		return EXIT_BAD_INPUT;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || (strcmp(argv[1], "help") == 0 && argc == 2)) {
		overview(stdout);
		return EXIT_OK;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
		return cmd_version(1, argv + 1);
	c = command_find(argv[1]);
	return c ? c->run(argc - 1, argv + 1) : unknown(argv[1]);
}

/* What was printed must have arrived: a full disk behind stdout is a failure. */
int
main(int argc, char **argv)
{
	int code;

	signal(SIGXFSZ, SIG_IGN);    /* past `ulimit -f` a write fails as on a full disk */
	code = dispatch(argc, argv);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "qjob: cannot write to stdout: %s\n", strerror(errno));
		return code ? code : EXIT_FAILED;
	}
	return code;
}
