#include "qjob/model/synthetic.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qjob/base/diag.h"
#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/mem.h"
#include "qjob/base/number.h"

enum { SHARD_BYTES = 2000000000 };

static const char prefix[] = "synthetic:";

/* As the configurations of the models say, but for positions, which cost nothing. */
struct shape {
	const char *name, *type;           /* type: model_type of a family */
	int D, I, L, heads, kv_heads, E, V, positions;
	bool tied;
	const char *more;                  /* further keys of config.json */
};

static const struct shape shapes[] = {
	/* name             type        D      I  L heads kv    E       V positions tied */
	{"qwen2-0.5b",      "qwen2",   896,  4864, 24, 14,  2,  64, 151936, 131072, true,  "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1e6"},
	{"qwen2-1.5b",      "qwen2",  1536,  8960, 28, 12,  2, 128, 151936, 131072, true,  "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1e6"},
	{"qwen2-7b",        "qwen2",  3584, 18944, 28, 28,  4, 128, 152064, 131072, false, "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1e6"},
	{"qwen2-72b",       "qwen2",  8192, 29568, 80, 64,  8, 128, 152064, 131072, false, "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1e6"},
	{"qwen3-0.6b",      "qwen3",  1024,  3072, 28, 16,  8, 128, 151936,  40960, true,  "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1e6"},
	{"qwen3-8b",        "qwen3",  4096, 12288, 36, 32,  8, 128, 151936,  40960, false, "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1e6"},
	{"qwen3-32b",       "qwen3",  5120, 25600, 64, 64,  8, 128, 151936,  40960, false, "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1e6"},
	{"llama-2-7b",      "llama",  4096, 11008, 32, 32, 32, 128,  32000,   4096, false, "\"rms_norm_eps\": 1e-5, \"rope_theta\": 1e4"},
	{"llama-3-8b",      "llama",  4096, 14336, 32, 32,  8, 128, 128256,   8192, false, "\"rms_norm_eps\": 1e-5, \"rope_theta\": 5e5"},
	{"llama-3-70b",     "llama",  8192, 28672, 80, 64,  8, 128, 128256,   8192, false, "\"rms_norm_eps\": 1e-5, \"rope_theta\": 5e5"},
	{"llama-3.2-1b",    "llama",  2048,  8192, 16, 32,  8,  64, 128256, 131072, true,  "\"rms_norm_eps\": 1e-5, \"rope_theta\": 5e5"},
	{"mistral-7b",      "mistral", 4096, 14336, 32, 32, 8, 128,  32768,  32768, false,
	 "\"rms_norm_eps\": 1e-5, \"rope_theta\": 1e6, \"sliding_window\": null"},
	/* OPT-175B's widths in a llama block: three matrices of its MLP where OPT has two, so half as much work again there. */
	{"opt-175b-as-llama", "llama", 12288, 49152, 96, 96, 96, 128, 50272, 2048, false, "\"rms_norm_eps\": 1e-5, \"rope_theta\": 1e4"},
};

enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* ---- what is asked for ---- */

bool
is_synthetic(const char *source)
{
	return strncmp(source, prefix, sizeof(prefix) - 1) == 0;
}

static int
read_pair(const char *pair, struct query_key *v, size_t n, const char *source)
{
	const char *names[8];
	struct buf known = {0};
	size_t length = strcspn(pair, "=");
	int rc;

	for (size_t i = 0; i < n; i++) {
		int64_t x;

		names[i] = v[i].name;
		buf_printf(&known, "%s%s", i ? ", " : "", v[i].name);
		if (strlen(v[i].name) != length || strncmp(v[i].name, pair, length) != 0 || pair[length] != '=')
			continue;
		buf_release(&known);
		if (!whole_parse(pair + length + 1, &x) || x < v[i].min || x > v[i].max)
			return err_set(E_USE, "%s: %s is not a whole number from %" PRId64 " to %" PRId64, source, pair, v[i].min,
			               v[i].max);
		v[i].value = x;
		return 0;
	}
	rc = err_set(E_USE, "%s: '%s' is not one of %s, as in %s=1", source, pair, buf_text(&known), names[0]);
	buf_release(&known);
	return rc;
}

int
query_read(const char *query, struct query_key *v, size_t n, const char *source)
{
	int rc = 0;

	for (size_t length; query && *query && rc == 0; query += length + (query[length] == '&')) {
		char *pair;

		length = strcspn(query, "&");
		pair = mem_format("%.*s", (int)length, query);
		rc = read_pair(pair, v, n, source);
		free(pair);
	}
	return rc;
}

