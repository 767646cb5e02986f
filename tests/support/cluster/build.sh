#!/usr/bin/env bash
# Builds the programs of the tests from Go modules into ${PARLEY_CACHE:-~/.cache/parley}/bin, at pinned versions.
# usage: build.sh [TOOL...]      default: all of them; `build.sh --list` names them, `build.sh --bin` says where they are
# All: about 11 minutes cold on 2 cores. nats-server alone: about 1. What is built already is left alone.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

KUBERNETES=1.36.3 ETCD=3.7.3 CONTAINERD=2.4.2 COREDNS=1.15.0 HELM=4.3.1 NATS=2.15.2
KUBECONFORM=0.8.0 PROMETHEUS=0.316.0
KUBE=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl kube-proxy)
NODE=("${KUBE[@]}" etcd containerd containerd-shim-runc-v2 ctr coredns)
# livekit-server is built when it is named: only the bench's peers need it.
TOOLS=(nats-server kubectl helm kubeconform promtool)
mapfile -t ALL < <(printf '%s\n' "${NODE[@]}" "${TOOLS[@]}" | awk '!seen[$0]++')

recipe() { # recipe TOOL: "MODULE VERSION PACKAGE [BUILD TAGS]"
  local slim="no_btrfs no_devmapper no_zfs no_aufs"
  case $1 in
    kube*-* | kubelet | kubectl) echo "k8s.io/kubernetes $KUBERNETES k8s.io/kubernetes/cmd/$1" ;;
    etcd) echo "go.etcd.io/etcd/server/v3 $ETCD go.etcd.io/etcd/server/v3" ;;
    containerd | containerd-shim-runc-v2 | ctr)
      echo "github.com/containerd/containerd/v2 $CONTAINERD github.com/containerd/containerd/v2/cmd/$1 $slim" ;;
    coredns) echo "github.com/coredns/coredns $COREDNS github.com/coredns/coredns" ;;
    helm) echo "helm.sh/helm/v4 $HELM helm.sh/helm/v4/cmd/helm" ;;
    nats-server) echo "github.com/nats-io/nats-server/v2 $NATS github.com/nats-io/nats-server/v2" ;;
    livekit-server) echo "github.com/livekit/livekit-server 1.13.5 github.com/livekit/livekit-server/cmd/server" ;;
    kubeconform) echo "github.com/yannh/kubeconform $KUBECONFORM github.com/yannh/kubeconform/cmd/kubeconform" ;;
    promtool) echo "github.com/prometheus/prometheus $PROMETHEUS github.com/prometheus/prometheus/cmd/promtool remove_all_sd" ;;
    *) die "no such tool: $1 (one of: ${ALL[*]})" ;;
  esac
}

case ${1:-} in
  --list) printf '%s\n' "${ALL[@]}"; exit ;;
  --bin) echo "$BIN"; exit ;;
  -*) die "usage: build.sh [TOOL...]; tools: ${ALL[*]}" ;;
esac
wanted=("${@:-${ALL[@]}}")
find_missing() {
  local tool line
  missing=()
  for tool in "${wanted[@]}"; do
    line=$(recipe "$tool")
    [ -x "$BIN/$tool" ] && [ "$(cat "$BIN/.stamp/$tool" 2>/dev/null)" = "$line" ] || missing+=("$tool")
  done
}
find_missing
[ ${#missing[@]} -gt 0 ] || exit 0

command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || die "Go 1.26 or newer is needed to build ${missing[*]}: 'snap install go --classic', \
'brew install go', or unpack the archive of go.dev/dl into /usr/local and put /usr/local/go/bin on PATH"
version=$(go env GOVERSION); minor=${version#go1.}; minor=${minor%%[.a-z]*}
[ "$minor" -ge 26 ] || [ "$(go env GOTOOLCHAIN)" != local ] || die "Go 1.26 or newer is needed, this is $version: update it"

mkdir -p "$BIN/.stamp"
with_lock "$BIN/.lock"
find_missing   # another run may have built some meanwhile
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off
work=$(mktemp -d)
ticker=
cleanup() { [ -z "$ticker" ] || kill "$ticker" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT

# build NAME COMMAND...: runs COMMAND in a fresh folder, says how long it takes, shows its output only when it fails.
build() {
  local name=$1 began=$SECONDS; shift
  say "building $name"
  ( while sleep 30; do say "  still building $name ($((SECONDS - began)) s)"; done ) 9>&- &
  ticker=$!
  mkdir -p "$work/$name/out"
  ( cd "$work/$name" && "$@" ) >"$work/$name.log" 2>&1 9>&- || { cat "$work/$name.log" >&2; die "could not build $name"; }
  kill "$ticker"; wait "$ticker" 2>/dev/null || true; ticker=
  say "built $name in $((SECONDS - began)) s"
}
install_tool() { # install_tool TOOL FILE: the stamp comes last, so an interrupted run builds again
  mv "$2" "$BIN/$1"; recipe "$1" >"$BIN/.stamp/$1"
}

# Kubernetes points its k8s.io modules at ./staging by `replace`, which a module cannot do for its users.
# The published copies of those modules are v0.MINOR.PATCH, so a module of our own replaces them by version.
kubernetes() {
  local mod flags
  mod=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
  { printf 'module wrapper.local/kube\ngo 1.26.0\ngodebug default=go1.26\nrequire k8s.io/kubernetes v%s\nreplace (\n' "$KUBERNETES"
    awk -v v="v0.${KUBERNETES#1.}" '/=> \.\/staging/ {print "\t" $1 " => " $1 " " v}' "$mod"; echo ')'; } >go.mod
  { printf '//go:build tools\npackage tools\nimport (\n'; printf '\t_ "k8s.io/kubernetes/cmd/%s"\n' "$@"; echo ')'; } >tools.go
  go mod tidy || return
  flags="-s -w -X k8s.io/component-base/version.gitVersion=v$KUBERNETES"
  flags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${KUBERNETES:2:2}"
  go build -trimpath -ldflags "$flags" -o out/ "${@/#/k8s.io/kubernetes/cmd/}"
}
# A wrapper module, because `go install PACKAGE@VERSION` refuses modules with `replace` or `exclude` lines.
wrapped() { # wrapped TOOL MODULE VERSION PACKAGE [TAGS]
  local tool=$1 module=$2 version=$3 package=$4; shift 4
  printf 'module wrapper.local/%s\ngo 1.26.0\nrequire %s v%s\n' "$tool" "$module" "$version" >go.mod
  # -mod=mod and not `go get PACKAGE`: only what the build tags leave in needs to be found.
  go build -mod=mod -trimpath -ldflags '-s -w' -tags "$*" -o "out/$tool" "$package" || return
  go version -m "out/$tool" | grep -qE "$module[[:space:]]+v$version([[:space:]]|\$)" || { echo "$tool is not v$version"; return 1; }
}

kube=()
for tool in "${missing[@]}"; do case " ${KUBE[*]} " in *" $tool "*) kube+=("$tool") ;; esac; done
if [ ${#kube[@]} -gt 0 ]; then
  build kubernetes kubernetes "${kube[@]}"
  for tool in "${kube[@]}"; do install_tool "$tool" "$work/kubernetes/out/$tool"; done
fi
for tool in "${missing[@]}"; do
  case " ${KUBE[*]} " in *" $tool "*) continue ;; esac
  read -r module version package tags < <(recipe "$tool")
  # shellcheck disable=SC2086
  build "$tool" wrapped "$tool" "$module" "$version" "$package" $tags
  install_tool "$tool" "$work/$tool/out/$tool"
done
