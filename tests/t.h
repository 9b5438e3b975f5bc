/* What every test file needs: cmocka with its own includes, and a folder to write in. */
#ifndef QJOB_TESTS_T_H
#define QJOB_TESTS_T_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"
#include "qjob/base/mem.h"

/* A new empty folder under the current one; caller frees. */
static inline char *
t_dir(void)
{
	char *dir = mem_text("t.XXXXXX");
	char *real;

	assert_non_null(mkdtemp(dir));
	real = path_real(dir);
	free(dir);
	return real;
}

/* Removes what t_dir made, and frees the name. */
static inline void
t_dir_end(char *dir)
{
	assert_int_equal(dir_remove(dir), 0);
	free(dir);
}

#define assert_ok(call) t_ok((call), #call, __FILE__, __LINE__)

static inline void
t_ok(int rc, const char *call, const char *file, int line)
{
	if (rc < 0) {
		print_error("%s: %s\n", call, err_text());
		_fail(file, line);
	}
}

#endif
