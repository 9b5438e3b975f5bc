#include "tests/kernels/data.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void
assert_error(int e, int code, const char *text)
{
	assert_int_equal(e, code);
	assert_string_equal(err_text(), text);
}

static void
names_and_sizes_of_types(void **state)
{
	static const struct {
		enum dtype t;
		const char *name;
		size_t size;
	} rows[] = {
		{F32, "F32", 4}, {F16, "F16", 2}, {BF16, "BF16", 2}, {F64, "F64", 8}, {I64, "I64", 8}, {I32, "I32",
		                                                                                        4}, {I16,
		                                                                                             "I16", 2},
		{I8, "I8", 1}, {U8, "U8", 1}, {BOOL, "BOOL", 1}, {F8_E4M3, "F8_E4M3", 1}, {F8_E5M2, "F8_E5M2", 1},
	};
	enum dtype t;
	size_t i;

	(void)state;
	assert_int_equal(sizeof(rows) / sizeof(rows[0]), DTYPES);
	for (i = 0; i < DTYPES; i++) {
		assert_int_equal(dtype_size(rows[i].t), rows[i].size);
		assert_string_equal(dtype_name(rows[i].t), rows[i].name);
		assert_int_equal(dtype_find(&t, rows[i].name), 0);
		assert_int_equal(t, rows[i].t);
	}
	assert_int_equal(dtype_find(&t, "f32"), -1);
}

static void
parts_of_a_matrix(void **state)
{
	float numbers[12];
	struct mat m = {numbers, 3, 4, 4, F32}, r = mat_rows(&m, 1, 2), c = mat_cols(&r, 2, 1), gone = {NULL, 3, 4,
	                                                                                                4, F32};

	(void)state;
	assert_ptr_equal(r.p, numbers + 4);
	assert_ptr_equal(c.p, numbers + 6);
	assert_int_equal(c.rows, 2);
	assert_int_equal(c.cols, 1);
	assert_int_equal(c.ld, 4);
	assert_null(mat_rows(&gone, 1, 1).p);
	assert_null(mat_cols(&gone, 1, 1).p);
}

static void
unknown_devices_are_refused(void **state)
{
	struct dev_options o = {.name = "gpu"};
	struct dev *d = (struct dev *)1;
	char text[256] = "";

	(void)state;
	assert_error(dev_open(&d, &o), E_USE, "device gpu is not one of auto, cpu, cuda, cuda:N");
	assert_null(d);
	o.name = "cuda:x";
	assert_error(dev_open(&d, &o), E_USE, "device cuda:x is not one of auto, cpu, cuda, cuda:N");
	o.name = "cuda:999";
	assert_int_equal(dev_open(&d, &o), E_USE);
	assert_ptr_equal(strstr(err_text(), "device cuda:999: "), err_text());
	assert_true(dev_facts(&o, text, sizeof(text)) < 0);
	assert_string_equal(text, "");
	o = (struct dev_options){.name = "cpu", .threads = -1};
	assert_error(dev_open(&d, &o), E_USE, "threads: -1 is negative");
	o = (struct dev_options){.isa = "mmx"};
	assert_int_equal(dev_open(&d, &o), E_USE);
	assert_non_null(strstr(err_text(), "isa: mmx is not an instruction set of this machine; it has auto, "));
}

/* Runs check in a process of its own, whose libraries are not loaded yet. */
static void
apart(void (*check)(void))
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		check();
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* A copy of this program in a folder of its own, where no library lies near. */
static void
copy_program(const char *to_path)
{
	FILE *from = fopen("/proc/self/exe", "rb"), *to = fopen(to_path, "wb");
	static char piece[1 << 16];
	size_t n;

	assert_non_null(from);
	assert_non_null(to);
	for (n = fread(piece, 1, sizeof(piece), from); n > 0; n = fread(piece, 1, sizeof(piece), from))
		assert_int_equal(fwrite(piece, 1, n, to), n);
	fclose(from);
	assert_int_equal(fclose(to), 0);
	assert_int_equal(chmod(to_path, 0700), 0);
}

