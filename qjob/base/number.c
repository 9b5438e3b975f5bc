#include "qjob/base/number.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *
digits_end(const char *s)
{
	return s + strspn(s, "0123456789");
}

bool
whole_parse(const char *s, int64_t *x)
{
	const char *first = s + (*s == '-' || *s == '+');
	const char *end = digits_end(first);
	long long v;

	if (end == first || *end)
		return false;
	errno = 0;
	v = strtoll(s, NULL, 10);
	*x = v;
	return errno == 0;
}

static bool
is_real(const char *s)
{
	const char *p = s + (*s == '-' || *s == '+'), *q = digits_end(p);
	size_t digits = (size_t)(q - p);

	if (*q == '.') {
		p = q + 1;
		q = digits_end(p);
		digits += (size_t)(q - p);
	}
	if (digits && (*q == 'e' || *q == 'E')) {
		p = q + 1;
		p += *p == '-' || *p == '+';
		q = digits_end(p);
		if (q == p)
			return false;
	}
	return digits && !*q;
}

bool
real_parse(const char *s, double *x)
{
	locale_t plain, was;

	if (!is_real(s))
		return false;
	plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	was = uselocale(plain);
	*x = strtod(s, NULL);
	uselocale(was);
	freelocale(plain);
	return isfinite(*x);
}

void
real_text(double x, char text[REAL_TEXT])
{
	locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	locale_t was = uselocale(plain);

	for (int digits = 1; digits <= 17; digits++) {
		snprintf(text, REAL_TEXT, "%.*g", digits, x);
		if (strtod(text, NULL) == x)
			break;
	}
	uselocale(was);
	freelocale(plain);
}
