/* Thrift's compact protocol, as far as a Parquet file's metadata needs it: structs are walked field by field, and what is not wanted is
 * skipped.  Nothing is allocated.  After anything that is not right, `bad` is set, all reads give zero and no field follows.
 *
 * Source: apache/thrift, doc/specs/thrift-compact-protocol.md. */
#ifndef QJOB_STAGES_DATA_THRIFT_H
#define QJOB_STAGES_DATA_THRIFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum thrift_type {
	THRIFT_STOP, THRIFT_TRUE, THRIFT_FALSE, THRIFT_BYTE, THRIFT_I16, THRIFT_I32, THRIFT_I64, THRIFT_DOUBLE, THRIFT_TEXT,
	THRIFT_LIST, THRIFT_SET, THRIFT_MAP, THRIFT_STRUCT,
};

struct thrift {
	const uint8_t *p, *end;
	bool bad;
	int depth;                   /* of structs and lists being skipped */
};

struct thrift_field {
	int id;                      /* 0 before the first */
	enum thrift_type type;
};

struct thrift_text {
	const char *p;               /* in the input, not terminated */
	size_t n;
};

/* The next field of a struct, whose value is to be read or skipped; false at its end. */
bool thrift_next(struct thrift *t, struct thrift_field *f);
void thrift_skip(struct thrift *t, enum thrift_type type);
/* A value of the field; one of another type is skipped, and gives 0. */
int64_t thrift_int(struct thrift *t, const struct thrift_field *f);
bool thrift_bool(const struct thrift_field *f);
struct thrift_text thrift_string(struct thrift *t, const struct thrift_field *f);
/* How many elements follow, and of which type; 0 with anything that is no list.  No more than there are bytes left. */
size_t thrift_list(struct thrift *t, const struct thrift_field *f, enum thrift_type *of);
/* LEB128, as the format's other parts have it too. */
uint64_t thrift_varint(struct thrift *t);
int64_t thrift_zigzag(struct thrift *t);

#endif
