#!/usr/bin/env bash
# Usage: unpack.sh BACK: records and checkpoints into runs-gpu/.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 BACK" >&2; exit 2; }
root=$(git rev-parse --show-toplevel)
tar -xzf "$1" -C "$root"
wc -l "$root/runs-gpu/index.jsonl" 2>/dev/null || echo "no run is finished yet"
