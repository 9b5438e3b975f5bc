/* The output folder: files copied out of the store, most of them while the run went on (aside.c), and qjob.json, which says what they
 * are and how they were made.
 *
 * What was written before is known by qjob.json's list; the list in .qjob-publishing (old and new files together) exists
 * from the first change to the last one, so a crash between them orphans nothing.  The order of changes:
 *
 *     .qjob-publishing   config.json aside   copy files   remove stale ones   qjob.json   config.json   remove .qjob-publishing
 *
 * (Files are copied side by side: between two of them there is no order to keep.)
 * Loaders start from config.json: whoever comes meanwhile finds none, never a config beside another model's weights.
 * Files that did not change are not touched, and a file that is not ours, or no longer, is never removed. */
#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "qjob/base/err.h"
#include "qjob/base/fault.h"
#include "qjob/base/file.h"
#include "qjob/base/json.h"
#include "qjob/base/mem.h"
#include "qjob/base/pool.h"
#include "qjob/engine/inside.h"

static const char ABOUT[] = "qjob.json", JOURNAL[] = ".qjob-publishing", LAST[] = "config.json";
static const char HELD[] = ".qjob-publishing.config";    /* config.json meanwhile: back in place, its times are kept */
static const size_t MAX_ABOUT = (size_t)256 << 20;

struct file {
	const char *name, *sha256;
	bool changed;
};

struct owned {
	char *name;
	char sha256[SHA256_HEX];
};

struct folder {
	struct run *run;
	const char *path;
	struct file *v;            /* what belongs there, in order of declaration */
	size_t n;
	struct map by_name;        /* of v */
	struct owned *old;         /* what an earlier run put there; a name may come twice */
	size_t nold;
	bool journal;              /* one is there */
};

static char *
place(const struct folder *f, const char *name)
{
	return path_join(f->path, name);
}

/* ---- what is there ---- */

static void
own(struct folder *f, const char *name, const char *sha256)
{
	if (!is_plain_name(name) || strlen(sha256) != SHA256_HEX - 1)
		return;
	if ((f->nold & (f->nold - 1)) == 0)
		f->old = mem_grow(f->old, f->nold ? 2 * f->nold : 1, sizeof(*f->old));
	f->old[f->nold].name = mem_text(name);
	memcpy(f->old[f->nold++].sha256, sha256, SHA256_HEX);
}

static int
read_about(struct folder *f)
{
	char *path = place(f, ABOUT);
	const char *name;
	json_t *j, *v;
	int rc;

	if (!file_exists(path)) {
		free(path);
		return 0;
	}
	rc = json_load_path(&j, path, MAX_ABOUT);
	if (rc < 0 || !json_is_object(json_object_get(j, "qjob")))
		rc = err_set(E_USE, "%s: not written by qjob, or damaged; remove it, or choose another output folder", path);
	if (rc == 0)
		json_object_foreach(json_object_get(j, "files"), name, v)
			if (json_is_string(v) && strncmp(json_string_value(v), "sha256:", 7) == 0)
				own(f, name, json_string_value(v) + 7);
	json_decref(j);
	free(path);
	return rc;
}

/* <sha256> <name>, a line each. */
static void
read_journal(struct folder *f)
{
	char *path = place(f, JOURNAL), *p, *stop;
	struct buf b = {0};

	f->journal = file_exists(path);
	if (f->journal && file_read(&b, path, MAX_ABOUT) == 0)
		for (p = b.p; p && (stop = strchr(p, '\n')); p = stop + 1) {
			*stop = '\0';
			if (stop - p > SHA256_HEX) {
				p[SHA256_HEX - 1] = '\0';
				own(f, p + SHA256_HEX, p);
			}
		}
	buf_release(&b);
	free(path);
}

static void
folder_release(struct folder *f)
{
	for (size_t i = 0; i < f->nold; i++)
		free(f->old[i].name);
	free(f->old);
	free(f->v);
	map_release(&f->by_name);
}

/* ---- what belongs there ---- */

