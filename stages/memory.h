/* Memory, planned: what the stages would take of a device, and where the stream lies so that it fits.
 *
 * Both are found by rehearsal: a dry device (kernels/dev.h) goes through the stages' own code for one chunk of one block, from
 * the headers alone, and tells its peak. */
#ifndef QJOB_STAGES_MEMORY_H
#define QJOB_STAGES_MEMORY_H

#include "stages/stream.h"

/* The stream's layout on a device that stands where d does: as much of it there as fits, in chunks as large as fit.  E_USE says what is
 * needed and what helps when nothing does. */
int memory_layout(const struct project *p, const struct dev *d, struct layout *l);

/* Fills p->memory for the device that p->device_facts tell of; E_USE when a stage cannot run within p->device.memory. */
int memory_predict(struct project *p);

#endif
