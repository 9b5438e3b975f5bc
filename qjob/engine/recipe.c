#include "qjob/engine/recipe.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "qjob/base/buf.h"
#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"

/* Bounds, so that no recipe, however odd, takes more than a moment or much memory. */
enum { VARIANTS_MAX = 1000, EXTENDS_MAX = 32, MESSAGES_MAX = 200, MATRIX_BYTES = 256 << 20 };

static const char *const own_keys[] = {"qjob", "extends", "matrix", "output"};

/* ---- trees ---- */

static void
drop_key(struct yaml *map, const char *key)
{
	for (size_t i = 0; i < map->n; i++) {
		if (strcmp(map->keys[i]->text, key) != 0)
			continue;
		yaml_free(map->keys[i]);
		yaml_free(map->v[i]);
		map->n--;
		memmove(map->keys + i, map->keys + i + 1, (map->n - i) * sizeof(map->keys[0]));
		memmove(map->v + i, map->v + i + 1, (map->n - i) * sizeof(map->v[0]));
		return;
	}
}

/* Sets map.path to a copy of value.  Both keep their places; maps made on the way get that of the path. */
static int
set_copy(struct yaml *map, const struct yaml *path, const struct yaml *value)
{
	int rc = yaml_set(map, path->text, "x", value->at.file);
	char part[128];
	size_t n, i;

	for (const char *p = path->text; rc == 0; p += n + 1) {
		n = strcspn(p, ".");
		snprintf(part, sizeof(part), "%.*s", (int)n, p);
		for (i = 0; i < map->n && strcmp(map->keys[i]->text, part) != 0; i++)
			continue;
		if (i == map->n)
			return err_set(E_USE, "cannot be set");
		if (!map->keys[i]->at.line)
			map->keys[i]->at = path->at;
		if (!p[n]) {
			yaml_free(map->v[i]);
			map->v[i] = yaml_copy(value);
			return 0;
		}
		map = map->v[i];
		if (!map->at.line)
			map->at = path->at;
	}
	return rc;
}

/* ---- the file and what it extends ---- */

static char *
beside(const char *file, const char *name)
{
	const char *slash = strrchr(file, '/');

	return slash && name[0] != '/' ? mem_format("%.*s/%s", (int)(slash - file), file, name) : mem_text(name);
}

static size_t
add_file(struct recipe *r, char *name, char *real)
{
	r->files = mem_grow(r->files, r->nfiles + 1, sizeof(*r->files));
	r->names = mem_grow(r->names, r->nfiles + 1, sizeof(*r->names));
	r->files[r->nfiles] = real;
	r->names[r->nfiles] = name;
	return r->nfiles++;
}

/* A pipe or terminal would wait for ever. */
static bool
is_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static struct yaml *load_chain(struct recipe *r, char *name, struct diag *d);

/* The tree of what `extends` names; NULL after a message. */
static struct yaml *
load_base(struct recipe *r, const char *from, const struct yaml *extends, struct diag *d)
{
	char *name, *real;

	if (extends->kind != YAML_TEXT || !*extends->text) {
		diag_add(d, extends->at, "extends: the path of a recipe is wanted here");
		return NULL;
	}
	name = beside(from, extends->text);
	real = path_real(name);
	if (!real || !is_file(real)) {
		diag_add(d, extends->at, real ? "extends: %s: not a file" : "extends: %s: no such file", name);
		free(real);
		free(name);
		return NULL;
	}
	for (size_t i = 0; i < r->nfiles; i++) {
		if (strcmp(r->files[i], real) == 0 || r->nfiles >= EXTENDS_MAX) {
			diag_add(d, extends->at, strcmp(r->files[i], real) == 0 ? "extends: %s builds on itself" :
			         "extends: %s: too many recipes build on each other", extends->text);
			free(name);
			free(real);
			return NULL;
		}
	}
	free(real);
	return load_chain(r, name, d);
}

