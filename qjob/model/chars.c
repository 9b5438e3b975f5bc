#include "qjob/model/chars.h"

#include <string.h>
#include <utf8proc.h>

size_t
chars_valid(const char *p, size_t n)
{
	size_t at = 0;

	while (at < n) {
		utf8proc_int32_t code;
		utf8proc_ssize_t len;

		if ((unsigned char)p[at] < 0x80) {
			at++;
			continue;
		}
		len = utf8proc_iterate((const utf8proc_uint8_t *)p + at, (utf8proc_ssize_t)(n - at), &code);
		if (len <= 0)
			return at;
		at += (size_t)len;
	}
	return n;
}

size_t
chars_length(const char *p)
{
	unsigned char c = (unsigned char)*p;

	return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

uint32_t
chars_code(const char *p)
{
	const unsigned char *u = (const unsigned char *)p;

	switch (chars_length(p)) {
	case 1: return u[0];
	case 2: return (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
	case 3: return (u[0] & 0x0fu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
	default: return (u[0] & 0x07u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 | (u[3] & 0x3fu);
	}
}

size_t
chars_back(const char *p, size_t at)
{
	at--;
	while (at > 0 && ((unsigned char)p[at] & 0xc0) == 0x80)
		at--;
	return at;
}

void
chars_add(struct buf *b, uint32_t code)
{
	utf8proc_uint8_t out[4];

	buf_add(b, out, (size_t)utf8proc_encode_char((utf8proc_int32_t)code, out));
}

bool
chars_is_ascii(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)p[i] >= 0x80)
			return false;
	return true;
}

bool
chars_is_space(uint32_t c)
{
	if (c < 0x80)
		return c == ' ' || (c >= '\t' && c <= '\r');
	return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
	       c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Printable Latin-1 stands for itself; the other 68 bytes, in order, for U+0100 and on. */
static uint32_t
byte_code(unsigned char b)
{
	if (b <= ' ')
		return 0x100u + b;
	if (b >= 0x7f && b <= 0xa0)
		return 0x121u + (b - 0x7fu);
	return b == 0xad ? 0x143u : b;
}

void
chars_bytes(struct buf *b, const char *p, size_t n)
{
	char out[256];
	size_t used = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t c = byte_code((unsigned char)p[i]);

		if (used + 2 > sizeof(out)) {
			buf_add(b, out, used);
			used = 0;
		}
		if (c < 0x80) {
			out[used++] = (char)c;
		} else {
			out[used++] = (char)(0xc0 | c >> 6);
			out[used++] = (char)(0x80 | (c & 0x3f));
		}
	}
	buf_add(b, out, used);
}
