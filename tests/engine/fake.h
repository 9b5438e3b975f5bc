/* A small world for the engine's tests: a model of text files, and stages that make text out of text.
 *
 *     fetch/<i>      digests <model>/<i>.txt (a source)
 *     block/<i>      a lane: what it gives depends on all blocks before it, through the state it carries; `late`: written by finish
 *     half/<i>       no lane; gives the block's text with every digit of `v` halved: equal for v 2 and 3
 *     pack/<i>       publishes out-<i>.txt, made of two blocks
 *     config         publishes config.json
 *
 * Every call of a stage adds a line to <log>: "run block/3" or "replay block/3". */
#ifndef QJOB_TESTS_ENGINE_FAKE_H
#define QJOB_TESTS_ENGINE_FAKE_H

#include <fcntl.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "cache/store.h"
#include "qjob/engine/run.h"
#include "tests/t.h"

/* The engine never looks inside, so the tests have their own. */
struct project {
	const char *model, *log;
	int blocks, v;
	int delay_us;              /* of a block */
	const char *fails;         /* the node that fails, or NULL */
	const char *fails_replay;
	const char *stops;         /* the node that sets *stop and gives up */
	const char *asks;          /* the node that asks for what it has no right to */
	int *stop;
	atomic_int now[RESOURCES], most[RESOURCES];    /* jobs at once */
	bool late;                 /* blocks are written beside the run of the next one */
	const char *waits;         /* the late block that is written only once the next one runs */
	const char *fails_finish;  /* and fails then, or NULL */
	const char *stops_finish;  /* and sets *stop, or NULL */
	atomic_int running;        /* blocks whose run has begun, the last one's number and 1 */
	atomic_int finishing, dropped, warmed, cooled;
};

struct carry {
	int at;
	char state[SHA256_HEX];
};

static inline void
fake_log(const struct project *p, const char *did, const struct node *n)
{
	char *line = mem_format("%s %s\n", did, n->name);
	int fd = open(p->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, line, strlen(line)), strlen(line));
	close(fd);
	free(line);
}

