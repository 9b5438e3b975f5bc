/* The summary of a run, as a table for people and as JSON. */
#ifndef QJOB_CLI_SUMMARY_H
#define QJOB_CLI_SUMMARY_H

#include "qjob/base/json.h"
#include "qjob/cli/session.h"
#include "qjob/engine/run.h"

/* {"recipe", "variant", "result", "seconds", "output", "peak_memory", "original_bytes", "quantized_bytes",
 *  "perplexity": {"original", "quantized", "increase"...} when it was measured,
 *  "stages": [{"stage", "nodes", "hits", "ran", "failed", "seconds"}], "verdict": [lines], "failed": [{"node", "why"}]}
 * verdict may be NULL.  Caller decrefs. */
json_t *summary_make(const struct opened *v, const struct variant *of, const struct run_result *r, const char *result,
                     const char *verdict);
/* The same for a variant that needed no run: what its folder says. */
json_t *summary_unchanged(const struct variant *of);
void summary_print(const json_t *summary, FILE *to);
/* One line a variant of a matrix. */
void summary_compare(const json_t *summaries, FILE *to);

#endif
