/* Paths of a recipe: made absolute when it is read, left out when it must be portable. */
#include <stdlib.h>
#include <string.h>

#include "qjob/base/file.h"
#include "qjob/base/mem.h"
#include "stages/settings.h"

/* path as seen from the folder of the recipe that wrote it; --set and places unknown: from the current folder. */
static char *
from_recipe(const char *path, const struct place *at)
{
	const char *slash = at->file ? strrchr(at->file, '/') : NULL;
	char *folder, *joined, *real;

	if (path[0] == '~' && path[1] == '/' && getenv("HOME"))
		return path_join(getenv("HOME"), path + 2);
	folder = slash ? mem_format("%.*s", (int)(slash - at->file + 1), at->file) : mem_text(".");
	joined = path_join(folder, path);
	real = path_real(joined);
	free(folder);
	if (real) {
		free(joined);
		return real;
	}
	if (joined[0] == '/')
		return joined;
	folder = path_real(".");
	real = path_join(folder ? folder : "/", joined);
	free(folder);
	free(joined);
	return real;
}

/* The absolute form of what is a path: it exists, or it is written like one.  Names of hubs and URLs stay. */
static char *
resolved(const char *text, const struct place *at)
{
	char *path;

	if (strstr(text, "://") || !*text)
		return mem_text(text);
	path = from_recipe(text, at);
	if (text[0] == '/' || text[0] == '.' || text[0] == '~' || file_exists(path))
		return path;
	free(path);
	return mem_text(text);
}

static void
resolve_node(struct yaml *y)
{
	char *path = resolved(y->text, &y->at);

	free(y->text);
	y->text = path;
}

/* A data set with its paths changed: the text itself, {file: PATH}, and the maps of a list. */
static struct yaml *
changed(const struct yaml *dataset, void (*change)(struct yaml *path))
{
	struct yaml *copy = yaml_copy(dataset);
	size_t n = copy->kind == YAML_LIST ? copy->n : 1;

	for (size_t i = 0; i < n; i++) {
		struct yaml *item = copy->kind == YAML_LIST ? copy->v[i] : copy, *path = item;

		if (item->kind == YAML_MAP)
			path = yaml_get(item, "file");
		else if (copy->kind == YAML_LIST)
			continue;       /* a text, not a path */
		if (path && path->kind == YAML_TEXT && !yaml_is_null(path))
			change(path);
	}
	return copy;
}

void
settings_resolve(struct settings *s, const struct yaml *tree)
{
	struct place at = settings_place(tree, "model", "source");

	if (s->model.source) {
		s->own->source = resolved(s->model.source, &at);
		s->model.source = s->own->source;
	}
	if (s->calibration.dataset) {
		s->own->calibration = changed(s->calibration.dataset, resolve_node);
		s->calibration.dataset = s->own->calibration;
	}
	if (s->validate.perplexity.dataset) {
		s->own->perplexity = changed(s->validate.perplexity.dataset, resolve_node);
		s->validate.perplexity.dataset = s->own->perplexity;
	}
}

static void
last_component(char *text)
{
	const char *slash;
	size_t n = strlen(text);

	while (n > 1 && text[n - 1] == '/')
		text[--n] = '\0';
	slash = strrchr(text, '/');
	if (slash && !strstr(text, "://"))
		memmove(text, slash + 1, strlen(slash + 1) + 1);
}

static void
strip_node(struct yaml *y)
{
	last_component(y->text);
}

void
settings_portable(struct settings *to, const struct settings *s)
{
	*to = *s;
	to->pool = NULL;
	to->output = NULL;
	to->own = mem_new(1, sizeof(*to->own));
	if (s->model.source) {
		to->own->source = mem_text(s->model.source);
		last_component(to->own->source);
		to->model.source = to->own->source;
	}
	if (s->calibration.dataset)
		to->own->calibration = changed(s->calibration.dataset, strip_node);
	if (s->validate.perplexity.dataset)
		to->own->perplexity = changed(s->validate.perplexity.dataset, strip_node);
	to->calibration.dataset = to->own->calibration;
	to->validate.perplexity.dataset = to->own->perplexity;
}
