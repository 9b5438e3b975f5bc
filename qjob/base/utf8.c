#include "qjob/base/utf8.h"

#include <string.h>

size_t
utf8_decode(const char *s, uint32_t *c)
{
	static const unsigned char lengths[32] = {    /* by the first five bits */
		1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 3, 3, 4, 0,
	};
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned char first = (unsigned char)s[0];
	size_t n = lengths[first >> 3];

	*c = n < 2 ? first : first & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if (((unsigned char)s[i] & 0xc0) != 0x80)
			return 0;
		*c = *c << 6 | ((unsigned char)s[i] & 0x3f);
	}
	return n && *c >= least[n] && *c <= 0x10ffff && (*c < 0xd800 || *c > 0xdfff) ? n : 0;
}

size_t
utf8_cut(const char *s, size_t n)
{
	size_t length = strnlen(s, n + 1), cut = n;

	if (length <= n)
		return length;
	while (cut && n - cut < 3 && ((unsigned char)s[cut] & 0xc0) == 0x80)
		cut--;
	return ((unsigned char)s[cut] & 0xc0) == 0x80 ? n : cut;
}
