#!/bin/sh
# Everything about a GPU in one script, for a machine that can fetch nothing: at most six minutes.
#     sh benchmarks/gpu.sh [DEVICE]        DEVICE: cuda (default), or cpu to try the script
# Needs an installed project; prints Markdown. `benchmarks/gpu.py --help` says what each part measures.
set -eu
cd "$(dirname "$0")/.."
exec env PYTHONPATH=. timeout "${LIMIT:-360}" python benchmarks/gpu.py --device "${1:-cuda}"
