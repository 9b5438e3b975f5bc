/* What the files of the store share; nobody outside this folder includes it. */
#ifndef QJOB_CACHE_INSIDE_H
#define QJOB_CACHE_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "cache/store.h"
#include "qjob/base/map.h"

struct stat_cache;
struct last;

struct store {
	char *root;
	int64_t opened;                  /* ns since 1970 */
	char *host;                      /* this machine and process namespace, as part of a name */
	atomic_uint serial;              /* of temporaries */
	atomic_bool swept;
	pthread_mutex_t lock;            /* of what follows */
	struct stat_cache *stats;
	struct last *lasts;              /* one a project */
	struct map checked;              /* blobs whose content this process has seen to be right */
	void (*note)(void *own, const char *text);
	void *own;
};

/* A record as text, with a check sum at its end. */
int record_write(const struct record *r, struct buf *out);
int record_parse(struct record *r, const char *key, const char *p, size_t n);
void record_sort(struct record *r);

/* <root>/<name...>; the caller frees. */
char *store_path(const struct store *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* E_SYS with what was tried, the path, errno, and what to try.  Returns E_SYS. */
int store_refused(const char *did, const char *path);
void store_note(struct store *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A finished file of ours becomes visible: synced, renamed, the folder synced (and made when absent). */
int store_place(struct store *s, const char *from, const char *to);

int64_t now_ns(void);
struct stat_cache *stats_open(const char *root);
void stats_close(struct stat_cache *c);
void lasts_free(struct last *l);

#endif