static int
add_file(struct folder *f, const struct node *n, const char *name)
{
	const struct store_export *e = record_find(&f->run->records[n->number], name);
	bool added;

	if (!is_plain_name(name) || strcmp(name, ABOUT) == 0 || strcmp(name, JOURNAL) == 0)
		return err_set(E_USE, "%s wants to publish \"%s\", which is no name for it", n->name, name);
	map_put(&f->by_name, name, &added)->v.i = (int64_t)f->n;
	if (!added)
		return err_set(E_USE, "two nodes publish %s, one of them is %s", name, n->name);
	if ((f->n & (f->n - 1)) == 0)
		f->v = mem_grow(f->v, f->n ? 2 * f->n : 1, sizeof(*f->v));
	f->v[f->n++] = (struct file){.name = name, .sha256 = e && e->file ? e->sha256 : NULL};
	return 0;
}

static int
add_files(struct folder *f)
{
	const struct graph *g = f->run->g;

	for (size_t i = 0; i < g->n; i++)
		for (size_t k = 0; k < g->v[i]->npublish; k++) {
			int rc = add_file(f, g->v[i], g->v[i]->publish[k]);

			if (rc < 0)
				return rc;
		}
	return 0;
}

/* Whether the folder can be written, or made: known before the work, not after it. */
static int
check_place(const char *path)
{
	char *near = mem_text(path), *up = near;
	struct stat st;
	int rc = 0;

	while (lstat(up, &st) != 0 && (errno == ENOENT || errno == ENOTDIR) && strcmp(up, "/") != 0 && strcmp(up, ".") != 0)
		up = dirname(up);
	if (lstat(up, &st) == 0 && (stat(up, &st) != 0 || !S_ISDIR(st.st_mode)))
		rc = err_set(E_USE, "output folder: %s: exists and is not a folder", up);
	else if (access(up, W_OK | X_OK) != 0)
		rc = err_set(E_USE, "output folder: %s: %s", up, strerror(errno));
	free(near);
	return rc;
}

/* Only what qjob wrote may lie in the folder, or what lies beside a qjob.json. */
static int
check_folder(struct folder *f)
{
	char **names;
	size_t n;
	bool ours = false, other = false;
	int rc;

	if (!file_exists(f->path))
		return check_place(f->path);
	rc = dir_names(&names, &n, f->path);
	if (rc < 0)
		return err_in(E_USE, "output folder");
	for (size_t i = 0; i < n; i++) {
		ours = ours || strcmp(names[i], ABOUT) == 0 || strcmp(names[i], JOURNAL) == 0;
		other = other || strncmp(names[i], JOURNAL, sizeof(JOURNAL) - 1) != 0;
	}
	dir_names_free(names, n);
	if (other && !ours)
		return err_set(E_USE, "%s: has files that qjob did not write; choose another output folder, or empty it", f->path);
	return ours ? read_about(f) : check_place(f->path);    /* ours may be right as it is, and locked */
}

int
publish_check(const struct run *run)
{
	struct folder f = {.run = (struct run *)(uintptr_t)run, .path = run->o->output};
	struct buf known = {0};
	char *about;
	int rc = add_files(&f);

	if (rc == 0 && f.path) {
		about = place(&f, ABOUT);
		if (!stat_get(run->o->store, about, "result", &known))
			rc = check_folder(&f);
		free(about);
	}
	buf_release(&known);
	folder_release(&f);
	return rc;
}

/* ---- qjob.json ---- */

static int
put_text(json_t *j, const char *name, const char *text)
{
	return json_object_set_new(j, name, json_string(text)) == 0 ? 0
		: err_set(E_DATA, "%s: the name is not UTF-8", name);
}

static int
put_digest(json_t *j, const char *name, const char *sha256)
{
	char text[7 + SHA256_HEX];

	snprintf(text, sizeof(text), "sha256:%s", sha256);
	return put_text(j, name, text);
}

