#!/usr/bin/env bash
# Builds our images without a container engine (buildah on a base made by mmdebstrap) and brings them to a cluster.
# usage: images.sh build [NAME...]    NAME: operator worker localprovider nats (default all); prints NAME REFERENCE ARCHIVE lines
#        images.sh import TAR...      into every node of this checkout's running cluster
#        images.sh load [NAME...]     build, then import what the running cluster has not got
#        images.sh push REGISTRY [NAME...]   build, then push; prints NAME REFERENCE lines
#        images.sh pause              the sandbox image that up.sh needs
# A reference is localhost/parley-NAME:dev-KEY, KEY a digest of everything that goes in; :dev is the newest.
# Nothing whose inputs are unchanged is built, exported or imported again.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
IMAGES=$CACHE/images EPOCH=1767225600 SUITE=bookworm
NAMES=(operator worker localprovider nats)
PYTHON=(python3 python3-venv libstdc++6 ca-certificates)
# A storage of our own: nobody else's images are seen, tagged over or pruned.
BUILDAH=(buildah --root "$CACHE/containers" --runroot /run/parley-containers)
BUD=("${BUILDAH[@]}" bud --isolation chroot --layers --timestamp "$EPOCH" --quiet)
need_root images.sh
mkdir -p "$IMAGES"

digest() { # digest PATH...: of names below the paths, wherever those lie, and contents
  local path
  for path in "$@"; do
    ( cd "$(dirname "$path")" && find "$(basename "$path")" -type f ! -path '*/__pycache__/*' -print0 |
      LC_ALL=C sort -z | xargs -0 -r sha256sum )
  done | sha256sum | cut -c1-12
}
known() { "${BUILDAH[@]}" inspect --type image "$1" >/dev/null 2>&1; }

base() { # base NAME PACKAGE...: makes localhost/parley-NAME:dev-KEY once; prints it
  local name=$1 key ref dir include; shift
  include=$(IFS=,; echo "$*")
  key=$(echo "$SUITE $include $(digest "$HERE/images/base")" | sha256sum | cut -c1-12)
  ref=localhost/parley-$name:dev-$key
  if ! known "$ref"; then
    say "making the base image $ref ($include)"
    dir=$(mktemp -d "$IMAGES/base.XXXXXX")
    if [ ! -f "$IMAGES/$name-$key.base.tar" ]; then
      rm -f "$IMAGES/$name"-????????????.base.tar
      SOURCE_DATE_EPOCH=$EPOCH mmdebstrap --quiet --variant=essential --include="$include" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --customize-hook='find "$1/usr" -xdev -name __pycache__ -prune -exec rm -rf {} +; rm -f "$1"/etc/resolv.conf "$1"/etc/hostname' \
        "$SUITE" "$dir/base.tar" >&2
      mv "$dir/base.tar" "$IMAGES/$name-$key.base.tar"
    fi
    ln "$IMAGES/$name-$key.base.tar" "$dir/base.tar"
    "${BUD[@]}" -t "$ref" -t "localhost/parley-$name:dev" -f "$HERE/images/base/Dockerfile" "$dir" >&2
    rm -rf "$dir"
  fi
  echo "$ref"
}