/* What the copy says when it is asked to open a device. */
static void
ask(const char *program, char *answer, size_t size)
{
	int ends[2], status;
	pid_t child;
	ssize_t n;

	assert_int_equal(pipe(ends), 0);
	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		dup2(ends[1], STDOUT_FILENO);
		execl(program, program, "open", (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	n = read(ends[0], answer, size - 1);
	close(ends[0]);
	assert_true(n > 0);
	answer[n] = '\0';
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static int
answer_open(void)
{
	struct dev_options o = {0};
	struct dev *d;

	puts(dev_open(&d, &o) == 0 ? "opened" : err_text());
	return 0;
}

static void
a_missing_library_is_told_with_the_places(void **state)
{
	char folder[] = "/tmp/qjob-dev-XXXXXX", program[64], broken[64], answer[1024], want[1024];
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(program, sizeof(program), "%s/lonely", folder);
	snprintf(broken, sizeof(broken), "%s/libqjob-cpu.so", folder);
	copy_program(program);
	setenv("QJOB_BACKENDS", "/nonexistent", 1);
	ask(program, answer, sizeof(answer));
	snprintf(want, sizeof(want),
	         "cpu backend: libqjob-cpu.so was not found in /nonexistent, %s, %s/../lib/qjob, ", folder, folder);
	assert_memory_equal(answer, want, strlen(want));
	assert_non_null(strstr(answer, "; set QJOB_BACKENDS to the folder that holds it\n"));
	/* What lies in the folder named is taken, whatever it is. */
	f = fopen(broken, "w");
	assert_non_null(f);
	fclose(f);
	setenv("QJOB_BACKENDS", folder, 1);
	ask(program, answer, sizeof(answer));
	snprintf(want, sizeof(want), "cpu backend: %s: file too short\n", broken);
	assert_string_equal(answer, want);
	unsetenv("QJOB_BACKENDS");
	unlink(broken);
	unlink(program);
	rmdir(folder);
}

static void
check_facts_after(void)
{
	struct dev_options o = {.name = "cpu", .isa = "avx2"};
	char text[512] = "before\n";

	if (dev_facts(&o, text, sizeof(text)) != 0)
		_exit(1);
	if (strncmp(text, "before\ndevice cpu\nisa avx2\nonednn ", 33) != 0)
		_exit(2);
	if (!strstr(text, " core Haswell\n"))
		_exit(3);
	if (getenv("OPENBLAS_CORETYPE") || getenv("OPENBLAS_NUM_THREADS"))
		_exit(4);
}

static void
facts_name_what_changes_bytes(void **state)
{
	struct dev_options o = {.name = "cpu"};
	char text[512] = "", tiny[20] = "";

	(void)state;
	apart(check_facts_after);
	assert_int_equal(dev_facts(&o, text, sizeof(text)), 0);
	assert_non_null(strstr(text, "device cpu\nisa "));
	assert_non_null(strstr(text, "\nonednn "));
	assert_non_null(strstr(text, "\nopenblas "));
	assert_error(dev_facts(&o, tiny, sizeof(tiny)), E_SYS, "device cpu: the facts need more");
	assert_string_equal(tiny, "");
}

static void
check_two_sets(void)
{
	struct dev_options o = {.name = "cpu", .isa = "avx2"};
	struct dev *d;

	if (dev_open(&d, &o) != 0)
		_exit(1);
	dev_close(d);
	if (dev_open(&d, &o) != 0)
		_exit(2);
	dev_close(d);
	o.isa = "sse41";
	if (dev_open(&d, &o) != E_USE)
		_exit(3);
	if (strcmp(err_text(),
	           "device cpu: isa sse41: oneDNN is held to another instruction set in this process") != 0)
		_exit(4);
}

static void
one_instruction_set_for_a_process(void **state)
{
	(void)state;
	apart(check_two_sets);
}

static void
what_is_put_can_be_got(void **state)
{
	struct dev *d = device(1, MATH_F32);
	float from[6] = {1, 2, 3, 4, 5, 6}, to[6], zero[4] = {0};
	struct mat m = dev_mat(d, F32, 3, 4), part = mat_cols(&m, 1, 2), z = dev_zeros(d, F32, 2, 2);

	(void)state;
	assert_int_equal((uintptr_t)m.p % 64, 0);
	assert_int_equal(m.ld, 4);
	dev_put(d, &part, from);
	dev_get(d, to, &part);
	assert_memory_equal(from, to, sizeof(from));
	dev_get(d, to, &z);
	assert_memory_equal(to, zero, sizeof(zero));
	assert_good(d);
	assert_string_equal(dev_name(d), "cpu");
	dev_close(d);
}

static void
a_view_is_the_bytes_themselves(void **state)
{
	struct dev *d = device(1, MATH_F32);
	char bytes[33];
	struct mat m = dev_view(d, F32, 2, 4, bytes + 1);

	(void)state;
	assert_ptr_equal(m.p, bytes + 1);
	assert_int_equal(m.ld, 4);
	assert_int_equal(dev_mark(d), 0);
	dev_close(d);
}

static void
memory_is_released_to_a_mark(void **state)
{
	struct dev *d = device(1, MATH_F32);
	size_t mark;
	struct mat a, b;

	(void)state;
	dev_mat(d, U8, 1, 100);
	mark = dev_mark(d);
	a = dev_mat(d, F32, 1000, 1000);
	dev_release(d, mark);
	b = dev_mat(d, F32, 10, 10);
	assert_ptr_equal(a.p, b.p);
	assert_int_equal(dev_peak(d), 128 + 4000000);
	dev_release(d, mark);
	dev_release(d, mark + 1000);           /* nothing lies there */
	assert_int_equal(dev_mark(d), mark);
	dev_close(d);
}

/* Resident pages of this process, in MiB. */
static long
resident(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long size, pages = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%ld %ld", &size, &pages), 2);
	fclose(f);
	return pages * sysconf(_SC_PAGESIZE) >> 20;
}

static void
large_releases_give_pages_back(void **state)
{
	struct dev *d = device(1, MATH_F32);
	long before = resident();
	struct mat m = dev_zeros(d, U8, 1024, 1 << 20);

	(void)state;
	assert_non_null(m.p);
	assert_true(resident() - before > 1000);
	dev_release(d, 0);
	assert_true(resident() - before < 300);
	m = dev_zeros(d, U8, 16, 1 << 20);
	assert_good(d);
	dev_close(d);
}

static void
the_limit_of_memory_is_told(void **state)
{
	struct dev_options o = {.memory = 1 << 20, .threads = 1};
	struct dev *d;
	struct mat m, y;
	float one = 1;

	(void)state;
	assert_int_equal(dev_open(&d, &o), 0);
	m = dev_mat(d, F32, 256, 768);
	assert_non_null(m.p);
	y = dev_mat(d, F32, 256, 512);
	assert_null(y.p);
	assert_int_equal(y.cols, 512);
	assert_true(dev_failed(d));
	assert_error(dev_status(d), E_SYS,
	             "out of memory: a matrix F32 [256,512] needs 0.5 MiB, and 0.2 of 1.0 MiB are left; "
	             "give more memory, or take fewer or shorter samples");
	/* Nothing happens any more, and the first reason stays. */
	assert_null(dev_mat(d, F32, 1, 1).p);
	assert_null(dev_view(d, F32, 1, 1, &one).p);
	op_add(d, &y, &m, 1);
	dev_put(d, &y, &one);
	dev_get(d, &one, &y);
	assert_true(one == 1);
	assert_error(dev_status(d), E_SYS,
	             "out of memory: a matrix F32 [256,512] needs 0.5 MiB, and 0.2 of 1.0 MiB are left; "
	             "give more memory, or take fewer or shorter samples");
	dev_close(d);
}

static void
room_to_compute_in_counts_too(void **state)
{
	struct dev_options o = {.memory = 1 << 20, .threads = 1};
	struct dev *d;
	struct mat x, h;

	(void)state;
	assert_int_equal(dev_open(&d, &o), 0);
	x = dev_zeros(d, F32, 1024, 128);
	h = dev_zeros(d, F32, 128, 128);
	op_gram(d, &h, &x, NULL);
	assert_int_equal(dev_status(d), E_SYS);
	assert_non_null(strstr(err_text(), "out of memory: room to compute in needs "));
	dev_close(d);
}

static void
sides_that_no_memory_holds(void **state)
{
	struct dev *d = device(1, MATH_F32);
	struct mat m = dev_mat(d, F64, (int64_t)1 << 40, (int64_t)1 << 40);

	(void)state;
	assert_null(m.p);
	assert_error(dev_status(d), E_DATA, "a matrix F64 [1099511627776,1099511627776] is larger than any memory");
	dev_close(d);
	d = device(1, MATH_F32);
	assert_null(dev_mat(d, F32, -1, 4).p);
	assert_error(dev_status(d), E_DATA, "a matrix F32 [-1,4] is larger than any memory");
	dev_close(d);
}

static void
math_is_resolved(void **state)
{
	struct dev *d = device(1, MATH_F32);
	enum math automatic = dev_math(d, MATH_AUTO);

	(void)state;
	assert_true(automatic == MATH_F32 || automatic == MATH_BF16);
	for (enum math m = MATH_F32; m <= MATH_F16; m++) {
		assert_int_equal(dev_math(d, m), m);
		assert_int_equal(math_find(math_name(m)), m);
	}
	assert_int_equal(dev_operand(d), F16);
	dev_math(d, MATH_BF16);
	assert_int_equal(dev_operand(d), BF16);
	assert_int_equal(math_find("auto"), MATH_AUTO);
	assert_int_equal(math_find("half"), MATH_AUTO);
	assert_string_equal(math_name(MATH_AUTO), "auto");
	dev_close(d);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_sizes_of_types),
		cmocka_unit_test(parts_of_a_matrix),
		cmocka_unit_test(unknown_devices_are_refused),
		cmocka_unit_test(a_missing_library_is_told_with_the_places),
		cmocka_unit_test(one_instruction_set_for_a_process),
		cmocka_unit_test(facts_name_what_changes_bytes),
		cmocka_unit_test(what_is_put_can_be_got),
		cmocka_unit_test(a_view_is_the_bytes_themselves),
		cmocka_unit_test(memory_is_released_to_a_mark),
		cmocka_unit_test(large_releases_give_pages_back),
		cmocka_unit_test(the_limit_of_memory_is_told),
		cmocka_unit_test(room_to_compute_in_counts_too),
		cmocka_unit_test(sides_that_no_memory_holds),
		cmocka_unit_test(math_is_resolved),
	};

	if (argc == 2 && strcmp(argv[1], "open") == 0)
		return answer_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
