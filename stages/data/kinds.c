#include "stages/data/kind.h"

#include <string.h>
#include <strings.h>

const struct data_kind data_kinds[] = {
	{"text",     ".txt .text .md .raw .tokens", false, read_text_file, NULL},
	{"jsonl",    ".jsonl .ndjson",              true,  read_jsonl,     NULL},
	{"wikitext", "",                            false, read_wikitext,  NULL},
	{"json",     ".json",    false, NULL, "write one JSON object a line into a .jsonl file"},
	{"parquet",  ".parquet",                    true,  read_parquet,   NULL},
	{"arrow",    ".arrow",   false, NULL, "write one JSON object a line into a .jsonl file"},
	{"csv",      ".csv .tsv", false, NULL, "write one JSON object a line into a .jsonl file"},
	{"archive",  ".zip .tar .tgz .7z",          true,  read_archive,   NULL},
	{0},
};

static bool
ends_with(const char *name, size_t n, const char *suffixes)
{
	while (*suffixes != '\0') {
		size_t len = strcspn(suffixes, " ");

		if (n > len && strncasecmp(name + n - len, suffixes, len) == 0)
			return true;
		suffixes += len + (suffixes[len] == ' ');
	}
	return false;
}

bool
is_packed(const char *path, size_t *stem)
{
	*stem = strlen(path);
	if (!ends_with(path, *stem, ".gz .xz .zst .bz2"))
		return false;
	*stem = (size_t)(strrchr(path, '.') - path);
	return true;
}

const struct data_kind *
data_kind_of(const char *path)
{
	size_t n;

	is_packed(path, &n);
	for (const struct data_kind *k = data_kinds; k->name != NULL; k++)
		if (ends_with(path, n, k->suffixes))
			return k;
	return &data_kinds[0];
}

const struct data_kind *
data_kind_named(const char *name)
{
	for (const struct data_kind *k = data_kinds; k->name != NULL; k++)
		if (strcmp(k->name, name) == 0)
			return k;
	return NULL;
}
