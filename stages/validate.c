/* validate: the packed folder, reopened as a stranger would, against the model it came from.
 *
 * validate/original and validate/quantized measure perplexity and know nothing of each other or of limits; validate/report
 * joins them.  The limit of the recipe is judged after the run (project_verdict), so changing it runs nothing again. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/pool.h"
#include "stages/pack/format.h"
#include "stages/pack/shard.h"
#include "stages/report.h"

enum { ORIGINAL, QUANTIZED, REPORT };

static bool
has_perplexity(const struct project *p)
{
	return p->s->validate.perplexity.dataset != NULL;
}

/* ---- nodes ---- */

static void
evaluation(const struct project *p, struct graph *g, struct node *n)
{
	const struct perplexity_params *ppl = &p->s->validate.perplexity;
	const struct config *c = &p->weights.config;
	double tokens = (double)(ppl->windows ? ppl->windows : 100) * ppl->seqlen, weights = (double)c->V * (double)c->D;

	n->resource = RES_IO;
	if (!has_perplexity(p))
		return;
	n->resource = RES_COMPUTE;
	for (size_t i = 0; i < p->nchoices; i++)
		weights += (double)p->choices[i].rows * (double)p->choices[i].cols;
	n->cost.flops = 2 * tokens * weights;
	n->cost.device = p->memory.evaluation.device;
	n->cost.host = p->memory.evaluation.host;
	node_fact(n, "evaluation dtype %s", p->s->validate.dtype);
	node_need(n, graph_find(g, "tokenize/evaluation"), "ids.safetensors", "evaluation ids");
	project_facts(p, n);
}

static int
expand_original(struct graph *g, const struct project *p)
{
	struct node *n = graph_add(g, &stage_validate, ORIGINAL, "validate/original");
	int rc = project_need_tensors(p, g, n, -1);

	evaluation(p, g, n);
	for (int b = 0; b < p->weights.config.L && rc == 0; b++)
		rc = project_need_tensors(p, g, n, b);
	return rc;
}

static void
expand_quantized(struct graph *g, const struct project *p, const struct shards *s)
{
	struct node *n = graph_add(g, &stage_validate, QUANTIZED, "validate/quantized");
	struct node *files = graph_find(g, "pack/files");

	evaluation(p, g, n);
	node_fact(n, "format %s %d", p->s->format->name, p->s->format->version);
	node_need(n, files, "config.json", "packed config.json");
	if (s->n > 1)
		node_need(n, files, "model.safetensors.index.json", "packed model.safetensors.index.json");
	for (size_t i = 0; i < s->n; i++) {
		char from[32];

		snprintf(from, sizeof(from), "pack/shard-%zu", i);
		node_need(n, graph_find(g, from), s->v[i].name, "packed %s", s->v[i].name);
	}
}

/* What the report tells beyond its inputs: settings, sizes, the device. */
static void
report_facts(const struct project *p, struct node *n, const struct shards *s)
{
	node_fact(n, "writer qjob %s", QJOB_VERSION);
	node_fact(n, "format %s %d", p->s->format->name, p->s->format->version);
	node_fact(n, "bytes %" PRIu64, s->bytes);
	report_settings(p, &n->facts);
	project_facts(p, n);
	for (size_t i = 0; i < p->nchoices; i++) {
		const struct choice *c = &p->choices[i];
		char name[300];
		const struct tensor *t;

		snprintf(name, sizeof(name), "%s.weight", c->name);
		t = weights_find(&p->weights, name);
		if (c->skip)
			node_fact(n, "linear %s skip", c->name);
		else
			node_fact(n, "linear %s bits %d group_size %" PRId64 " sym %d bytes %zu", c->name, c->bits,
			          c->group, c->sym, t ? t->bytes : 0);
	}
}

