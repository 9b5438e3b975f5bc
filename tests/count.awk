# usage: awk -f tests/count.awk RESULTS.xml
# Counts what ctest wrote (JUnit): passed, failed, and skipped with the reason that the test printed.
function value(name,   s) {
	if (!match($0, " " name "=\"[^\"]*\"")) return ""
	s = substr($0, RSTART, RLENGTH)
	gsub(/^[^"]*"|"$/, "", s)
	return s
}

function plain(s) {
	gsub(/&lt;/, "<", s); gsub(/&gt;/, ">", s); gsub(/&quot;/, "\"", s); gsub(/&apos;/, "'", s); gsub(/&amp;/, "\\&", s)
	return s
}

/<testcase / { name = value("name"); status = value("status"); why = ""; skip = status == "disabled" }
/<skipped message="SKIP_/ { skip = 1 }
/<skipped message="Disabled"/ { skip = 1 }
/skipped: / { if (why == "") { why = $0; sub(/^.*skipped: /, "", why); sub(/<\/system-out>.*/, "", why) } }
/^\[  SKIPPED \] [0-9]+ test\(s\), listed below/ && status == "run" {
	skipped += $4
	printf "skipped in %s: %s\n", name, why == "" ? "it does not say why" : plain(why)
}
/<\/testcase>/ {
	if (status == "run") passed++
	else if (skip) { skipped++; printf "skipped %s: %s\n", name, why == "" ? "it does not say why" : plain(why) }
	else { failed++; printf "failed %s\n", name }
}
END {
	if (passed + failed + skipped == 0) failed = 1
	printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
	exit failed > 0
}