static int
find_shape(const struct shape **s, const char *source)
{
	const char *names[SHAPES], *name = source + sizeof(prefix) - 1;
	char typed[64];
	struct buf known = {0};
	int rc;

	snprintf(typed, sizeof(typed), "%.*s", (int)strcspn(name, "?"), name);
	for (int i = 0; i < SHAPES; i++) {
		*s = &shapes[i];
		if (strcmp(shapes[i].name, typed) == 0)
			return 0;
		names[i] = shapes[i].name;
	}
	for (int i = 0; i < SHAPES; i++)
		buf_printf(&known, "%s%s", i ? ", " : "", names[i]);
	name = nearest_name(typed, names, SHAPES);
	rc = err_set(E_USE, "%s: no shapes are called '%s'%s%s%s; known: %s", source, typed, name ? "; did you mean " : "",
	             name ? name : "", name ? "?" : "", buf_text(&known));
	buf_release(&known);
	return rc;
}

/* ---- headers ---- */

static char *
config_text(const struct shape *s, int64_t layers, const struct family *f)
{
	return mem_format("{\"architectures\": [\"%s\"], \"model_type\": \"%s\",\n"
	                  " \"hidden_size\": %d, \"intermediate_size\": %d,\n"
	                  " \"num_hidden_layers\": %" PRId64 ", \"num_attention_heads\": %d,\n"
	                  " \"num_key_value_heads\": %d, \"head_dim\": %d,\n"
	                  " \"vocab_size\": %d, \"max_position_embeddings\": %d, \"tie_word_embeddings\": %s,\n"
	                  " \"hidden_act\": \"silu\", %s, \"torch_dtype\": \"bfloat16\"}\n", f->arch, s->type, s->D, s->I, layers,
	                  s->heads, s->kv_heads, s->E, s->V, s->positions, s->tied ? "true" : "false", s->more);
}

/* All tensors of a model, in the order in which checkpoints have them. */
struct list {
	struct tensor *v;
	size_t n, cap;
};

static void
add(struct list *l, const char *part, const char *what, int64_t rows, int64_t cols)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		l->v = mem_grow(l->v, l->cap, sizeof(*l->v));
	}
	l->v[l->n++] = (struct tensor){.name = mem_format("%s.%s", part, what), .type = BF16, .rank = cols ? 2 : 1, .shape = {rows, cols}};
}

static void
add_part(struct list *l, const struct config *c, enum part p, int block)
{
	char name[256];
	int64_t rows, cols;

	if (!c->family->names[p])
		return;
	part_name(c->family, p, block, name, sizeof(name));
	part_shape(c, p, &rows, &cols);
	add(l, name, "weight", rows, cols);
	if (weights_has_bias(c, p))
		add(l, name, "bias", rows, 0);
}

static struct list
list_tensors(const struct config *c)
{
	struct list l = {0};

	add_part(&l, c, EMBED, 0);
	for (int b = 0; b < c->L; b++)
		for (int p = ATTN_NORM; p < PARTS; p++)
			add_part(&l, c, (enum part)p, b);
	add_part(&l, c, FINAL_NORM, 0);
	if (!c->tied)
		add_part(&l, c, HEAD, 0);
	return l;
}

/* The tensors of the shard that begins at `from`. */
static size_t
shard_size(const struct list *l, size_t from)
{
	size_t n = 1, bytes = tensor_bytes(&l->v[from]);

	for (; from + n < l->n && bytes + tensor_bytes(&l->v[from + n]) <= SHARD_BYTES; n++)
		bytes += tensor_bytes(&l->v[from + n]);
	return n;
}

/* The header, and a hole for the data. */
static int
write_shard(const char *path, const struct tensor *v, size_t n)
{
	struct buf head = {0};
	uint64_t bytes = safetensors_header(&head, v, n);
	int rc = file_replace(path, head.p, head.n);

	if (rc == 0 && (fault("synthetic.extend") || truncate(path, (off_t)(head.n + bytes)) != 0))
		rc = err_sys("%s: make it %" PRIu64 " bytes long", path, (uint64_t)head.n + bytes);
	buf_release(&head);
	return rc;
}