static void
expand_report(struct graph *g, const struct project *p, const struct shards *s)
{
	struct node *n = graph_add(g, &stage_validate, REPORT, "validate/report");

	n->resource = RES_IO;
	report_facts(p, n, s);
	for (int b = 0; b < p->weights.config.L; b++) {
		char from[32];

		snprintf(from, sizeof(from), "quantize/%d", b);
		node_need(n, graph_find(g, from), "block.json", "block %d", b);
	}
	if (has_perplexity(p))
		node_need(n, graph_find(g, "validate/original"), "original.json", "original");
	node_need(n, graph_find(g, "validate/quantized"), "quantized.json", "quantized");
	node_publish(n, "report.json");
	node_publish(n, "report.md");
}

static int
expand(struct graph *g, const struct project *p)
{
	struct shards s;
	int rc = shards_plan(&s, p);

	if (rc < 0)
		return rc;
	if (has_perplexity(p))
		rc = expand_original(g, p);
	if (rc == 0) {
		expand_quantized(g, p, &s);
		expand_report(g, p, &s);
	}
	shards_release(&s);
	return rc;
}

/* ---- perplexity ---- */

struct windows {
	struct safetensors file;
	const int32_t *ids;
	int64_t n, seqlen;
};

static int
open_windows(struct windows *w, struct job *job)
{
	const char *path = job->host->input(job, "tokenize/evaluation", "ids.safetensors");
	const struct tensor *t;
	int64_t vocabulary = job->project->weights.config.V;
	int rc = path ? safetensors_open(&w->file, path) : err_set(E_SYS, "no evaluation ids");

	if (rc < 0)
		return rc;
	t = safetensors_find(&w->file, "input_ids");
	if (!t || t->type != I32 || t->rank != 2 || t->shape[0] < 1 || t->shape[1] < 2) {
		safetensors_close(&w->file);
		return err_set(E_DATA, "ids.safetensors: want input_ids I32 [windows, seqlen]");
	}
	w->ids = t->p;
	w->n = t->shape[0];
	w->seqlen = t->shape[1];
	for (int64_t i = 0; i < w->n * w->seqlen; i++) {
		if (w->ids[i] >= 0 && w->ids[i] < vocabulary)
			continue;
		rc = err_set(E_DATA, "the tokenizer gives id %" PRId32 ", the model has %" PRId64 " embeddings", w->ids[i], vocabulary);
		safetensors_close(&w->file);
		return rc;
	}
	return 0;
}

static int
progress(void *own, int block, int blocks)
{
	struct job *job = own;

	job->host->progress(job, block, blocks, NULL);
	return job->host->stop(job);
}

/* float32 is exact enough for any comparison and cheap on a CPU; a card would take ten times as long as with the operands of bf16, in
 * which models are used there. */
static enum math
evaluation_math(struct dev *d, const char *dtype)
{
	enum math math = math_find(dtype);

	return math == MATH_AUTO && strcmp(dev_name(d), "cpu") == 0 ? MATH_F32 : math;
}

/* Adds perplexity and how it came about to `out`.  The mean is taken over window means, in order, in double. */
static int
measure(struct job *job, const struct weights *w, const char *which, json_t *out)
{
	struct windows v = {0};
	struct dev *d;
	enum math math;
	double *nll, sum = 0;
	json_t *each = json_array();
	size_t mark;
	int rc = open_windows(&v, job);

	if (rc == 0)
		rc = project_dev(job->project, &d);
	if (rc < 0)
		goto out;
	mark = dev_mark(d);
	math = dev_math(d, evaluation_math(d, job->project->s->validate.dtype));
	nll = mem_new((size_t)v.n, sizeof(*nll));
	rc = decoder_nll(d, w, v.ids, v.n, v.seqlen, nll, NULL, progress, job);
	dev_release(d, mark);
	for (int64_t i = 0; i < v.n && rc == 0; i++) {
		sum += nll[i];
		if (json_array_append_new(each, json_real(nll[i])) < 0)
			rc = err_set(E_NUMERIC, "the %s model gives no finite likelihood in window %" PRId64 "%s", which, i,
			             math == MATH_F16 ? "; float16 ends at 65504: try validate.dtype: bfloat16" : "");
	}
	free(nll);
	sum = exp(sum / (double)v.n);
	if (rc == 0 && !isfinite(sum))
		rc = err_set(E_NUMERIC, "the perplexity of the %s model is beyond all numbers", which);
	if (rc == 0) {
		json_object_set_new(out, "perplexity", json_real(sum));
		json_object_set_new(out, "dtype", json_string(math_name(math)));
		json_object_set_new(out, "windows", json_integer(v.n));
		json_object_set_new(out, "seqlen", json_integer(v.seqlen));
		json_object_set_new(out, "tokens", json_integer(v.n * (v.seqlen - 1)));
		json_object_set(out, "window_nll", each);
	}
out:
	if (v.file.view.p)
		safetensors_close(&v.file);
	json_decref(each);
	return rc;
}

