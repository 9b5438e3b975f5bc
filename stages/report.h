/* The report: what was done and what it cost, as JSON for programs and Markdown for people.
 *
 *     report.json   {"qjob", "model", "format", "method", "settings", "size", "perplexity", "loss", "linears", "skipped",
 *                   "notes"}; perplexity is null when none was asked for
 *
 * Nothing in it tells of time, host or path. */
#ifndef QJOB_STAGES_REPORT_H
#define QJOB_STAGES_REPORT_H

#include "qjob/base/json.h"
#include "stages/project.h"

struct shards;

/* "set quantize.bits 4\n" ...: the settings that the report tells. */
void report_settings(const struct project *p, struct buf *lines);

/* blocks: an array of what block.json holds; original, quantized: what the perplexity nodes left, or NULL.  Caller decrefs. */
json_t *report_make(const struct project *p, const struct shards *s, const json_t *blocks, const json_t *original, const json_t *quantized);
void report_markdown(const json_t *report, struct buf *out);
/* A few lines for the end of a run. */
void report_summary(const json_t *report, struct buf *out);

#endif
