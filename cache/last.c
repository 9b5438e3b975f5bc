/* One file a project, <key> <node> a line.  Broken lines count as absent: only explanations need it. */
#include <stdlib.h>
#include <string.h>

#include "cache/inside.h"
#include "qjob/base/err.h"
#include "qjob/base/mem.h"

static const char FIRST[] = "qjob-last 1\n";

struct last {
	struct last *next;
	char *project;
	char id[SHA256_HEX];       /* its file's name */
	struct map keys;           /* node -> key */
	bool dirty;
};

static void
set(struct last *l, const char *node, const char *key)
{
	struct map_entry *e = map_put(&l->keys, node, NULL);

	if (e->v.p && strcmp(e->v.p, key) == 0)
		return;
	free(e->v.p);
	e->v.p = mem_text(key);
	l->dirty = true;
}

static void
read_lines(struct last *l, char *p)
{
	char *stop;

	if (strncmp(p, FIRST, sizeof(FIRST) - 1) != 0)
		return;
	for (p += sizeof(FIRST) - 1; (stop = strchr(p, '\n')); p = stop + 1) {
		*stop = '\0';
		if (stop - p <= SHA256_HEX || p[SHA256_HEX - 1] != ' ')
			continue;
		p[SHA256_HEX - 1] = '\0';
		set(l, p + SHA256_HEX, p);
	}
	l->dirty = false;
}

static struct last *
last_of(struct store *s, const char *project)
{
	struct buf b = {0};
	struct last *l;
	char *path;

	for (l = s->lasts; l; l = l->next)
		if (strcmp(l->project, project) == 0)
			return l;
	l = mem_new(1, sizeof(*l));
	l->project = mem_text(project);
	sha256_of(project, strlen(project), l->id);
	path = store_path(s, "last/%s", l->id);
	if (file_exists(path) && file_read(&b, path, (size_t)64 << 20) == 0 && b.n)
		read_lines(l, b.p);
	buf_release(&b);
	free(path);
	l->next = s->lasts;
	s->lasts = l;
	return l;
}

int
last_get(struct store *s, const char *project, const char *node, char key[SHA256_HEX])
{
	const struct map_entry *e;

	pthread_mutex_lock(&s->lock);
	e = map_find(&last_of(s, project)->keys, node);
	if (e)
		memcpy(key, e->v.p, SHA256_HEX);
	pthread_mutex_unlock(&s->lock);
	return e != NULL;
}

void
last_put(struct store *s, const char *project, const char *node, const char *key)
{
	if (strlen(key) != SHA256_HEX - 1 || strchr(node, '\n'))
		return;
	pthread_mutex_lock(&s->lock);
	set(last_of(s, project), node, key);
	pthread_mutex_unlock(&s->lock);
}

static int
save(struct store *s, struct last *l)
{
	char *dir = store_path(s, "last"), *path = store_path(s, "last/%s", l->id);
	struct buf b = {0};
	int rc = dir_make(dir);

	buf_puts(&b, FIRST);
	for (size_t i = 0; i < l->keys.n; i++)
		buf_printf(&b, "%s %s\n", (char *)l->keys.v[i].v.p, l->keys.v[i].key);
	if (rc == 0)
		rc = file_replace(path, b.p, b.n);
	l->dirty = rc < 0;
	buf_release(&b);
	free(path);
	free(dir);
	return rc;
}

int
last_save(struct store *s)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	for (struct last *l = s->lasts; l && rc == 0; l = l->next)
		if (l->dirty)
			rc = save(s, l);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void
lasts_free(struct last *l)
{
	while (l) {
		struct last *next = l->next;

		for (size_t i = 0; i < l->keys.n; i++)
			free(l->keys.v[i].v.p);
		map_release(&l->keys);
		free(l->project);
		free(l);
		l = next;
	}
}
