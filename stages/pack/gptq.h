/* What gptq.c (tensors) and gptq_label.c (config.json) share. */
#ifndef QJOB_STAGES_PACK_GPTQ_H
#define QJOB_STAGES_PACK_GPTQ_H

#include <stdbool.h>

#include "qjob/base/buf.h"
#include "qjob/base/json.h"

struct project;

struct gptq_params {
	const char *checkpoint_format;
};

bool gptq_is_v1(const struct gptq_params *params);

/* Members of struct format. */
json_t *gptq_config(const struct project *p);
const char *gptq_extra_file(const struct project *p, struct buf *content);
void gptq_notes(const struct project *p, json_t *notes);

#endif
