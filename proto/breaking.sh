#!/usr/bin/env bash
# Compares the contracts with an earlier commit. Against main on a branch, against main's parent on main itself;
# a checkout without history has nothing to compare with.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${PROTO_BASE:-}
if [ -z "$base" ]; then
  base=$(git merge-base HEAD origin/main 2>/dev/null || true)
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git rev-parse -q --verify HEAD~1 || true)
  fi
fi
if [ -z "$base" ] || ! git cat-file -e "$base:proto/buf.yaml" 2>/dev/null; then
  echo "buf breaking: no earlier contracts to compare with"; exit 0
fi
against=$(mktemp -d); trap 'rm -rf "$against"' EXIT
git archive "$base" proto | tar -x -C "$against"
"${VENV:-.venv}/bin/buf" breaking proto --against "$against/proto"
echo "buf breaking: compatible with $(git rev-parse --short "$base")"
