/* Post-processors: the ids put around those of a text, such as a token that begins it. */
#ifndef QJOB_MODEL_TEMPLATE_H
#define QJOB_MODEL_TEMPLATE_H

#include "qjob/base/json.h"
#include "qjob/model/tokenizer.h"

struct template;

int template_parse(struct template **t, const json_t *j, const char *name);      /* j: NULL or null for none */
void template_free(struct template *t);
int32_t template_top(const struct template *t);                                   /* the highest id it adds; -1: none */
/* Arranges out->v[from..], the ids of one text; special false leaves out what is put around it. */
void template_apply(const struct template *t, bool special, struct ids *out, size_t from);

#endif
