/* pack: the model folder, one node a shard and one for the small files.
 *
 * A shard is written in order: what is copied comes from the source's mapping, what is packed from the blocks it belongs to, a
 * batch of tensors at a time by several threads, so memory stays that of a batch. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/pool.h"
#include "stages/pack/format.h"
#include "stages/pack/kernel.h"
#include "stages/pack/shard.h"

/* Bytes copied between two looks at job->host->stop; bytes packed at once, unless one tensor has more. */
enum { PIECE = 64 << 20, BATCH = 256 << 20 };

/* ---- nodes ---- */

static void
format_facts(const struct project *p, struct node *n)
{
	struct param_block own = {.table = p->s->format->params, .values = p->s->format_params};

	node_fact(n, "format %s %d", p->s->format->name, p->s->format->version);
	if (own.table)
		param_key(&own, "pack", &n->facts);
}

static void
choice_fact(struct node *n, const struct choice *c)
{
	if (c->skip)
		node_fact(n, "linear %s skip", c->name);
	else
		node_fact(n, "linear %s bits %d group_size %" PRId64 " sym %s", c->name, c->bits, c->group, c->sym ? "true" : "false");
}

/* The header of the file: names, types, shapes and their order. */
static void
tensor_fact(struct node *n, size_t i, const struct tensor *t)
{
	char shape[TENSOR_RANK * 24] = "";
	size_t at = 0;

	for (int r = 0; r < t->rank; r++)
		at += (size_t)snprintf(shape + at, sizeof(shape) - at, " %" PRId64, t->shape[r]);
	node_fact(n, "out %06zu %s %s%s", i, t->name, dtype_name(t->type), shape);
}

/* The source's bytes, or the block that holds the codes; labels are doubled for a block's further tensors, once in the key. */
static int
need_source(const struct project *p, struct graph *g, struct node *n, const struct packed_tensor *t, int *block)
{
	char from[32];

	if (!t->choice)
		return project_need_tensor(p, g, n, t->t.name);
	if (t->k > 0)
		return 0;
	choice_fact(n, t->choice);
	if (t->choice->block == *block)
		return 0;
	*block = t->choice->block;
	snprintf(from, sizeof(from), "quantize/%d", *block);
	node_need(n, graph_find(g, from), "block.safetensors", "block %d", *block);
	return 0;
}

static int
expand_shard(struct graph *g, const struct project *p, const struct shards *s, size_t i)
{
	const struct shard *shard = &s->v[i];
	struct node *n = graph_add(g, &stage_pack, (int)i, "pack/shard-%zu", i);
	uint64_t packed = 0;
	int block = -1;

	n->resource = RES_IO;
	n->cost.disk = shard->bytes;
	format_facts(p, n);
	node_fact(n, "file %s", shard->name);
	node_publish(n, shard->name);
	for (size_t k = 0; k < shard->n; k++) {
		const struct packed_tensor *t = &s->tensors[shard->first + k];
		int rc = need_source(p, g, n, t, &block);

		if (rc < 0)
			return rc;
		tensor_fact(n, k, &t->t);
		packed += t->choice ? t->t.bytes : 0;
		if (t->choice && t->t.bytes > n->cost.host)
			n->cost.host = t->t.bytes;
	}
	if (n->cost.host < BATCH)
		n->cost.host = packed < BATCH ? packed : BATCH;
	return 0;
}

/* config.json's own part keys it, a line for each of its keys. */
static void
config_facts(const struct project *p, struct node *n)
{
	json_t *config = p->s->format->config(p), *v;
	const char *key;

	json_object_foreach(config, key, v) {
		struct buf line = {0};

		json_write_line(v, &line);
		node_fact(n, "config %s %s", key, buf_text(&line));
		buf_release(&line);
	}
	json_decref(config);
}

static void
need_files(const struct project *p, struct graph *g, struct node *n)
{
	for (size_t i = 0; i < p->nfiles; i++) {
		const struct project_file *f = &p->files[i];
		char from[300];

		if (!f->carried && strcmp(f->name, "config.json") != 0)
			continue;
		snprintf(from, sizeof(from), "fetch/%s", f->name);
		node_need(n, graph_find(g, from), "content", "file %s", f->name);
		if (f->carried)
			node_publish(n, f->name);
	}
}

static void
expand_files(struct graph *g, const struct project *p, const struct shards *s)
{
	struct node *n = graph_add(g, &stage_pack, -1, "pack/files");
	struct buf extra = {0};
	const char *name = p->s->format->extra_file ? p->s->format->extra_file(p, &extra) : NULL;

	n->resource = RES_IO;
	node_fact(n, "format %s %d", p->s->format->name, p->s->format->version);
	config_facts(p, n);
	for (size_t i = 0; i < s->n && s->n > 1; i++)
		for (size_t k = s->v[i].first; k < s->v[i].first + s->v[i].n; k++)
			node_fact(n, "out %06zu %s %s %zu", k, s->tensors[k].t.name, s->v[i].name, s->tensors[k].t.bytes);
	node_publish(n, "config.json");
	if (s->n > 1)
		node_publish(n, "model.safetensors.index.json");
	if (name)
		node_publish(n, name);
	need_files(p, g, n);
	buf_release(&extra);
}

