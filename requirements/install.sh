#!/usr/bin/env bash
# Installs the package with an extra, at the versions and hashes of its lock.
#
# Usage: requirements/install.sh PYTHON EXTRA    (from the repository's root)
#
# Where an index or a platform lacks one of the locked versions, the newest that
# pyproject.toml allows are installed, and that is said. A wrong hash is an error.
set -euo pipefail
pip=("$1" -m pip --disable-pip-version-check)
lock=requirements/$2.txt
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if "${pip[@]}" install --quiet --require-hashes -r "$lock" 2>"$log"; then
  "${pip[@]}" install --quiet --no-deps --editable .
elif grep -q "DO NOT MATCH THE HASHES" "$log"; then
  cat "$log" >&2
  echo "A package is not the file that $lock names. Ask why before you go on; \`make lock\` makes the lock anew." >&2
  exit 1
else
  grep "^ERROR" "$log" | tail -n 1 >&2 || tail -n 1 "$log" >&2
  echo "== $lock cannot be installed here; installing the newest versions that pyproject.toml allows"
  "${pip[@]}" install --quiet --editable ".[$2]"
fi
