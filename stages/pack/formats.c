#include "stages/pack/format.h"

#include <string.h>

#include "qjob/base/err.h"

extern const struct format format_gptq, format_compressed_tensors;

const struct format *const formats[] = {&format_gptq, &format_compressed_tensors, NULL};

const struct format *
format_find(const char *name)
{
	for (size_t i = 0; formats[i]; i++)
		if (strcmp(formats[i]->name, name) == 0)
			return formats[i];
	return NULL;
}

const char *
format_names(void)
{
	return "gptq compressed-tensors";
}

int
format_attach(struct weights *w)
{
	const json_t *config = json_object_get(w->config.json, "quantization_config");
	const char *method;

	if (!config)
		return 0;
	for (size_t i = 0; formats[i]; i++) {
		if (!formats[i]->owns(config))
			continue;
		w->decode = formats[i]->decode;
		return 0;
	}
	method = json_string_value(json_object_get(config, "quant_method"));
	return err_set(E_DATA, "config.json: quantization_config.quant_method: %s is not one of gptq, compressed-tensors",
	               method ? method : "a value that is no text");
}