/* Takes name. */
static struct yaml *
load_chain(struct recipe *r, char *name, struct diag *d)
{
	char *real = path_real(name);
	size_t i = add_file(r, name, real ? real : mem_text(name));
	struct yaml *tree = yaml_load(name, d), *base;
	const struct yaml *extends;

	if (!tree)
		return NULL;
	if (tree->kind != YAML_MAP) {
		diag_add(d, tree->at, "a recipe is a map of sections; `qjob init MODEL` writes one");
		goto fail;
	}
	extends = yaml_get(tree, "extends");
	if (!extends)
		return tree;
	base = load_base(r, r->names[i], extends, d);
	if (!base)
		goto fail;
	drop_key(tree, "extends");
	yaml_merge(base, tree);
	return base;

fail:
	yaml_free(tree);
	return NULL;
}

static void
apply_sets(struct recipe *r, const char *const *sets, size_t nsets, struct diag *d)
{
	for (size_t i = 0; i < nsets; i++) {
		const char *equals = strchr(sets[i], '=');
		char *path;

		if (!equals || equals == sets[i]) {
			diag_add(d, (struct place){"--set", 0, 0}, "%s: wanted NAME=VALUE, as in quantize.bits=3", sets[i]);
			continue;
		}
		path = mem_format("%.*s", (int)(equals - sets[i]), sets[i]);
		if (yaml_set(r->tree, path, equals + 1, "--set") < 0)
			diag_add(d, (struct place){"--set", 0, 0}, "%s: %s", sets[i],
			         err_text() + (strncmp(err_text(), "--set: ", 7) == 0 ? 7 : 0));
		free(path);
	}
}

/* ---- keys of the recipe itself ---- */

static void
check_keys(const struct yaml *tree, struct diag *d)
{
	const char *known[32];
	size_t n = 0;

	for (; n < sizeof(own_keys) / sizeof(own_keys[0]); n++)
		known[n] = own_keys[n];
	for (size_t i = 0; sections[i].name; i++)
		known[n++] = sections[i].name;
	for (size_t i = 0; i < tree->n; i++) {
		const char *key = tree->keys[i]->text, *near;
		bool found = false;

		for (size_t j = 0; j < n; j++)
			found = found || strcmp(known[j], key) == 0;
		if (found)
			continue;
		near = nearest_name(key, known, n);
		diag_add(d, tree->keys[i]->at, near ? "%s: unknown section; did you mean %s?" : "%s: unknown section", key, near);
	}
}

static void
check_version(const struct yaml *tree, struct diag *d)
{
	const struct yaml *v = yaml_get(tree, "qjob");

	if (!v)
		diag_add(d, tree->at, "qjob: missing; a recipe begins with qjob: 1");
	else if (v->kind != YAML_TEXT)
		diag_add(d, v->at, "qjob: the version of the recipe language is wanted here: 1");
	else if (strcmp(v->text, "1") != 0)
		diag_add(d, v->at, "qjob: %s is not 1, the only version of the recipe language that this program knows", v->text);
}

