#include <stdio.h>
#include <string.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/cli/options.h"
#include "qjob/engine/recipe.h"

int
cmd_init(int argc, char **argv)
{
	struct init_options o = {0};
	struct buf b = {0};
	int code = options_read("init", argc, argv, &o), rc;

	if (code >= 0)
		return code;
	rc = recipe_init(o.model, o.method, &b);
	if (rc == 0 && o.output && file_exists(o.output))
		rc = err_set(E_USE, "%s exists already; remove it or name another file", o.output);
	if (rc == 0 && o.output)
		rc = file_replace(o.output, b.p, b.n);
	if (rc == 0 && !o.output)
		fputs(buf_text(&b), stdout);
	buf_release(&b);
	if (rc < 0)
		return report_error(rc);
	if (o.output)
		fprintf(stderr, "wrote %s; next: qjob run %s\n", o.output, o.output);
	return EXIT_OK;
}
