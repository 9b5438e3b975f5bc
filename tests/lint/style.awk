# usage: awk -f tests/lint/style.awk tests/lint/allow FILES...
# What a machine can say of the house style.  `allow` excuses a file from a rule: path, rule, reason.
function report(file, line, rule, words) {
	if ((file, rule) in allowed) { used[file, rule] = 1; return }
	printf "%s:%d: %s: %s\n", file, line, rule, words
	bad = 1
}

function say(rule, words) { report(FILENAME, FNR, rule, words) }

# The line without comments, and with empty texts and characters.
function code_of(s,   out, i) {
	gsub(/\\\\/, "", s); gsub(/\\"/, "", s); gsub(/\\'/, "", s)
	gsub(/'"'/, "''", s)
	gsub(/"[^"]*"/, "\"\"", s); gsub(/'[^']*'/, "''", s)
	for (;;) {
		if (in_comment) {
			i = index(s, "*/")
			if (!i) return out
			s = substr(s, i + 2); in_comment = 0
		}
		i = index(s, "/*")
		if (!i) break
		out = out substr(s, 1, i - 1); s = substr(s, i + 2); in_comment = 1
	}
	sub(/\/\/.*/, "", s)
	return out s
}

function columns(s,   n, i) {
	gsub(/[\200-\277]/, "", s)
	for (i = 1; i <= length(s); i++) n = substr(s, i, 1) == "\t" ? n + 8 - n % 8 : n + 1
	return n + 0
}

# The text inside the parentheses that open after the word at `at`.
function condition(s, at,   depth, i, c, out) {
	for (i = index(substr(s, at), "(") + at - 1; i <= length(s); i++) {
		c = substr(s, i, 1)
		if (c == "(") depth++
		if (c == ")" && --depth == 0) break
		out = out c
	}
	return out
}

function end_of_file() {
	if (last_line > 700) report(file, last_line, "long-file", last_line " lines, 700 at most")
	if (is_code && in_function) report(file, began, "shape", "a function does not end with } in the first column")
}

FILENAME == ARGV[1] { if ($1 !~ /^#/ && NF) allowed[$1, $2] = 1; next }
FNR == 1 {
	if (file != "") end_of_file()
	file = FILENAME; in_comment = 0; in_function = 0; before = ""
	is_code = FILENAME ~ /\.([ch]|cu|cuh)$/
	is_test = FILENAME ~ /^(tests|examples)\//
}
{ last_line = FNR; line = $0 }
line ~ /[ \t\r]$/ { say("white-space", "at the end of the line") }
line ~ /(^|[^A-Za-z_])(TODO|FIXME|XXX|HACK)([^A-Za-z_]|$)/ { say("left-over", line) }
!is_code { next }
{
	was_comment = in_comment; code = code_of(line)
	if (columns(line) > 140) say("long-line", columns(line) " columns, 140 at most")
	if (line ~ /^ / && !was_comment && (before == "" || before ~ /[;{}:]$/)) say("indent", "with spaces, not tabs")
	if (line ~ /^\t* +\t/ && !was_comment) say("indent", "a tab after spaces")
	if (code ~ /(^|[^A-Za-z0-9_])typedef[ \t]+struct/) say("typedef", "of a struct; write the struct's name")
	if (match(code, /(^|[^A-Za-z0-9_])(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|atof|gets|alloca|system|popen|tmpnam|mktemp)[ \t]*\(/))
		say("banned", substr(code, RSTART, RLENGTH) ")")
	if (!is_test && FILENAME !~ /^qjob\/cli\// &&
	    match(code, /(^|[^A-Za-z0-9_])(printf|puts|putchar|perror|exit|_exit|abort)[ \t]*\(|(^|[^A-Za-z0-9_])(stdout|stderr)([^A-Za-z0-9_]|$)/))
		say("print", "only cli/ prints and exits: " substr(code, RSTART, RLENGTH))
	if (!is_test && code ~ /^(static )?[a-z_][A-Za-z0-9_ *]*(\[[^\]]*\])*( = .*)?;$/ && code !~ /^(return|extern|struct [a-z0-9_]+;|enum [a-z0-9_]+;|union|typedef)/ &&
	    code !~ /(^|[^a-z_])(const|_Thread_local|__thread|atomic_[a-z]+|pthread_once_t|pthread_mutex_t|sig_atomic_t)([^a-z_]|$)/)
		say("global", "mutable: " code)
	if (match(code, /(^|[^A-Za-z0-9_])(if|while) \(/)) {
		inside = condition(code, RSTART)
		gsub(/[=!<>]=/, "", inside)
		if (inside ~ /=/) say("assignment", "in a condition: " line)
	}
	if (code ~ /^\{/) { in_function = 1; began = FNR }
	if (code ~ /^\}/ && in_function) {
		in_function = 0
		if (FNR - began - 1 > 100) say("long-function", (FNR - began - 1) " lines, 100 at most")
	}
	if (code ~ /[^ \t]/) before = code
	sub(/[ \t]+$/, "", before)
	if (line == "") before = ""
}
END {
	if (file != "") end_of_file()
	for (excuse in allowed)
		if (!(excuse in used)) {
			split(excuse, part, SUBSEP)
			printf "%s: %s: an excuse that nothing needs, in %s\n", part[1], part[2], ARGV[1]
			bad = 1
		}
	exit bad
}
