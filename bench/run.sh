#!/usr/bin/env bash
# The figures of docs/performance.md: Go benchmarks of the packages, then an
# import against psql. BENCH_QUEUES is the number of queues of the latter.
set -euo pipefail
cd "$(dirname "$0")/.."
go test -run '^$' -bench . -benchmem ./internal/...
go run ./bench/import -queues "${BENCH_QUEUES:-1000000}"
