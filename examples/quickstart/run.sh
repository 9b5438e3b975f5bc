#!/bin/sh
# usage: sh examples/quickstart/run.sh [options of qjob run]
# Installs what is missing (Debian, Ubuntu), builds, and quantizes the small model of this folder.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
cd -- "$root"
. cmake/packages.sh

# shellcheck disable=SC2086 # names, one word each
packages_install $packages_build
cmake --preset release
cmake --build --preset release --target qjob
exec build/release/qjob run recipes/quickstart.yaml "$@"
