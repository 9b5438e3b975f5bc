#include "stages/data/dataset.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "qjob/base/err.h"
#include "qjob/base/hash.h"
#include "qjob/base/mem.h"
#include "qjob/base/mix.h"
#include "qjob/model/synthetic.h"
#include "stages/data/kind.h"

/* One thing that documents come from. */
struct source {
	char *path;                      /* absolute; NULL: text is the document */
	const char *text;
	const char *field;               /* NULL: the caller's */
	const struct data_kind *kind;
	bool made_up;                    /* neither: ids by this seed */
	uint64_t seed;
};

struct sources {
	struct source *v;
	size_t n, cap;
	const char *where;
	struct diag *d;                  /* NULL: what is wrong is left out */
};

static void
tell(struct sources *s, struct place at, const char *what, const char *name, const char *more)
{
	if (s->d != NULL)
		diag_add(s->d, at, "%s: %s'%s'%s", s->where, what, name, more);
}

static struct source *
add(struct sources *s)
{
	if (s->n == s->cap) {
		s->cap = s->cap == 0 ? 8 : s->cap * 2;
		s->v = mem_grow(s->v, s->cap, sizeof(*s->v));
	}
	s->v[s->n] = (struct source){0};
	return &s->v[s->n++];
}

/* ---- paths ---- */

static bool
is_type(const char *path, mode_t type)
{
	struct stat st;

	return stat(path, &st) == 0 && (st.st_mode & S_IFMT) == type;
}

/* The path as the recipe that wrote it means it. */
static char *
tried(const char *path, struct place at)
{
	const char *slash = at.file == NULL ? NULL : strrchr(at.file, '/');
	char *folder = slash == NULL ? mem_text(".") : mem_format("%.*s", (int)(slash - at.file + 1), at.file);
	char *joined = path_join(folder, path), *real = path_real(joined), *here = path_real(".");

	free(folder);
	if (real == NULL && joined[0] != '/' && here != NULL)
		real = path_join(here, joined[0] == '.' && joined[1] == '/' ? joined + 2 : joined);
	free(here);
	if (real == NULL)
		return joined;
	free(joined);
	return real;
}

static void
add_file(struct sources *s, struct place at, char *path, const char *field, const struct data_kind *kind)
{
	const struct data_kind *k = kind != NULL ? kind : data_kind_of(path);
	struct source *one;

	if (k->read == NULL) {
		char *more = mem_format(": %s files are not read; %s", k->name, k->instead);

		tell(s, at, "", path, more);
		free(more);
		free(path);
		return;
	}
	one = add(s);
	one->path = path;
	one->field = field;
	one->kind = k;
}

static void
add_folder(struct sources *s, struct place at, const char *folder, const char *field, const struct data_kind *kind)
{
	size_t n = 0, found = 0;
	char **names = NULL;

	if (dir_names(&names, &n, folder) != 0) {
		tell(s, at, "folder ", folder, " cannot be read");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		char *path = path_join(folder, names[i]);

		if (names[i][0] == '.' || !is_type(path, S_IFREG)) {
			free(path);
			continue;
		}
		add_file(s, at, path, field, kind);
		found++;
	}
	dir_names_free(names, n);
	if (found == 0)
		tell(s, at, "folder ", folder, " has no files");
}

static void
add_synthetic(struct sources *s, const struct yaml *y)
{
	static const char name[] = "synthetic:tokens";
	struct query_key seed = {"seed", 0, INT32_MAX, 0};
	size_t n = sizeof(name) - 1;
	struct source *one;

	if (strncmp(y->text, name, n) != 0 || (y->text[n] != '\0' && y->text[n] != '?')) {
		tell(s, y->at, "", y->text, ": the only made-up data are synthetic:tokens and synthetic:tokens?seed=N");
		return;
	}
	if (query_read(y->text[n] ? y->text + n + 1 : NULL, &seed, 1, y->text) < 0) {
		if (s->d != NULL)
			diag_add(s->d, y->at, "%s: %s", s->where, err_text());
		return;
	}
	one = add(s);
	one->made_up = true;
	one->seed = (uint64_t)seed.value;
}

