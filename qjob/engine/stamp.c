#include "qjob/engine/stamp.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"
#include "qjob/engine/recipe.h"

enum {
	STAMP_MOST = 16 << 20,
	DOUBT_NS = 20000000,      /* coarser than the clock of any usual file system */
};

static const char cards[] = "/proc/driver/nvidia";
static const char first_line[] = "qjob-stamp 1\n";

/* The processor decides which instructions a library picks, and so the bytes. */
static void
add_cpu(struct buf *out)
{
	unsigned a = 0, b = 0, c = 0, d = 0, family = 0;

#if defined(__x86_64__)
	if (__get_cpuid(1, &a, &b, &c, &d))
		family = a;
	b = 0;
	__get_cpuid_count(7, 0, &a, &b, &c, &d);
#endif
	buf_printf(out, "cpu %08x %08x\n", family, b);
}

/* A card or a driver in another's place may give other bytes; asking CUDA itself would cost more than the whole check. */
static void
add_cards(struct buf *out, const char *driver)
{
	char *version = path_join(driver, "version"), *gpus = path_join(driver, "gpus"), **names, hex[XXH3_HEX];
	struct buf text = {0};
	size_t n = 0;

	if (file_exists(version))
		file_read(&text, version, STAMP_MOST);
	if (text.n > 0 && dir_names(&names, &n, gpus) == 0) {
		for (size_t i = 0; i < n; i++) {
			char *card = mem_format("%s/%s/information", gpus, names[i]);

			buf_printf(&text, "%s\n", names[i]);
			file_read(&text, card, STAMP_MOST);
			free(card);
		}
		dir_names_free(names, n);
	}
	if (text.n > 0) {
		xxh3_of(text.p, text.n, hex);
		buf_printf(out, "cards %s\n", hex);
	}
	buf_release(&text);
	free(version);
	free(gpus);
}

void
stamp_machine(struct buf *out, const char *driver)
{
	add_cpu(out);
	add_cards(out, driver);
}

static void
add_line(struct buf *out, const struct file_id *id, const char *path)
{
	buf_printf(out, "file %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 " %s\n", id->dev, id->ino, id->size,
	           id->mtime_ns, id->ctime_ns, path);
}

void
stamp_begin(struct stamp *s, const struct settings *of, const char *further)
{
	struct buf recipe = {0};
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	s->since = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	recipe_write(of, false, false, &recipe);
	buf_printf(&recipe, "version %s %s\n", QJOB_VERSION, further);
	buf_printf(&s->what, "what %zu\n%s", recipe.n, buf_text(&recipe));
	xxh3_of(s->what.p, s->what.n, s->name);
	buf_release(&recipe);
}

static char *
stamp_path(const struct stamp *s, const char *root)
{
	return mem_format("%s/stamp/%s", root, s->name);
}

static bool
is_as_it_was(const char *line, size_t n)
{
	struct buf now = {0};
	struct file_id id;
	const char *path = line;
	char *name;
	bool same;

	for (int i = 0; path && i < 6; i++) {
		path = memchr(path, ' ', n - (size_t)(path - line));
		path = path ? path + 1 : NULL;
	}
	if (!path)
		return false;
	name = mem_format("%.*s", (int)(n - (size_t)(path - line)), path);
	same = file_id(&id, name) == 0;
	if (same) {
		add_line(&now, &id, name);
		same = now.n == n + 1 && memcmp(now.p, line, n) == 0;
	}
	buf_release(&now);
	free(name);
	return same;
}

static const char *
after(const char *p, const char *words, size_t n)
{
	return p && strncmp(p, words, n) == 0 ? p + n : NULL;
}

/* All lines up to "text"; returns what follows it, or NULL. */
static const char *
check_lines(const struct stamp *s, const char *p)
{
	struct buf cpu = {0};

	stamp_machine(&cpu, cards);
	p = after(p, first_line, sizeof(first_line) - 1);
	p = after(p, s->what.p, s->what.n);
	p = after(p, cpu.p, cpu.n);
	buf_release(&cpu);
	while (p && strncmp(p, "file ", 5) == 0) {
		size_t n = strcspn(p, "\n");

		p = p[n] == '\n' && is_as_it_was(p, n) ? p + n + 1 : NULL;
	}
	return after(p, "text\n", 5);
}

int
stamp_check(const struct stamp *s, const char *store_root, struct buf *text)
{
	char *path = stamp_path(s, store_root);
	struct buf b = {0};
	const char *rest = NULL;

	if (file_exists(path) && file_read(&b, path, STAMP_MOST) == 0)
		rest = check_lines(s, buf_text(&b));
	if (rest)
		buf_puts(text, rest);
	buf_release(&b);
	free(path);
	return rest != NULL;
}

void
stamp_add_output(struct stamp *s, const char *path)
{
	struct file_id id;

	if (strchr(path, '\n') || file_id(&id, path) < 0) {
		s->doubtful = true;
		return;
	}
	add_line(&s->lines, &id, path);
}

/* Doubtful when it changed after reading began, or so shortly before that a later change could bear the same time. */
void
stamp_add(struct stamp *s, const char *path)
{
	struct file_id id;

	if (file_id(&id, path) < 0 || id.ctime_ns > s->since - DOUBT_NS || id.mtime_ns > s->since - DOUBT_NS)
		s->doubtful = true;
	stamp_add_output(s, path);
}

/* Lines of /proc/self/maps that hold code: "7f..-7f.. r-xp 00000000 fe:00 1234   /usr/lib/libdnnl.so.2". */
void
stamp_add_libraries(struct stamp *s)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[4096], last[4096] = "";

	if (!maps) {
		s->doubtful = true;
		return;
	}
	while (fgets(line, sizeof(line), maps)) {
		char *path = strchr(line, '/'), *rights = strchr(line, ' ');

		line[strcspn(line, "\n")] = '\0';
		if (!path || !rights || rights[3] != 'x' || strcmp(path, last) == 0)
			continue;
		snprintf(last, sizeof(last), "%s", path);
		stamp_add_output(s, path);
	}
	fclose(maps);
}

void
stamp_save(struct stamp *s, const char *store_root, const char *text)
{
	char *folder = mem_format("%s/stamp", store_root), *path = stamp_path(s, store_root);
	struct buf b = {0};

	buf_printf(&b, "%s%s", first_line, buf_text(&s->what));
	stamp_machine(&b, cards);
	buf_printf(&b, "%stext\n%s", buf_text(&s->lines), text);
	if (!s->doubtful && dir_make(folder) == 0)
		file_replace(path, b.p, b.n);
	buf_release(&b);
	free(folder);
	free(path);
	stamp_release(s);
}

void
stamp_release(struct stamp *s)
{
	buf_release(&s->what);
	buf_release(&s->lines);
	*s = (struct stamp){0};
}
