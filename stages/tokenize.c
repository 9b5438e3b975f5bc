/* tokenize: the texts of a recipe as rows of ids of one length.
 *
 * tokenize/calibration holds the samples that a method learns from, tokenize/evaluation the windows on which perplexity is
 * measured: both a file ids.safetensors with input_ids I32 [rows, seqlen].  Each document is encoded on its own, with what the
 * post-processor adds (a token that begins it), lists of ids are taken as they are, and all are joined in order.  From that row of ids
 *
 *     concat   takes windows from the start, one behind the other; the rest is dropped
 *     random   takes `samples` windows wherever the seed says; they may overlap
 *
 * Window i of random starts at floor(u * (ids - seqlen + 1) / 2^64), u = SplitMix64 of (seed * 2^32 + i). */
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mix.h"
#include "qjob/model/tokenizer.h"
#include "stages/data/dataset.h"
#include "stages/project.h"

enum { CALIBRATION, EVALUATION };

/* What to cut, from either section. */
struct cut {
	const char *section;
	const struct yaml *dataset;
	const char *field;
	size_t rows, seqlen;         /* rows 0: as many as there are */
	bool random, exact;          /* exact: fewer rows are an error */
	bool made_up;                /* just as many as are asked for, in order */
	uint64_t seed;
};

/* Windows of a made-up text where the recipe asks for all that there are. */
enum { MADE_UP_ROWS = 16 };

static struct cut
cut_of(const struct project *p, int index)
{
	const struct calibration_params *c = &p->s->calibration;
	const struct perplexity_params *e = &p->s->validate.perplexity;
	struct cut evaluation = {
		.section = "validate.perplexity", .dataset = e->dataset, .field = e->field,
		.rows = (size_t)e->windows, .seqlen = (size_t)e->seqlen, .made_up = dataset_is_synthetic(e->dataset),
	};
	struct cut calibration = {
		.section = "calibration", .dataset = c->dataset, .field = c->field,
		.rows = (size_t)c->samples, .seqlen = (size_t)c->seqlen, .exact = true,
		.seed = (uint64_t)c->seed, .made_up = dataset_is_synthetic(c->dataset),
	};

	calibration.random = strcmp(c->windows, "random") == 0 && !calibration.made_up;
	if (evaluation.made_up && evaluation.rows == 0)
		evaluation.rows = MADE_UP_ROWS;
	return index == EVALUATION ? evaluation : calibration;
}

/* ---- nodes ---- */

/* Everything that decides which ids a text gets. */
static int
need_tokenizer(const struct project *p, struct graph *g, struct node *n, const struct cut *c)
{
	const char *folder = p->weights.folder, *class = tokenizer_class(folder);
	const char *const *files = tokenizer_files_in(folder);
	char libraries[256];

	if (files == NULL) {
		int rc = dataset_needs_tokenizer(c->dataset, c->field);

		return rc <= 0 ? rc : err_set(E_USE, "%s has no tokenizer.json, and no vocab.json with merges.txt", folder);
	}
	for (; *files != NULL; files++) {
		char name[128];
		struct node *from;

		snprintf(name, sizeof(name), "fetch/%s", *files);
		from = graph_find(g, name);
		if (from == NULL)
			return err_set(E_DATA, "no node %s", name);
		node_need(n, from, "content", "file %s", *files);
	}
	tokenizer_libraries(libraries, sizeof(libraries));
	node_fact(n, "library %s", libraries);
	if (class != NULL)
		node_fact(n, "tokenizer class %s", class);
	return 0;
}

static int
need_data(struct node *n, const struct cut *c)
{
	struct buf facts = {0};
	int rc = dataset_facts(c->dataset, c->field, &facts);

	for (char *line = facts.p, *end; rc == 0 && line != NULL && *line != '\0'; line = end + 1) {
		end = strchr(line, '\n');
		node_fact(n, "%.*s", (int)(end - line), line);
	}
	buf_release(&facts);
	return rc;
}

static int
expand_one(struct graph *g, const struct project *p, int index, const char *name)
{
	struct cut c = cut_of(p, index);
	struct node *n = graph_add(g, &stage_tokenize, index, "tokenize/%s", name);
	int rc = need_tokenizer(p, g, n, &c);

	n->resource = RES_IO;
	n->cost.disk = 4 * (uint64_t)c.rows * c.seqlen;
	node_fact(n, "set windows %s", c.random ? "random" : "concat");
	node_fact(n, "set rows %zu", c.rows);
	node_fact(n, "set seqlen %zu", c.seqlen);
	if (c.random)
		node_fact(n, "set seed %llu", (unsigned long long)c.seed);
	if (c.made_up)
		node_fact(n, "vocabulary %lld", (long long)p->weights.config.V);
	return rc != 0 ? rc : need_data(n, &c);
}

static int
expand(struct graph *g, const struct project *p)
{
	int rc = 0;

	if (p->wish.needs != 0 && p->s->calibration.dataset != NULL)
		rc = expand_one(g, p, CALIBRATION, "calibration");
	if (rc == 0 && p->s->validate.perplexity.dataset != NULL)
		rc = expand_one(g, p, EVALUATION, "evaluation");
	return rc;
}

