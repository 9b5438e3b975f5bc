#include "qjob/model/weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"

/* A walk over the tensors that the configuration asks for. */
struct walk {
	const struct weights *w;
	unsigned char *seen;             /* per entry of w->by_name */
	const struct map_entry **sorted; /* by name; NULL until a packed linear is met */
};

static const char *
model_name(const struct weights *w)
{
	return w->folder ? w->folder : "model";
}

static void
mark(struct walk *k, const char *name)
{
	k->seen[map_find(&k->w->by_name, name) - k->w->by_name.v] = 1;
}

static bool
is_float(const struct tensor *t)
{
	return t->type == F32 || t->type == F16 || t->type == BF16;
}

bool
weights_has_bias(const struct config *c, enum part p)
{
	switch (p) {
	case Q: case K: case V:          return c->attention_bias || c->family->qkv_bias;
	case O:                          return c->attention_bias;
	case GATE: case UP: case DOWN:   return c->mlp_bias;
	default:                         return false;
	}
}

bool
weights_is_packed(const struct weights *w, const char *linear)
{
	char name[512];
	const struct tensor *t;
	const json_t *q = json_object_get(w->config.json, "quantization_config");

	snprintf(name, sizeof(name), "%s.weight", linear);
	t = weights_find(w, name);
	return json_is_object(q) && (!t || !is_float(t));
}

static void
shape_text(const int64_t *shape, int rank, char *text, size_t size)
{
	size_t n = (size_t)snprintf(text, size, "[");

	for (int i = 0; i < rank && n < size; i++)
		n += (size_t)snprintf(text + n, size - n, "%s%" PRId64, i ? ", " : "", shape[i]);
	if (n < size)
		snprintf(text + n, size - n, "]");
}

/* A float tensor of this shape; cols 0: of one dimension. */
static int
check_tensor(struct walk *k, const char *name, int64_t rows, int64_t cols)
{
	const struct tensor *t = weights_find(k->w, name);
	const int64_t want[2] = {rows, cols};
	const int rank = cols ? 2 : 1;
	char found[200], wanted[64];

	if (!t)
		return err_set(E_DATA, "%s: tensor \"%s\" is missing", model_name(k->w), name);
	mark(k, name);
	if (!is_float(t))
		return err_set(E_DATA, "%s: tensor \"%s\" is %s, wanted F32, F16 or BF16", model_name(k->w), name,
		               dtype_name(t->type));
	if (t->rank == rank && memcmp(t->shape, want, (size_t)rank * sizeof(want[0])) == 0)
		return 0;
	shape_text(t->shape, t->rank, found, sizeof(found));
	shape_text(want, rank, wanted, sizeof(wanted));
	return err_set(E_DATA, "%s: tensor \"%s\" is %s, wanted %s by config.json", model_name(k->w), name, found, wanted);
}

static int
compare_entries(const void *a, const void *b)
{
	return strcmp((*(const struct map_entry *const *)a)->key, (*(const struct map_entry *const *)b)->key);
}

static void
sort_names(struct walk *k)
{
	const struct map *m = &k->w->by_name;

	k->sorted = mem_new(m->n ? m->n : 1, sizeof(*k->sorted));
	for (size_t i = 0; i < m->n; i++)
		k->sorted[i] = &m->v[i];
	if (m->n > 0)
		qsort(k->sorted, m->n, sizeof(*k->sorted), compare_entries);
}

