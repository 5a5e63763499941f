#!/usr/bin/env bash
# Shows smpq at work. It needs bin/smpq; see the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
bin/smpq version
