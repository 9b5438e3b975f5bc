#!/bin/sh
# usage: sh tests/run.sh [options of ctest, such as -R base]
# Installs what is missing (Debian, Ubuntu), builds everything, and runs the test suite: as released and, without options, with
# sanitizers too.
# The last line is `N passed, N failed`, with `, N skipped` when some could not run here; each of those says why above.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd -- "$root"
. cmake/packages.sh

broken() {    # the build is one failed test
	echo "the build failed"
	echo "0 passed, 1 failed"
	exit 1
}

# suite PRESET [options of ctest]: leaves build/PRESET/results.xml
suite() {
	preset=$1
	shift
	rm -f "build/$preset/results.xml"
	ctest --test-dir "build/$preset" -j2 --output-on-failure --output-junit "$root/build/$preset/results.xml" "$@" || true
	[ -f "build/$preset/results.xml" ] || broken
}

# shellcheck disable=SC2086 # names, one word each
packages_install $packages_build $packages_test
cmake --preset release -DQJOB_TESTS=ON || broken
cmake --build --preset release || broken
suite release "$@"
if [ $# -gt 0 ]; then
	exec awk -f tests/count.awk build/release/results.xml
fi

# The other compiler's warnings are errors too.
cmake --preset clang -DQJOB_TESTS=ON || broken
cmake --build --preset clang || broken

# Once more with addresses and undefined behaviour checked, and the threads of the engine for races.
cmake --preset asan -DQJOB_TESTS=ON || broken
cmake --build --preset asan || broken
suite asan -E '^(stock|lint)\.'
cmake --preset tsan -DQJOB_TESTS=ON || broken
cmake --build --preset tsan --target tests.base tests.cache tests.engine || broken
export TSAN_OPTIONS=halt_on_error=1
suite tsan -R '^(base|cache|engine)\.'
exec awk -f tests/count.awk build/release/results.xml build/asan/results.xml build/tsan/results.xml
