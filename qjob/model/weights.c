#include "qjob/model/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"

enum { INDEX_MOST = 256 << 20 };

/* Where the files of a model lie: a folder, or a list. */
struct source {
	const char *folder;              /* NULL: the list */
	const struct named_path *v;
	size_t n;
};

static const char config_name[] = "config.json", single_name[] = "model.safetensors",
                  index_name[] = "model.safetensors.index.json";

/* The path of a file by its name; NULL when the model has no such file.  The caller frees. */
static char *
source_path(const struct source *s, const char *name)
{
	char *path;

	if (!s->folder) {
		for (size_t i = 0; i < s->n; i++)
			if (strcmp(s->v[i].name, name) == 0)
				return mem_text(s->v[i].path);
		return NULL;
	}
	path = path_join(s->folder, name);
	if (!file_exists(path)) {
		free(path);
		return NULL;
	}
	return path;
}

static const char *
source_name(const struct source *s)
{
	return s->folder ? s->folder : "model";
}

static int
missing_file(const struct source *s, const char *name)
{
	char *inside = s->folder ? path_join(s->folder, ".") : NULL;
	bool closed = inside && access(inside, X_OK) != 0 && errno != ENOENT;

	free(inside);
	if (closed)
		return err_sys("%s", s->folder);
	return err_set(E_DATA, "%s: there is no %s", source_name(s), name);
}

static int
add_file(struct weights *w, const struct source *s, const char *name)
{
	struct weights_file *f;
	char *path = source_path(s, name);
	int r;

	if (!path)
		return missing_file(s, name);
	w->files = mem_grow(w->files, w->nfiles + 1, sizeof(*w->files));
	f = &w->files[w->nfiles++];
	*f = (struct weights_file){.name = mem_text(name), .path = path};
	r = safetensors_open(&f->st, path);
	for (size_t i = 0; r == 0 && i < f->st.n; i++) {
		bool added;
		struct map_entry *e = map_put(&w->by_name, f->st.v[i].name, &added);

		if (!added)
			return err_set(E_DATA, "%s: tensor \"%s\" is in %s as well", path, f->st.v[i].name,
			               w->files[e->v.i >> 32].path);
		e->v.i = (int64_t)(w->nfiles - 1) << 32 | (int64_t)i;
	}
	return r;
}

/* ---- the index of shards ---- */

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A shard's name is a plain file name: nothing outside the folder is opened. */
static int
check_shard_name(const char *path, const char *tensor, const json_t *shard)
{
	const char *name = json_string_value(shard);

	if (!name)
		return err_set(E_DATA, "%s: weight_map: \"%.200s\": wanted a file name", path, tensor);
	if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') || strlen(name) > 255)
		return err_set(E_DATA, "%s: weight_map: \"%.200s\": \"%.200s\" is not a plain file name", path, tensor, name);
	return 0;
}

static int
open_shards(struct weights *w, const struct source *s, const char *path, const json_t *map)
{
	size_t n = json_object_size(map), k = 0;
	const char **names = mem_new(n ? n : 1, sizeof(*names)), *tensor;
	json_t *shard;
	int r = 0;

	json_object_foreach((json_t *)map, tensor, shard) {
		r = check_shard_name(path, tensor, shard);
		if (r < 0)
			break;
		names[k++] = json_string_value(shard);
	}
	if (r == 0)
		qsort(names, k, sizeof(*names), compare_names);
	for (size_t i = 0; r == 0 && i < k; i++)
		if (i == 0 || strcmp(names[i], names[i - 1]) != 0)
			r = add_file(w, s, names[i]);
	free(names);
	return r;
}

/* What the index lists is in the shard it names, and what the shards hold is listed. */
static int
check_index(const struct weights *w, const char *path, const json_t *map)
{
	const char *tensor;
	json_t *shard;

	json_object_foreach((json_t *)map, tensor, shard) {
		const struct weights_file *f = weights_file_of(w, tensor);

		if (!f || strcmp(f->name, json_string_value(shard)) != 0)
			return err_set(E_DATA, "%s: tensor \"%.200s\" is not in %s%s%s", path, tensor, json_string_value(shard),
			               f ? ", but in " : "", f ? f->name : "");
	}
	for (size_t i = 0; i < w->by_name.n; i++)
		if (!json_object_get(map, w->by_name.v[i].key))
			return err_set(E_DATA, "%s: tensor \"%s\" of %s is not listed", path, w->by_name.v[i].key,
			               weights_file_of(w, w->by_name.v[i].key)->name);
	return 0;
}

static int
open_index(struct weights *w, const struct source *s, const char *path)
{
	json_t *j, *map;
	int r = json_load_path(&j, path, INDEX_MOST);

	if (r < 0)
		return r;
	map = json_object_get(j, "weight_map");
	if (!json_is_object(map))
		r = err_set(E_DATA, "%s: there is no weight_map", path);
	if (r == 0)
		r = open_shards(w, s, path, map);
	if (r == 0)
		r = check_index(w, path, map);
	json_decref(j);
	return r;
}

/* ---- opening ---- */

/* The single file goes before the index when both are there, as in Transformers. */
static int
open_tensors(struct weights *w, const struct source *s)
{
	char *path = source_path(s, single_name);
	int r;

	if (path) {
		free(path);
		return add_file(w, s, single_name);
	}
	path = source_path(s, index_name);
	if (!path)
		return err_set(E_DATA, "%s: there is no %s and no %s", source_name(s), single_name, index_name);
	r = open_index(w, s, path);
	free(path);
	return r;
}

/* Without a word in config.json, loaders take the type of the checkpoint. */
static void
settle_dtype(struct weights *w)
{
	char name[256], full[300];
	const struct tensor *t;

	if (w->config.dtype != DTYPES)
		return;
	part_name(w->config.family, EMBED, 0, name, sizeof(name));
	snprintf(full, sizeof(full), "%s.weight", name);
	t = weights_find(w, full);
	w->config.dtype = t && (t->type == F16 || t->type == BF16) ? t->type : F32;
}

static int
open_source(struct weights *w, const struct source *s)
{
	char *path;
	int r;

	*w = (struct weights){.folder = mem_text(s->folder)};
	path = source_path(s, config_name);
	r = path ? config_load(&w->config, path) : missing_file(s, config_name);
	free(path);
	if (r == 0)
		r = open_tensors(w, s);
	if (r == 0)
		settle_dtype(w);
	else
		weights_close(w);
	return r;
}

int
weights_open(struct weights *w, const char *folder)
{
	const struct source s = {.folder = folder};

	return open_source(w, &s);
}

int
weights_open_files(struct weights *w, const struct named_path *files, size_t n)
{
	const struct source s = {.v = files, .n = n};

	return open_source(w, &s);
}

void
weights_close(struct weights *w)
{
	for (size_t i = 0; i < w->nfiles; i++) {
		safetensors_close(&w->files[i].st);
		free(w->files[i].name);
		free(w->files[i].path);
	}
	free(w->files);
	map_release(&w->by_name);
	config_release(&w->config);
	free(w->folder);
	*w = (struct weights){0};
}

const struct weights_file *
weights_file_of(const struct weights *w, const char *name)
{
	const struct map_entry *e = map_find(&w->by_name, name);

	return e ? &w->files[e->v.i >> 32] : NULL;
}

const struct tensor *
weights_find(const struct weights *w, const char *name)
{
	const struct map_entry *e = map_find(&w->by_name, name);

	return e ? &w->files[e->v.i >> 32].st.v[e->v.i & UINT32_MAX] : NULL;
}
