/* Store: finished outputs, and the records that say which work made them.
 *
 *     <root>/format            "qjob-store 1\n"
 *     <root>/cas/ab/<sha256>   a blob, named by its content; never changes again
 *     <root>/ac/ab/<key>       a record: the node's outputs and exports, and its manifest
 *     <root>/last/<project>    for each node of a project the key it had last: `qjob why` compares with it
 *     <root>/work/             folders being filled, named <key>.<host>.<pid>.<n>
 *     <root>/lock/<key>        held while somebody makes that key
 *     <root>/quarantine/       bad blobs and records, kept for a look
 *     <root>/stat              the stat cache: (dev, inode, size, mtime_ns, ctime_ns) -> digests
 *     <root>/log/              one NDJSON file a run
 *
 * (`ac` and `cas` are those of the Bazel cache protocol.)  Commit protocol, the only way anything becomes visible: unique
 * temporary, write, check, fdatasync, rename, fsync the folder; blobs first, and only then the record, the same way.
 * A crash at any instant leaves litter in work/ and nothing wrong.  Losing a race to an equal name is success.
 * A record whose blob is missing, of another size or of another content is a miss; the bad blob is moved to quarantine/
 * and reported, never served.  Content is checked by XXH3 at the first look of a process, unless the stat cache knows
 * the file as unchanged since it was written or checked.  Every function may be called from several threads. */
#ifndef QJOB_CACHE_STORE_H
#define QJOB_CACHE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qjob/base/buf.h"
#include "qjob/base/file.h"
#include "qjob/base/hash.h"

struct store;

struct store_export {
	char *name;                      /* file name or label */
	char sha256[SHA256_HEX];
	bool file;                       /* a blob; else a digest only */
	uint64_t size;
	char xxh3[XXH3_HEX];
};

struct record {
	char key[SHA256_HEX];
	struct store_export *v;          /* sorted by name */
	size_t n;
	struct buf manifest;
};

/* root NULL: $QJOB_CACHE, else $XDG_CACHE_HOME/qjob, else ~/.cache/qjob.  Creates it; refuses an unknown format. */
int store_open(struct store **s, const char *root);
void store_close(struct store *s);
const char *store_root(const struct store *s);

/* Hears of what was found broken and put aside.  Set it before other threads use the store; NULL: nobody. */
void store_listen(struct store *s, void (*note)(void *own, const char *text), void *own);

/* 1: found, all blobs present; 0: miss; negative: the store cannot be read. */
int store_get(struct store *s, const char *key, struct record *r);
void record_release(struct record *r);
const struct store_export *record_find(const struct record *r, const char *name);

char *store_blob(const struct store *s, const char *sha256);                 /* path; caller frees */
int store_begin(struct store *s, const char *key, char **dir);               /* an empty work folder; caller frees */
void store_abandon(struct store *s, const char *dir);
/* Moves every file of dir into cas, then writes the record.  On entry r has key, manifest and the exports that are
 * digests only, in any order; on return all exports, sorted.  The folder is gone after success; after a failure call store_abandon. */
int store_commit(struct store *s, struct record *r, const char *dir);
/* Equal names, blobs and digests: what follows cannot tell them apart. */
bool record_same(const struct record *a, const struct record *b);
/* Adds one export of a digest; for filling a record before store_commit. */
void record_add(struct record *r, const char *name, const char *sha256);

/* Spares double work, no more: 1: go on (the key is ours, or locks do not work here), 0: another living process or thread
 * makes this key now; *owner is its process, 0 when unknown.  A dead owner's lock is free.  *fd is for store_unlock. */
int store_lock(struct store *s, const char *key, int *fd, long *owner);
void store_unlock(struct store *s, const char *key, int fd);

/* The key that a node of a project had last.  Remembered in memory until last_save; losing it costs explanations only. */
int last_get(struct store *s, const char *project, const char *node, char key[SHA256_HEX]);     /* 1 found, 0 none */
void last_put(struct store *s, const char *project, const char *node, const char *key);
int last_save(struct store *s);

/* The stat cache: what was learned from a file's content, by its id.  A file so young that a later change could hide behind
 * the same times ("racily clean") is not remembered, so it is a miss; nor is one that changed since store_open, for who
 * describes it may have mapped what lay there before: open the store before those files.  `what` and text are lines without newline or NUL;
 * dev, ino and what name an entry, so renaming folders keeps it. */
int stat_get(struct store *s, const char *path, const char *what, struct buf *text);   /* 1 found, 0 none */
void stat_put(struct store *s, const char *path, const char *what, const char *text);
/* Call before reading what stat_put will describe: waits (some milliseconds) until the file is old enough to be remembered,
 * where the file system's clock is fine enough for that. */
void stat_settle(const char *path);
/* For a file that this process has just written and renamed into place: remembered however young, since stat_save waits
 * until nobody can change it unseen. */
void stat_own(struct store *s, const char *path, const char *what, const char *text);
/* Writes what is new, merged with what other processes have saved meanwhile; does nothing when nothing is new. */
int stat_save(struct store *s);

#endif
