/* Any bytes as a recipe: messages or settings, and settings that are written read back as the same. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qjob/base/buf.h"
#include "qjob/engine/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char path[64];

static void
put(const void *text, size_t n)
{
	int fd;

	if (!*path)
		snprintf(path, sizeof(path), "/dev/shm/fuzz_recipe.%ld", (long)getpid());
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, text, n) != (ssize_t)n || close(fd) != 0)
		abort();
}

/* The settings of the first variant as text; NULL after messages. */
static char *
settle(void)
{
	struct recipe r;
	struct diag d = {0};
	struct buf b = {0};
	char *text = NULL;

	if (recipe_load(&r, path, NULL, 0, &d) == 0) {
		recipe_write(&r.v[0].settings, false, false, &b);
		text = buf_detach(&b);
	} else if (!d.n) {
		abort();
	}
	recipe_release(&r);
	diag_release(&d);
	return text;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *first, *second;

	put(data, n);
	first = settle();
	if (first) {
		put(first, strlen(first));
		second = settle();
		if (!second || strcmp(first, second) != 0) {
			fprintf(stderr, "wrote\n%s\nread back as\n%s\n", first, second ? second : "(messages)");
			abort();
		}
		free(second);
	}
	free(first);
	unlink(path);
	return 0;
}