static int
write_json(struct job *job, const char *name, const json_t *j)
{
	char *path = path_join(job->out, name);
	struct buf text = {0};
	int rc;

	json_write(j, &text);
	rc = file_replace(path, text.p, text.n);
	buf_release(&text);
	free(path);
	return rc;
}

static int
run_original(struct job *job)
{
	json_t *out = json_object();
	int rc = measure(job, &job->project->weights, "original", out);

	if (rc == 0)
		rc = write_json(job, "original.json", out);
	json_decref(out);
	return rc;
}

/* ---- the packed folder ---- */

static int
open_packed(struct job *job, const struct shards *s, struct weights *w)
{
	struct named_path *files = mem_new(s->n + 2, sizeof(*files));
	size_t n = 0;
	int rc;

	files[n].name = "config.json";
	files[n++].path = job->host->input(job, "pack/files", "config.json");
	if (s->n > 1) {
		files[n].name = "model.safetensors.index.json";
		files[n++].path = job->host->input(job, "pack/files", "model.safetensors.index.json");
	}
	for (size_t i = 0; i < s->n; i++) {
		char from[32];

		snprintf(from, sizeof(from), "pack/shard-%zu", i);
		files[n].name = s->v[i].name;
		files[n++].path = job->host->input(job, from, s->v[i].name);
	}
	rc = weights_open_files(w, files, n);
	free(files);
	if (rc < 0)
		return rc;
	rc = format_attach(w);
	if (rc == 0 && !w->decode)
		rc = err_set(E_DATA, "config.json: there is no quantization_config");
	if (rc == 0)
		rc = weights_check(w);
	if (rc < 0)
		weights_close(w);
	return rc;
}

/* Every tensor that was to be written is there in its type and shape, and no other. */
static int
check_tensors(const struct shards *s, const struct weights *w)
{
	size_t found = 0;

	for (size_t i = 0; i < s->ntensors; i++) {
		const struct tensor *want = &s->tensors[i].t, *t = weights_find(w, want->name);

		if (!t)
			return err_set(E_DATA, "%s is missing", want->name);
		if (t->type != want->type || t->rank != want->rank ||
		    memcmp(t->shape, want->shape, (size_t)t->rank * sizeof(*t->shape)) != 0)
			return err_set(E_DATA, "%s has another type or shape than planned", want->name);
	}
	for (size_t i = 0; i < w->nfiles; i++)
		found += w->files[i].st.n;
	if (found != s->ntensors)
		return err_set(E_DATA, "%zu tensors too many in the packed files", found - s->ntensors);
	return 0;
}

struct linears {
	struct job *job;
	const struct weights *w;
};

static int
check_linear(void *own, size_t i)
{
	const struct linears *all = own;
	const struct choice *c = &all->job->project->choices[i];

	return c->skip ? 0 : all->w->decode(all->w, c->name, NULL, c->rows, c->cols);
}

static int
watch_linears(void *own, size_t done)
{
	struct job *job = ((struct linears *)own)->job;

	if (job->host->stop(job))
		return err_set(E_SYS, "interrupted");
	if (!has_perplexity(job->project))
		job->host->progress(job, (double)done, (double)job->project->nchoices, NULL);
	return 0;
}

