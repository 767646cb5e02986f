"""Worker pods as they are made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import cast

from parley_operator.api.constants import (
    ADMIN_PORT,
    ANNOTATION_MEDIA_PORT,
    ANNOTATION_SAFE_TO_EVICT,
    ANNOTATION_SPEC_HASH,
    API_VERSION,
    CONTROL_PORT,
    LABEL_BUSY,
    LABEL_POOL,
    LABEL_REVISION,
    MEDIA_PORT,
    POOL,
    TELEPHONY_PORT,
    Body,
)

from .merge import deep_merge
from .shards import CONTAINER, shard_count
from .subjects import PoolView

TLS_DIRECTORY = "/etc/parley/tls"
# Between the end of the drain and the kill: end hooks and the last records.
DRAIN_MARGIN = 15
_USER = 10001


@dataclass(frozen=True, slots=True)
class WorkerDefaults:
    """What the operator's settings say about every worker."""

    image: str = ""
    image_pull_policy: str = "IfNotPresent"
    nats_url: str = ""
    env: tuple[tuple[str, str], ...] = ()


def server_name(pool: str, namespace: str) -> str:
    """The name in the certificate of a pool's workers."""
    return f"{pool}.{namespace}.parley.internal"


def tls_secret(pool: str) -> str:
    return f"parley-pool-{pool}-tls"


def spec_hash(pool: PoolView, defaults: WorkerDefaults) -> str:
    """Changes whenever running pods would have to be replaced to follow the pool."""
    wanted = [
        pool.spec.sessions_per_worker,
        shard_count(pool.spec),
        pool.spec.exposure.host_port,
        pool.spec.drain_timeout,
        # Left out while it says nothing: an operator that learned a field replaces no worker for it.
        *([pool.spec.strategy.machine_grace] if pool.spec.strategy.machine_grace else []),
        pool.spec.pod_template,
        [defaults.image, defaults.image_pull_policy, defaults.nats_url, list(defaults.env)],
    ]
    return sha256(json.dumps(wanted, sort_keys=True, default=dict).encode()).hexdigest()[:16]


def grace_period(pool: PoolView) -> int:
    """Seconds between a pod's SIGTERM and its end, whoever deletes it: never less than its sessions need."""
    given = _map(pool.spec.pod_template.get("spec")).get("terminationGracePeriodSeconds")
    needed = ceil(pool.spec.drain_timeout) + DRAIN_MARGIN
    return max(needed, given if isinstance(given, int) else 0)


def build_pod(
    pool: PoolView, pool_uid: str, defaults: WorkerDefaults, suffix: str, host_port: int | None
) -> Body:
    """A worker pod of the pool; `suffix` makes its name unique, `host_port` is that of its first shard.

    The pool's template is merged over the defaults.
    """
    template = pool.spec.pod_template
    user_spec = _map(template.get("spec"))
    containers = user_spec.pop("containers", None)
    others, mine = _split(containers)
    spec = deep_merge(_pod_spec(pool, defaults), user_spec)
    volumes = user_spec.get("volumes")
    spec["volumes"] = [*_volumes(pool.name), *(volumes if isinstance(volumes, list) else [])]
    grace = grace_period(pool)
    spec["containers"] = [_container(pool, defaults, mine, host_port, grace), *others]
    spec["terminationGracePeriodSeconds"] = grace
    metadata = _map(template.get("metadata"))
    revision = spec_hash(pool, defaults)
    labels = {
        **_map(metadata.get("labels")),
        LABEL_POOL: pool.name,
        LABEL_REVISION: revision,
        LABEL_BUSY: "false",
        "app.kubernetes.io/part-of": "parley",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "parley-operator",
    }
    annotations = {
        **_map(metadata.get("annotations")),
        ANNOTATION_SPEC_HASH: revision,
        ANNOTATION_SAFE_TO_EVICT: "true",
    }
    if host_port is not None:
        annotations[ANNOTATION_MEDIA_PORT] = str(host_port)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{pool.name}-{suffix}",
            "namespace": pool.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner_reference(pool, pool_uid)],
        },
        "spec": spec,
    }


