#include "stages/stage.h"

#include <stdarg.h>
#include <stdio.h>

const struct stage *const stages[] = {
	&stage_fetch, &stage_tokenize, &stage_calibrate, &stage_quantize, &stage_pack, &stage_validate, NULL,
};

void
job_log(struct job *j, enum log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	j->host->log(j, level, line);
}

int
project_graph(const struct project *p, struct graph *g)
{
	for (size_t i = 0; stages[i]; i++) {
		int rc = stages[i]->expand(g, p);

		if (rc < 0)
			return rc;
	}
	return 0;
}
