#include "qjob/cli/runlog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"

enum { LOG_MOST = 16 << 20 };

static bool
is_log(const char *name)
{
	size_t n = strlen(name);

	return n > 7 && strcmp(name + n - 7, ".ndjson") == 0;
}

/* Names begin with the time, so the oldest come first. */
static void
remove_old(const char *folder)
{
	char **names;
	size_t n, logs = 0;

	if (dir_names(&names, &n, folder) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		logs += is_log(names[i]);
	for (size_t i = 0; i < n && logs > RUNLOG_KEPT; i++) {
		char *path = path_join(folder, names[i]);

		if (is_log(names[i])) {
			unlink(path);
			logs--;
		}
		free(path);
	}
	dir_names_free(names, n);
}

void
runlog_write(const char *store_root, json_t *lines)
{
	char *folder = mem_format("%s/log", store_root), *path, when[32];
	struct buf text = {0};
	struct timespec now;
	struct tm tm;
	json_t *line;
	size_t i;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y%m%dT%H%M%S", &tm);
	path = mem_format("%s/%s.%03ld-%ld.ndjson", folder, when, now.tv_nsec / 1000000, (long)getpid());
	json_array_foreach(lines, i, line) {
		json_write_line(line, &text);
		buf_puts(&text, "\n");
	}
	if (dir_make(folder) < 0 || file_replace(path, text.p, text.n) < 0)
		fprintf(stderr, "qjob: the run log was not written: %s\n", err_text());
	else
		remove_old(folder);
	buf_release(&text);
	json_decref(lines);
	free(folder);
	free(path);
}

/* Appends the lines of one file, the last first. */
static void
read_file(const char *path, json_t *all)
{
	struct buf b = {0};
	json_t *lines = json_array(), *line;

	if (file_read(&b, path, LOG_MOST) == 0) {
		const char *p = buf_text(&b);

		for (size_t n; *p; p += n + (p[n] == '\n')) {
			n = strcspn(p, "\n");
			if (json_parse(&line, p, n, path) == 0)
				json_array_append_new(lines, line);
		}
	}
	for (size_t i = json_array_size(lines); i-- > 0;)
		json_array_append(all, json_array_get(lines, i));
	json_decref(lines);
	buf_release(&b);
}

json_t *
runlog_read(const char *store_root, size_t most)
{
	char *folder = mem_format("%s/log", store_root), **names;
	json_t *all = json_array();
	size_t n;

	if (file_exists(folder) && dir_names(&names, &n, folder) == 0) {
		for (size_t i = n; i-- > 0 && json_array_size(all) < most;) {
			char *path = path_join(folder, names[i]);

			if (is_log(names[i]))
				read_file(path, all);
			free(path);
		}
		dir_names_free(names, n);
	}
	free(folder);
	return all;
}