def owner_reference(pool: PoolView, uid: str) -> Body:
    """What makes the pool the controller of an object."""
    return {
        "apiVersion": API_VERSION,
        "kind": POOL,
        "name": pool.name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _pod_spec(pool: PoolView, defaults: WorkerDefaults) -> Body:
    return {
        "restartPolicy": "Always",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _volumes(pool: str) -> list[Body]:
    return [
        {"name": "parley-tls", "secret": {"secretName": tls_secret(pool), "defaultMode": 0o440}},
        {"name": "parley-tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]


def _container(
    pool: PoolView, defaults: WorkerDefaults, mine: Mapping[str, object], host_port: int | None, grace: int
) -> Body:
    own = _env(pool, defaults, host_port, grace)
    names = {str(item["name"]) for item in own}
    given = mine.get("env")
    extra = [item for item in given if _map(item).get("name") not in names] if isinstance(given, list) else []
    mounts = mine.get("volumeMounts")
    base: Body = {
        "name": CONTAINER,
        "image": defaults.image,
        "imagePullPolicy": defaults.image_pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("/healthz", 1, 60),
        "livenessProbe": _probe("/healthz", 10, 3),
        "readinessProbe": _probe("/readyz", 2, 1),
    }
    merged = deep_merge(base, {k: v for k, v in mine.items() if k not in ("env", "volumeMounts", "ports")})
    merged["env"] = [*own, *extra]
    merged["ports"] = [
        *_shard_ports("media", MEDIA_PORT, pool, host_port),
        *_shard_ports("telephony", TELEPHONY_PORT, pool, None),
        {"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
        {"name": "metrics", "containerPort": ADMIN_PORT, "protocol": "TCP"},
    ]
    merged["volumeMounts"] = [
        {"name": "parley-tls", "mountPath": TLS_DIRECTORY, "readOnly": True},
        {"name": "parley-tmp", "mountPath": "/tmp"},
        *(mounts if isinstance(mounts, list) else []),
    ]
    return merged


def _shard_ports(name: str, first: int, pool: PoolView, host_port: int | None) -> list[Body]:
    """A port for each shard, and where there is a first host port one of the node as well."""
    ports: list[Body] = []
    for shard in range(shard_count(pool.spec)):
        port: Body = {"name": f"{name}-{shard}", "containerPort": first + shard, "protocol": "TCP"}
        ports.append(port if host_port is None else {**port, "hostPort": host_port + shard})
    return ports


def _probe(path: str, period: int, failures: int) -> Body:
    get = {"path": path, "port": "metrics"}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}


def _env(pool: PoolView, defaults: WorkerDefaults, host_port: int | None, grace: int) -> list[Body]:
    host = "status.hostIP" if host_port is not None else "status.podIP"
    plain = {
        "POOL": pool.name,
        "CAPACITY": str(pool.spec.sessions_per_worker),
        "SHARDS": str(shard_count(pool.spec)),
        "MEDIA_ADDRESS": f"0.0.0.0:{MEDIA_PORT}",
        "CONTROL_ADDRESS": f"0.0.0.0:{CONTROL_PORT}",
        "ADMIN_ADDRESS": f"0.0.0.0:{ADMIN_PORT}",
        "ADVERTISED_PORT": str(host_port or MEDIA_PORT),
        "TELEPHONY_ADDRESS": f"0.0.0.0:{TELEPHONY_PORT}",
        "TLS_SERVER_NAME": server_name(pool.name, pool.namespace),
        "CONTROL_TLS_DIR": TLS_DIRECTORY,
        "MEDIA_TLS_DIR": TLS_DIRECTORY,
        "DRAIN_TIMEOUT": f"{pool.spec.drain_timeout:g}",
        "TERMINATION_GRACE": f"{pool.spec.strategy.machine_grace or grace:g}",
        "REVISION": spec_hash(pool, defaults),
    }
    if defaults.nats_url:
        plain["NATS_URL"] = defaults.nats_url
    fields = {
        "NAME": "metadata.name",
        "POD_UID": "metadata.uid",
        "NAMESPACE": "metadata.namespace",
        "NODE": "spec.nodeName",
        "ADVERTISED_HOST": host,
        # Telephony comes through a gateway of the cluster: the pod's own address, whatever callers use.
        "TELEPHONY_ADVERTISED_HOST": "status.podIP",
    }
    found: list[Body] = [{"name": f"PARLEY_WORKER_{k}", "value": v} for k, v in plain.items()]
    found += [
        {"name": f"PARLEY_WORKER_{k}", "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for k, path in fields.items()
    ]
    names = {item["name"] for item in found}
    return found + [{"name": name, "value": value} for name, value in defaults.env if name not in names]


def _split(containers: object) -> tuple[list[object], dict[str, object]]:
    """The user's other containers, and what the template says of the worker's own."""
    items = containers if isinstance(containers, list) else []
    mine = next((_map(item) for item in items if _map(item).get("name") == CONTAINER), {})
    return [item for item in items if _map(item).get("name") != CONTAINER], mine


def _map(value: object) -> dict[str, object]:
    return dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else {}
