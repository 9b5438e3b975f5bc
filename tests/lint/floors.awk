# usage: awk -f tests/lint/floors.awk tests/lint/floors FILES...
function floor_of(path,   f, best) {
	for (f in may)
		if (index(path, f "/") == 1 && length(f) > length(best)) best = f
	return best
}

function refuse(what) {
	printf "%s:%d: %s may not include %s\n", FILENAME, FNR, from, what
	bad = 1
}

FILENAME == ARGV[1] {
	if ($1 ~ /^#/ || !NF) next
	if ($1 == "libc") { for (i = 2; i <= NF; i++) libc[$i] = 1; next }
	for (i = 2; i <= NF; i++) may[$1] = may[$1] " " $i
	next
}
FNR == 1 { from = floor_of(FILENAME); n = split(may[from], ok, " ") }
from == "" { next }
/^[ \t]*#[ \t]*include[ \t]+"/ {
	split($0, q, "\""); good = 0
	for (i = 1; i <= n; i++) if (q[2] == ok[i] || index(q[2], ok[i] "/") == 1) good = 1
	if (!good) refuse("\"" q[2] "\"")
}
/^[ \t]*#[ \t]*include[ \t]+</ {
	split($0, q, /[<>]/); good = q[2] in libc
	for (i = 1; i <= n; i++) if ("<" q[2] ">" == ok[i]) good = 1
	if (!good) refuse("<" q[2] ">")
}
END { exit bad }
