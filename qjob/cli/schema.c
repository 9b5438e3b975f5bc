#include <stdio.h>

#include "qjob/cli/options.h"
#include "qjob/engine/recipe.h"

int
cmd_schema(int argc, char **argv)
{
	struct no_options o = {0};
	struct buf b = {0};
	json_t *schema;
	int code = options_read("schema", argc, argv, &o);

	if (code >= 0)
		return code;
	schema = recipe_schema();
	json_write(schema, &b);
	fputs(buf_text(&b), stdout);
	json_decref(schema);
	buf_release(&b);
	return EXIT_OK;
}
