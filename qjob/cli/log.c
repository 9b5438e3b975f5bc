#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/number.h"
#include "qjob/cli/runlog.h"
#include "qjob/cli/session.h"
#include "qjob/cli/summary.h"

enum { SHOWN = 20 };

static const char *
text_of(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "";
}

static void
print_line(size_t number, const json_t *run)
{
	char took[32], memory[32], *recipe = short_path(text_of(run, "recipe"));

	time_text(json_number_value(json_object_get(run, "seconds")), took, sizeof(took));
	size_text(json_number_value(json_object_get(run, "peak_memory")), memory, sizeof(memory));
	printf("%4zu  %-20s  %-14s %9s %9s  %s%s%s\n", number, text_of(run, "time"), text_of(run, "result"), took, memory, recipe,
	       *text_of(run, "variant") ? " " : "", text_of(run, "variant"));
	free(recipe);
}

static void
print_run(const json_t *run)
{
	const json_t *failed, *why;
	const char *node;
	json_t *text;
	size_t i;

	printf("%s  %s  qjob %s\n", text_of(run, "time"), text_of(run, "recipe"), text_of(run, "version"));
	summary_print(run, stdout);
	json_array_foreach(json_object_get(run, "failed"), i, failed)
		printf("failed     %s: %s\n", text_of(failed, "node"), text_of(failed, "why"));
	why = json_object_get(run, "why");
	json_object_foreach((json_t *)why, node, text) {
		const char *s = json_string_value(text);

		if (s)
			printf("ran        %s: %.*s%s\n", node, (int)strcspn(s, "\n"), s, strchr(s, '\n') ? "; ..." : "");
	}
}

static void
print_table(const json_t *log)
{
	json_t *run;
	size_t i;

	if (!json_array_size(log)) {
		printf("no runs yet\n");
		return;
	}
	printf("   N  %-20s  %-14s %9s %9s  %s\n", "started", "result", "time", "memory", "recipe");
	json_array_foreach(log, i, run)
		if (i < SHOWN)
			print_line(i + 1, run);
}

static int
show(const struct log_options *o, const char *root)
{
	int64_t number = 0;
	json_t *log;
	int code = EXIT_OK;

	if (o->number && (!whole_parse(o->number, &number) || number < 1 || number > 100000))
		return usage_error("log", "%s is not the number of a run; 1 is the latest", o->number);
	log = runlog_read(root, number ? (size_t)number : SHOWN);
	if (number && (size_t)number > json_array_size(log)) {
		code = usage_error("log", "there are only %zu runs", json_array_size(log));
	} else if (o->json) {
		struct buf b = {0};

		json_write(number ? json_array_get(log, (size_t)number - 1) : log, &b);
		fputs(buf_text(&b), stdout);
		buf_release(&b);
	} else if (number) {
		print_run(json_array_get(log, (size_t)number - 1));
	} else {
		print_table(log);
	}
	json_decref(log);
	return code;
}

int
cmd_log(int argc, char **argv)
{
	struct log_options o = {0};
	struct store *s = NULL;
	int code = options_read("log", argc, argv, &o), rc;

	if (code >= 0)
		return code;
	rc = store_open(&s, o.cache_dir);
	if (rc < 0)
		return report_error(rc);
	code = show(&o, store_root(s));
	store_close(s);
	return code;
}
