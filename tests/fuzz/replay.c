/* Runs a fuzz target over the files of the folders that are named: what was found once stays found. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "qjob/base/err.h"
#include "qjob/base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t
replay(const char *folder)
{
	char **names;
	size_t n;

	if (dir_names(&names, &n, folder) < 0) {
		fprintf(stderr, "%s\n", err_text());
		exit(1);
	}
	for (size_t i = 0; i < n; i++) {
		char *path = path_join(folder, names[i]);
		struct file_view v;

		if (file_map(&v, path) < 0) {
			fprintf(stderr, "%s\n", err_text());
			exit(1);
		}
		LLVMFuzzerTestOneInput(v.p, v.n);
		file_unmap(&v);
		free(path);
	}
	dir_names_free(names, n);
	return n;
}

int
main(int argc, char **argv)
{
	size_t n = 0;

	for (int i = 1; i < argc; i++)
		n += replay(argv[i]);
	printf("%zu inputs\n", n);
	return n > 0 ? 0 : 1;
}
