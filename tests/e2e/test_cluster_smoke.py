"""The cluster itself: what the other end-to-end tests take for granted, shown with our own images."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from functools import partial

import pytest
from cluster_fixture import Cluster, ClusterError, wait_for

HOST_PORT = 18480
PYTHON = "/opt/parley/bin/python"
NATIVE = {
    "operator": "grpc, cryptography.x509, msgspec, uvloop, yaml",
    "worker": "grpc, cryptography.x509, numpy, obstore, soundfile, soxr, uvloop",
}
OPERATOR_ONLY = {"kopf"}
WORKER_ONLY = {"nats-py", "numpy", "obstore", "soundfile", "soxr", "websockets"}
NEITHER = {
    "pip",
    "setuptools",
    "pytest",
    "lightkube",
    "kubernetes",
    "faster-whisper",
    "av",
    "openai",
    "hatchling",
}

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: main
      image: {image}
      command: [{python}, -m, http.server, "8000"]
      ports: [{{containerPort: 8000, hostPort: {host_port}}}]
      readinessProbe: {{httpGet: {{path: /pyvenv.cfg, port: 8000}}, periodSeconds: 1}}
      securityContext:
        {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8000}}]}}
"""

ASK_API = """
import ssl, sys, urllib.error, urllib.request
home = "/var/run/secrets/kubernetes.io/serviceaccount/"
url = "https://kubernetes.default.svc/api/v1/namespaces/" + open(home + "namespace").read() + "/pods"
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + open(home + "token").read()})
try:
    print(urllib.request.urlopen(request, context=ssl.create_default_context(cafile=home + "ca.crt")).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""

LIST_PACKAGES = """
import importlib.metadata, json
print(json.dumps([d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()]))
"""


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace("smoke") as name:
        for number, pod in enumerate(("worker", "operator")):
            image = cluster.images[pod]
            manifest = POD.format(name=pod, image=image, python=PYTHON, host_port=HOST_PORT + number)
            cluster.apply(manifest, namespace=name)
        for pod in ("worker", "operator"):
            cluster.wait_ready(pod, namespace=name)
        yield name


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=3) as response:
        body: bytes = response.read()
    return body.decode()


def python(cluster: Cluster, namespace: str, pod: str, code: str, *arguments: str) -> str:
    return cluster.kubectl("-n", namespace, "exec", pod, "--", PYTHON, "-c", code, *arguments)


def test_a_pod_is_reached_from_this_host_by_host_port_and_by_its_own_address(
    cluster: Cluster, namespace: str
) -> None:
    if not cluster.own:
        pytest.skip("only the own cluster's addresses are sure to be reachable from here")
    pod = cluster.get("pod", "worker", namespace=namespace)
    for address in (f"{pod['status']['hostIP']}:{HOST_PORT}", f"{pod['status']['podIP']}:8000"):
        assert "home = " in wait_for(partial(fetch, f"http://{address}/pyvenv.cfg"), address, timeout=10)


def test_a_port_forward_reaches_a_pod(cluster: Cluster, namespace: str) -> None:
    with cluster.port_forward("pod/worker", 8000, namespace=namespace) as port:
        assert "home = " in fetch(f"http://127.0.0.1:{port}/pyvenv.cfg")


def test_a_pod_reaches_another_by_its_service_name(cluster: Cluster, namespace: str) -> None:
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=3).read().decode())"
    url = f"http://worker.{namespace}.svc.cluster.local/pyvenv.cfg?by-name"
    answer = wait_for(lambda: python(cluster, namespace, "operator", code, url), "service DNS", timeout=10)
    assert "home = " in answer
    assert "GET /pyvenv.cfg?by-name" in cluster.kubectl("-n", namespace, "logs", "worker")


def test_a_service_account_may_do_what_its_role_says_and_no_more(cluster: Cluster, namespace: str) -> None:
    assert python(cluster, namespace, "operator", ASK_API).strip() == "403"
    account = f"--serviceaccount={namespace}:default"
    cluster.kubectl("-n", namespace, "create", "rolebinding", "reader", "--clusterrole=view", account)
    wait_for(lambda: python(cluster, namespace, "operator", ASK_API).strip() == "200", "the role", timeout=10)


@pytest.mark.parametrize(
    ("image", "own", "others"),
    [("operator", OPERATOR_ONLY, WORKER_ONLY), ("worker", WORKER_ONLY, OPERATOR_ONLY)],
)
def test_an_image_holds_its_own_packages_and_not_the_other_sides(
    cluster: Cluster, namespace: str, image: str, own: set[str], others: set[str]
) -> None:
    packages = set(json.loads(python(cluster, namespace, image, LIST_PACKAGES)))
    assert packages >= own | {"parley", "grpcio", "msgspec", "prometheus-client", "uvloop"}
    assert not packages & (others | NEITHER)
    modules = {"operator": "parley_worker", "worker": "parley_operator"}
    with pytest.raises(ClusterError, match="ModuleNotFoundError"):
        python(cluster, namespace, image, f"import {modules[image]}")
    python(cluster, namespace, image, f"import parley_{image}, {NATIVE[image]}")
