#!/usr/bin/env bash
# Installs the Debian packages that the tests use and that are missing. usage: packages.sh [cluster|speech|all]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cluster=(buildah mmdebstrap runc containernetworking-plugins iptables iproute2 conntrack ethtool socat openssl util-linux procps)
speech=(flite libopus0)
case ${1:-all} in
  cluster) wanted=("${cluster[@]}") ;;
  speech) wanted=("${speech[@]}") ;;
  all) wanted=("${cluster[@]}" "${speech[@]}") ;;
  *) die "usage: packages.sh [cluster|speech|all]" ;;
esac
command -v dpkg-query >/dev/null || die "this is no Debian: install by hand what these packages hold: ${wanted[*]}"
missing=()
for package in "${wanted[@]}"; do
  dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || die "packages are missing; as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
