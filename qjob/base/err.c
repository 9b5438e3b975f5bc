#include "qjob/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "qjob/base/utf8.h"

static _Thread_local char text[1024];

/* Arguments may point into text, so it is made elsewhere first. */
static void
vset(const char *fmt, va_list ap, const char *after)
{
	char made[sizeof(text) + 1];    /* one more shows where the cut falls */
	int n = vsnprintf(made, sizeof(made), fmt, ap);
	size_t kept;

	if (n < 0)
		n = 0;
	if (after && (size_t)n < sizeof(made))
		snprintf(made + n, sizeof(made) - (size_t)n, ": %s", after);
	kept = utf8_cut(made, sizeof(text) - 1);
	memcpy(text, made, kept);
	text[kept] = '\0';
}

int
err_set(int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vset(fmt, ap, NULL);
	va_end(ap);
	return code;
}

int
err_sys(const char *fmt, ...)
{
	char why[128];
	int saved = errno;
	va_list ap;

	if (strerror_r(saved, why, sizeof(why)) != 0)
		snprintf(why, sizeof(why), "error %d", saved);
	va_start(ap, fmt);
	vset(fmt, ap, why);
	va_end(ap);
	errno = saved;
	return E_SYS;
}

int
err_in(int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vset(fmt, ap, text);
	va_end(ap);
	return code;
}

const char *
err_text(void)
{
	return text;
}
