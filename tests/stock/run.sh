#!/bin/sh
# usage: sh tests/stock/run.sh QJOB FOLDER [case ...]
# Loads what QJOB packs with stock Transformers and GPTQModel.  The pinned packages go into $QJOB_TEST_VENV or FOLDER/venv, once; outputs into
# FOLDER/work.  Exit code 77, with the reason, when they cannot be had here.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
qjob=$1
folder=$2
shift 2
venv=${QJOB_TEST_VENV:-$folder/venv}
python=$venv/bin/python
log=$folder/install.log

skip() {
	echo "skipped: $1"
	exit 77
}

installed() {    # every pin, at its version
	[ -x "$python" ] && "$python" - "$here/requirements.txt" <<-'END'
		import sys
		from importlib.metadata import PackageNotFoundError, version
		try:
		    pins = [line.split("==") for line in open(sys.argv[1]) if "==" in line and line[0] != "#"]
		    sys.exit(any(version(name).split("+")[0] != pin.strip() for name, pin in pins))
		except PackageNotFoundError:
		    sys.exit(1)
	END
}

pip() {
	"$python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" >>"$log" 2>&1
}

unreachable() {
	grep -qE 'from versions: none|NewConnectionError|name resolution|Network is unreachable|timed out|Max retries exceeded' "$log"
}

install() {
	command -v python3 >/dev/null || skip "python3 is not installed"
	python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
		skip "the packages want Python 3.10 to 3.13, not $(python3 -V)"
	[ "$(uname -m)" = x86_64 ] || skip "the packages are pinned for x86_64, not $(uname -m)"
	free=$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1048576)}')
	[ "$free" -ge 9 ] || skip "the packages want 9 GB of disk; $free GB are free in $folder"
	[ -x "$python" ] || python3 -m venv "$venv" >"$log" 2>&1 || skip "python3 has no venv (package python3-venv)"
	: >"$log"
	# gptqmodel is built from source, by a setuptools that knows its licence field, and looks at the torch that is there.
	grep -v '^gptqmodel' "$here/requirements.txt" >"$folder/first.txt"
	if pip -r "$folder/first.txt" --upgrade 'setuptools>=77,<81' wheel && pip --no-build-isolation -r "$here/requirements.txt"; then
		return
	fi
	unreachable && skip "no package registry can be reached (see $log)"
	tail -n 20 "$log"
	exit 1
}

mkdir -p "$folder"
installed || install
exec "$python" "$here/load.py" --qjob "$qjob" --work "$folder/work" "$@"
