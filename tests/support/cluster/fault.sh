#!/usr/bin/env bash
# Breaks parts of this checkout's running cluster, and mends them. What runs already or is gone already is left alone.
# usage: fault.sh stop NODE PROGRAM     SIGKILL; PROGRAM: etcd apiserver kcm scheduler coredns containerd kubelet proxy
#        fault.sh start NODE PROGRAM    as up.sh started it
#        fault.sh kill-node NODE        cable out, then its programs and all its pods die at once, as by a power cut
#        fault.sh start-node NODE       cable in, programs started; the kubelet makes its pods anew
#        fault.sh unplug NODE           cable out: the node lives on, unreachable
#        fault.sh plug NODE
#        fault.sh cut POD_UID ADDRESS   whatever the pod and the address send each other is dropped
#        fault.sh heal POD_UID ADDRESS
#        fault.sh mend                  all nodes plugged in, every program running
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_root fault.sh
export PATH=$BIN:$PATH
[ -f "$STATE/ready" ] || die "no cluster $CLUSTER is running: make cluster-up"
usage() { die "usage: fault.sh stop|start NODE PROGRAM, kill-node|start-node|unplug|plug NODE, cut|heal POD_UID ADDRESS, mend"; }
node() { [ -d "$STATE/$1/logs" ] || die "cluster $CLUSTER has no node $1"; }

stop() { # stop NODE PROGRAM
  local pidfile=$STATE/$1/logs/$2.pid pid
  [ -f "$pidfile" ] || die "node $1 has no program $2"
  alive "$pidfile" || return 0
  read -r pid _ <"$pidfile"; kill -9 "$pid"
  while alive "$pidfile"; do sleep .05; done
}
again() { # again NODE PROGRAM
  local file=$STATE/$1/logs/$2.command command
  [ -f "$file" ] || die "node $1 has no program $2"
  ! alive "$STATE/$1/logs/$2.pid" || return 0
  eval "command=($(cat "$file"))"
  start "$1" "$2" "${command[@]}"
}
kill_node() {
  local n=$1 program pids group pid
  ip link set "v-$CLUSTER-$n" down
  for program in kubelet containerd proxy; do stop "$n" "$program"; done
  for _ in $(seq 40); do
    pids=$(pgrep -f "containerd-shim-runc-v2 .*$STATE/$n/" || true)
    for group in $(find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name "$CLUSTER-$n" 2>/dev/null); do
      pids+=" $(find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | tr '\n' ' ')"
    done
    [ -n "${pids// /}" ] || break
    for pid in $pids; do kill -9 "$pid" 2>/dev/null || true; done
    sleep .1
  done
}
start_node() {
  local n=$1
  ip link set "v-$CLUSTER-$n" up
  again "$n" containerd
  until_ok ctr -a "$STATE/$n/containerd/containerd.sock" version
  again "$n" kubelet; again "$n" proxy
}
# The rules live in the pod's own network: pods of one node talk over its bridge, which no rule of the node sees.
inside() { # inside POD_UID COMMAND...
  local pid
  pid=$(grep -lE "pod($1|${1//-/_})" /proc/[0-9]*/cgroup 2>/dev/null | head -1 | cut -d/ -f3)
  [ -n "$pid" ] || die "no process of pod $1 runs on this host"
  shift; nsenter --net="/proc/$pid/ns/net" "$@"
}
rules() { # rules VERB POD_UID ADDRESS
  inside "$2" iptables "$1" INPUT -s "$3" -j DROP; inside "$2" iptables "$1" OUTPUT -d "$3" -j DROP
}

verb=${1:-}; [ $# -gt 0 ] || usage; shift
case $verb in
  stop) [ $# = 2 ] || usage; node "$1"; stop "$1" "$2" ;;
  start) [ $# = 2 ] || usage; node "$1"; again "$1" "$2" ;;
  kill-node) [ $# = 1 ] || usage; node "$1"; kill_node "$1" ;;
  start-node) [ $# = 1 ] || usage; node "$1"; start_node "$1" ;;
  unplug) [ $# = 1 ] || usage; node "$1"; ip link set "v-$CLUSTER-$1" down ;;
  plug) [ $# = 1 ] || usage; node "$1"; ip link set "v-$CLUSTER-$1" up ;;
  cut) [ $# = 2 ] || usage; rules -I "$1" "$2" ;;
  heal) [ $# = 2 ] || usage; rules -D "$1" "$2" 2>/dev/null || true ;;
  mend)
    for folder in "$STATE"/*/logs; do
      n=$(basename "$(dirname "$folder")")
      ip link set "v-$CLUSTER-$n" up
      for program in etcd apiserver kcm scheduler coredns containerd kubelet proxy; do
        [ ! -f "$folder/$program.command" ] || again "$n" "$program"
      done
    done ;;
  *) usage ;;
esac
