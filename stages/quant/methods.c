#include "stages/quant/method.h"

#include <string.h>

extern const struct method method_gptq, method_rtn;

const struct method *const methods[] = {&method_gptq, &method_rtn, NULL};

const char *
method_names(void)
{
	return "gptq rtn";
}

const struct method *
method_find(const char *name)
{
	for (size_t i = 0; methods[i]; i++)
		if (strcmp(methods[i]->name, name) == 0)
			return methods[i];
	return NULL;
}
