/* quantize: the linears of a block as codes and scales, one node a block.
 *
 * With a stream (propagate: quantized) each site is met once, in order: the step in front of it runs over all tokens and
 * leaves its inputs and their statistics, the method chooses codes, and the next step already uses the quantized weights.
 * That is true-sequential quantization for the price of one forward pass.  Without one (propagate: original, or a
 * method that needs no statistics) blocks are independent of one another. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/hash.h"
#include "stages/pack/format.h"
#include "stages/qblock.h"
#include "stages/statistics.h"
#include "stages/stream.h"
#include "stages/together.h"

/* A block while its linears are replaced one by one. */
struct work {
	struct job *job;
	const struct project *p;
	struct dev *d;
	struct stream *s;               /* NULL: no stream */
	struct safetensors file;        /* statistics of calibrate, or closed */
	struct block b, full;           /* full keeps the original weights */
	struct mat quantized[PARTS];    /* dequantized again, where the stream goes on with them */
	struct qblock out;
	char digest[SHA256_HEX];        /* of out */
	pthread_t digester;
	bool digesting;                 /* there is a thread to be joined */
	const struct choice *choices;
	size_t n;
};

static bool
is_streamed(const struct project *p)
{
	return p->wish.needs && !p->wish.original;
}

static int
need_linears(const struct project *p, struct graph *g, struct node *n, const struct choice *v, size_t count)
{
	char tensor[300];

	for (size_t i = 0; i < count; i++) {
		int rc;

		if (v[i].skip)
			continue;
		snprintf(tensor, sizeof(tensor), "%s.weight", v[i].name);
		rc = project_need_tensor(p, g, n, tensor);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void
facts(const struct project *p, struct node *n, const struct choice *v, size_t count)
{
	const struct settings *s = p->s;
	struct param_block own = {.table = s->method->params, .values = s->method_params};
	enum dtype scale = s->format->scale_type(s->format_params, p->weights.config.dtype);

	node_fact(n, "method %s %d", s->method->name, s->method->version);
	param_key(&own, "quantize", &n->facts);
	node_fact(n, "scale %s", dtype_name(scale));
	for (size_t i = 0; i < count; i++) {
		if (v[i].skip)
			node_fact(n, "linear %s skip", v[i].name);
		else if (v[i].sym)
			node_fact(n, "linear %s bits %d group_size %lld sym true", v[i].name, v[i].bits, (long long)v[i].group);
		else
			node_fact(n, "linear %s bits %d group_size %lld sym false zero_min %d", v[i].name, v[i].bits,
			          (long long)v[i].group, s->format->zero_min(s->format_params, false));
	}
}

static void
predict(const struct project *p, struct node *n, const struct choice *v, size_t count)
{
	double tokens = (double)p->s->calibration.samples * p->s->calibration.seqlen;
	uint64_t weights = 0;

	for (size_t i = 0; i < count; i++) {
		double in = (double)v[i].cols, out = (double)v[i].rows;

		weights += (uint64_t)(in * out);
		n->cost.disk += (uint64_t)(in * out * v[i].bits / 8 + out * in / (double)v[i].group * 2);
		n->cost.flops += p->wish.needs ? out * in * in : out * in;
	}
	for (enum site s = 0; is_streamed(p) && s < SITES; s++)
		n->cost.flops += tokens * (double)site_width(&p->weights.config, s) * (double)site_width(&p->weights.config, s);
	n->cost.device = (is_streamed(p) ? &p->memory.stream : &p->memory.alone)->device;
	/* Its codes, and those of the block before, which may still be being written. */
	n->cost.host = (is_streamed(p) ? &p->memory.stream : &p->memory.alone)->host + weights + n->cost.disk * 2;
	if (is_streamed(p))
		n->cost.flops += block_flops(p, tokens);
}

static int
expand(struct graph *g, const struct project *p)
{
	struct node *before = NULL;

	for (int b = 0; b < p->weights.config.L; b++) {
		struct node *n = graph_add(g, &stage_quantize, b, "quantize/%d", b);
		size_t count;
		const struct choice *v = project_block(p, b, &count);
		int rc;

		n->resource = RES_COMPUTE;
		if (is_streamed(p)) {
			rc = stream_needs(p, g, n, before);
		} else {
			buf_puts(&n->facts, p->device_facts);
			rc = need_linears(p, g, n, v, count);
		}
		if (rc < 0)
			return rc;
		if (p->wish.needs && p->wish.original) {
			char from[32];

			snprintf(from, sizeof(from), "calibrate/%d", b);
			node_need(n, graph_find(g, from), "statistics.safetensors", "statistics");
		}
		facts(p, n, v, count);
		n->unit = mem_text("blocks");
		predict(p, n, v, count);
		before = n;
	}
	return 0;
}

static struct mat
stack(struct work *w, const struct choice *c, size_t n, int64_t rows)
{
	enum dtype type = w->full.linear[c->part].w.type;
	struct mat all;
	int64_t at = 0;

	for (size_t i = 1; i < n; i++)
		if (w->full.linear[c[i].part].w.type != type)
			type = F32;
	all = dev_mat(w->d, type, rows, c->cols);
	for (size_t i = 0; i < n; i++) {
		struct mat place = mat_rows(&all, at, c[i].rows);

		op_convert(w->d, &place, &w->full.linear[c[i].part].w);
		at += c[i].rows;
	}
	return all;
}

/* Rows [at, at + n) of what was solved together. */
static struct qmat
slice(const struct qmat *q, int64_t at, int64_t n)
{
	return (struct qmat){mat_rows(&q->code, at, n), mat_rows(&q->scale, at, n), mat_rows(&q->zero, at, n), q->group_of};
}

/* Takes the solution of each linear to the host, and puts its dequantized weights in the block's place. */
static int
take_results(struct work *w, const struct choice *c, size_t n, const struct solved *all, const struct grid *g, int64_t tokens)
{
	int64_t at = 0;

	for (size_t i = 0; i < n; i++) {
		struct solved one = *all;
		int rc;

		one.q = slice(&all->q, at, c[i].rows);
		one.loss = mat_cols(&all->loss, at, c[i].rows);
		if (w->s) {
			op_dequant(w->d, &w->quantized[c[i].part], &one.q, g);
			w->b.linear[c[i].part].w = w->quantized[c[i].part];
		}
		rc = qblock_add(&w->out, w->d, &c[i], &one, g, tokens);
		if (rc < 0)
			return rc;
		at += c[i].rows;
	}
	return 0;
}

static int
solve_together(struct work *w, const struct choice *c, size_t n, const struct stats *st)
{
	const struct settings *s = w->p->s;
	size_t mark = dev_mark(w->d);
	int64_t rows = together_rows(c, n);
	struct grid g = together_grid(w->p, c);
	struct mat all = stack(w, c, n, rows);
	struct solved out = together_take(w->d, c, rows);
	int rc;

	rc = s->method->solve(w->d, &out, &all, st, &g, s->method_params);
	if (rc == 0)
		rc = dev_status(w->d);
	if (rc < 0)
		return err_in(rc, "block %d: %s", c->block, c->name);
	if (out.fallback[0])
		job_log(w->job, LOG_WARN, "%s: %s", c->name, out.fallback);
	rc = take_results(w, c, n, &out, &g, st->tokens);
	dev_release(w->d, mark);
	return rc;
}

static int
solve_site(struct work *w, enum site site, const struct stats *st)
{
	for (size_t i = 0, n; i < w->n; i += n) {
		const struct choice *c = &w->choices[i];
		int rc;

		n = together_count(c, w->n - i);
		if (c->site != site || c->skip)
			continue;
		if (w->job->host->stop(w->job))
			return err_set(E_SYS, "interrupted");
		rc = solve_together(w, c, n, st);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void *
digest(void *own)
{
	struct work *w = own;

	qblock_digest(&w->out, w->digest);
	return NULL;
}

/* Waits for the results and digests them, on a thread of its own where there is still something to do for the device. */
static int
begin_digest(struct work *w)
{
	int rc = qblock_settle(&w->out, w->d);

	if (rc < 0)
		return rc;
	w->digesting = pthread_create(&w->digester, NULL, digest, w) == 0;
	if (!w->digesting)
		digest(w);
	return 0;
}

static void
end_digest(struct work *w)
{
	if (w->digesting)
		pthread_join(w->digester, NULL);
	w->digesting = false;
}

/* Statistics gathered from the stream, a site at a time, each seeing the ones before it quantized. */
static int
solve_in_sequence(struct work *w)
{
	struct pass last = {.b = &w->b, .b_full = w->s->f.p ? &w->full : NULL};
	int rc;

	for (enum site site = 0; site < SITES; site++) {
		size_t mark = dev_mark(w->d);
		struct stats st = stream_stats(w->s, &w->p->weights.config, site, w->p->wish.needs);
		struct pass pass = {&w->b, w->s->f.p ? &w->full : NULL, &st, w->p->wish.unit};

		rc = stream_step(w->job, w->s, (int)site, &pass);
		if (rc == 0)
			rc = solve_site(w, site, &st);
		dev_release(w->d, mark);
		if (rc < 0)
			return rc;
	}
	rc = begin_digest(w);
	if (rc == 0)
		rc = stream_step(w->job, w->s, SITES, &last);
	end_digest(w);
	return rc;
}

/* All statistics first, from the block as it was. */
static int
solve_at_once(struct work *w)
{
	struct pass pass = {.b = &w->b, .b_full = w->s->f.p ? &w->full : NULL, .unit = w->p->wish.unit};
	struct stats st[SITES];
	int rc;

	for (enum site site = 0; site < SITES; site++)
		st[site] = stream_stats(w->s, &w->p->weights.config, site, w->p->wish.needs);
	rc = stream_sweep(w->job, w->s, &pass, st, true);
	for (enum site site = 0; site < SITES && rc == 0; site++)
		rc = solve_site(w, site, &st[site]);
	if (rc < 0)
		return rc;
	block_forward(w->d, &w->b, &w->s->h, w->s->seqlen);
	if (w->s->f.p)
		block_forward(w->d, &w->full, &w->s->f, w->s->seqlen);
	rc = begin_digest(w);
	end_digest(w);
	return rc;
}

/* No stream: statistics come from the calibrate node, or the method needs none. */
static int
solve_alone(struct work *w)
{
	for (enum site site = 0; site < SITES; site++) {
		size_t mark = dev_mark(w->d);
		struct stats st = {0};
		int rc = 0;

		if (w->p->wish.needs)
			rc = statistics_read(&w->file, w->d, site, &w->p->weights.config, &st);
		if (rc == 0)
			rc = solve_site(w, site, &st);
		dev_release(w->d, mark);
		if (rc < 0)
			return rc;
		w->job->host->progress(w->job, site + 1, SITES, NULL);
	}
	return qblock_settle(&w->out, w->d);
}

static void
take_quantized(struct work *w)
{
	enum dtype type = dev_operand(w->d);

	for (size_t i = 0; i < w->n; i++)
		if (!w->choices[i].skip)
			w->quantized[w->choices[i].part] = dev_mat(w->d, type, w->choices[i].rows, w->choices[i].cols);
}

static int
work_open(struct work *w, struct job *job)
{
	const struct project *p = job->project;
	int64_t seqlen = 1;
	int rc;

	*w = (struct work){.job = job, .p = p};
	w->choices = project_block(p, job->node->index, &w->n);
	rc = is_streamed(p) ? stream_open(&w->s, job) : project_dev(p, &w->d);
	if (rc < 0)
		return rc;
	if (w->s) {
		w->d = w->s->d;
		seqlen = w->s->seqlen;
	} else if (p->wish.needs) {
		char from[32];

		dev_math(w->d, stream_math(p));      /* in which they came about */
		snprintf(from, sizeof(from), "calibrate/%d", job->node->index);
		rc = safetensors_open(&w->file, job->host->input(job, from, "statistics.safetensors"));
		if (rc < 0)
			return rc;
	}
	rc = block_load(w->d, &w->b, &p->weights, job->node->index, seqlen);
	block_ahead(w->d, &p->weights, job->node->index + 1);
	w->full = w->b;
	if (w->s)
		take_quantized(w);
	return rc;
}

/* What run leaves for finish. */
struct kept {
	struct qblock block;
	struct room *room;
};

/* The most that the results of any block take. */
static size_t
room_size(const struct project *p)
{
	size_t most = 0;

	for (int b = 0; b < p->weights.config.L; b++) {
		size_t n, bytes;
		const struct choice *c = project_block(p, b, &n);

		bytes = qblock_bytes(c, n);
		most = bytes > most ? bytes : most;
	}
	return most;
}

static int
take_room(struct work *w, struct kept *k)
{
	k->room = project_room(w->p, room_size(w->p));
	if (!k->room)
		return dev_status(w->d);
	w->out.room = k->room->bytes;
	w->out.size = k->room->size;
	return 0;
}

/* The block's result decides what the stream carries on. */
static void
advance(struct work *w)
{
	stream_advance(w->s, w->job, w->digest);
	w->job->host->exports(w->job, "activations", w->s->digest);
}

static void
tell_loss(struct work *w)
{
	char text[64];
	double loss = 0;

	for (size_t i = 0; i < w->out.n; i++)
		loss += w->out.v[i].loss;
	snprintf(text, sizeof(text), "loss %.4g", loss);
	w->job->host->progress(w->job, 1, 1, text);
}

static int
run(struct job *job)
{
	struct kept *kept = mem_new(1, sizeof(*kept));
	struct work w;
	size_t mark = 0;
	int rc = work_open(&w, job);

	if (rc == 0)
		rc = take_room(&w, kept);
	if (rc == 0 && !w.s)
		mark = dev_mark(w.d);
	if (rc == 0)
		rc = !w.s ? solve_alone(&w) : w.p->wish.true_sequential ? solve_in_sequence(&w) : solve_at_once(&w);
	if (rc == 0 && w.s)
		advance(&w);
	if (rc == 0) {
		tell_loss(&w);
		if (!w.s)
			dev_release(w.d, mark);
	}
	if (w.file.view.p)
		safetensors_close(&w.file);
	if (rc == 0) {
		kept->block = w.out;
		job->kept = kept;
	} else {
		room_back(kept->room);
		free(kept);
	}
	return rc;
}

/* The block's weights are on the device, or of no more use. */
static void
forget_weights(const struct project *p, int block)
{
	size_t n;
	const struct choice *v = project_block(p, block, &n);

	for (size_t i = 0; i < n; i++) {
		char name[300];
		const struct tensor *t;

		snprintf(name, sizeof(name), "%s.weight", v[i].name);
		t = weights_find(&p->weights, name);
		if (t)
			file_forget(t->p, t->bytes);
	}
}

static int
finish(struct job *job)
{
	struct kept *kept = job->kept;
	int rc = job->out ? qblock_write(&kept->block, job->out, job->node->index) : 0;

	forget_weights(job->project, job->node->index);

	room_back(kept->room);
	free(kept);
	return rc;
}

static int
replay(struct job *job)
{
	const char *path = job->host->input(job, job->node->name, "block.safetensors");
	char hex[SHA256_HEX];
	struct work w;
	int rc = work_open(&w, job);

	if (rc == 0)
		rc = qblock_load(path, &(struct qplace){w.d, &w.b, w.quantized}, w.choices, w.n, hex);
	if (rc < 0)
		return rc;
	block_forward(w.d, &w.b, &w.s->h, w.s->seqlen);
	if (w.s->f.p)
		block_forward(w.d, &w.full, &w.s->f, w.s->seqlen);
	rc = dev_status(w.d);
	if (rc == 0)
		stream_advance(w.s, job, hex);
	return rc;
}

const struct stage stage_quantize = {
	.name = "quantize",
	.version = 3,
	.help = "codes and scales of every linear, block by block",
	.expand = expand,
	.warm = project_warm,
	.cool = project_cool,
	.run = run,
	.finish = finish,
	.replay = replay,
	.drop = stream_drop,
};
