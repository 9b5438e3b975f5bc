#define PCRE2_CODE_UNIT_WIDTH 8
#include "qjob/model/regex.h"

#include <pcre2.h>
#include <stdlib.h>

#include "qjob/base/err.h"
#include "qjob/base/mem.h"

enum {
	STEPS = 1000 * 1000, STEPS_A_BYTE = 16,      /* for one match; patterns of tokenizers need a few a byte */
	HEAP_LIMIT_KIB = 512 * 1024,
	JIT_STACK = 32 * 1024, JIT_STACK_MAX = 16 * 1024 * 1024,
};

struct regex {
	pcre2_code *code;
	char *name;
};

struct finder {
	const struct regex *re;
	pcre2_match_data *data;
	pcre2_match_context *context;
	pcre2_jit_stack *stack;              /* NULL: the machine's, 32 KiB */
	const char *text;
	size_t n, at, last_end;
	bool matched;                        /* last_end is the end of a match */
};

int
regex_open(struct regex **r, const char *pattern, size_t n, bool literal, const char *name)
{
	struct buf rewritten = {0};
	PCRE2_UCHAR why[128] = "";
	PCRE2_SIZE where = 0;
	pcre2_code *code;
	int err = 0, rc = 0;

	*r = NULL;
	if (literal)
		buf_add(&rewritten, pattern, n);
	else
		rc = pattern_rewrite(&rewritten, pattern, n, name);
	if (rc != 0) {
		buf_release(&rewritten);
		return rc;
	}
	code = pcre2_compile((PCRE2_SPTR)buf_text(&rewritten), rewritten.n,
	                     literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
	                     &err, &where, NULL);
	buf_release(&rewritten);
	if (code == NULL) {
		pcre2_get_error_message(err, why, sizeof(why));
		return err_set(E_USE, "%s: pattern '%.200s' is not understood: %s", name, pattern, (const char *)why);
	}
	pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);       /* refused where memory may not be executable: then interpreted */
	*r = mem_new(1, sizeof(**r));
	(*r)->code = code;
	(*r)->name = mem_text(name);
	return 0;
}

void
regex_close(struct regex *r)
{
	if (r == NULL)
		return;
	pcre2_code_free(r->code);
	free(r->name);
	free(r);
}

struct finder *
finder_new(const struct regex *r)
{
	struct finder *f = mem_new(1, sizeof(*f));

	f->re = r;
	f->data = pcre2_match_data_create_from_pattern(r->code, NULL);
	f->context = pcre2_match_context_create(NULL);
	if (f->data == NULL || f->context == NULL)
		return f;                     /* finder_next says so */
	pcre2_set_heap_limit(f->context, HEAP_LIMIT_KIB);
	f->stack = pcre2_jit_stack_create(JIT_STACK, JIT_STACK_MAX, NULL);
	if (f->stack != NULL)
		pcre2_jit_stack_assign(f->context, NULL, f->stack);
	return f;
}

void
finder_free(struct finder *f)
{
	if (f == NULL)
		return;
	pcre2_match_data_free(f->data);
	pcre2_match_context_free(f->context);
	if (f->stack != NULL)
		pcre2_jit_stack_free(f->stack);
	free(f);
}

static uint32_t
step_limit(size_t n)
{
	return n < (UINT32_MAX - STEPS) / STEPS_A_BYTE ? STEPS + STEPS_A_BYTE * (uint32_t)n : UINT32_MAX;
}

void
finder_start(struct finder *f, const char *text, size_t n)
{
	f->text = text;
	f->n = n;
	f->at = 0;
	f->matched = false;
	if (f->context != NULL)
		pcre2_set_match_limit(f->context, step_limit(n));
}

static int
match_at(struct finder *f)
{
	int rc = pcre2_match(f->re->code, (PCRE2_SPTR)f->text, f->n, f->at, PCRE2_NO_UTF_CHECK, f->data, f->context);

	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = pcre2_match(f->re->code, (PCRE2_SPTR)f->text, f->n, f->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, f->data, f->context);
	return rc;
}

int
finder_next(struct finder *f, size_t *start, size_t *end)
{
	if (f->data == NULL || f->context == NULL)
		return err_set(E_SYS, "%s: no memory to search with", f->re->name);
	while (f->at <= f->n) {
		PCRE2_UCHAR why[128] = "";
		const PCRE2_SIZE *span;
		int rc = match_at(f);

		if (rc == PCRE2_ERROR_NOMATCH)
			return 0;
		if (rc < 0) {
			pcre2_get_error_message(rc, why, sizeof(why));
			return err_set(E_DATA, "%s: the pattern fails on this text at byte %zu: %s", f->re->name, f->at, (const char *)why);
		}
		span = pcre2_get_ovector_pointer(f->data);
		if (span[1] < f->at || span[0] > span[1])
			return err_set(E_USE, "%s: a pattern that matches backwards (\\K in a lookaround) is not supported", f->re->name);
		if (span[0] == span[1] && f->matched && span[1] == f->last_end) {
			f->at++;              /* an empty match behind the last one: try from the next character */
			while (f->at < f->n && ((unsigned char)f->text[f->at] & 0xc0) == 0x80)
				f->at++;
			continue;
		}
		*start = span[0];
		*end = f->at = f->last_end = span[1];
		f->matched = true;
		return 1;
	}
	return 0;
}
