/* Files: readers see all or nothing.
 *
 * file_replace and file_copy write a temporary beside the place, sync it, rename it and sync the
 * folder; a crash leaves the old file, or the new one, and at worst litter named *.tmp.PID.N. */
#ifndef QJOB_BASE_FILE_H
#define QJOB_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qjob/base/buf.h"

/* A whole file mapped read-only; an empty file has p NULL and n 0. */
struct file_view {
	const unsigned char *p;
	size_t n;
};

/* What the system says of a file; equal ids mean unchanged content unless it was being written. */
struct file_id {
	uint64_t dev, ino, size;
	int64_t mtime_ns, ctime_ns;
};

int file_map(struct file_view *v, const char *path);
void file_unmap(struct file_view *v);
/* Bytes [p, p + n) of a view will not be read soon: their pages are no longer counted as this process's, and need not be taken apart
 * at its end.  They can still be read, and lie in the page cache as before. */
void file_forget(const void *p, size_t n);
int file_read(struct buf *b, const char *path, size_t max);    /* appends; E_DATA when larger than max */
int file_id(struct file_id *id, const char *path);             /* E_SYS when it cannot be asked */
bool file_exists(const char *path);

/* Atomic and durable replacement of path by n bytes, mode 0666 less umask. */
int file_replace(const char *path, const void *p, size_t n);
int file_sync(const char *path);                               /* fdatasync of a finished file */
int file_copy(const char *from, const char *to);               /* reflink where it can; atomic, durable */

int dir_make(const char *path);                                /* with its parents; existing is success */
int dir_sync(const char *path);
int dir_remove(const char *path);                              /* recursive; absent is success */
/* Names in a folder, sorted by byte value, without . and ..; free with dir_names_free. */
int dir_names(char ***names, size_t *n, const char *path);
void dir_names_free(char **names, size_t n);

char *path_join(const char *dir, const char *name);            /* caller frees; absolute name wins */
char *path_real(const char *path);                             /* absolute form; NULL when absent */

#endif