static int
write_index(const char *folder, const struct list *l, json_t *map)
{
	char *path = path_join(folder, "model.safetensors.index.json");
	json_t *all = json_object(), *meta = json_object();
	struct buf text = {0};
	uint64_t bytes = 0;
	int rc;

	for (size_t i = 0; i < l->n; i++)
		bytes += tensor_bytes(&l->v[i]);
	json_object_set_new(meta, "total_size", json_integer((json_int_t)bytes));
	json_object_set_new(all, "metadata", meta);
	json_object_set(all, "weight_map", map);
	json_write(all, &text);
	rc = file_replace(path, text.p, text.n);
	buf_release(&text);
	json_decref(all);
	free(path);
	return rc;
}

static int
write_shards(const char *folder, const struct list *l)
{
	json_t *map = json_object();
	size_t shards = 0, shard = 0;
	int rc = 0;

	for (size_t at = 0; at < l->n; at += shard_size(l, at))
		shards++;
	for (size_t at = 0, n; at < l->n && rc == 0; at += n) {
		char *name = mem_format("model-%05zu-of-%05zu.safetensors", ++shard, shards), *path = path_join(folder, name);

		n = shard_size(l, at);
		rc = write_shard(path, l->v + at, n);
		for (size_t i = 0; i < n; i++)
			json_object_set_new(map, l->v[at + i].name, json_string(name));
		free(path);
		free(name);
	}
	if (rc == 0)
		rc = write_index(folder, l, map);
	json_decref(map);
	return rc;
}

static int
write_folder(const char *folder, const struct shape *s, int64_t layers, int64_t seed)
{
	char *text = config_text(s, layers, family_find(s->type)), *path = path_join(folder, "config.json");
	struct config c = {0};
	struct list l = {0};
	int rc = config_parse(&c, text, strlen(text), path);

	if (rc == 0)
		rc = file_replace(path, text, strlen(text));
	free(path);
	free(text);
	path = path_join(folder, SYNTHETIC_SEED);
	text = mem_format("%" PRId64 "\n", seed);
	if (rc == 0)
		rc = file_replace(path, text, strlen(text));
	free(path);
	free(text);
	if (rc == 0) {
		l = list_tensors(&c);
		rc = write_shards(folder, &l);
	}
	for (size_t i = 0; i < l.n; i++)
		free(l.v[i].name);
	free(l.v);
	config_release(&c);
	return rc;
}

/* ---- the folder ---- */

static const char *
root(void)
{
	const char *set = getenv("QJOB_SYNTHETIC");

	return set && *set ? set : "/dev/shm/qjob-synthetic";
}

static bool
is_there(const char *folder)
{
	char *path = path_join(folder, "config.json");
	bool there = file_exists(path);

	free(path);
	return there;
}

/* Losing the race to an equal folder is success. */
static int
make_folder(const char *folder, const struct shape *s, int64_t layers, int64_t seed)
{
	char *fresh = mem_format("%s.%ld", folder, (long)getpid());
	int rc = dir_make(fresh);
	bool done = false;

	if (rc == 0)
		rc = write_folder(fresh, s, layers, seed);
	if (rc == 0) {
		done = !fault("synthetic.rename") && rename(fresh, folder) == 0;
		rc = done || is_there(folder) ? 0 : err_sys("%s", folder);
	}
	if (rc < 0)
		rc = err_in(rc, "synthetic models lie in %s ($QJOB_SYNTHETIC says where)", root());
	if (!done)
		dir_remove(fresh);
	free(fresh);
	return rc;
}

int
synthetic_open(char **folder, const char *source)
{
	const struct shape *s;
	const char *query = strchr(source, '?');
	int rc = find_shape(&s, source);
	struct query_key keys[] = {{"layers", 1, 0, 0}, {"seed", 0, INT32_MAX, 0}};
	char *name;

	*folder = NULL;
	if (rc < 0)
		return rc;
	keys[0].max = keys[0].value = s->L;
	rc = query_read(query ? query + 1 : NULL, keys, 2, source);
	if (rc < 0)
		return rc;
	name = mem_format("%s-%" PRId64 "-%" PRId64, s->name, keys[0].value, keys[1].value);
	*folder = path_join(root(), name);
	free(name);
	if (!is_there(*folder))
		rc = make_folder(*folder, s, keys[0].value, keys[1].value);
	if (rc < 0) {
		free(*folder);
		*folder = NULL;
	}
	return rc;
}
