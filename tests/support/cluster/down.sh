#!/usr/bin/env bash
# Ends this checkout's cluster, whatever state it is in, and removes its state, network, mounts and cgroups.
# usage: down.sh
set -uo pipefail
. "$(dirname "$0")/lib.sh"
need_root down.sh
mkdir -p "$STATE_ROOT"
[ -n "${PARLEY_CLUSTER_LOCKED:-}" ] || with_lock "$STATE_ROOT/$CLUSTER.lock"
case $STATE in /*/*/*) ;; *) die "refusing to remove $STATE" ;; esac

# SIGKILL: a kube-apiserver that is asked politely while etcd goes away hangs for minutes.
for pidfile in "$STATE"/*/logs/*.pid; do
  if alive "$pidfile"; then read -r pid _ <"$pidfile"; kill -9 "$pid"; fi
done
# What the node's processes started (shims, containers) is found by cgroup, and shims by the socket they serve.
cgroups() { find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name "$CLUSTER-[0-9]*" 2>/dev/null; }
shims() {
  local pid
  for pid in $(pgrep -f "containerd-shim-runc-v2 .*$STATE/"); do
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "^[^ ]*containerd-shim-runc-v2 .*$STATE/" && echo "$pid"
  done
}
for _ in $(seq 40); do
  pids=$(shims; for group in $(cgroups); do find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null; done)
  [ -n "$pids" ] || break
  for pid in $(echo "$pids" | sort -u); do kill -9 "$pid" 2>/dev/null; done
  sleep .1
done
# Two places outside $STATE are fixed in containerd and libcni: what is ours there is known by the tasks' ids.
tasks=$STATE/*/containerd/state/io.containerd.runtime.v2.task/k8s.io
grep -shoE '/run/containerd/s/[0-9a-f]{64}' $tasks/*/bootstrap.json $tasks/*/address | sort -u | xargs -r rm -f
for task in $tasks/*/; do id=$(basename "$task"); rm -f /var/lib/cni/results/*-"${id:-none}"-*; done
rm -f /var/lib/cni/results/"$CLUSTER"-pods-*
mounts() { awk -v s="$STATE/" 'index($2, s) == 1 {print $2}' /proc/mounts | sort -r; }
for _ in 1 2 3; do mounts | while read -r mount; do umount -l "$mount" 2>/dev/null; done; done
for ns in $(ip netns list 2>/dev/null | awk '{print $1}'); do
  case $ns in "$CLUSTER"-[0-9]*) ip netns del "$ns"; ip link del "v-$ns" 2>/dev/null ;; esac
done
ip link del "br-$CLUSTER" 2>/dev/null   # the routes to pods go with it
for group in $(cgroups); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; done
find /var/log/containers -lname "$STATE/*" -delete 2>/dev/null   # fixed in the kubelet
rm -rf --one-file-system "$STATE"
# These are made by kubelet, libcni and containerd wherever their roots are: the last cluster to go takes them along,
# if they are empty then.
if ! compgen -G "$STATE_ROOT/*/" >/dev/null && ! pgrep -x kubelet >/dev/null; then
  plugins=/usr/libexec/kubernetes/kubelet-plugins
  rm -f /var/lib/kubelet/device-plugins/kubelet.sock
  rmdir /var/log/containers /var/lib/kubelet/device-plugins /var/lib/kubelet $plugins/volume/exec $plugins/volume $plugins \
    "${plugins%/*}" /var/lib/cni/results /var/lib/cni /run/containerd/s /run/containerd 2>/dev/null
fi
left=$(mounts; cgroups; shims; ip -o link | grep -o "br-$CLUSTER" | head -1)
[ ! -e "$STATE" ] && [ -z "$left" ] || { say "could not remove everything: $STATE $left"; exit 1; }
