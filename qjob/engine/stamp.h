/* Stamps: that nothing has changed since a run finished, known from stat alone.
 *
 *     <store>/stamp/<xxh3>
 *         qjob-stamp 1
 *         what <bytes>
 *         version 0.1.0 ...              the program and the resolved recipe: all that decides the result but files
 *         cpu 00a20f12 219c97a9
 *         cards <xxh3>                   what the NVIDIA driver tells of itself and its cards; absent where there is none
 *         file <dev> <inode> <size> <mtime_ns> <ctime_ns> <path>      every input, library and output
 *         ...
 *         text
 *         what to tell when all of them are as they were
 *
 * The name is a digest of `what`, which is compared in full.  Inputs are asked before the run reads them and outputs after
 * it wrote them, so a file that changes in between never matches.  A stamp is a shortcut: when in doubt none is written,
 * and a run without one looks into the store. */
#ifndef QJOB_ENGINE_STAMP_H
#define QJOB_ENGINE_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qjob/base/buf.h"
#include "qjob/base/hash.h"

struct settings;

struct stamp {
	struct buf what, lines;
	char name[XXH3_HEX];
	int64_t since;            /* ns of the clock when reading began */
	bool doubtful;            /* a file could not be asked, or changed a moment ago */
};

/* Appends the lines "cpu" and "cards" for this machine; driver: "/proc/driver/nvidia". */
void stamp_machine(struct buf *out, const char *driver);

/* Before anything is read.  further: what else decides the result, as "device cpu isa avx2". */
void stamp_begin(struct stamp *s, const struct settings *of, const char *further);
/* 1: everything is as it was, its text appended; 0: not known to be. */
int stamp_check(const struct stamp *s, const char *store_root, struct buf *text);

void stamp_add(struct stamp *s, const char *path);           /* a file or folder, as it is now */
void stamp_add_output(struct stamp *s, const char *path);    /* the same for one that the run wrote itself */
void stamp_add_libraries(struct stamp *s);                   /* the program and what it has loaded by now */
/* Writes and releases s.  Failing is no harm, so nothing is returned. */
void stamp_save(struct stamp *s, const char *store_root, const char *text);
void stamp_release(struct stamp *s);

#endif