static void
add_path(struct sources *s, const struct yaml *y, const char *field, const struct data_kind *kind)
{
	char *path;

	if (is_synthetic(y->text)) {
		add_synthetic(s, y);
		return;
	}
	path = tried(y->text, y->at);
	if (is_type(path, S_IFREG)) {
		add_file(s, y->at, path, field, kind);
		return;
	}
	if (is_type(path, S_IFDIR)) {
		add_folder(s, y->at, path, field, kind);
	} else {
		char *more = mem_format(" is neither a file nor a folder (tried %s); give a text file, a .jsonl or .parquet file or a "
		                        "folder of such: data sets of a hub are not fetched", path);

		tell(s, y->at, "", y->text, more);
		free(more);
	}
	free(path);
}

/* ---- trees ---- */

static const char *const map_keys[] = {"file", "field", "kind"};

static bool
check_map(struct sources *s, const struct yaml *map)
{
	bool good = true;

	for (size_t i = 0; i < map->n; i++) {
		const char *key = map->keys[i]->text;
		bool known = false;

		for (size_t k = 0; k < sizeof(map_keys) / sizeof(*map_keys); k++)
			known = known || strcmp(map_keys[k], key) == 0;
		if (strcmp(key, "messages") == 0 || strcmp(key, "role") == 0)
			tell(s, map->keys[i]->at, "", key, ": chat messages are not read yet; give their text");
		else if (!known)
			tell(s, map->keys[i]->at, "unknown key ", key, "; known: file, field, kind");
		else if (map->v[i]->kind != YAML_TEXT)
			tell(s, map->v[i]->at, "", key, " is not a text");
		good = good && known && map->v[i]->kind == YAML_TEXT;
	}
	return good;
}

static void
add_map(struct sources *s, const struct yaml *map)
{
	const struct yaml *file = yaml_get(map, "file"), *field = yaml_get(map, "field"), *kind = yaml_get(map, "kind");
	const struct data_kind *k = NULL;

	if (!check_map(s, map))
		return;
	if (file == NULL) {
		tell(s, map->at, "a map without ", "file", "");
		return;
	}
	if (kind != NULL) {
		k = data_kind_named(kind->text);
		if (k == NULL || k->read == NULL) {
			tell(s, kind->at, "kind ", kind->text, " is not one of text, jsonl, parquet, archive, wikitext");
			return;
		}
	}
	add_path(s, file, field == NULL ? NULL : field->text, k);
}

static void
add_text(struct sources *s, const struct yaml *y)
{
	bool may_be_path = strlen(y->text) < 4096 && strchr(y->text, '\n') == NULL;
	char *path = may_be_path ? tried(y->text, y->at) : NULL;

	if (path != NULL && is_type(path, S_IFREG))
		tell(s, y->at, "", y->text, " is a file, but an item of a list is a text; write {file: PATH} to read it");
	else if (*y->text != '\0')
		add(s)->text = y->text;
	free(path);
}

static void
gather(struct sources *s, const struct yaml *tree)
{
	if (tree == NULL)
		return;
	switch (tree->kind) {
	case YAML_TEXT:
		add_path(s, tree, NULL, NULL);
		return;
	case YAML_MAP:
		add_map(s, tree);
		return;
	case YAML_LIST:
		break;
	}
	if (tree->n == 0 && s->d != NULL)
		diag_add(s->d, tree->at, "%s: an empty list", s->where);
	for (size_t i = 0; i < tree->n; i++) {
		const struct yaml *item = tree->v[i];

		if (item->kind == YAML_TEXT)
			add_text(s, item);
		else if (item->kind == YAML_MAP)
			add_map(s, item);
		else if (s->d != NULL)
			diag_add(s->d, item->at, "%s: an item is neither a text nor a map {file, field}", s->where);
	}
}