static inline void
fake_write(const char *dir, const char *name, const char *text)
{
	char *path = path_join(dir, name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
	free(path);
}

static inline char *
fake_read(const char *dir, const char *name)
{
	char *path = path_join(dir, name);
	struct buf b = {0};

	assert_ok(file_read(&b, path, 1 << 20));
	free(path);
	return buf_detach(&b);
}

/* Counts jobs at once, logs, and fails where the project says so. */
static inline int
fake_enter(struct job *j, const char *did)
{
	struct project *p = (struct project *)(uintptr_t)j->project;
	enum resource r = j->node->resource;
	int now = atomic_fetch_add(&p->now[r], 1) + 1, most = atomic_load(&p->most[r]);

	while (now > most && !atomic_compare_exchange_weak(&p->most[r], &most, now))
		;
	fake_log(p, did, j->node);
	if (p->delay_us)
		usleep((useconds_t)p->delay_us);
	atomic_fetch_sub(&p->now[r], 1);
	if (did[2] == 'n' && p->fails && strcmp(p->fails, j->node->name) == 0)
		return err_set(E_NUMERIC, "pivot 7 is not positive");
	if (did[2] == 'p' && p->fails_replay && strcmp(p->fails_replay, j->node->name) == 0)
		return err_set(E_DATA, "cannot go on from here");
	if (p->stops && strcmp(p->stops, j->node->name) == 0) {
		__atomic_store_n(p->stop, 1, __ATOMIC_RELAXED);
		assert_true(j->host->stop(j));
		fake_write(j->out, "half", "done");
		return err_set(E_SYS, "gave up");
	}
	return 0;
}

static inline int
fetch_run(struct job *j)
{
	char hex[SHA256_HEX];
	int rc = fake_enter(j, "run");

	assert_null(j->out);
	if (rc == 0)
		rc = sha256_file(j->node->source, hex);
	if (rc == 0)
		j->host->exports(j, "content", hex);
	return rc;
}

static inline void
carry_step(struct carry *c, const struct project *p, int block)
{
	char *name = mem_format("%d.txt", block), *tensor = fake_read(p->model, name);
	char *text = mem_format("%d %s %s", p->v, c->state, tensor);

	assert_int_equal(c->at, block);
	sha256_of(text, strlen(text), c->state);
	c->at++;
	free(text);
	free(tensor);
	free(name);
}

/* What a block gives, as text that the caller frees. */
static inline int
block_make(struct job *j, char **made)
{
	struct project *p = (struct project *)(uintptr_t)j->project;
	struct carry *c;
	int rc;

	atomic_store(&p->running, j->node->index + 1);
	rc = fake_enter(j, "run");
	if (rc < 0)
		return rc;
	if (!*j->carry)
		*j->carry = mem_new(1, sizeof(*c));
	c = *j->carry;
	if (j->project->asks && strcmp(j->project->asks, j->node->name) == 0) {
		assert_null(j->host->input(j, "block/0", "out"));
		assert_null(j->host->input(j, j->node->name, "out"));
		assert_null(j->host->input(j, "fetch/0", "content"));
		assert_null(j->host->digest(j, "tensor 0"));
		assert_non_null(j->host->digest(j, "activations"));
	}
	carry_step(c, j->project, j->node->index);
	*made = mem_format("block %d v=%d %s\n", j->node->index, j->project->v, c->state);
	j->host->exports(j, "activations", c->state);
	j->host->progress(j, 1, 1, "loss 0.5");
	j->host->log(j, LOG_WARN, "odd");
	return 0;
}

static inline int
block_run(struct job *j)
{
	char *text;
	int rc = block_make(j, &text);

	if (rc < 0)
		return rc;
	fake_write(j->out, "out", text);
	free(text);
	return 0;
}

static inline int
late_run(struct job *j)
{
	char *text;
	int rc = block_make(j, &text);

	if (rc == 0)
		j->kept = text;
	return rc;
}

static inline void
late_warm(const struct project *p)
{
	atomic_fetch_add(&((struct project *)(uintptr_t)p)->warmed, 1);
}

/* Nothing is at work on what it closes. */
static inline void
late_cool(const struct project *p)
{
	assert_int_equal(atomic_load(&p->now[RES_COMPUTE]), 0);
	assert_int_equal(atomic_load(&p->finishing), 0);
	atomic_fetch_add(&((struct project *)(uintptr_t)p)->cooled, 1);
}

static inline bool
is_named(const char *name, const struct node *n)
{
	return name && strcmp(name, n->name) == 0;
}

static inline int
late_finish(struct job *j)
{
	struct project *p = (struct project *)(uintptr_t)j->project;
	int rc = 0;

	assert_null(*j->carry);
	assert_non_null(j->kept);
	if (j->out) {
		assert_int_equal(atomic_fetch_add(&p->finishing, 1), 0);
		if (p->delay_us)
			usleep((useconds_t)p->delay_us);
		for (int i = 0; is_named(p->waits, j->node) && atomic_load(&p->running) < j->node->index + 2; i++) {
			assert_true(i < 10000);    /* the next one does not come */
			usleep(1000);
		}
		if (is_named(p->stops_finish, j->node))
			__atomic_store_n(p->stop, 1, __ATOMIC_RELAXED);
		fake_write(j->out, "out", j->kept);
		if (is_named(p->fails_finish, j->node))
			rc = err_set(E_SYS, "the disk is full");
		atomic_fetch_sub(&p->finishing, 1);
	} else {
		atomic_fetch_add(&p->dropped, 1);
	}
	free(j->kept);
	return rc;
}

/* Must come to the state that the run left, and may read what the run made. */
static inline int
block_replay(struct job *j)
{
	struct carry *c;
	struct buf made = {0};
	const char *path;
	int rc = fake_enter(j, "replay");

	if (rc < 0)
		return rc;
	if (!*j->carry)
		*j->carry = mem_new(1, sizeof(*c));
	c = *j->carry;
	assert_null(j->out);
	carry_step(c, j->project, j->node->index);
	path = j->host->input(j, j->node->name, "out");
	assert_non_null(path);
	assert_ok(file_read(&made, path, 1000));
	assert_non_null(strstr(buf_text(&made), c->state));
	buf_release(&made);
	return 0;
}

static inline int
half_run(struct job *j)
{
	struct buf b = {0};
	char *name = mem_format("block/%d", j->node->index), digit[2] = "";
	const char *path = j->host->input(j, name, "out");
	int rc = fake_enter(j, "run");

	assert_non_null(path);
	digit[0] = (char)('0' + j->project->v / 2);
	fake_write(j->out, "out", digit);
	free(name);
	buf_release(&b);
	return rc;
}

static inline int
pack_run(struct job *j)
{
	struct buf b = {0};
	char *name = mem_format("out-%d.txt", j->node->index);
	int rc = fake_enter(j, "run");

	for (size_t i = 0; i < j->node->nneeds && rc == 0; i++) {
		const struct need *d = &j->node->needs[i];

		assert_ok(file_read(&b, j->host->input(j, d->node->name, d->what), 1000));
	}
	fake_write(j->out, name, buf_text(&b));
	buf_release(&b);
	free(name);
	return rc;
}

static inline int
config_run(struct job *j)
{
	char text[32];
	int rc = fake_enter(j, "run");

	snprintf(text, sizeof(text), "{\"v\": %d}\n", j->project->v);
	fake_write(j->out, "config.json", text);
	return rc;
}

static const struct stage fake_fetch = {.name = "fetch", .version = 1, .run = fetch_run};
static const struct stage fake_block = {.name = "block", .version = 1, .run = block_run, .replay = block_replay, .drop = free};
static const struct stage fake_late = {
	.name = "block", .version = 1, .warm = late_warm, .cool = late_cool,
	.run = late_run, .finish = late_finish, .replay = block_replay, .drop = free,
};
static const struct stage fake_half = {.name = "half", .version = 1, .run = half_run};
static const struct stage fake_pack = {.name = "pack", .version = 1, .run = pack_run};
static const struct stage fake_config = {.name = "config", .version = 1, .run = config_run};

static inline void
add_fetch(struct graph *g, const struct project *p, int i)
{
	struct node *n = graph_add(g, &fake_fetch, i, "fetch/%d", i);

	n->source = mem_format("%s/%d.txt", p->model, i);
	n->resource = RES_IO;
}

static inline struct node *
add_block(struct graph *g, const struct project *p, int i)
{
	struct node *n = graph_add(g, p->late ? &fake_late : &fake_block, i, "block/%d", i);
	char name[32];

	n->lane = "blocks";
	n->resource = RES_COMPUTE;
	node_fact(n, "set block.v %d", p->v);
	snprintf(name, sizeof(name), "fetch/%d", i);
	node_need(n, graph_find(g, name), "content", "tensor %d", i);
	snprintf(name, sizeof(name), "block/%d", i - 1);
	if (i)
		node_need(n, graph_find(g, name), "activations", "activations");
	return n;
}

static inline void
add_pack(struct graph *g, int i, int blocks, const struct stage *of, const char *label)
{
	struct node *n = graph_add(g, of, i, "%s/%d", of->name, i);
	char name[32];

	n->resource = RES_IO;
	for (int b = 2 * i; b < 2 * i + 2 && b < blocks; b++) {
		snprintf(name, sizeof(name), "block/%d", b);
		node_need(n, graph_find(g, name), "out", "%s %d", label, b);
	}
	snprintf(name, sizeof(name), "out-%d.txt", i);
	node_publish(n, name);
}

static inline void
fake_graph(struct graph *g, const struct project *p)
{
	struct node *n;

	*g = (struct graph){.project = mem_text("the project")};
	for (int i = 0; i < p->blocks; i++)
		add_fetch(g, p, i);
	for (int i = 0; i < p->blocks; i++)
		add_block(g, p, i);
	for (int i = 0; 2 * i < p->blocks; i++)
		add_pack(g, i, p->blocks, &fake_pack, "block");
	n = graph_add(g, &fake_config, 0, "config");
	node_fact(n, "set config.v %d", p->v);
	node_publish(n, "config.json");
}

/* ---- a folder with model, log, store and output ---- */

/* Most of a test's time is waiting for the disk; a folder in memory needs none.  Where there is none, the current one does. */
static inline void
in_memory(void)
{
	if (chdir("/dev/shm") != 0)
		print_message("no /dev/shm: on disk\n");
}

struct world {
	char *root, *model, *log, *store, *output;
	struct project p;
};

static inline void
world_open(struct world *w, int blocks)
{
	*w = (struct world){.root = t_dir()};
	w->model = path_join(w->root, "model");
	w->log = path_join(w->root, "log");
	w->store = path_join(w->root, "store");
	w->output = path_join(w->root, "output");
	assert_ok(dir_make(w->model));
	for (int i = 0; i < blocks; i++) {
		char name[16];

		snprintf(name, sizeof(name), "%d.txt", i);
		fake_write(w->model, name, name);
	}
	usleep(25000);    /* old enough for the stat cache */
	w->p = (struct project){.model = w->model, .log = w->log, .blocks = blocks, .v = 4};
}

static inline void
world_close(struct world *w)
{
	t_dir_end(w->root);
	free(w->model);
	free(w->log);
	free(w->store);
	free(w->output);
}

/* One run of the fake graph as a process would do it. */
static inline int
world_run(struct world *w, struct run_options o, struct run_result *r)
{
	struct graph g;
	struct store *s;
	int rc;

	assert_ok(store_open(&s, w->store));
	fake_graph(&g, &w->p);
	o.store = s;
	rc = engine_run(&g, &w->p, &o, r);
	graph_release(&g);
	store_close(s);
	return rc;
}

/* Lines of the log since it was last asked, sorted, joined by spaces of their own: "run block/3, run pack/1". */
static inline char *
world_did(struct world *w)
{
	struct buf b = {0}, out = {0};
	char *lines[4096], *p, *end;
	size_t n = 0;

	if (!file_exists(w->log))
		return mem_text("");
	assert_ok(file_read(&b, w->log, 1 << 24));
	for (p = b.p; *p; p = end + 1) {
		end = strchr(p, '\n');
		*end = '\0';
		assert_true(n < 4096);
		lines[n++] = p;
	}
	for (size_t i = 1; i < n; i++)    /* insertion keeps it short */
		for (size_t k = i; k && strcmp(lines[k - 1], lines[k]) > 0; k--) {
			char *t = lines[k];

			lines[k] = lines[k - 1];
			lines[k - 1] = t;
		}
	for (size_t i = 0; i < n; i++)
		buf_printf(&out, "%s%s", i ? ", " : "", lines[i]);
	unlink(w->log);
	buf_release(&b);
	return buf_detach(&out);
}

#define assert_did(w, want) do { char *did_ = world_did(w); assert_string_equal(did_, want); free(did_); } while (0)

/* Names and contents of the output folder. */
static inline char *
world_output(struct world *w)
{
	struct buf out = {0};
	char **names;
	size_t n;

	assert_ok(dir_names(&names, &n, w->output));
	for (size_t i = 0; i < n; i++) {
		char *text = fake_read(w->output, names[i]);

		buf_printf(&out, "== %s\n%s", names[i], text);
		free(text);
	}
	dir_names_free(names, n);
	return buf_detach(&out);
}

#endif
