#!/bin/sh
# usage: sh tests/gpu/run.sh BUILD_DIR [part ...]      parts: kernels sanitize runs block speed memory; without any: kernels runs
# The tests that need a card, with the binaries of a build that has the CUDA backend.
#
#   kernels    every operation and the decoder against their references in double, and the solver against the CPU's
#   sanitize   the same under compute-sanitizer: memcheck, racecheck, initcheck
#   runs       whole runs on the card: the CPU's results, equal bytes, kill -9
#   block      where the time of one block goes (tests/bench/block.c)
#   speed      whole models of real shapes, from files in memory (tests/bench/gpu.py)
#   memory     the same with less memory than it would take
#
# The last line is `N passed, N failed`, with `, N skipped` where there is no card: then nothing runs.
set -u
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
build=$(CDPATH='' cd -- "$1" && pwd)
shift
[ $# -gt 0 ] || set -- kernels runs
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
units='kernels.convert kernels.forward kernels.attention kernels.nll kernels.statistics kernels.factor kernels.fit kernels.babai
kernels.ops model.decoder gpu.solver gpu.cholesky'
export QJOB_TEST_DEVICE=cuda

# count NAME COMMAND...: one test; what a good one says is not shown
count() {
	name=$1
	shift
	if "$@" >"$log" 2>&1; then
		passed=$((passed + 1))
		echo "passed: $name"
	else
		failed=$((failed + 1))
		echo "FAILED: $name (exit code $?)"
		grep -vE '^\[ +(OK|RUN) ' "$log" | tail -n "${QJOB_TEST_LINES:-25}"
	fi
}

place() {    # of a test program: tests of a build folder lie below tests/
	if [ -x "$build/tests/test.$1" ]; then echo "$build/tests/test.$1"; else echo "$build/test.$1"; fi
}

if ! "$build/qjob" doctor | grep -q 'cuda:0: .* GiB'; then
	echo "skipped: $("$build/qjob" doctor | grep -o 'cuda.*' | head -n 1)"
	echo "0 passed, 0 failed, $# skipped"
	exit 77
fi
for part; do
	case $part in
	kernels)
		for unit in $units; do
			count "$unit" "$(place "$unit")"
		done ;;
	sanitize)
		for tool in memcheck racecheck initcheck; do
			for unit in $units; do
				count "$tool of $unit" compute-sanitizer --tool "$tool" --error-exitcode 99 "$(place "$unit")"
			done
		done ;;
	runs) count runs python3 -B "$root/tests/gpu/test_runs.py" "$build/qjob" "$root" ;;
	block) "${bench:-$build}/bench.block" cuda qwen2-7b ;;
	speed | memory) python3 -B "$root/tests/bench/gpu.py" "$part" "$build/qjob" ;;
	*)
		echo "$part is not one of kernels, sanitize, runs, block, speed, memory" >&2
		exit 2 ;;
	esac
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
