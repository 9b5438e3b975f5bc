#include <openssl/crypto.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <yaml.h>

#include "qjob/base/buf.h"
#include "qjob/base/json.h"
#include "qjob/cli/options.h"
#include "stages/pack/format.h"
#include "stages/quant/method.h"

json_t *
library_versions(void)
{
	unsigned xxh = XXH_versionNumber();
	char pcre[64] = "", xxhash[32];
	json_t *o = json_object();

	pcre2_config(PCRE2_CONFIG_VERSION, pcre);
	pcre[strcspn(pcre, " ")] = '\0';
	snprintf(xxhash, sizeof(xxhash), "%u.%u.%u", xxh / 10000, xxh / 100 % 100, xxh % 100);
	json_object_set_new(o, "libyaml", json_string(yaml_get_version_string()));
	json_object_set_new(o, "jansson", json_string(jansson_version_str()));
	json_object_set_new(o, "openssl", json_string(OpenSSL_version(OPENSSL_VERSION_STRING)));
	json_object_set_new(o, "xxhash", json_string(xxhash));
	json_object_set_new(o, "pcre2", json_string(pcre));
	json_object_set_new(o, "utf8proc", json_string(utf8proc_version()));
	return o;
}

static json_t *
words(const char *text)
{
	json_t *list = json_array();

	for (size_t n; *text; text += n + strspn(text + n, " ")) {
		n = strcspn(text, " ");
		json_array_append_new(list, json_stringn(text, n));
	}
	return list;
}

int
cmd_version(int argc, char **argv)
{
	struct no_options o = {0};
	struct buf b = {0};
	json_t *all, *version;
	const char *name;
	int code = options_read("version", argc, argv, &o);

	if (code >= 0)
		return code;
	all = library_versions();
	if (o.json) {
		json_t *j = json_object();

		json_object_set_new(j, "qjob", json_string(QJOB_VERSION));
		json_object_set(j, "libraries", all);
		json_object_set_new(j, "methods", words(method_names()));
		json_object_set_new(j, "formats", words(format_names()));
		json_write(j, &b);
		json_decref(j);
	} else {
		buf_printf(&b, "qjob %s\n", QJOB_VERSION);
		json_object_foreach(all, name, version)
			buf_printf(&b, "  %-10s %s\n", name, json_string_value(version));
		buf_printf(&b, "  %-10s %s\n  %-10s %s\n", "methods", method_names(), "formats", format_names());
	}
	fputs(buf_text(&b), stdout);
	buf_release(&b);
	json_decref(all);
	return EXIT_OK;
}