static int
expand(struct graph *g, const struct project *p)
{
	struct shards s;
	bool any = false;
	int rc = kernel_check_fused(p);

	for (size_t i = 0; i < p->nchoices; i++)
		any = any || !p->choices[i].skip;
	if (!any)
		return err_set(E_USE, "quantize.overrides: every linear is skipped, so nothing would be quantized");
	if (rc == 0)
		rc = shards_plan(&s, p);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < s.n && rc == 0; i++)
		rc = expand_shard(g, p, &s, i);
	if (rc == 0)
		expand_files(g, p, &s);
	shards_release(&s);
	return rc;
}

/* ---- a shard ---- */

/* A tensor of a batch. */
struct packing {
	const struct packed_tensor *t;
	const struct safetensors *block;
	unsigned char *p;             /* packed; NULL: copied */
};

/* A file being written, with the blocks that its tensors come from. */
struct writer {
	struct job *job;
	const struct project *p;
	struct safetensors_out *out;
	struct safetensors *blocks;   /* by number; not mapped: not opened yet */
	struct packing *batch;
	size_t n;
	uint64_t done, bytes;
};

static int
write_bytes(struct writer *w, const unsigned char *p, size_t n)
{
	for (size_t at = 0; at < n; at += PIECE) {
		size_t piece = n - at < PIECE ? n - at : PIECE;
		int rc;

		if (w->job->host->stop(w->job))
			return err_set(E_SYS, "interrupted");
		rc = safetensors_add(w->out, p + at, piece);
		if (rc < 0)
			return rc;
		w->done += piece;
		w->job->host->progress(w->job, (double)w->done, (double)w->bytes, NULL);
	}
	return 0;
}

static int
open_block(struct writer *w, int block)
{
	char from[32];
	const char *path;

	if (w->blocks[block].view.p)
		return 0;
	snprintf(from, sizeof(from), "quantize/%d", block);
	path = w->job->host->input(w->job, from, "block.safetensors");
	return path ? safetensors_open(&w->blocks[block], path) : err_set(E_SYS, "%s has no block.safetensors", from);
}

static int
pack_one(void *own, size_t i)
{
	struct writer *w = own;
	struct packing *to = &w->batch[i];
	const struct choice *c = to->t->choice;
	struct qlinear q;
	int rc;

	if (!c)
		return 0;
	rc = qlinear_read(&q, to->block, c->name, c->bits, c->rows, c->cols, c->group, c->sym);
	if (rc < 0)
		return rc;
	to->p = malloc(to->t->t.bytes ? to->t->t.bytes : 1);
	if (!to->p)
		return err_set(E_SYS, "no memory for the %zu bytes of %s", to->t->t.bytes, to->t->t.name);
	return w->p->s->format->pack(w->p->s->format_params, &q, to->t->k, &to->t->t, to->p);
}

static int
watch(void *own, size_t done)
{
	struct writer *w = own;

	(void)done;
	return w->job->host->stop(w->job) ? err_set(E_SYS, "interrupted") : 0;
}

/* As many tensors of v as one batch takes, at least one. */
static int
fill(struct writer *w, const struct packed_tensor *v, size_t n)
{
	size_t bytes = 0;

	for (w->n = 0; w->n < n; w->n++) {
		struct packing *to = &w->batch[w->n];
		size_t more = v[w->n].choice ? v[w->n].t.bytes : 0;
		int rc;

		if (w->n && bytes + more > BATCH)
			break;
		bytes += more;
		*to = (struct packing){.t = &v[w->n]};
		if (!to->t->choice)
			continue;
		rc = open_block(w, to->t->choice->block);
		if (rc < 0)
			return rc;
		to->block = &w->blocks[to->t->choice->block];
	}
	return 0;
}

static int
write_batch(struct writer *w)
{
	int rc = pool_watch(w->n, pool_threads_beside(), pack_one, w, watch);

	for (size_t i = 0; i < w->n; i++) {
		const struct packing *from = &w->batch[i];

		if (rc == 0)
			rc = write_bytes(w, from->p ? from->p : from->t->t.p, from->t->t.bytes);
		if (!from->p)
			file_forget(from->t->t.p, from->t->t.bytes);
		free(from->p);
	}
	return rc;
}

static int
write_tensors(struct writer *w, const struct packed_tensor *v, size_t n)
{
	int rc = 0;

	w->batch = mem_new(n + 1, sizeof(*w->batch));
	w->blocks = mem_new((size_t)w->p->weights.config.L, sizeof(*w->blocks));
	for (size_t at = 0; at < n && rc == 0; at += w->n) {
		rc = fill(w, v + at, n - at);
		if (rc == 0)
			rc = write_batch(w);
	}
	for (int b = 0; b < w->p->weights.config.L; b++)
		if (w->blocks[b].view.p)
			safetensors_close(&w->blocks[b]);
	free(w->blocks);
	free(w->batch);
	return rc;
}