/* The first place in k->sorted whose name is not below this one. */
static size_t
lower_bound(const struct walk *k, const char *name)
{
	size_t from = 0, to = k->w->by_name.n;

	while (from < to) {
		size_t mid = from + (to - from) / 2;

		if (strcmp(k->sorted[mid]->key, name) < 0)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

/* What a format wrote in the place of NAME.weight: everything below NAME but the bias. */
static int
check_packed(struct walk *k, const char *linear)
{
	const struct map *m = &k->w->by_name;
	char below[300];
	size_t n = (size_t)snprintf(below, sizeof(below), "%s.", linear), found = 0;

	if (!k->sorted)
		sort_names(k);
	for (size_t i = lower_bound(k, below); i < m->n && strncmp(k->sorted[i]->key, below, n) == 0; i++) {
		if (strcmp(k->sorted[i]->key + n, "bias") == 0)
			continue;
		k->seen[k->sorted[i] - m->v] = 1;
		found++;
	}
	if (found > 0)
		return 0;
	return err_set(E_DATA, "%s: tensor \"%s.weight\" is missing, and nothing stands in its place", model_name(k->w), linear);
}

void
part_shape(const struct config *c, enum part p, int64_t *rows, int64_t *cols)
{
	const int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;

	*rows = c->D;
	*cols = 0;
	switch (p) {
	case EMBED: case HEAD: *rows = c->V;  *cols = c->D; break;
	case Q:                *rows = q;     *cols = c->D; break;
	case K: case V:        *rows = kv;    *cols = c->D; break;
	case O:                *cols = q;     break;
	case GATE: case UP:    *rows = c->I;  *cols = c->D; break;
	case DOWN:             *cols = c->I;  break;
	case Q_NORM: case K_NORM: *rows = c->head_dim; break;
	default: break;
	}
}

static int
check_part(struct walk *k, enum part p, int block)
{
	const struct config *c = &k->w->config;
	char name[256], full[300];
	int64_t rows, cols;
	int r;

	part_name(c->family, p, block, name, sizeof(name));
	part_shape(c, p, &rows, &cols);
	snprintf(full, sizeof(full), "%s.weight", name);
	if (part_in_block(p) && !part_is_norm(p) && weights_is_packed(k->w, name))
		r = check_packed(k, name);
	else
		r = check_tensor(k, full, rows, cols);
	if (r < 0 || !weights_has_bias(c, p))
		return r;
	snprintf(full, sizeof(full), "%s.bias", name);
	return check_tensor(k, full, rows, 0);
}

/* A head beside a tied embedding.  Loaders differ when the two differ: Transformers 5 then keeps both, Transformers 4
 * and vLLM use the embedding.  Equal ones are what a torch state dict with both names leaves, and all agree on them. */
static int
check_tied_head(struct walk *k)
{
	char name[256], full[300];
	const struct tensor *head, *embed;

	part_name(k->w->config.family, EMBED, 0, name, sizeof(name));
	snprintf(full, sizeof(full), "%s.weight", name);
	embed = weights_find(k->w, full);
	part_name(k->w->config.family, HEAD, 0, name, sizeof(name));
	snprintf(full, sizeof(full), "%s.weight", name);
	head = weights_find(k->w, full);
	if (!head)
		return 0;
	mark(k, full);
	if (head->type == embed->type && head->bytes == embed->bytes && memcmp(head->p, embed->p, head->bytes) == 0)
		return 0;
	return err_set(E_DATA, "%s: tensor \"%s\" differs from the embedding, to which config.json ties it; loaders disagree on "
	               "which to use: remove it, or set tie_word_embeddings to false", model_name(k->w), full);
}

static bool
is_ignored(const char *name)
{
	static const char tail[] = ".rotary_emb.inv_freq";
	size_t n = strlen(name), t = sizeof(tail) - 1;

	return n > t && strcmp(name + n - t, tail) == 0;
}

static int
check_left_over(const struct walk *k)
{
	const struct map *m = &k->w->by_name;
	const char *first = NULL;
	size_t more = 0;

	for (size_t i = 0; i < m->n; i++) {
		if (k->seen[i] || is_ignored(m->v[i].key))
			continue;
		if (first)
			more++;
		else
			first = m->v[i].key;
	}
	if (more > 0)
		return err_set(E_DATA, "%s: tensor \"%s\" and %zu more belong to no part of model_type %s", model_name(k->w), first,
		               more, k->w->config.family->model_type);
	if (first)
		return err_set(E_DATA, "%s: tensor \"%s\" belongs to no part of model_type %s", model_name(k->w), first,
		               k->w->config.family->model_type);
	return 0;
}

static int
check_all(struct walk *k)
{
	const struct config *c = &k->w->config;
	int r = check_part(k, EMBED, 0);

	for (int b = 0; r == 0 && b < c->L; b++)
		for (int p = ATTN_NORM; r == 0 && p < PARTS; p++)
			if (c->family->names[p])
				r = check_part(k, (enum part)p, b);
	if (r == 0)
		r = check_part(k, FINAL_NORM, 0);
	if (r == 0)
		r = c->tied ? check_tied_head(k) : check_part(k, HEAD, 0);
	return r < 0 ? r : check_left_over(k);
}

int
weights_check(const struct weights *w)
{
	struct walk k = {.w = w, .seen = mem_new(w->by_name.n ? w->by_name.n : 1, 1)};
	int r = check_all(&k);

	free(k.sorted);
	free(k.seen);
	return r;
}