static void
release(struct sources *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i].path);
	free(s->v);
}

/* ---- public ---- */

void
dataset_check(const struct yaml *tree, const char *where, struct diag *d)
{
	struct sources s = {.where = where, .d = d};

	gather(&s, tree);
	release(&s);
}

void
dataset_files(const struct yaml *tree, struct texts *files)
{
	struct sources s = {0};

	gather(&s, tree);
	if (s.n > 0)
		files->v = mem_grow(files->v, files->n + s.n, sizeof(*files->v));
	for (size_t i = 0; i < s.n; i++)
		if (s.v[i].path != NULL)
			files->v[files->n++] = mem_text(s.v[i].path);
	release(&s);
}

int
dataset_facts(const struct yaml *tree, const char *field, struct buf *out)
{
	struct sources s = {0};
	int rc = 0;

	gather(&s, tree);
	for (size_t i = 0; i < s.n && rc == 0; i++) {
		const struct source *one = &s.v[i];
		char hex[SHA256_HEX];

		if (one->made_up) {
			buf_printf(out, "data %zu synthetic tokens 1 seed %" PRIu64 "\n", i, one->seed);
			continue;
		}
		if (one->path != NULL)
			rc = sha256_file(one->path, hex);
		else
			sha256_of(one->text, strlen(one->text), hex);
		if (rc != 0)
			break;
		buf_printf(out, "data %zu %s sha256:%s", i, one->path == NULL ? "given" : one->kind->name, hex);
		if (one->path != NULL && one->kind->by_field)
			buf_printf(out, " field %s", one->field != NULL ? one->field : field);
		buf_puts(out, "\n");
	}
	release(&s);
	return rc;
}

static int
make_ids(const struct source *s, struct document_sink to)
{
	int32_t *ids = mem_new(to.made_up + 1, sizeof(*ids));
	int rc;

	for (size_t i = 0; i < to.made_up; i++)
		ids[i] = (int32_t)mix_below(mix(mix(s->seed) + i), (uint64_t)to.vocabulary);
	rc = to.made_up > 0 ? to.ids(to.own, ids, to.made_up) : 0;
	free(ids);
	return rc;
}

static int
read_source(const struct source *s, const char *field, struct document_sink to)
{
	struct content c;
	int rc;

	if (s->made_up)
		return make_ids(s, to);
	if (s->path == NULL)
		return to.document(to.own, s->text, strlen(s->text));
	rc = content_open(&c, s->path);
	if (rc != 0)
		return rc;
	rc = s->kind->read(s->path, c.p, c.n, s->field != NULL ? s->field : field, to);
	content_close(&c);
	return rc < 0 ? err_in(rc, "%s", s->path) : rc;
}

int
dataset_read(const struct yaml *tree, const char *field, struct document_sink to)
{
	struct sources s = {0};
	int rc = 0;

	gather(&s, tree);
	for (size_t i = 0; i < s.n && rc == 0; i++)
		rc = read_source(&s.v[i], field, to);
	release(&s);
	return rc < 0 ? rc : 0;
}

static int
is_text(void *own, const char *text, size_t n)
{
	(void)text;
	(void)n;
	*(bool *)own = true;
	return 1;
}

static int
is_ids(void *own, const int32_t *ids, size_t n)
{
	(void)own;
	(void)ids;
	(void)n;
	return 0;
}

bool
dataset_is_synthetic(const struct yaml *tree)
{
	const struct yaml *path = tree != NULL && tree->kind == YAML_MAP ? yaml_get(tree, "file") : tree;

	return path != NULL && path->kind == YAML_TEXT && is_synthetic(path->text);
}

int
dataset_needs_tokenizer(const struct yaml *tree, const char *field)
{
	bool found = false;
	int rc = dataset_read(tree, field, (struct document_sink){.document = is_text, .ids = is_ids, .own = &found});

	return rc < 0 ? rc : found;
}
