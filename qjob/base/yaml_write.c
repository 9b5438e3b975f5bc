#include <string.h>

#include "qjob/base/buf.h"
#include "qjob/base/utf8.h"
#include "qjob/base/yaml.h"

/* Plain scalars that YAML 1.1 or 1.2 readers take for something else than text. */
static const char *const reserved[] = {
	"~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan",
};

static bool
same_letters(const char *a, const char *b)
{
	for (; *a && *b; a++, b++)
		if (*a != *b && !(*a >= 'A' && *a <= 'Z' && *a + 32 == *b))
			return false;
	return *a == *b;
}

/* A number, date or the like begins with a digit, perhaps after a sign and a point. */
static bool
is_other_type(const char *s)
{
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
		if (same_letters(s, reserved[i]))
			return true;
	s += *s == '-' || *s == '+';
	s += *s == '.';
	return (*s >= '0' && *s <= '9') || same_letters(s, "inf");
}

/* Characters that mean nothing to YAML anywhere in a plain scalar. */
static bool
is_plain(const char *s)
{
	static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";

	return *s && s[strspn(s, fine)] == '\0' && strcmp(s, "-") != 0 && strncmp(s, "---", 3) != 0 &&
	       strcmp(s, "...") != 0;
}

static bool
is_printable(uint32_t c)
{
	return c >= 0x20 && (c < 0x7f || c > 0x9f) && c != 0x2028 && c != 0x2029 && c != 0xfeff &&
	       c != 0xfffe && c != 0xffff;
}

static void
write_quoted(struct buf *b, const char *text)
{
	uint32_t c;

	buf_puts(b, "\"");
	for (const char *s = text; *s;) {
		size_t n = utf8_decode(s, &c);

		if (*s == '"' || *s == '\\')
			buf_printf(b, "\\%c", *s);
		else if (*s == '\n')
			buf_puts(b, "\\n");
		else if (n == 0)
			buf_printf(b, "\\x%02x", (unsigned char)*s);
		else if (is_printable(c))
			buf_add(b, s, n);
		else
			buf_printf(b, "\\u%04x", (unsigned)c);
		s += n ? n : 1;
	}
	buf_puts(b, "\"");
}

void
yaml_scalar(struct buf *b, const char *text)
{
	if (is_plain(text) && !is_other_type(text))
		buf_puts(b, text);
	else
		write_quoted(b, text);
}

static void
write_text(struct buf *b, const struct yaml *y)
{
	if (!y->quoted && !*y->text)
		buf_puts(b, "null");
	else if (!y->quoted && is_other_type(y->text) && (is_plain(y->text) || strcmp(y->text, "~") == 0))
		buf_puts(b, y->text);
	else
		yaml_scalar(b, y->text);
}

void
yaml_write(struct buf *b, const struct yaml *y)
{
	if (!y) {
		buf_puts(b, "null");
		return;
	}
	if (y->kind == YAML_TEXT) {
		write_text(b, y);
		return;
	}
	buf_puts(b, y->kind == YAML_MAP ? "{" : "[");
	for (size_t i = 0; i < y->n; i++) {
		if (i)
			buf_puts(b, ", ");
		if (y->kind == YAML_MAP) {
			yaml_scalar(b, y->keys[i]->text);
			buf_puts(b, ": ");
		}
		yaml_write(b, y->v[i]);
	}
	buf_puts(b, y->kind == YAML_MAP ? "}" : "]");
}
