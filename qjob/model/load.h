/* From a model folder to a device.  For block.c, decoder.c, and stages that read their own results. */
#ifndef QJOB_MODEL_LOAD_H
#define QJOB_MODEL_LOAD_H

#include "qjob/model/decoder.h"
#include "qjob/model/qlinear.h"

struct linear_shape {
	int64_t rows, cols;
};

/* The tensor of a part's weights as they are stored; NULL: there is none, as in a packed model. */
const struct tensor *load_find(const struct weights *w, enum part p, int block);
/* A float matrix as it is stored, by its part. */
int load_matrix(struct dev *d, struct mat *m, const struct weights *w, enum part p, int block, struct linear_shape shape);
/* m, any float type, = the numbers of q: those of qlinear_dequant, rounded once.  Waits.  A dry device needs no codes. */
int load_qlinear(struct dev *d, struct mat *m, const struct qlinear *q);
/* As load_matrix or, from a packed model, dequantized in the type of the device's operands; and the bias. */
int load_linear(struct dev *d, struct linear *l, const struct weights *w, enum part p, int block, struct linear_shape shape);
int load_norm(struct dev *d, struct norm *n, const struct weights *w, enum part p, int block);

#endif
