#!/usr/bin/env bash
# Boots this checkout's Kubernetes cluster: one real node (NODES=2 for two), each in a network namespace of its own.
# About 12 s (16 s for two); a healthy one that runs already is kept. Prints KUBECONFIG=... as its last line.
# Node N has the label topology.kubernetes.io/zone=zone-N; the control plane runs on node 1.
# usage: [NODES=2] up.sh      Needs root, build.sh, packages.sh. Nodes sit on one bridge with this host; every pod
# address, node address and HostPort is reachable from this host: node N is 10.200.INDEX.(1+N).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_root up.sh
NODES=${NODES:-1}
export PATH=$BIN:$PATH
mkdir -p "$STATE_ROOT"
with_lock "$STATE_ROOT/$CLUSTER.lock"

healthy() {
  [ -f "$STATE/ready" ] && [ "$(cat "$STATE/ready")" = "nodes=$NODES" ] || return 1
  local pidfile n
  for pidfile in "$STATE"/*/logs/*.pid; do alive "$pidfile" || return 1; done
  for n in $(seq "$NODES"); do
    kubectl --kubeconfig "$STATE/admin.kubeconfig" --request-timeout=5s get node "$CLUSTER-$n" \
      -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null | grep -qx True || return 1
  done
}
if healthy; then echo "KUBECONFIG=$STATE/admin.kubeconfig"; exit; fi
if [ -e "$STATE" ]; then say "removing what is left of an earlier run"; PARLEY_CLUSTER_LOCKED=1 bash "$HERE/down.sh"; fi
bash "$HERE/images.sh" pause

# --- the subnets: 10.200.INDEX.0/24 for nodes, a /24 a node of 10.244.0.0/16 for pods. INDEX is the first free one.
(
  flock 8
  for index in $(seq 30); do ip -4 -o addr | grep -q "inet 10\.200\.$index\." || break; done
  mkdir -p "$STATE"/{pki,etcd}; echo "$index" >"$STATE/index"
  ip link add "br-$CLUSTER" type bridge; ip addr add "10.200.$index.1/24" dev "br-$CLUSTER"; ip link set "br-$CLUSTER" up
) 8>"$STATE_ROOT/index.lock" 9>&-
INDEX=$(cat "$STATE/index")
node_ip() { echo "10.200.$INDEX.$((1 + $1))"; }
pod_cidr() { echo "10.244.$((INDEX * 8 + $1)).0/24"; }
HOST_IP=10.200.$INDEX.1 API=$(node_ip 1)
cd "$STATE"
for n in $(seq "$NODES"); do
  ns=$CLUSTER-$n
  ip netns add "$ns"
  ip link add "v-$ns" type veth peer name eth0 netns "$ns"
  ip link set "v-$ns" master "br-$CLUSTER" up
  ip -n "$ns" addr add "$(node_ip "$n")/24" dev eth0; ip -n "$ns" link set eth0 up; ip -n "$ns" link set lo up
  ip -n "$ns" route add default via "$HOST_IP"
  ip netns exec "$ns" sysctl -qw net.ipv4.ip_forward=1
  ip route replace "$(pod_cidr "$n")" via "$(node_ip "$n")"
  for m in $(seq "$NODES"); do [ "$m" = "$n" ] || ip -n "$ns" route replace "$(pod_cidr "$m")" via "$(node_ip "$m")"; done
done

# --- certificates and kubeconfigs
( cd pki
  openssl ecparam -name prime256v1 -genkey -noout -out ca.key
  openssl req -x509 -new -key ca.key -out ca.crt -days 365 -subj /CN=parley-test-cluster \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
  cert() { # cert FILE SUBJECT NAMES USES
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    openssl req -new -key "$1.key" -out "$1.csr" -subj "$2"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 365 \
      -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=%s' "$3" "$4")
  }
  names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
  cert apiserver /CN=kube-apiserver "$names,IP:127.0.0.1,IP:$API,IP:10.96.0.1" serverAuth
  cert admin /O=system:masters/CN=admin DNS:admin clientAuth
  cert kcm /CN=system:kube-controller-manager DNS:kcm clientAuth
  cert scheduler /CN=system:kube-scheduler DNS:scheduler clientAuth
  cert proxy /CN=system:kube-proxy DNS:proxy clientAuth
  cert kubelet-client /O=system:masters/CN=apiserver-kubelet-client DNS:apiserver clientAuth
  for n in $(seq "$NODES"); do
    cert "kubelet-$n" "/O=system:nodes/CN=system:node:$CLUSTER-$n" "DNS:$CLUSTER-$n,IP:$(node_ip "$n")" serverAuth,clientAuth
  done
  openssl genrsa -out sa.key 2048; openssl rsa -in sa.key -pubout -out sa.pub
  chmod 600 ./*.key ) 2>/dev/null
for user in admin kcm scheduler proxy $(seq -f kubelet-%g "$NODES"); do (umask 077; cat >"$user.kubeconfig" <<K
apiVersion: v1
kind: Config
clusters: [{name: $CLUSTER, cluster: {server: "https://$API:6443", certificate-authority: $STATE/pki/ca.crt}}]
users: [{name: $user, user: {client-certificate: $STATE/pki/$user.crt, client-key: $STATE/pki/$user.key}}]
contexts: [{name: $CLUSTER, context: {cluster: $CLUSTER, user: $user}}]
current-context: $CLUSTER
K
) done

admin=(kubectl --kubeconfig "$STATE/admin.kubeconfig")

start 1 etcd etcd --data-dir "$STATE/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
start 1 apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --advertise-address="$API" \
  --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt \
  --kubelet-client-certificate=pki/kubelet-client.crt --kubelet-client-key=pki/kubelet-client.key \
  --kubelet-certificate-authority=pki/ca.crt --kubelet-preferred-address-types=InternalIP \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.pub \
  --service-account-signing-key-file=pki/sa.key --service-cluster-ip-range=10.96.0.0/16 \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true

# --- each node: containerd, kubelet, kube-proxy. Whatever they write lies under $STATE, so that down.sh finds it.
for n in $(seq "$NODES"); do
D=$STATE/$n; mkdir -p "$D"/{kubelet,containerd,cni,ipam,opt,pod-logs,volume-plugins}
# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc dies lowering a sandbox's score.
cat >"$D/containerd.toml" <<K
version = 3
root = "$D/containerd/root"
state = "$D/containerd/state"
[grpc]
  address = "$D/containerd/containerd.sock"
[plugins.'io.containerd.internal.v1.opt']
  path = "$D/opt"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/parley-pause:dev"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$D/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = false
    Root = "$D/runc"
K
cat >"$D/cni/10-pods.conflist" <<K
{"cniVersion":"1.0.0","name":"$CLUSTER-pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"$D/ipam","ranges":[[{"subnet":"$(pod_cidr "$n")"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
K
cat >"$D/kubelet.yaml" <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CLUSTER-$n
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$D/containerd/containerd.sock
podLogsDir: $D/pod-logs
volumePluginDir: $D/volume-plugins
tlsCertFile: $STATE/pki/kubelet-$n.crt
tlsPrivateKeyFile: $STATE/pki/kubelet-$n.key
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
K
cat >"$D/proxy.yaml" <<K
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.244.0.0/16
hostnameOverride: $CLUSTER-$n
clientConnection: {kubeconfig: $STATE/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0}
K
start "$n" containerd containerd -c "$D/containerd.toml"
until_ok ctr -a "$D/containerd/containerd.sock" version   # a relative socket path is refused
bash "$HERE/images.sh" import "$CACHE/images/pause.tar" 9>&-
if [ -f /sys/fs/cgroup/cpuset/cpuset.cpus ]; then
  for c in /sys/fs/cgroup/{cpu,cpuacct,cpuset,memory,devices,freezer,blkio,pids,systemd}; do mkdir -p "$c/$CLUSTER-$n"; done
  cat /sys/fs/cgroup/cpuset/cpuset.cpus >"/sys/fs/cgroup/cpuset/$CLUSTER-$n/cpuset.cpus"
  cat /sys/fs/cgroup/cpuset/cpuset.mems >"/sys/fs/cgroup/cpuset/$CLUSTER-$n/cpuset.mems"
  # All pods of a node together would else get no more than one other process of this machine.
  echo 6144 >"/sys/fs/cgroup/cpu/$CLUSTER-$n/cpu.shares"
else
  mkdir -p "/sys/fs/cgroup/$CLUSTER-$n"
  echo 600 >"/sys/fs/cgroup/$CLUSTER-$n/cpu.weight" 2>/dev/null || true
fi
done
until_ok "${admin[@]}" get --raw /readyz
start 1 kcm kube-controller-manager --kubeconfig=kcm.kubeconfig --authentication-kubeconfig=kcm.kubeconfig \
  --authorization-kubeconfig=kcm.kubeconfig --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt \
  --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key --use-service-account-credentials=true --leader-elect=false
start 1 scheduler kube-scheduler --kubeconfig=scheduler.kubeconfig --authentication-kubeconfig=scheduler.kubeconfig \
  --authorization-kubeconfig=scheduler.kubeconfig --leader-elect=false
for n in $(seq "$NODES"); do
  D=$STATE/$n
  start "$n" kubelet kubelet --config="$D/kubelet.yaml" --kubeconfig="$STATE/kubelet-$n.kubeconfig" \
    --hostname-override="$CLUSTER-$n" --node-ip="$(node_ip "$n")" --root-dir="$D/kubelet" \
    --node-labels="topology.kubernetes.io/region=here,topology.kubernetes.io/zone=zone-$n"
  start "$n" proxy kube-proxy --config="$D/proxy.yaml"
done

# --- cluster DNS runs on the first node's own address
"${admin[@]}" apply -f - >/dev/null <<K
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP, targetPort: 53}, {name: dns-tcp, port: 53, protocol: TCP, targetPort: 53}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-node, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: ["$API"], conditions: {ready: true}}]
K
cat >Corefile <<K
.:53 {
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $STATE/admin.kubeconfig
  }
  cache 5
}
K
start 1 coredns coredns -conf "$STATE/Corefile"
for n in $(seq "$NODES"); do until_ok "${admin[@]}" wait --for=condition=Ready --timeout=1s "node/$CLUSTER-$n"; done
until_ok "${admin[@]}" get serviceaccount default
echo "nodes=$NODES" >"$STATE/ready"
echo "KUBECONFIG=$STATE/admin.kubeconfig"
