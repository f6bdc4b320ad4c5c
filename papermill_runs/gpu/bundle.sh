#!/usr/bin/env bash
# Usage: bundle.sh DATA BUNDLE: code, data, records and checkpoints in one file.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 DATA BUNDLE" >&2; exit 2; }
[ -d "$1" ] || { echo "error: no folder $1" >&2; exit 2; }
root=$(git rev-parse --show-toplevel)
bundle=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/data" "$work/runs-gpu"
git -C "$root" archive --prefix=code/ HEAD | tar -x -C "$work"
cp -r "$1/." "$work/data"
if [ -d "$root/runs-gpu" ]; then cp -r "$root/runs-gpu/." "$work/runs-gpu"; fi
tar -czf "$bundle" -C "$work" code data runs-gpu
ls -lh "$bundle"
