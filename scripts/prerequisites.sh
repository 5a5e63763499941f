#!/usr/bin/env bash
# Makes sure that the programs are there that the tests and the demo need beside
# Go: scripts/prerequisites.sh [postgresql] [pgbouncer] [gcc] [openssl]
#
# On Debian and its relatives missing ones are installed, by root or by sudo.
# The programs are all that is wanted: no cluster of PostgreSQL is created, and no
# service is left running.
set -euo pipefail

has_postgresql() {
	local dir
	for dir in /usr/lib/postgresql/*/bin /usr/local/pgsql/bin "$(pg_config --bindir 2>/dev/null || true)"; do
		if [[ -x $dir/initdb && -x $dir/postgres ]]; then return 0; fi
	done
	command -v initdb postgres >/dev/null
}

has_pgbouncer() {
	command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]]
}

# A compiler without the C library's headers is of no use.
has_gcc() {
	echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1
}

# The tests want Ed448, which OpenSSL has since 1.1.1, and -noenc, since 3.0.
has_openssl() {
	[[ $(openssl version 2>/dev/null) == "OpenSSL "[3-9]* ]]
}

packages=()
for name in "$@"; do
	case $name in
	postgresql) has_postgresql || packages+=(postgresql) ;;
	pgbouncer) has_pgbouncer || packages+=(pgbouncer) ;;
	openssl) has_openssl || packages+=(openssl) ;;
	gcc) has_gcc || packages+=(gcc libc6-dev) ;;
	*)
		echo "$0: unknown prerequisite $name" >&2
		exit 2
		;;
	esac
done
if [[ ${#packages[@]} -eq 0 ]]; then exit 0; fi

# as_root runs a command as root, and asks for a password only on a terminal.
if [[ $EUID -eq 0 ]]; then
	as_root() { "$@"; }
elif command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
	as_root() { sudo "$@"; }
else
	as_root() { false; }
fi

# refuse_cluster has Debian's packages install PostgreSQL without a cluster.
refuse_cluster() {
	local conf=/etc/postgresql-common/createcluster.conf
	if [[ ! -e $conf ]]; then
		as_root mkdir -p "${conf%/*}" && echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
	elif ! grep -q '^create_main_cluster *= *false' "$conf"; then
		echo "$0: not installing PostgreSQL, since a cluster would be created: see create_main_cluster in $conf" >&2
		return 1
	fi
}

# stop_pgbouncer stops the service that Debian's package starts, for good.
stop_pgbouncer() {
	as_root invoke-rc.d --quiet pgbouncer stop || true # it may not have been started
	as_root update-rc.d pgbouncer disable
}

install() {
	command -v apt-get >/dev/null || return 1
	as_root true || return 1
	echo "installing ${packages[*]}" >&2
	if [[ " ${packages[*]} " == *" postgresql "* ]]; then refuse_cluster || return 1; fi
	as_root apt-get -qq update || return 1
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${packages[@]}" </dev/null >&2 || return 1
	if [[ " ${packages[*]} " == *" pgbouncer "* ]]; then stop_pgbouncer >&2 || return 1; fi
}

if ! install; then
	echo "$0: needed programs are missing. Install these Debian packages, or what has them elsewhere: ${packages[*]}" >&2
	exit 1
fi
