#!/usr/bin/env bash
# Measures smpq: first the benchmarks of the packages, then the start of a router,
# then the import of store logs against psql's \copy, on a private PostgreSQL that
# is gone afterwards. It needs bin/smpq; see the Makefile.
#
#	BENCH_START   queues in the database of a router that starts (1000000; 0 for none)
#	BENCH_QUEUES  numbers of queues in the logs (100000); 1000000 need 15 GB
#	BENCH_RUNS    runs of each import (3)
#	BENCH_LINKS   bytes of data of each link (15872, as of present clients)
#	BENCH_DIR     folder for the data (/var/tmp)
#	BENCH_TIME    time for each benchmark of the packages (1s; 0 for none of them)
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${BENCH_TIME:=1s} != 0 ]]; then
	mapfile -t packages < <(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n1 dirname | sort -u)
	go test -run='^$' -bench=. -benchmem -benchtime="$BENCH_TIME" "${packages[@]}"
fi
if [[ ${BENCH_START:=1000000} != 0 ]]; then
	echo
	go run ./bench/start -queues="$BENCH_START" -dir="${BENCH_DIR:-/var/tmp}"
fi
for queues in ${BENCH_QUEUES:-100000}; do
	echo
	go run ./bench/import -queues="$queues" -runs="${BENCH_RUNS:-3}" -link-bytes="${BENCH_LINKS:-15872}" -dir="${BENCH_DIR:-/var/tmp}"
done
