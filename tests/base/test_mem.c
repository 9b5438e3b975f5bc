#include "qjob/base/mem.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/t.h"

static void
gives_zeroed_memory(void **state)
{
	unsigned char *p = mem_new(100, 3);

	(void)state;
	for (int i = 0; i < 300; i++)
		assert_int_equal(p[i], 0);
	free(p);
	p = mem_new(0, 8);
	assert_non_null(p);
	free(p);
	p = mem_grow(NULL, 0, 8);
	assert_non_null(p);
	free(p);
}

static void
copies_and_formats(void **state)
{
	char *a = mem_text("text"), *b = mem_format("%s-%d", a, 7);

	(void)state;
	assert_string_equal(a, "text");
	assert_string_equal(b, "text-7");
	assert_null(mem_text(NULL));
	free(a);
	free(b);
}

/* The product wraps to 16 bytes; an allocator that multiplied would be happy. */
static void
aborts_when_the_product_overflows(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		free(mem_grow(NULL, SIZE_MAX / 16 + 2, 16));
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_zeroed_memory),
		cmocka_unit_test(copies_and_formats),
		cmocka_unit_test(aborts_when_the_product_overflows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
