/* From a model folder to a device.  For block.c and decoder.c. */
#ifndef QJOB_MODEL_LOAD_H
#define QJOB_MODEL_LOAD_H

#include "qjob/model/decoder.h"

struct linear_shape {
	int64_t rows, cols;
};

/* The tensor of a part's weights as they are stored; NULL: there is none, as in a packed model. */
const struct tensor *load_find(const struct weights *w, enum part p, int block);
/* A float matrix as it is stored, by its part. */
int load_matrix(struct dev *d, struct mat *m, const struct weights *w, enum part p, int block, struct linear_shape shape);
/* The same or, from a packed model, decoded to F32; and the bias. */
int load_linear(struct dev *d, struct linear *l, const struct weights *w, enum part p, int block, struct linear_shape shape);
int load_norm(struct dev *d, struct norm *n, const struct weights *w, enum part p, int block);

#endif