/* Absolute; NULL after a message. */
static char *
read_output(const struct yaml *tree, struct diag *d)
{
	const struct yaml *v = yaml_get(tree, "output");
	char *here, *path;
	size_t n;

	if (!v) {
		diag_add(d, tree->at, "output: missing; name the folder to write, as in output: out/model");
		return NULL;
	}
	if (v->kind != YAML_TEXT || !*v->text) {
		diag_add(d, v->at, "output: the path of a folder is wanted here");
		return NULL;
	}
	here = path_real(".");
	path = path_join(here ? here : "/", strncmp(v->text, "./", 2) == 0 ? v->text + 2 : v->text);
	free(here);
	for (n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
		path[n - 1] = '\0';
	return path;
}

/* ---- matrix ---- */

static bool
is_section_path(const char *path)
{
	for (size_t i = 0; sections[i].name; i++) {
		size_t n = strlen(sections[i].name);

		if (strncmp(path, sections[i].name, n) == 0 && path[n] == '.' && path[n + 1] && path[strlen(path) - 1] != '.' &&
		    !strstr(path, ".."))
			return true;
	}
	return false;
}

static void
check_axis(const struct yaml *key, const struct yaml *list, struct diag *d)
{
	if (!is_section_path(key->text))
		diag_add(d, key->at, "matrix: %s is not a parameter; write SECTION.NAME, as in quantize.bits", key->text);
	if (list->kind != YAML_LIST || !list->n)
		diag_add(d, list->at, "matrix.%s: a list of values is wanted here", key->text);
	for (size_t i = 0; list->kind == YAML_LIST && i < list->n && i <= VARIANTS_MAX; i++)
		for (size_t j = 0; j < i; j++)
			if (list->v[i]->kind == YAML_TEXT && list->v[j]->kind == YAML_TEXT &&
			    strcmp(list->v[i]->text, list->v[j]->text) == 0) {
				diag_add(d, list->v[i]->at, "matrix.%s: %s is listed twice", key->text, list->v[i]->text);
				break;
			}
}

static size_t
tree_bytes(const struct yaml *y)
{
	size_t bytes = sizeof(*y) + 16 + (y->kind == YAML_TEXT ? strlen(y->text) : 0);

	for (size_t i = 0; y->kind != YAML_TEXT && i < y->n; i++)
		bytes += tree_bytes(y->v[i]) + (y->kind == YAML_MAP ? tree_bytes(y->keys[i]) : 0);
	return bytes;
}

/* How many variants there are; 0 after a message. */
static size_t
check_matrix(const struct yaml *tree, const struct yaml *matrix, struct diag *d)
{
	size_t n = 1, before = d->n;

	if (matrix->kind != YAML_MAP) {
		diag_add(d, matrix->at, "matrix: a map of parameters to lists of values is wanted here");
		return 0;
	}
	for (size_t i = 0; i < matrix->n; i++) {
		check_axis(matrix->keys[i], matrix->v[i], d);
		if (n <= VARIANTS_MAX && matrix->v[i]->kind == YAML_LIST)
			n *= matrix->v[i]->n < VARIANTS_MAX ? matrix->v[i]->n : VARIANTS_MAX + 1;
	}
	if (d->n == before && n > VARIANTS_MAX)
		diag_add(d, matrix->at, "matrix: more than %d variants", VARIANTS_MAX);
	else if (d->n == before && n > MATRIX_BYTES / tree_bytes(tree))
		diag_add(d, matrix->at, "matrix: %zu variants of a recipe as long as this; put its texts into a file", n);
	return d->n == before ? n : 0;
}

/* "quantize.bits=3,quantize.group_size=64"; what is no single value is named by its number in the list. */
static void
name_axis(struct buf *name, const char *key, const struct yaml *value, size_t index)
{
	buf_printf(name, "%s%s=", name->n ? "," : "", key);
	if (value->kind == YAML_TEXT)
		buf_puts(name, value->text);
	else
		buf_printf(name, "#%zu", index + 1);
}

static char *
safe_name(const char *name)
{
	char *safe = mem_text(name);

	for (char *p = safe; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("=,._-+#", *p))
			*p = '_';
	return safe;
}

/* The number-th point of the matrix: the last axis varies fastest. */
static void
make_variant(struct recipe *r, size_t number, const char *output, struct diag *d)
{
	struct variant *v = &r->v[number];
	const struct yaml *matrix = yaml_get(r->tree, "matrix");
	struct buf name = {0};
	size_t each = r->n;
	char *safe;

	v->tree = yaml_copy(r->tree);
	drop_key(v->tree, "matrix");
	for (size_t i = 0; matrix && i < matrix->n && r->n; i++) {
		const struct yaml *list = matrix->v[i];
		size_t at;

		each /= list->n;
		at = number / each % list->n;
		name_axis(&name, matrix->keys[i]->text, list->v[at], at);
		if (set_copy(v->tree, matrix->keys[i], list->v[at]) < 0)
			diag_add(d, matrix->keys[i]->at, "matrix.%s: %s", matrix->keys[i]->text, err_text());
	}
	v->name = buf_detach(&name);
	settings_read(&v->settings, v->tree, d);
	if (!output)
		return;
	safe = safe_name(v->name);
	v->output = *safe ? path_join(output, safe) : mem_text(output);
	v->settings.output = v->output;
	free(safe);
}

static void
check_outputs(const struct recipe *r, struct diag *d)
{
	for (size_t i = 0; i < r->n; i++)
		for (size_t j = 0; j < i; j++)
			if (r->v[i].output && r->v[j].output && strcmp(r->v[i].output, r->v[j].output) == 0)
				diag_add(d, yaml_get(r->tree, "matrix")->at, "matrix: %s and %s would write the same folder", r->v[j].name,
				         r->v[i].name);
}

static void
make_variants(struct recipe *r, struct diag *d)
{
	const struct yaml *matrix = yaml_get(r->tree, "matrix");
	char *output = read_output(r->tree, d);
	size_t n = matrix ? check_matrix(r->tree, matrix, d) : 1;

	if (!n)                     /* a bad matrix: the rest of the recipe is judged without it */
		drop_key(r->tree, "matrix");
	r->n = n ? n : 1;
	r->v = mem_new(r->n, sizeof(*r->v));
	for (size_t i = 0; i < r->n && d->n < MESSAGES_MAX; i++) {
		make_variant(r, i, output, d);
		recipe_sort(r, d);
	}
	check_outputs(r, d);
	free(output);
}

/* ---- messages in order ---- */

struct line {
	size_t file;
	long row, column;
	size_t number;
	char *text;
};

static void
locate(const struct recipe *r, struct line *l)
{
	const char *p = l->text;
	char *end;

	l->file = r->nfiles;
	for (size_t i = 0; i < r->nfiles; i++) {
		size_t n = strlen(r->names[i]);

		if (strncmp(l->text, r->names[i], n) != 0 || l->text[n] != ':')
			continue;
		l->file = i;
		p = l->text + n + 1;
		l->row = strtol(p, &end, 10);
		if (end > p && *end == ':')
			l->column = strtol(end + 1, NULL, 10);
		return;
	}
}

static int
by_place(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	if (x->row != y->row)
		return x->row < y->row ? -1 : 1;
	if (x->column != y->column)
		return x->column < y->column ? -1 : 1;
	return x->number < y->number ? -1 : 1;
}

static bool
is_same_place(const struct line *x, const struct line *y)
{
	return x->file == y->file && x->row == y->row && x->column == y->column;
}

void
recipe_sort(const struct recipe *r, struct diag *d)
{
	struct line *v = mem_new(d->n + 1, sizeof(*v));
	size_t kept = 0;

	for (size_t i = 0; i < d->n; i++) {
		v[i] = (struct line){.number = i, .text = d->v[i]};
		locate(r, &v[i]);
	}
	qsort(v, d->n, sizeof(*v), by_place);
	for (size_t i = 0; i < d->n; i++) {
		bool again = false;

		for (size_t j = i; j-- > 0 && is_same_place(&v[j], &v[i]) && !again;)
			again = v[j].text && strcmp(v[j].text, v[i].text) == 0;
		if (again) {
			free(v[i].text);
			v[i].text = NULL;
		} else {
			d->v[kept++] = v[i].text;
		}
	}
	d->n = kept;
	free(v);
}

int
recipe_load(struct recipe *r, const char *path, const char *const *sets, size_t nsets, struct diag *d)
{
	size_t before = d->n;

	*r = (struct recipe){.path = mem_text(path)};
	r->tree = load_chain(r, mem_text(path), d);
	if (r->tree) {
		apply_sets(r, sets, nsets, d);
		check_keys(r->tree, d);
		check_version(r->tree, d);
		make_variants(r, d);
	}
	if (d->n == before)
		return 0;
	recipe_sort(r, d);
	return err_set(E_USE, "%s: %zu problem%s", path, d->n - before, d->n - before == 1 ? "" : "s");
}

void
recipe_release(struct recipe *r)
{
	for (size_t i = 0; i < r->n; i++) {
		settings_release(&r->v[i].settings);
		yaml_free(r->v[i].tree);
		free(r->v[i].name);
		free(r->v[i].output);
	}
	yaml_free(r->tree);
	for (size_t i = 0; i < r->nfiles; i++) {
		free(r->files[i]);
		free(r->names[i]);
	}
	free(r->files);
	free(r->names);
	free(r->v);
	free(r->path);
	*r = (struct recipe){0};
}