# pip inside a build asks the same index, by the same means, as pip outside: its settings are written to a pip.conf
# that is mounted for the build's RUN steps alone, with the certificates and folders that they name.
pip_settings() { # pip_settings DIR: fills DIR, prints buildah options
  local dir=$1 key value
  mkdir -p "$dir"; echo '[global]' >"$dir/pip.conf"
  { env | sed -n 's/^PIP_\([A-Z_]*\)=\(.*\)/\1 \2/p'
    command -v python3 >/dev/null && python3 -m pip config list 2>/dev/null | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 \2/p"
  } | while read -r key value; do
    key=$(echo "$key" | tr 'A-Z_' 'a-z-')
    case $key in
      cert | client-cert) [ -f "$value" ] || continue; cp -L "$value" "$dir/$key.pem"; value=/run/pip/$key.pem ;;
      find-links) case $value in /*) [ -d "$value" ] || continue; echo "--volume $value:$value:ro" >>"$dir/options" ;; esac ;;
      config-file | require-virtualenv | target | prefix | user | no-deps | break-system-packages) continue ;;
    esac
    grep -q "^$key = " "$dir/pip.conf" || echo "$key = $value" >>"$dir/pip.conf"
  done
  if ! grep -q '^cert = ' "$dir/pip.conf" && [ -f "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ]; then
    cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$dir/cert.pem"; echo 'cert = /run/pip/cert.pem' >>"$dir/pip.conf"
  fi
  echo "--volume $dir:/run/pip:ro --volume $dir/pip.conf:/etc/pip.conf:ro"
  cat "$dir/options" 2>/dev/null || true
}

# What a Dockerfile copies from its context: its key changes with these and with nothing else.
copied() { sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' "$1" | tr ' ' '\n' | sort -u; }
bud() { "${BUD[@]}" "${options[@]}" "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; die "could not build $ref"; }; }
prune() { # layers of builds that were replaced: a few megabytes each
  local dangling
  dangling=$("${BUILDAH[@]}" images --filter dangling=true --quiet | wc -l)
  find "$IMAGES" -name "*.tar" -mtime +14 -delete   # of checkouts that are gone; made again where still wanted
  [ "$dangling" -lt 40 ] || "${BUILDAH[@]}" rmi --prune >/dev/null 2>&1 || true
}
build_one() { # build_one NAME: prints "NAME REFERENCE ARCHIVE"
  local name=$1 from="" compiler="" context=$ROOT dockerfile key ref archive scratch began=$SECONDS last stage options=()
  scratch=$(mktemp -d)
  case $name in
    operator | localprovider) dockerfile=$ROOT/$name/Dockerfile ;;
    worker) dockerfile=$ROOT/mediaworker/Dockerfile ;;
    nats) dockerfile=$HERE/images/nats/Dockerfile ;;
    *) die "no such image: $name (one of: ${NAMES[*]})" ;;
  esac
  [ -f "$dockerfile" ] || die "$dockerfile is missing"
  if [ "$name" = nats ]; then
    bash "$HERE/build.sh" nats-server
    context=$scratch; cp "$BIN/nats-server" "$scratch/"
    key=$(digest "$dockerfile" "$BIN/nats-server")
  else
    if [ "$name" = localprovider ]; then from=$(base python-speech "${PYTHON[@]}" flite)
    else from=$(base python "${PYTHON[@]}" libopus0); fi
    [ "$name" != worker ] || compiler=$(base python-compiler "${PYTHON[@]}" gcc libc6-dev python3-dev)
    key=$(cd "$ROOT" && mapfile -t sources < <(copied "$dockerfile") &&
      { digest "${sources[@]}"; digest "$dockerfile"; echo "$from${compiler:+ $compiler}"; } | sha256sum | cut -c1-12)
    read -r -a options <<<"$(pip_settings "$scratch/pip" | tr '\n' ' ')"
    options+=(--build-arg "BASE=$from")
    if [ -n "$compiler" ]; then   # compiled once for the same sources, be it by `make compiled` or by any checkout's build
      mkdir -p "$CACHE/compiled"
      options+=(--build-arg "COMPILER=$compiler" --volume "$CACHE/compiled:/kept/compiled")
    fi
    [ "$name" != localprovider ] || options+=(--build-arg WITH_MODEL=1)   # a test image, which stays here
  fi
  ref=localhost/parley-$name:dev-$key archive=$IMAGES/$name-$key.tar
  if ! known "$ref"; then
    say "building $ref"
    # Stages of pinned packages have names, so that their layers outlive the pruning of what older builds left.
    for stage in $(sed -n 's/^FROM .* AS \(dependencies\|compiler\)$/\1/p' "$dockerfile"); do
      bud --target "$stage" -t "localhost/parley-$name-$stage:dev" -f "$dockerfile" "$context"
    done
    bud -t "$ref" -t "localhost/parley-$name:dev" -f "$dockerfile" "$context"
    say "built $ref in $((SECONDS - began)) s"
  fi
  if [ ! -f "$archive" ]; then
    rm -f "$archive.part"
    "${BUILDAH[@]}" push --quiet "$ref" "docker-archive:$archive.part:$ref" >&2 && mv "$archive.part" "$archive"
  fi
  last=$IMAGES/$name.$CLUSTER.last   # what this checkout built before goes, once it is replaced
  if [ -f "$last" ] && [ "$(cat "$last")" != "$key" ]; then
    "${BUILDAH[@]}" rmi "localhost/parley-$name:dev-$(cat "$last")" >/dev/null 2>&1 || true
    rm -f "$IMAGES/$name-$(cat "$last").tar"
  fi
  echo "$key" >"$last"
  rm -rf "$scratch"
  echo "$name $ref $archive"
}
build() { local name; for name in "${@:-${NAMES[@]}}"; do build_one "$name" 9>&-; done; prune; }

import() { # import TAR...: into every node, all nodes at a time; a tar goes in once, known by name, size and time
  local node jobs=() job
  for node in "$STATE"/*/containerd/containerd.sock; do
    [ -S "$node" ] || continue
    import_node "$node" "$@" & jobs+=($!)
  done
  [ ${#jobs[@]} -gt 0 ] || die "no cluster $CLUSTER is running: make cluster-up"
  for job in "${jobs[@]}"; do wait "$job"; done
}
import_node() { # import_node SOCKET TAR...
  local node=$1 tar stamp; shift
  for tar in "$@"; do
    stamp=$(dirname "$node")/imported-$(stat -Lc '%n %s %Y' "$tar" | sha256sum | cut -c1-16)
    [ ! -f "$stamp" ] || continue
    "$BIN/ctr" -a "$node" -n k8s.io images import "$tar" 2>&1 >/dev/null 9>&- | { grep -v DEPRECATION >&2 || true; }
    touch "$stamp"
  done
}

pause() {
  local scratch key
  key=$(digest "$HERE/images/pause")
  [ -f "$IMAGES/pause.tar" ] && [ "$(cat "$IMAGES/pause.key" 2>/dev/null)" = "$key" ] && return
  command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
  scratch=$(mktemp -d)
  ( cd "$HERE/images/pause" && CGO_ENABLED=0 GOFLAGS= GO111MODULE=off go build -trimpath -ldflags '-s -w -buildid=' -o "$scratch/pause" main.go )
  "${BUD[@]}" -t localhost/parley-pause:dev -f "$HERE/images/pause/Dockerfile" "$scratch" >&2
  rm -f "$IMAGES/pause.tar"
  "${BUILDAH[@]}" push --quiet localhost/parley-pause:dev "docker-archive:$IMAGES/pause.tar:localhost/parley-pause:dev" >&2
  echo "$key" >"$IMAGES/pause.key"; rm -rf "$scratch"
}

verb=${1:-}; [ $# -eq 0 ] || shift
case $verb in
  build) with_lock "$IMAGES/.lock"; build "$@" ;;
  import) import "$@" ;;
  load)
    with_lock "$IMAGES/.lock"; built=$(build "$@"); echo "$built"
    mapfile -t archives < <(echo "$built" | awk '{print $3}'); import "${archives[@]}" ;;
  push)
    registry=${1:?usage: images.sh push REGISTRY [NAME...]}; shift
    with_lock "$IMAGES/.lock"; built=$(build "$@")
    echo "$built" | while read -r name ref _; do
      "${BUILDAH[@]}" push --quiet ${PARLEY_TEST_REGISTRY_INSECURE:+--tls-verify=false} "$ref" "docker://$registry/parley-$name:${ref##*:}" >&2
      echo "$name $registry/parley-$name:${ref##*:}"
    done ;;
  pause) with_lock "$IMAGES/.pause.lock"; pause ;;
  *) die "usage: images.sh build|import|load|push|pause ..." ;;
esac
