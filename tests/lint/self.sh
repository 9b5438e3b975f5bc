# usage: sh tests/lint/self.sh
# Every rule of the linters finds its sin, and nothing in a file without one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir -p qjob/base stages
: >allow

sin() {    # rule, text: printed as C
	# shellcheck disable=SC2059
	printf "$2" >qjob/base/sin.c
	if awk -f "$here/style.awk" allow qjob/base/sin.c >out; then
		echo "style: '$1' was not found in: $2"; exit 1
	fi
	if ! grep -q "^qjob/base/sin.c:[0-9]*: $1: " out; then
		echo "style: '$1' was not reported for: $2"; cat out; exit 1
	fi
}

sin white-space 'int a(void); \n'
sin left-over '/* TO''DO later */\n'
sin left-over 'int a; // FIX''ME\n'
sin long-line "$(printf '%0141d' 0)\n"
sin indent 'int\na(void)\n{\n    return 1;\n}\n'
sin typedef 'typedef struct a { int b; } a;\n'
sin banned '\tstrcpy(a, b);\n'
sin banned '\tn = atoi(a);\n'
sin print '\tprintf("x");\n'
sin print '\tfprintf(stderr, "x");\n'
sin global 'static int a;\n'
sin global 'int a[3] = {1};\n'
sin assignment '\tif ((a = b))\n'
sin assignment '\twhile (f(a) && (b = c) != 0)\n'
sin shape 'int\na(void)\n{\n\treturn 1;\n\t}\n'
sin long-function "int\na(void)\n{\n$(yes '\ta();\n' | head -n 101 | tr -d '\n')}\n"
sin long-file "$(yes 'int a(void);\n' | head -n 701 | tr -d '\n')"

cat >qjob/base/good.c <<'C'
#include <stdio.h>

static const int table[] = {1, 2};    /* printf("x = y"); a = 'b' */
static _Thread_local int depth;

int
f(const char *path, int a,
  int b)
{
	if (a == b || a <= b || a != b || a >= b)
		return snprintf(NULL, 0, "if (a = b) strcpy(\"%s\")", path);
	for (int i = 0; i < b; i++)
		a += table[i];
	return '"' + a + depth;
}
C
awk -f "$here/style.awk" allow qjob/base/good.c
echo 'qjob/base/good.c print unneeded' >allow
if awk -f "$here/style.awk" allow qjob/base/good.c >out; then echo "style: an unneeded excuse was not found"; exit 1; fi

include() {    # file, include, status
	echo "#include $2" >"$1"
	status=0
	awk -f "$here/floors.awk" "$here/floors" "$1" >out || status=$?
	if [ "$status" != "$3" ]; then echo "floors: $1 with $2 gave $status, not $3"; exit 1; fi
}
include qjob/base/a.c '"qjob/base/err.h"' 0
include qjob/base/a.c '"cache/store.h"' 1
include qjob/base/a.c '<stdio.h>' 0
include qjob/base/a.c '<yaml.h>' 0
include stages/a.c '<yaml.h>' 1
include stages/a.c '"kernels/backend.h"' 1
include stages/a.c '"kernels/ops.h"' 0
echo "every sin was found"
