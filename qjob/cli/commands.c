#include "qjob/cli/commands.h"

#include <string.h>

#include "qjob/cli/options.h"

#define AT(type, field) offsetof(struct type, field)

#define RECIPE_ROWS(type, r) \
	{"RECIPE", OPT_ARG, AT(type, r.recipe), 0, "FILE", true, "the recipe, a YAML file"}, \
	{"set", OPT_TEXTS, AT(type, r.sets), 0, "NAME=VALUE", false, "override a parameter: quantize.bits=3; again for more"}, \
	{"output", OPT_TEXT, AT(type, r.output), 'o', "DIR", false, "write there instead of the recipe's output"}, \
	{"cache-dir", OPT_TEXT, AT(type, r.cache_dir), 0, "DIR", false, "the store; else $QJOB_CACHE, else ~/.cache/qjob"}, \
	DEVICE_ROWS(type, r.on)

#define DEVICE_ROWS(type, on) \
	{"device", OPT_TEXT, AT(type, on.device), 0, "auto|cpu|cuda|cuda:N", false, "where to compute; auto: a card where there is one"}, \
	{"isa", OPT_TEXT, AT(type, on.isa), 0, "NAME", false, "CPU instruction set (avx2, avx512), for equal bytes elsewhere"}, \
	{"threads", OPT_INT, AT(type, on.threads), 0, "N", false, "how many threads; results do not depend on it"}, \
	{"memory", OPT_TEXT, AT(type, on.memory), 0, "SIZE", false, "most memory of the device to use: 24G; results stay the same"}

static const struct opt run_opts[] = {
	RECIPE_ROWS(run_cli_options, r),
	{"events", OPT_TEXT, AT(run_cli_options, events), 0, "FILE", false, "write what happens as NDJSON, one object an event"},
	{"json", OPT_FLAG, AT(run_cli_options, r.json), 0, NULL, false, "print the summary as JSON"},
	{"quiet", OPT_FLAG, AT(run_cli_options, quiet), 'q', NULL, false, "say nothing but errors"},
	{0},
};

static const struct opt plan_opts[] = {
	RECIPE_ROWS(plan_options, r),
	{"recipe", OPT_FLAG, AT(plan_options, recipe_only), 0, NULL, false, "print only the recipe with every default written out"},
	{"all", OPT_FLAG, AT(plan_options, all), 'a', NULL, false, "one line for every node, even when many are alike"},
	{"json", OPT_FLAG, AT(plan_options, r.json), 0, NULL, false, "print JSON"},
	{0},
};

static const struct opt why_opts[] = {
	RECIPE_ROWS(why_options, r),
	{"NODE", OPT_ARG, AT(why_options, node), 0, "NODE", false, "one node, as `qjob plan --all` names it: quantize/17"},
	{"json", OPT_FLAG, AT(why_options, r.json), 0, NULL, false, "print JSON"},
	{0},
};

static const struct opt log_opts[] = {
	{"N", OPT_ARG, AT(log_options, number), 0, "N", false, "the details of one run; 1 is the latest"},
	{"cache-dir", OPT_TEXT, AT(log_options, cache_dir), 0, "DIR", false, "the store; else $QJOB_CACHE, else ~/.cache/qjob"},
	{"json", OPT_FLAG, AT(log_options, json), 0, NULL, false, "print JSON"},
	{0},
};

static const struct opt init_opts[] = {
	{"MODEL", OPT_ARG, AT(init_options, model), 0, "DIR", true, "the model's folder"},
	{"method", OPT_TEXT, AT(init_options, method), 0, "METHOD", false, "the method to write it for; `qjob help` lists them"},
	{"output", OPT_TEXT, AT(init_options, output), 'o', "FILE", false, "write to a new file instead of stdout"},
	{0},
};

static const struct opt schema_opts[] = {
	{0},
};

static const struct opt forward_opts[] = {
	{"MODEL", OPT_ARG, AT(forward_options, model), 0, "DIR", true, "a model's folder, original or packed by qjob"},
	{"ids", OPT_TEXT, AT(forward_options, ids), 0, "FILE", true, "safetensors with input_ids, int64 [B,T]"},
	{"output", OPT_TEXT, AT(forward_options, output), 'o', "FILE", true, "safetensors to write: logits, float32 [B,T,V]"},
	{"hidden", OPT_FLAG, AT(forward_options, hidden), 0, NULL, false, "also write hidden_states.0 and so on, one a block and the last"},
	{"dtype", OPT_TEXT, AT(forward_options, dtype), 0, "float32|bfloat16|float16", false,
	 "what matrix products multiply (default: float32)"},
	DEVICE_ROWS(forward_options, on),
	{0},
};

static const struct opt tokenize_opts[] = {
	{"MODEL", OPT_ARG, AT(tokenize_options, model), 0, "DIR", true, "a folder with tokenizer.json"},
	{"FILE", OPT_ARG, AT(tokenize_options, file), 0, "FILE", false, "one JSON string a line; stdin when left out"},
	{"special", OPT_FLAG, AT(tokenize_options, special), 0, NULL, false, "add what the post-processor adds"},
	{0},
};

static const struct opt doctor_opts[] = {
	{"cache-dir", OPT_TEXT, AT(doctor_options, cache_dir), 0, "DIR", false, "the store; else $QJOB_CACHE, else ~/.cache/qjob"},
	{"json", OPT_FLAG, AT(doctor_options, json), 0, NULL, false, "print JSON"},
	{0},
};

static const struct opt help_opts[] = {
	{"TOPIC", OPT_ARG, AT(help_options, topic), 0, "TOPIC", false, "a command, a section of recipes, a method or a format"},
	{"as", OPT_TEXT, AT(help_options, as), 0, "man|bash|zsh", false, "write the manual page, or completion for a shell"},
	{0},
};

static const struct opt version_opts[] = {
	{"json", OPT_FLAG, AT(no_options, json), 0, NULL, false, "print JSON"},
	{0},
};

const struct command commands[] = {
	{"run", cmd_run, "do what a recipe says",
	 "Runs what is not in the store yet and writes the output folder.  Killed or interrupted, run the same command\n"
	 "again: finished blocks are kept.  When nothing has changed nothing is read.", run_opts},
	{"plan", cmd_plan, "show what a run would do, without doing it",
	 "Prints the recipe with every default written out, then what would happen to each node: hit (in the store),\n"
	 "resume (earlier blocks are in the store), run, or maybe (depends on what an earlier node gives), with memory,\n"
	 "disk and time predicted from the headers alone.", plan_opts},
	{"why", cmd_why, "say why something would run again, or last ran",
	 "Names the parameter, tensor, file or library that differs from the last run.", why_opts},
	{"log", cmd_log, "show past runs", NULL, log_opts},
	{"init", cmd_init, "write a commented recipe for a model", NULL, init_opts},
	{"schema", cmd_schema, "print the JSON Schema of recipes, for editors", NULL, schema_opts},
	{"forward", cmd_forward, "compute a model's logits", NULL, forward_opts},
	{"tokenize", cmd_tokenize, "turn text into ids", "Reads one JSON string a line, writes one JSON list of ids a line.",
	 tokenize_opts},
	{"doctor", cmd_doctor, "show what this machine has to compute with",
	 "Names the devices with their drivers and libraries, or why there is none, the device and instruction set that\n"
	 "`--device auto` means here, the libraries of the program, and the store with the disk that is left for it.", doctor_opts},
	{"help", cmd_help, "explain a command, section, method or format", NULL, help_opts},
	{"version", cmd_version, "print the version, and those of the libraries", NULL, version_opts},
	{0},
};

const struct command *
command_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}
