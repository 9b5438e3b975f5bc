#include "stages/statistics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qjob/base/err.h"

/* What a device may leave above the diagonal is nobody's business; equal statistics must be equal bytes. */
static void
clear_upper(float *m, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = i + 1; j < n; j++)
			m[i * n + j] = 0;
}

static int
add_matrix(struct safetensors_out *o, struct dev *d, const struct mat *m, bool lower)
{
	size_t bytes = (size_t)(m->rows * m->cols) * sizeof(float);
	float *host = mem_new(1, bytes);
	int rc;

	dev_get(d, host, m);
	if (lower)
		clear_upper(host, m->rows);
	rc = dev_status(d);
	if (rc == 0)
		rc = safetensors_add(o, host, bytes);
	free(host);
	return rc;
}

static size_t
describe(struct tensor *t, const struct stats st[SITES])
{
	size_t n = 0;

	for (enum site s = 0; s < SITES; s++) {
		int64_t w = st[s].gram.rows;

		if (st[s].gram.p)
			t[n++] = (struct tensor){.name = mem_format("%s.gram", site_name(s)), .type = F32, .rank = 2, .shape = {w, w}};
		if (st[s].cross.p)
			t[n++] = (struct tensor){.name = mem_format("%s.cross", site_name(s)), .type = F32, .rank = 2, .shape = {w, w}};
		t[n++] = (struct tensor){.name = mem_format("%s.tokens", site_name(s)), .type = I64, .rank = 1, .shape = {1}};
	}
	return n;
}

static int
write_sites(struct safetensors_out *o, struct dev *d, const struct stats st[SITES])
{
	int rc = 0;

	for (enum site s = 0; s < SITES && rc == 0; s++) {
		if (st[s].gram.p)
			rc = add_matrix(o, d, &st[s].gram, true);
		if (rc == 0 && st[s].cross.p)
			rc = add_matrix(o, d, &st[s].cross, false);
		if (rc == 0)
			rc = safetensors_add(o, &st[s].tokens, sizeof(st[s].tokens));
	}
	return rc;
}

int
statistics_write(struct job *job, struct stream *s, const struct stats st[SITES])
{
	struct tensor t[3 * SITES];
	size_t n = describe(t, st);
	char *path = path_join(job->out, "statistics.safetensors");
	struct safetensors_out *o;
	int rc = safetensors_begin(&o, path, t, n);

	if (rc == 0) {
		rc = write_sites(o, s->d, st);
		if (rc == 0)
			rc = safetensors_end(o);
		else
			safetensors_abort(o);
	}
	for (size_t i = 0; i < n; i++)
		free(t[i].name);
	free(path);
	return rc;
}

static int
read_matrix(const struct safetensors *file, struct dev *d, enum site site, const char *what, int64_t n, struct mat *m)
{
	char name[32];
	const struct tensor *t;

	snprintf(name, sizeof(name), "%s.%s", site_name(site), what);
	t = safetensors_find(file, name);
	if (!t || t->type != F32 || t->rank != 2 || t->shape[0] != n || t->shape[1] != n)
		return err_set(E_DATA, "statistics: want %s F32 [%lld,%lld]", name, (long long)n, (long long)n);
	*m = dev_mat(d, F32, n, n);
	dev_put(d, m, t->p);
	return dev_status(d);
}

int
statistics_read(const struct safetensors *file, struct dev *d, enum site site, const struct config *c, struct stats *st)
{
	char name[32];
	const struct tensor *t;

	*st = (struct stats){0};
	snprintf(name, sizeof(name), "%s.tokens", site_name(site));
	t = safetensors_find(file, name);
	if (!t || t->type != I64 || t->bytes != sizeof(int64_t))
		return err_set(E_DATA, "statistics: want %s I64 [1]", name);
	memcpy(&st->tokens, t->p, sizeof(int64_t));
	return read_matrix(file, d, site, "gram", site_width(c, site), &st->gram);
}
