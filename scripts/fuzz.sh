#!/usr/bin/env bash
# Runs every fuzz target of the repository, FUZZTIME (10s) each. Arguments are
# folders to look into, instead of all.
set -euo pipefail
cd "$(dirname "$0")/.."

output=$(mktemp)
trap 'rm -f "$output"' EXIT

# Before Go 1.27 the end of the time is reported as a failure now and then
# (https://go.dev/issue/75804). A finding always leaves its input behind.
ended() {
	grep -qx '    context deadline exceeded' "$output" && ! grep -q 'Failing input written' "$output"
}

grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' "${@:-.}" |
	sed 's|^\(.*\)/[^/]*:func \(.*\)$|\1 \2|' | sort |
	while read -r folder target; do
		echo "$target in $folder"
		# Minimizing what is only interesting would take most of a short run.
		go test -run='^$' -fuzz="^$target\$" -fuzztime="${FUZZTIME:-10s}" -fuzzminimizetime=10x "./$folder" </dev/null 2>&1 |
			tee "$output" || ended
	done
