# Shared by the scripts of this folder: where things live, and small helpers. Sourced, never run.
# shellcheck shell=bash
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
CACHE=${PARLEY_CACHE:-$HOME/.cache/parley}
BIN=$CACHE/bin
STATE_ROOT=${PARLEY_CLUSTER_STATE:-/var/tmp/parley-cluster}
# Six digits of the checkout's path: two checkouts get two clusters. Short, because it names network interfaces.
CLUSTER=${PARLEY_CLUSTER:-p$(printf %s "$ROOT" | sha256sum | cut -c1-6)}
STATE=$STATE_ROOT/$CLUSTER

say() { echo "cluster: $*" >&2; }
die() { say "$*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "$1 needs root (network namespaces, mounts): run it as root or by sudo"; }

# A process is named by its id and its start time, so that a recycled id is never taken for ours.
started_at() { local stat; stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1; stat=${stat##*) }; set -- $stat; echo "${20}"; }
alive() { # alive PIDFILE (holding "PID STARTTIME")
  local pid began
  [ -f "$1" ] && read -r pid began <"$1" || return 1
  [ -n "$pid" ] && [ "$(started_at "$pid")" = "$began" ]
}
until_ok() { # until_ok COMMAND...: tries for 60 s
  local end=$((SECONDS + 60))
  while [ $SECONDS -lt $end ]; do "$@" >/dev/null 2>&1 && return; sleep .25; done
  say "timed out after 60 s: $*"; return 1
}
# with_lock FILE: the rest of the calling script holds FILE; close fd 9 in whatever outlives it.
with_lock() {
  mkdir -p "$(dirname "$1")"; exec 9>"$1"
  flock -n 9 && return
  say "waiting for another run ($1)"; flock -w 1800 9 || die "another run has held $1 for 30 minutes"
}

# start NODE NAME COMMAND...: runs it on the node and keeps its command, so that fault.sh can run it again.
# nsenter, not `ip netns exec`, which mounts a new /sys where the kubelet finds no cgroups.
start() {
  local node=$1 name=$2; shift 2; mkdir -p "$STATE/$node/logs"
  printf '%q ' "$@" >"$STATE/$node/logs/$name.command"
  cd "$STATE"
  nsenter --net="/run/netns/$CLUSTER-$node" setsid "$@" >>"$STATE/$node/logs/$name.log" 2>&1 </dev/null 9>&- &
  echo "$! $(started_at $!)" >"$STATE/$node/logs/$name.pid"
}
