#!/usr/bin/env bash
# Generates the Python of every proto file. usage: generate.sh [OUT_DIR] (default: proto/gen/python)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-proto/gen/python}
bin=${VENV:-.venv}/bin
mkdir -p "$out"
find "$out" -name '*_pb2*' -delete
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -Iproto \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  $(cd proto && find parley -name '*.proto' | sort)