static int
put_node(json_t *nodes, const struct node *n, const struct record *r)
{
	json_t *j = json_object(), *exports = json_object();
	int rc = put_text(j, "name", n->name);

	if (rc == 0 && !n->source)
		rc = put_text(j, "key", r->key);
	for (size_t i = 0; rc == 0 && i < r->n; i++)
		rc = put_digest(exports, r->v[i].name, r->v[i].sha256);
	json_object_set_new(j, "exports", exports);
	json_array_append_new(nodes, j);
	return rc;
}

static int
write_about(const struct folder *f, struct buf *out)
{
	const struct run *run = f->run;
	json_t *j = json_object(), *tool = json_object(), *files = json_object(), *nodes = json_array();
	int rc = put_text(tool, "version", QJOB_VERSION);

	json_object_set_new(j, "qjob", tool);
	if (rc == 0 && run->o->identity)
		rc = put_text(j, "recipe", run->o->identity);
	json_object_set_new(j, "files", files);
	json_object_set_new(j, "nodes", nodes);
	for (size_t i = 0; rc == 0 && i < f->n; i++)
		rc = put_digest(files, f->v[i].name, f->v[i].sha256);
	for (size_t i = 0; rc == 0 && i < run->g->n; i++)
		rc = put_node(nodes, run->g->v[i], &run->records[i]);
	if (rc == 0)
		json_write(j, out);
	json_decref(j);
	return rc;
}

/* Everything that qjob.json is made of, without making it. */
static void
result_digest(const struct folder *f, char hex[SHA256_HEX])
{
	const struct run *run = f->run;
	struct buf b = {0};

	buf_printf(&b, "%s\n%s\n", QJOB_VERSION, run->o->identity ? run->o->identity : "");
	for (size_t i = 0; i < f->n; i++)
		buf_printf(&b, "%s %s\n", f->v[i].name, f->v[i].sha256);
	for (size_t i = 0; i < run->g->n; i++) {
		const struct record *r = &run->records[i];

		buf_printf(&b, "node %s %s\n", run->g->v[i]->name, r->key);
		for (size_t k = 0; k < r->n; k++) {
			buf_puts(&b, r->v[k].name);
			buf_puts(&b, " ");
			buf_add(&b, r->v[k].sha256, SHA256_HEX - 1);
			buf_puts(&b, "\n");
		}
	}
	sha256_of(b.p, b.n, hex);
	buf_release(&b);
}

/* ---- changes ---- */

bool
publish_has(const struct run *run, const char *path, const char *sha256)
{
	char hex[SHA256_HEX] = "";
	struct buf known = {0};
	bool has = false;

	if (stat_get(run->o->store, path, "sha256", &known)) {
		has = strcmp(buf_text(&known), sha256) == 0;
	} else if (file_exists(path)) {
		stat_settle(path);
		if (sha256_file(path, hex) == 0)
			stat_put(run->o->store, path, "sha256", hex);
		has = strcmp(hex, sha256) == 0;
	}
	buf_release(&known);
	return has;
}

static bool
has_content(const struct folder *f, const char *name, const char *sha256)
{
	char *path = place(f, name);
	bool has = publish_has(f->run, path, sha256);

	free(path);
	return has;
}

static int
remove_file(const struct folder *f, const char *name)
{
	char *path = place(f, name);
	int rc = 0;

	if (fault("publish.remove") || (unlink(path) != 0 && errno != ENOENT))
		rc = err_sys("remove %s", path);
	free(path);
	return rc;
}

static int
copy_file(struct folder *f, const struct file *file)
{
	char *from = store_blob(f->run->o->store, file->sha256), *to = place(f, file->name);
	int rc = 0;

	if (run_is_stopping(f->run))
		rc = err_set(E_SYS, "interrupted");
	else if (!aside_take(f->run, file->name, to))
		rc = file_copy(from, to);
	if (rc == 0)
		stat_own(f->run->o->store, to, "sha256", file->sha256);
	free(to);
	free(from);
	return rc;
}

/* What is copied side by side. */
struct copies {
	struct folder *f;
	const struct file **v;
};

static int
copy_piece(void *own, size_t i)
{
	struct copies *c = own;

	return copy_file(c->f, c->v[i]);
}