/* Reads every linear by the label alone, for the checks on the way. */
static int
check_linears(struct job *job, const struct weights *w)
{
	struct linears all = {job, w};

	return pool_watch(job->project->nchoices, pool_threads(), check_linear, &all, watch_linears);
}

static int
run_quantized(struct job *job, const struct shards *s)
{
	struct weights w = {0};
	json_t *out = json_object();
	int rc = open_packed(job, s, &w);

	if (rc == 0) {
		rc = check_tensors(s, &w);
		if (rc == 0)
			rc = check_linears(job, &w);
		json_object_set_new(out, "tensors", json_integer((json_int_t)s->ntensors));
		if (rc == 0 && has_perplexity(job->project))
			rc = measure(job, &w, "quantized", out);
		weights_close(&w);
	}
	if (rc == 0)
		rc = write_json(job, "quantized.json", out);
	json_decref(out);
	return rc < 0 ? err_in(rc, "the packed model") : 0;
}

/* ---- the report ---- */

static int
load_input(struct job *job, const char *node, const char *what, json_t **out)
{
	const char *path = job->host->input(job, node, what);

	return path ? json_load_path(out, path, 256 << 20) : err_set(E_SYS, "%s has no %s", node, what);
}

static int
load_blocks(struct job *job, json_t *blocks)
{
	for (int b = 0; b < job->project->weights.config.L; b++) {
		json_t *j;
		char from[32];
		int rc;

		snprintf(from, sizeof(from), "quantize/%d", b);
		rc = load_input(job, from, "block.json", &j);
		if (rc < 0)
			return rc;
		json_array_append_new(blocks, j);
	}
	return 0;
}

static int
run_report(struct job *job, const struct shards *s)
{
	json_t *blocks = json_array(), *original = NULL, *quantized = NULL, *report = NULL;
	struct buf text = {0};
	char *path = path_join(job->out, "report.md");
	int rc = load_blocks(job, blocks);

	if (rc == 0 && has_perplexity(job->project))
		rc = load_input(job, "validate/original", "original.json", &original);
	if (rc == 0)
		rc = load_input(job, "validate/quantized", "quantized.json", &quantized);
	if (rc == 0) {
		report = report_make(job->project, s, blocks, original, quantized);
		rc = report ? write_json(job, "report.json", report) : err_set(E_NUMERIC, "the report holds a number that is none");
	}
	if (rc == 0) {
		report_markdown(report, &text);
		rc = file_replace(path, text.p, text.n);
	}
	json_decref(blocks);
	json_decref(original);
	json_decref(quantized);
	json_decref(report);
	buf_release(&text);
	free(path);
	return rc;
}

static int
run(struct job *job)
{
	struct shards s;
	int rc;

	if (job->node->index == ORIGINAL)
		return run_original(job);
	rc = shards_plan(&s, job->project);
	if (rc < 0)
		return rc;
	rc = job->node->index == QUANTIZED ? run_quantized(job, &s) : run_report(job, &s);
	shards_release(&s);
	return rc;
}

const struct stage stage_validate = {
	.name = "validate",
	.version = 2,
	.help = "structure of the packed folder, perplexity before and after, the report",
	.expand = expand,
	.run = run,
};

/* ---- the verdict ---- */

int
project_verdict(const struct project *p, const char *report_path, struct buf *summary)
{
	double limit = p->s->validate.max_perplexity_increase, increase;
	const json_t *ppl;
	json_t *report;
	int rc = json_load_path(&report, report_path, 256 << 20);

	if (rc < 0)
		return rc;
	report_summary(report, summary);
	ppl = json_object_get(report, "perplexity");
	increase = json_number_value(json_object_get(ppl, "increase"));
	if (json_is_object(ppl) && !isnan(limit) && increase > limit)
		rc = err_set(E_GATE, "perplexity grew by %.2f %% (%.4f to %.4f), more than "
		             "validate.max_perplexity_increase allows: %.4g (%.4g %%)",
		             100 * increase, json_number_value(json_object_get(ppl, "original")),
		             json_number_value(json_object_get(ppl, "quantized")), limit, 100 * limit);
	json_decref(report);
	return rc;
}
