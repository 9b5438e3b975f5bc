# shellcheck shell=sh disable=SC2034
# Packages of Debian 12 and Ubuntu 24.04, and their installing.  Sourced by scripts; sets packages_build, packages_test.

packages_build='build-essential cmake ninja-build pkg-config libyaml-dev libjansson-dev libssl-dev libxxhash-dev libpcre2-dev
libutf8proc-dev libarchive-dev zlib1g-dev libzstd-dev liblz4-dev libsnappy-dev libdnnl-dev libopenblas-dev'

# The run-time of clang's sanitizers and fuzzer is named after its version.
packages_clang() {
	case $(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME-}") in
	bookworm) echo clang libclang-rt-14-dev ;;
	noble)    echo clang libclang-rt-18-dev ;;
	*)        echo clang ;;
	esac
}
packages_test="libcmocka-dev $(packages_clang) libomp-dev locales python3 python3-venv ca-certificates xz-utils"

packages_missing() {    # NAME...: those that are not installed
	for package; do
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
		[ "$status" = installed ] || printf '%s ' "$package"
	done
}

# NAME...: installs what is missing, as root or by sudo without a password; else says what to run, and fails.
packages_install() {
	if ! command -v dpkg-query >/dev/null; then
		echo "no dpkg here; going on as if these or their like were installed:" "$@" >&2
		return 0
	fi
	missing=$(packages_missing "$@")
	missing=${missing% }
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" = 0 ]; then
		as_root=
	elif sudo -n true 2>/dev/null; then
		as_root='sudo -n'
	else
		echo "packages are missing; run this once, then try again:" >&2
		echo "sudo apt-get update && sudo apt-get install -y --no-install-recommends $missing" >&2
		return 1
	fi
	echo "installing: $missing"
	$as_root apt-get update || echo "apt-get update failed; trying with the lists that are here" >&2
	# shellcheck disable=SC2086 # names, one word each
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
}
