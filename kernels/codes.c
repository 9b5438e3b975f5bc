#include "kernels/codes.h"

size_t
codes_bytes(int64_t n, int bits)
{
	return (size_t)((n * bits + 7) / 8);
}

void
codes_pack(uint8_t *to, const uint8_t *codes, int64_t n, int bits)
{
	uint32_t held = 0;
	int count = 0;

	for (int64_t i = 0; i < n; i++) {
		held |= (uint32_t)(codes[i] & ((1u << bits) - 1)) << count;
		for (count += bits; count >= 8; count -= 8) {
			*to++ = (uint8_t)held;
			held >>= 8;
		}
	}
	if (count > 0)
		*to = (uint8_t)held;
}

void
codes_unpack(uint8_t *codes, const uint8_t *from, int64_t n, int bits)
{
	uint32_t held = 0;
	int count = 0;

	for (int64_t i = 0; i < n; i++) {
		if (count < bits) {
			held |= (uint32_t)*from++ << count;
			count += 8;
		}
		codes[i] = (uint8_t)(held & ((1u << bits) - 1));
		held >>= bits;
		count -= bits;
	}
}
