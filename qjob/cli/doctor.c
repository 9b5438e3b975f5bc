#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "cache/store.h"
#include "kernels/dev.h"
#include "qjob/base/buf.h"
#include "qjob/base/err.h"
#include "qjob/base/json.h"
#include "qjob/cli/options.h"
#include "qjob/cli/session.h"

/* The lines of a text. */
static json_t *
lines(const char *text)
{
	json_t *list = json_array();

	for (size_t n; *text; text += n + (text[n] == '\n')) {
		n = strcspn(text, "\n");
		json_array_append_new(list, json_stringn(text, n));
	}
	return list;
}

static json_t *
devices(void)
{
	static const char *const kinds[] = {"cpu", "cuda"};
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		char text[4096] = "";

		dev_describe(kinds[i], text, sizeof(text));
		json_object_set_new(o, kinds[i], lines(text));
	}
	return o;
}

/* What goes into keys when nothing is said of the device: "device cpu", "isa avx2"; or why there is none. */
static json_t *
automatic(void)
{
	const struct dev_options o = {0};
	char text[1024] = "";

	return lines(dev_facts(&o, text, sizeof(text)) < 0 ? err_text() : text);
}

/* {"path", "free"}, or {"error"}. */
static json_t *
store_json(const char *folder)
{
	json_t *o = json_object();
	struct store *s;
	struct statvfs fs;

	if (store_open(&s, folder) < 0) {
		json_object_set_new(o, "error", json_string(err_text()));
		return o;
	}
	json_object_set_new(o, "path", json_string(store_root(s)));
	if (statvfs(store_root(s), &fs) == 0)
		json_object_set_new(o, "free", json_integer((json_int_t)((double)fs.f_bavail * (double)fs.f_frsize)));
	store_close(s);
	return o;
}

static void
print_lines(const char *title, const json_t *list)
{
	const json_t *line;
	size_t i;

	json_array_foreach(list, i, line)
		printf("%-10s %s\n", i == 0 ? title : "", json_string_value(line));
}

static void
print_all(const json_t *all)
{
	const json_t *store = json_object_get(all, "store"), *found = json_object_get(all, "devices");
	const char *path = json_string_value(json_object_get(store, "path")), *name;
	json_t *version;
	char room[32];
	bool first = true;

	printf("%-10s %s\n", "qjob", QJOB_VERSION);
	json_object_foreach((json_t *)found, name, version) {
		print_lines(first ? "devices" : "", version);
		first = false;
	}
	first = true;
	print_lines("auto is", json_object_get(all, "auto"));
	json_object_foreach(json_object_get(all, "libraries"), name, version) {
		printf("%-10s %s %s\n", first ? "libraries" : "", name, json_string_value(version));
		first = false;
	}
	size_text(json_number_value(json_object_get(store, "free")), room, sizeof(room));
	if (path)
		printf("%-10s %s, %s free\n", "store", path, room);
	else
		printf("%-10s %s\n", "store", json_string_value(json_object_get(store, "error")));
}

int
cmd_doctor(int argc, char **argv)
{
	struct doctor_options o = {0};
	struct buf b = {0};
	json_t *all;
	int code = options_read("doctor", argc, argv, &o);

	if (code >= 0)
		return code;
	all = json_object();
	json_object_set_new(all, "qjob", json_string(QJOB_VERSION));
	json_object_set_new(all, "devices", devices());
	json_object_set_new(all, "auto", automatic());
	json_object_set_new(all, "libraries", library_versions());
	json_object_set_new(all, "store", store_json(o.cache_dir));
	if (o.json) {
		json_write(all, &b);
		fputs(buf_text(&b), stdout);
		buf_release(&b);
	} else {
		print_all(all);
	}
	code = json_object_get(json_object_get(all, "store"), "error") ? EXIT_FAILED : EXIT_OK;
	json_decref(all);
	return code;
}
