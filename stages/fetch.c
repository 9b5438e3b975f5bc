/* fetch: the model's files, each digested where it lies.
 *
 * A file of tensors exports one digest a tensor, by name: the SHA-256 of a text with its type, its shape and the digests of its
 * chunks (qjob/base/chunks.h), in which neither the file nor the place in it is told:
 *
 *     qjob-tensor 1
 *     BF16 151936 3584
 *     9f2c...                                                   a line for each chunk
 *
 * Any other file exports "content", the SHA-256 of its bytes.  Nothing is copied: later stages read the mapping.  A local file has
 * no key of its own; what follows is keyed by the digests. */
#include <inttypes.h>
#include <string.h>

#include "qjob/base/chunks.h"
#include "qjob/base/err.h"
#include "qjob/base/hash.h"
#include "qjob/base/pool.h"
#include "stages/project.h"

static int
expand(struct graph *g, const struct project *p)
{
	for (size_t i = 0; i < p->nfiles; i++) {
		struct node *n = graph_add(g, &stage_fetch, (int)i, "fetch/%s", p->files[i].name);

		n->source = mem_text(p->files[i].path);
		n->resource = RES_IO;
		n->unit = mem_text("files");
	}
	return 0;
}

/* A file of tensors while it is digested. */
struct reading {
	struct job *job;
	struct chunks chunks;        /* a range for each tensor, in the file's order */
};

static int
watch(void *own, size_t bytes)
{
	struct reading *r = own;
	struct job *job = r->job;

	if (job->host->stop(job))
		return err_set(E_SYS, "interrupted");
	job->host->progress(job, (double)bytes, (double)r->chunks.bytes, NULL);
	return 0;
}

/* Of what a tensor is, not of its bytes alone: the same bytes in another type or shape are other numbers. */
static void
digest_tensor(const struct tensor *t, const struct chunks *c, size_t range, char hex[SHA256_HEX])
{
	struct buf text = {0};

	buf_printf(&text, "qjob-tensor 1\n%s", dtype_name(t->type));
	for (int i = 0; i < t->rank; i++)
		buf_printf(&text, " %" PRId64, t->shape[i]);
	buf_puts(&text, "\n");
	chunks_list(c, range, &text);
	sha256_of(text.p, text.n, hex);
	buf_release(&text);
}

/* One tensor may be most of a file (an embedding): threads share chunks, not tensors. */
static int
digest_tensors(struct job *job, const struct safetensors *s)
{
	struct reading r = {.job = job};
	char hex[SHA256_HEX];
	int rc;

	for (size_t i = 0; i < s->n; i++)
		chunks_add(&r.chunks, s->v[i].p, s->v[i].bytes);
	project_turn(job->project, job->node->index);
	rc = chunks_digest(&r.chunks, pool_threads(), watch, &r);
	project_turn_over(job->project);
	file_forget(s->view.p, s->view.n);
	for (size_t i = 0; i < s->n && rc == 0; i++) {
		digest_tensor(&s->v[i], &r.chunks, i, hex);
		job->host->exports(job, s->v[i].name, hex);
	}
	chunks_release(&r.chunks);
	return rc;
}

static int
run(struct job *job)
{
	const struct project *p = job->project;
	const char *name = p->files[job->node->index].name;
	char hex[SHA256_HEX];
	int rc;

	for (size_t i = 0; i < p->weights.nfiles; i++)
		if (strcmp(p->weights.files[i].name, name) == 0)
			return digest_tensors(job, &p->weights.files[i].st);
	rc = sha256_file(p->files[job->node->index].path, hex);
	if (rc < 0)
		return rc;
	job->host->exports(job, "content", hex);
	return 0;
}

const struct stage stage_fetch = {
	.name = "fetch",
	.version = 2,
	.help = "the model's files: headers checked, tensors digested",
	.expand = expand,
	.run = run,
};
