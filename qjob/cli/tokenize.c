/* qjob tokenize: JSON strings in, lists of ids out, one a line. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/json.h"
#include "qjob/cli/commands.h"
#include "qjob/model/tokenizer.h"

static int
encode_line(const struct tokenizer *t, const char *line, size_t n, bool special, struct ids *ids)
{
	json_error_t e;
	json_t *text = json_loadb(line, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
	int rc;

	if (json_is_string(text))
		rc = tokenizer_encode(t, json_string_value(text), json_string_length(text), special, ids);
	else
		rc = err_set(E_USE, "not a JSON string%s%s", text == NULL ? ": " : "", text == NULL ? e.text : "");
	json_decref(text);
	return rc;
}

static void
print_ids(const struct ids *ids)
{
	putchar('[');
	for (size_t i = 0; i < ids->n; i++)
		printf("%s%d", i > 0 ? ", " : "", ids->v[i]);
	puts("]");
}

static int
encode_lines(const struct tokenizer *t, FILE *in, const struct tokenize_options *o)
{
	const char *name = o->file == NULL ? "stdin" : o->file;
	struct ids ids = {0};
	size_t number = 1, cap = 0;
	char *line = NULL;
	ssize_t n;
	int rc = 0;

	for (; rc == 0 && (n = getline(&line, &cap, in)) >= 0; number++) {
		ids.n = 0;
		rc = encode_line(t, line, (size_t)n, o->special, &ids);
		if (rc == 0)
			print_ids(&ids);
		else
			err_in(rc, "%s:%zu", name, number);
	}
	if (rc == 0 && ferror(in))
		rc = err_sys("%s", name);
	if (rc == 0 && fflush(stdout) != 0)
		rc = err_sys("stdout");
	free(line);
	ids_release(&ids);
	return rc;
}

/* A folder, or a tokenizer.json by its own name. */
static int
open_tokenizer(struct tokenizer **t, const char *path)
{
	char *inside = path_join(path, ".");
	bool folder = file_exists(inside);
	struct buf text = {0};
	int rc;

	free(inside);
	if (folder)
		return tokenizer_open(t, path);
	rc = file_read(&text, path, 256 << 20);
	if (rc == 0)
		rc = tokenizer_parse(t, buf_text(&text), text.n, path);
	buf_release(&text);
	return rc;
}

int
cmd_tokenize(int argc, char **argv)
{
	struct tokenize_options o = {0};
	int code = options_read("tokenize", argc, argv, &o), rc;
	struct tokenizer *t = NULL;
	FILE *in = stdin;

	if (code >= 0)
		return code;
	rc = open_tokenizer(&t, o.model);
	if (rc != 0)
		return report_error(rc);
	if (o.file != NULL && strcmp(o.file, "-") != 0)
		in = fopen(o.file, "r");
	rc = in == NULL ? err_sys("%s", o.file) : encode_lines(t, in, &o);
	if (in != NULL && in != stdin)
		fclose(in);
	tokenizer_close(t);
	return rc == 0 ? EXIT_OK : report_error(rc);
}
