/* fetch: the model's files, each digested where it lies.
 *
 * A file of tensors exports one digest a tensor, by name; any other file exports "content".  Nothing is copied: later
 * stages read the mapping.  A local file has no key of its own; what follows is keyed by the digests. */
#include <inttypes.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/hash.h"
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

/* Of what a tensor is, not of its bytes alone: the same bytes in another type or shape are other numbers. */
static void
digest_tensor(const struct tensor *t, char hex[SHA256_HEX])
{
	struct sha256 *h = sha256_new();
	struct buf kind = {0};

	buf_puts(&kind, dtype_name(t->type));
	for (int i = 0; i < t->rank; i++)
		buf_printf(&kind, " %" PRId64, t->shape[i]);
	buf_puts(&kind, "\n");
	sha256_add(h, kind.p, kind.n);
	sha256_add(h, t->p, t->bytes);
	sha256_end(h, hex);
	buf_release(&kind);
}

static int
digest_tensors(struct job *job, const struct safetensors *s)
{
	size_t bytes = 0;

	for (size_t i = 0; i < s->n; i++) {
		char hex[SHA256_HEX];

		if (job->host->stop(job))
			return err_set(E_SYS, "interrupted");
		digest_tensor(&s->v[i], hex);
		job->host->exports(job, s->v[i].name, hex);
		bytes += s->v[i].bytes;
		job->host->progress(job, (double)bytes, (double)s->view.n, NULL);
	}
	return 0;
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
	.version = 1,
	.help = "the model's files: headers checked, tensors digested",
	.expand = expand,
	.run = run,
};
