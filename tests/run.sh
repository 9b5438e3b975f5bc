#!/bin/sh
# usage: sh tests/run.sh [options of ctest, such as -R base]
# Installs what is missing (Debian, Ubuntu), builds everything, and runs the test suite.
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

# shellcheck disable=SC2086 # names, one word each
packages_install $packages_build $packages_test
cmake --preset release -DQJOB_TESTS=ON || broken
cmake --build --preset release || broken

results=$root/build/release/results.xml
rm -f "$results"
ctest --test-dir build/release -j2 --output-on-failure --output-junit "$results" "$@" || true
[ -f "$results" ] || broken
exec awk -f tests/count.awk "$results"
