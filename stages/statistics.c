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
take_matrix(struct dev *d, const struct mat *m, float **host)
{
	size_t bytes = (size_t)(m->rows * m->cols) * sizeof(**host);

	if (!m->p)
		return 0;
	*host = malloc(bytes ? bytes : 1);
	if (!*host)
		return err_set(E_SYS, "no memory for %zu bytes of statistics", bytes);
	dev_get(d, *host, m);
	return dev_status(d);
}

int
statistics_take(struct taken *t, struct dev *d, const struct stats st[SITES])
{
	int rc = 0;

	*t = (struct taken){0};
	for (enum site s = 0; s < SITES && rc == 0; s++) {
		t->site[s] = (struct taken_site){.width = st[s].gram.rows, .tokens = st[s].tokens};
		rc = take_matrix(d, &st[s].gram, &t->site[s].gram);
		if (rc == 0)
			rc = take_matrix(d, &st[s].cross, &t->site[s].cross);
	}
	if (rc < 0)
		statistics_release(t);
	return rc;
}

void
statistics_release(struct taken *t)
{
	for (enum site s = 0; s < SITES; s++) {
		free(t->site[s].gram);
		free(t->site[s].cross);
	}
	*t = (struct taken){0};
}

static size_t
describe(struct tensor *t, const struct taken *from)
{
	size_t n = 0;

	for (enum site s = 0; s < SITES; s++) {
		int64_t w = from->site[s].width;

		if (from->site[s].gram)
			t[n++] = (struct tensor){.name = mem_format("%s.gram", site_name(s)), .type = F32, .rank = 2, .shape = {w, w}};
		if (from->site[s].cross)
			t[n++] = (struct tensor){.name = mem_format("%s.cross", site_name(s)), .type = F32, .rank = 2, .shape = {w, w}};
		t[n++] = (struct tensor){.name = mem_format("%s.tokens", site_name(s)), .type = I64, .rank = 1, .shape = {1}};
	}
	return n;
}

static int
write_sites(struct safetensors_out *o, struct taken *from)
{
	int rc = 0;

	for (enum site s = 0; s < SITES && rc == 0; s++) {
		struct taken_site *t = &from->site[s];
		size_t bytes = (size_t)(t->width * t->width) * sizeof(float);

		if (t->gram) {
			clear_upper(t->gram, t->width);
			rc = safetensors_add(o, t->gram, bytes);
		}
		if (rc == 0 && t->cross)
			rc = safetensors_add(o, t->cross, bytes);
		if (rc == 0)
			rc = safetensors_add(o, &t->tokens, sizeof(t->tokens));
	}
	return rc;
}

int
statistics_write(const char *folder, struct taken *from)
{
	struct tensor t[3 * SITES];
	size_t n = describe(t, from);
	char *path = path_join(folder, "statistics.safetensors");
	struct safetensors_out *o;
	int rc = safetensors_begin(&o, path, t, n);

	if (rc == 0) {
		rc = write_sites(o, from);
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