/* ---- running ---- */

struct encoding {
	struct job *job;
	struct tokenizer *tokenizer; /* opened for the first text: ids need none, nor that it be of a known kind */
	size_t enough;               /* ids after which no document is read; 0: all are */
	struct ids ids;
};

static int
encode(void *own, const char *text, size_t n)
{
	struct encoding *e = own;
	int rc;

	if (e->job->host->stop(e->job))
		return err_set(E_SYS, "interrupted");
	rc = e->tokenizer ? 0 : tokenizer_open(&e->tokenizer, e->job->project->weights.folder);
	if (rc == 0)
		rc = tokenizer_encode(e->tokenizer, text, n, true, &e->ids);
	if (rc != 0)
		return rc;
	if (e->enough == 0)
		return 0;
	e->job->host->progress(e->job, (double)(e->ids.n < e->enough ? e->ids.n : e->enough), (double)e->enough, NULL);
	return e->ids.n >= e->enough;
}

static int
take_ids(void *own, const int32_t *ids, size_t n)
{
	struct encoding *e = own;

	for (size_t i = 0; i < n; i++)
		ids_add(&e->ids, ids[i]);
	return e->enough != 0 && e->ids.n >= e->enough;
}

static int
read_ids(struct encoding *e, const struct cut *c)
{
	int rc;

	e->enough = c->random ? 0 : c->rows * c->seqlen;
	rc = dataset_read(c->dataset, c->field, (struct document_sink){
		.document = encode, .ids = take_ids, .own = e,
		.vocabulary = e->job->project->weights.config.V, .made_up = c->rows * c->seqlen,
	});
	if (e->tokenizer != NULL)
		tokenizer_close(e->tokenizer);
	return rc;
}

/* Every id must have a row in the embedding. */
static int
check_ids(const struct encoding *e)
{
	int64_t vocabulary = e->job->project->weights.config.V;

	for (size_t i = 0; i < e->ids.n; i++)
		if (e->ids.v[i] >= vocabulary)
			return err_set(E_DATA, "the tokenizer gives id %d, but the model has %lld embeddings",
			               e->ids.v[i], (long long)vocabulary);
	return 0;
}

/* How many rows there will be. */
static int
count_rows(const struct encoding *e, const struct cut *c, size_t *rows)
{
	size_t there = e->ids.n / c->seqlen;

	*rows = c->rows == 0 ? there : c->rows;
	if (there == 0)
		return err_set(E_USE, "%s: the text gives %zu tokens, less than one window of seqlen %zu; lower seqlen or give more "
		               "text", c->section, e->ids.n, c->seqlen);
	if (there >= *rows)
		return 0;
	if (c->random) {
		job_log(e->job, LOG_WARN, "%s: %zu samples of %zu tokens are drawn from only %zu tokens, so they overlap",
		        c->section, c->rows, c->seqlen, e->ids.n);
		return 0;
	}
	if (c->exact)
		return err_set(E_USE, "%s: the text gives %zu tokens, but %zu samples of seqlen %zu need %zu; lower samples to %zu, lower "
		               "seqlen, or give more text", c->section, e->ids.n, c->rows, c->seqlen, c->rows * c->seqlen, there);
	job_log(e->job, LOG_WARN, "%s: the text has %zu windows of %zu tokens, fewer than the %zu asked for",
	        c->section, there, c->seqlen, c->rows);
	*rows = there;
	return 0;
}

static size_t
row_start(const struct cut *c, size_t row, size_t ids)
{
	if (!c->random)
		return row * c->seqlen;
	return (size_t)mix_below(mix(c->seed << 32 | row), ids - c->seqlen + 1);
}

static int
write_rows(const struct encoding *e, const struct cut *c, size_t rows)
{
	struct tensor t = {.name = (char *)"input_ids", .type = I32, .rank = 2, .shape = {(int64_t)rows, (int64_t)c->seqlen}};
	char *path = path_join(e->job->out, "ids.safetensors");
	struct safetensors_out *out = NULL;
	int rc = safetensors_begin(&out, path, &t, 1);

	free(path);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < rows; i++) {
		rc = safetensors_add(out, e->ids.v + row_start(c, i, e->ids.n), c->seqlen * sizeof(*e->ids.v));
		if (rc != 0) {
			safetensors_abort(out);
			return rc;
		}
	}
	return safetensors_end(out);
}

static int
run(struct job *job)
{
	struct cut c = cut_of(job->project, job->node->index);
	struct encoding e = {.job = job};
	size_t rows = 0;
	int rc = read_ids(&e, &c);

	if (rc == 0 && e.ids.n > UINT32_MAX)
		rc = err_set(E_USE, "%s: more than 2^32 tokens", c.section);
	if (rc == 0)
		rc = check_ids(&e);
	if (rc == 0)
		rc = count_rows(&e, &c, &rows);
	if (rc == 0)
		rc = write_rows(&e, &c, rows);
	ids_release(&e.ids);
	return rc;
}

const struct stage stage_tokenize = {
	.name = "tokenize",
	.version = 1,
	.help = "calibration and evaluation texts as windows of ids",
	.expand = expand,
	.run = run,
};
