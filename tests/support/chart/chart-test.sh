#!/usr/bin/env bash
# Lints the chart, renders it with several sets of values and compares, and validates what comes out.
# usage: [UPDATE=1] chart-test.sh      UPDATE=1 writes the compared manifests anew
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
exec "${PYTEST:-.venv/bin/pytest}" -q tests/integration/charts "$@"
