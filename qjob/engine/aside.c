/* Copies of finished files, laid aside in the output folder while the rest of the run goes on, so that publishing is left with renames
 * where it would have to copy a whole model.
 *
 * They lie in OUTPUT/.qjob-publishing.PID, which the checks of the folder know for ours, and which the run removes at its end
 * whatever that is; publish.c sweeps those of processes that were killed.  Nothing is lost when a copy cannot be made or is gone:
 * then the file is copied when it is published, and that tells what is wrong. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qjob/base/fault.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"
#include "qjob/engine/inside.h"

void
aside_open(struct run *run)
{
	if (!run->o->output)
		return;
	run->aside_alone = !file_exists(run->o->output);
	run->aside = mem_format("%s/%s%ld", run->o->output, ASIDE, (long)getpid());
}

static void
copy_aside(struct run *run, const char *name, const char *sha256)
{
	char *there = path_join(run->o->output, name), *from = store_blob(run->o->store, sha256), *to = path_join(run->aside, name);

	if (!publish_has(run, there, sha256) && dir_make(run->aside) == 0)
		file_copy(from, to);
	free(to);
	free(from);
	free(there);
}

void
aside_add(struct run *run, const struct node *n)
{
	for (size_t i = 0; i < n->npublish && run->aside && !run_is_stopping(run); i++) {
		const struct store_export *e = record_find(&run->records[n->number], n->publish[i]);

		if (e && e->file && is_plain_name(n->publish[i]))
			copy_aside(run, n->publish[i], e->sha256);
	}
}

bool
aside_take(struct run *run, const char *name, const char *to)
{
	char *from = path_join(run->aside, name);
	bool taken = !fault("aside.rename") && rename(from, to) == 0;

	free(from);
	return taken;
}

void
aside_close(struct run *run)
{
	if (run->aside)
		dir_remove(run->aside);
	if (run->aside && run->aside_alone)
		rmdir(run->o->output);      /* only where nothing was published */
	free(run->aside);
	run->aside = NULL;
}
