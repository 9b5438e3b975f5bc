/* The run log: <store>/log/<time>-<process>.ndjson, one file a run and one line a variant.  For people: clock and machine
 * stand here and nowhere else. */
#ifndef QJOB_CLI_RUNLOG_H
#define QJOB_CLI_RUNLOG_H

#include "qjob/base/json.h"

enum { RUNLOG_KEPT = 1000 };      /* older files are removed */

/* Consumes lines (an array of objects).  Failing is told on stderr and harms nothing. */
void runlog_write(const char *store_root, json_t *lines);
/* All runs, the latest first: an array of objects; caller decrefs.  Files that cannot be read are left out. */
json_t *runlog_read(const char *store_root, size_t most);

#endif
