#include "stages/data/thrift.h"

enum { DEEPEST = 24 };

static void
fail(struct thrift *t)
{
	t->bad = true;
	t->p = t->end;
}

static uint8_t
byte(struct thrift *t)
{
	if (t->p == t->end) {
		fail(t);
		return 0;
	}
	return *t->p++;
}

static void
pass(struct thrift *t, uint64_t n)
{
	if (n > (uint64_t)(t->end - t->p))
		fail(t);
	else
		t->p += n;
}

uint64_t
thrift_varint(struct thrift *t)
{
	uint64_t v = 0;

	for (int shift = 0; shift < 64; shift += 7) {
		uint8_t b = byte(t);

		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return t->bad ? 0 : v;
	}
	fail(t);
	return 0;
}

int64_t
thrift_zigzag(struct thrift *t)
{
	uint64_t v = thrift_varint(t);

	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

bool
thrift_next(struct thrift *t, struct thrift_field *f)
{
	uint8_t head = byte(t);
	int64_t id = f->id + (head >> 4);

	if (head >> 4 == 0 && head != THRIFT_STOP)
		id = thrift_zigzag(t);
	if ((head & 15) > THRIFT_STRUCT || id < -32768 || id > 32767)
		fail(t);
	f->id = (int)id;
	f->type = (enum thrift_type)(head & 15);
	return !t->bad && f->type != THRIFT_STOP;
}

static void
skip_struct(struct thrift *t)
{
	struct thrift_field f = {0};

	while (thrift_next(t, &f))
		thrift_skip(t, f.type);
}

/* Size and element type of a list, whose head is next. */
static size_t
list_head(struct thrift *t, enum thrift_type *of)
{
	uint8_t head = byte(t);
	uint64_t n = head >> 4;

	if (n == 15)
		n = thrift_varint(t);
	*of = (enum thrift_type)(head & 15);
	if (*of == THRIFT_STOP || *of > THRIFT_STRUCT || n > (uint64_t)(t->end - t->p))
		fail(t);
	return t->bad ? 0 : (size_t)n;
}

/* An element of a list; truth values take a byte there. */
static void
skip_element(struct thrift *t, enum thrift_type type)
{
	if (type == THRIFT_TRUE || type == THRIFT_FALSE)
		pass(t, 1);
	else
		thrift_skip(t, type);
}

static void
skip_list(struct thrift *t)
{
	enum thrift_type of;
	size_t n = list_head(t, &of);

	for (size_t i = 0; i < n && !t->bad; i++)
		skip_element(t, of);
}

static void
skip_map(struct thrift *t)
{
	uint64_t n = thrift_varint(t);
	uint8_t types = n > 0 ? byte(t) : 0;

	for (uint64_t i = 0; i < n && !t->bad; i++) {
		skip_element(t, (enum thrift_type)(types >> 4));
		skip_element(t, (enum thrift_type)(types & 15));
	}
}

void
thrift_skip(struct thrift *t, enum thrift_type type)
{
	if (++t->depth > DEEPEST)
		fail(t);
	switch (type) {
	case THRIFT_TRUE: case THRIFT_FALSE: break;
	case THRIFT_BYTE: pass(t, 1); break;
	case THRIFT_I16: case THRIFT_I32: case THRIFT_I64: thrift_varint(t); break;
	case THRIFT_DOUBLE: pass(t, 8); break;
	case THRIFT_TEXT: pass(t, thrift_varint(t)); break;
	case THRIFT_LIST: case THRIFT_SET: skip_list(t); break;
	case THRIFT_MAP: skip_map(t); break;
	case THRIFT_STRUCT: skip_struct(t); break;
	default: fail(t);
	}
	t->depth--;
}

int64_t
thrift_int(struct thrift *t, const struct thrift_field *f)
{
	if (f->type == THRIFT_I16 || f->type == THRIFT_I32 || f->type == THRIFT_I64)
		return thrift_zigzag(t);
	thrift_skip(t, f->type);
	return 0;
}

bool
thrift_bool(const struct thrift_field *f)
{
	return f->type == THRIFT_TRUE;
}

struct thrift_text
thrift_string(struct thrift *t, const struct thrift_field *f)
{
	struct thrift_text s = {"", 0};
	uint64_t n;

	if (f->type != THRIFT_TEXT) {
		thrift_skip(t, f->type);
		return s;
	}
	n = thrift_varint(t);
	s.p = (const char *)t->p;
	pass(t, n);
	s.n = t->bad ? 0 : (size_t)n;
	return s;
}

size_t
thrift_list(struct thrift *t, const struct thrift_field *f, enum thrift_type *of)
{
	if (f->type == THRIFT_LIST || f->type == THRIFT_SET)
		return list_head(t, of);
	thrift_skip(t, f->type);
	return 0;
}