static int
copy_files(struct folder *f, const struct file *last)
{
	struct copies c = {f, mem_new(f->n + 1, sizeof(*c.v))};
	size_t n = 0;
	int rc;

	for (size_t i = 0; i < f->n; i++)
		if (f->v[i].changed && &f->v[i] != last)
			c.v[n++] = &f->v[i];
	rc = pool_run(n, pool_threads(), copy_piece, &c);
	free(c.v);
	return rc;
}

static int
remove_stale(struct folder *f)
{
	for (size_t i = 0; i < f->nold; i++) {
		const struct owned *o = &f->old[i];
		int rc;

		if (map_find(&f->by_name, o->name) || !has_content(f, o->name, o->sha256))
			continue;
		rc = remove_file(f, o->name);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int
write_journal(struct folder *f)
{
	char *path = place(f, JOURNAL);
	struct buf b = {0};
	int rc;

	for (size_t i = 0; i < f->nold; i++)
		buf_printf(&b, "%s %s\n", f->old[i].sha256, f->old[i].name);
	for (size_t i = 0; i < f->n; i++)
		buf_printf(&b, "%s %s\n", f->v[i].sha256, f->v[i].name);
	rc = file_replace(path, b.p, b.n);
	buf_release(&b);
	free(path);
	return rc;
}

static int
finish_about(struct folder *f, const struct buf *about, const char *result)
{
	char *path = place(f, ABOUT);
	int rc = file_replace(path, about->p, about->n);

	if (rc == 0)
		stat_own(f->run->o->store, path, "result", result);
	free(path);
	return rc;
}

static int
move(const struct folder *f, const char *from, const char *to)
{
	char *a = place(f, from), *b = place(f, to);
	int rc = 0;

	if (fault("publish.rename") || (rename(a, b) != 0 && errno != ENOENT))
		rc = err_sys("rename %s", a);
	free(b);
	free(a);
	return rc;
}

static int
finish_last(struct folder *f, const struct file *last)
{
	char *path;
	int rc;

	if (last->changed)
		return copy_file(f, last);
	rc = move(f, HELD, LAST);
	if (rc == 0) {
		path = place(f, LAST);
		stat_own(f->run->o->store, path, "sha256", last->sha256);
		free(path);
	}
	return rc;
}

/* The number of a process that is no more, and what follows it; 0: none stands there, or it runs. */
static long
dead_process(const char *text, const char **after)
{
	char *end;
	long pid = strtol(text, &end, 10);

	*after = end;
	return pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH ? pid : 0;
}

/* NAME.tmp.PID.N of a process that is no more, where NAME is one of ours. */
static bool
is_litter(const struct folder *f, const char *name)
{
	const char *at = strstr(name, ".tmp."), *end;
	char *ours;
	bool is;

	if (!at || !dead_process(at + 5, &end) || *end != '.' || end[1 + strspn(end + 1, "0123456789")] != '\0')
		return false;
	ours = mem_format("%.*s", (int)(at - name), name);
	is = strcmp(ours, ABOUT) == 0 || strcmp(ours, JOURNAL) == 0 || map_find(&f->by_name, ours);
	for (size_t i = 0; i < f->nold && !is; i++)
		is = strcmp(ours, f->old[i].name) == 0;
	free(ours);
	return is;
}

/* Copies that such a process had laid aside. */
static bool
is_aside(const char *name)
{
	const char *end;

	return strncmp(name, ASIDE, sizeof(ASIDE) - 1) == 0 && dead_process(name + sizeof(ASIDE) - 1, &end) && *end == '\0';
}

static int
remove_aside(const struct folder *f, const char *name)
{
	char *path = place(f, name);
	int rc = dir_remove(path);

	free(path);
	return rc;
}

/* What killed runs left half copied. */
static int
sweep(const struct folder *f)
{
	char **names;
	size_t n;
	int rc = dir_names(&names, &n, f->path);

	for (size_t i = 0; i < n && rc == 0; i++)
		if (is_litter(f, names[i]))
			rc = remove_file(f, names[i]);
		else if (is_aside(names[i]))
			rc = remove_aside(f, names[i]);
	dir_names_free(names, n);
	return rc;
}

/* The changes in the order that the head of this file promises. */
static int
change(struct folder *f, const struct buf *about, const char *result)
{
	const struct map_entry *e = map_find(&f->by_name, LAST);
	struct file *last = e ? &f->v[e->v.i] : NULL;
	int rc = dir_make(f->path);

	if (rc == 0)
		rc = write_journal(f);
	if (rc == 0 && last)
		rc = move(f, LAST, HELD);
	if (rc == 0)
		rc = copy_files(f, last);
	if (rc == 0)
		rc = remove_stale(f);
	if (rc == 0)
		rc = finish_about(f, about, result);
	if (rc == 0 && last)
		rc = finish_last(f, last);
	if (rc == 0)
		rc = remove_file(f, HELD);
	if (rc == 0)
		rc = sweep(f);
	aside_close(f->run);                /* while the journal still calls for a sweep, should this be killed */
	if (rc == 0)
		rc = remove_file(f, JOURNAL);
	return rc == 0 ? dir_sync(f->path) : rc;
}

static bool
is_about_known(const struct folder *f, const char *result)
{
	char *path = place(f, ABOUT);
	struct buf known = {0};
	bool is = stat_get(f->run->o->store, path, "result", &known) && strcmp(buf_text(&known), result) == 0;

	buf_release(&known);
	free(path);
	return is;
}

static void
know_about(const struct folder *f, const char *result)
{
	char *path = place(f, ABOUT);

	stat_put(f->run->o->store, path, "result", result);
	free(path);
}

static bool
is_stale(const struct folder *f)
{
	for (size_t i = 0; i < f->nold; i++)
		if (!map_find(&f->by_name, f->old[i].name) && has_content(f, f->old[i].name, f->old[i].sha256))
			return true;
	return false;
}

static int
publish_locked(struct folder *f)
{
	struct buf about = {0};
	char result[SHA256_HEX], sum[SHA256_HEX];
	bool same = true;
	int rc = 0;

	for (size_t i = 0; i < f->n; i++) {
		if (!f->v[i].sha256)
			return err_set(E_DATA, "%s was to be published, and no stage made it", f->v[i].name);
		f->v[i].changed = !has_content(f, f->v[i].name, f->v[i].sha256);
		same = same && !f->v[i].changed;
	}
	result_digest(f, result);
	read_journal(f);
	if (same && !f->journal && is_about_known(f, result))
		return 0;
	rc = read_about(f);
	if (rc == 0)
		rc = write_about(f, &about);
	if (rc == 0)
		sha256_of(about.p, about.n, sum);
	if (rc == 0 && (!same || f->journal || is_stale(f)))
		rc = change(f, &about, result);
	else if (rc == 0 && !has_content(f, ABOUT, sum))
		rc = finish_about(f, &about, result) < 0 ? E_SYS : sweep(f);
	else if (rc == 0)
		know_about(f, result);
	buf_release(&about);
	return rc;
}

/* Two processes at one folder would undo each other's order. */
static int
lock_folder(struct run *run, const char *key, int *fd)
{
	static const struct timespec pause = {0, 10000000};
	long owner;

	while (!store_lock(run->o->store, key, fd, &owner)) {
		if (run_is_stopping(run))
			return err_set(E_SYS, "interrupted");
		nanosleep(&pause, NULL);
	}
	return 0;
}

int
publish(struct run *run)
{
	struct folder f = {.run = run, .path = run->o->output};
	char key[SHA256_HEX];
	int fd, rc;

	sha256_of(f.path, strlen(f.path), key);
	rc = lock_folder(run, key, &fd);
	if (rc < 0)
		return rc;
	rc = add_files(&f);
	if (rc == 0)
		rc = publish_locked(&f);
	store_unlock(run->o->store, key, fd);
	folder_release(&f);
	return rc < 0 ? err_in(rc, "publish") : 0;
}
