#!/usr/bin/env bash
# Tests and builds the load program into build/bin/parley-loadgen. What was built of the same sources is kept in
# ${PARLEY_CACHE:-~/.cache/parley}/bin.
set -euo pipefail
cd "$(dirname "$0")"
. ../../support/cluster/lib.sh

say() { echo "loadgen: $*" >&2; }
digest=$(find . -type f \( -name '*.go' -o -name 'go.*' -o -name build.sh \) | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
kept=$BIN/parley-loadgen-$digest
if [ ! -x "$kept" ]; then
  command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
  command -v go >/dev/null || die "Go 1.26 or newer is needed: unpack the archive of go.dev/dl into /usr/local, or 'snap install go --classic'"
  export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off
  mkdir -p "$BIN"
  with_lock "$BIN/.loadgen.lock"
  say "testing and building"
  go vet ./... && go test -parallel 16 ./... | grep -v 'no test files'
  go build -trimpath -ldflags '-s -w' -o "$kept.new" . && mv "$kept.new" "$kept"
fi
find "$BIN" -maxdepth 1 -type f -name 'parley-loadgen-*' -mtime +14 -delete
ln -sfn "$kept" "$BIN/parley-loadgen"
mkdir -p "$ROOT/build/bin"
cp "$kept" "$ROOT/build/bin/parley-loadgen.new" && mv "$ROOT/build/bin/parley-loadgen.new" "$ROOT/build/bin/parley-loadgen"
say "built $ROOT/build/bin/parley-loadgen"