static int
run_shard(struct job *job, const struct shards *s, const struct shard *shard)
{
	const struct packed_tensor *v = s->tensors + shard->first;
	struct writer w = {.job = job, .p = job->project, .bytes = shard->bytes};
	struct tensor *t = mem_new(shard->n, sizeof(*t));
	char *path = path_join(job->out, shard->name);
	int rc;

	for (size_t i = 0; i < shard->n; i++)
		t[i] = v[i].t;
	rc = safetensors_begin(&w.out, path, t, shard->n);
	if (rc == 0) {
		rc = write_tensors(&w, v, shard->n);
		if (rc == 0)
			rc = safetensors_end(w.out);
		else
			safetensors_abort(w.out);
	}
	free(path);
	free(t);
	return rc;
}

/* ---- the small files ---- */

static int
write_file(const struct job *job, const char *name, const struct buf *text)
{
	char *path = path_join(job->out, name);
	int rc = file_replace(path, text->p, text->n);

	free(path);
	return rc;
}

/* The source's text with one more key at its end, so that nothing else of it changes, number formats included. */
static int
add_key(struct buf *text, const char *key, const json_t *value)
{
	struct buf inner = {0};

	while (text->n && strchr(" \t\r\n", text->p[text->n - 1]))
		text->n--;
	if (!text->n || text->p[text->n - 1] != '}')
		return err_set(E_DATA, "config.json does not end its object");
	text->n--;
	while (text->n && strchr(" \t\r\n", text->p[text->n - 1]))
		text->n--;
	json_write(value, &inner);
	buf_printf(text, "%s\n  \"%s\": ", text->n && text->p[text->n - 1] == '{' ? "" : ",", key);
	for (size_t i = 0; i + 1 < inner.n; i++) {
		buf_add(text, inner.p + i, 1);
		if (inner.p[i] == '\n')
			buf_puts(text, "  ");
	}
	buf_puts(text, "\n}\n");
	buf_release(&inner);
	return 0;
}

static int
write_config(struct job *job)
{
	const struct project *p = job->project;
	struct buf text = {0};
	json_t *q = p->s->format->config(p);
	int rc = file_read(&text, p->files[0].path, 16 << 20);

	if (rc == 0)
		rc = add_key(&text, "quantization_config", q);
	if (rc == 0)
		rc = write_file(job, "config.json", &text);
	json_decref(q);
	buf_release(&text);
	return rc;
}

static int
write_index(struct job *job, const struct shards *s)
{
	json_t *map = json_object(), *j = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)s->bytes, "weight_map", map);
	struct buf text = {0};
	int rc;

	for (size_t i = 0; i < s->n; i++)
		for (size_t k = s->v[i].first; k < s->v[i].first + s->v[i].n; k++)
			json_object_set_new(map, s->tensors[k].t.name, json_string(s->v[i].name));
	json_write(j, &text);
	rc = write_file(job, "model.safetensors.index.json", &text);
	buf_release(&text);
	json_decref(j);
	return rc;
}

static int
carry_files(struct job *job)
{
	const struct project *p = job->project;
	int rc = 0;

	for (size_t i = 0; i < p->nfiles && rc == 0; i++) {
		char *to = path_join(job->out, p->files[i].name);

		if (p->files[i].carried)
			rc = file_copy(p->files[i].path, to);
		free(to);
	}
	return rc;
}

static int
run_files(struct job *job, const struct shards *s)
{
	const struct project *p = job->project;
	json_t *notes = json_array();
	struct buf text = {0};
	const char *name;
	int rc = write_config(job);

	if (rc == 0 && s->n > 1)
		rc = write_index(job, s);
	name = p->s->format->extra_file ? p->s->format->extra_file(p, &text) : NULL;
	if (rc == 0 && name)
		rc = write_file(job, name, &text);
	if (rc == 0)
		rc = carry_files(job);
	p->s->format->notes(p, notes);
	for (size_t i = 0; i < json_array_size(notes) && rc == 0; i++)
		job_log(job, LOG_WARN, "%s", json_string_value(json_array_get(notes, i)));
	buf_release(&text);
	json_decref(notes);
	return rc;
}

static int
run(struct job *job)
{
	struct shards s;
	int rc = shards_plan(&s, job->project);

	if (rc < 0)
		return rc;
	rc = job->node->index < 0 ? run_files(job, &s) : run_shard(job, &s, &s.v[job->node->index]);
	shards_release(&s);
	return rc;
}

const struct stage stage_pack = {
	.name = "pack",
	.version = 1,
	.help = "the output folder: tensors in the chosen format, config.json, tokenizer files",
	.expand = expand,
	.run = run,
};
