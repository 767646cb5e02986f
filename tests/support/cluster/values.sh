#!/usr/bin/env bash
# Reads the lines that `images.sh load` prints and writes chart values that name these images. usage: values.sh FILE
set -euo pipefail
mkdir -p "$(dirname "$1")"
while read -r name reference _; do
  case $name in localprovider) key=localProvider ;; *) key=$name ;; esac
  printf '%s: {image: {repository: %s, tag: %s, pullPolicy: IfNotPresent}}\n' "$key" "${reference%:*}" "${reference##*:}"
done > "$1"
echo "chart values with these images: $1"
