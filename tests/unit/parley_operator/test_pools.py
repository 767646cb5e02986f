"""Pods of pools: what they look like."""

from __future__ import annotations

from typing import Any

import pytest
from parley_operator import pki
from parley_operator.api.fleet import AutoscalingSpec, Portion, RecycleSpec, StrategySpec
from parley_operator.api.v1alpha1 import Exposure, PoolSpec
from parley_operator.domain.manifests import WorkerDefaults, build_pod, spec_hash
from parley_operator.domain.shards import free_ports, shard_count
from parley_operator.domain.subjects import PoolView
from parley_worker.config import PREFIX, Settings
from parley_worker.runtime.drain import within_grace

POOL = PoolView("media", "default", PoolSpec(replicas=2, drain_timeout=60.0))
DEFAULTS = WorkerDefaults(
    "parley-worker:1", "Never", "nats://n:4222", (("PARLEY_WORKER_LOG_LEVEL", "debug"),)
)


def test_host_ports_are_not_shared() -> None:
    assert free_ports(30800, 30802, [30800, 30802], 1) == 30801
    assert free_ports(30800, 30800, [30800], 1) is None
    assert free_ports(30800, 30809, [30801, 30805], 3) == 30802
    assert free_ports(30800, 30803, [30801], 3) is None
    assert free_ports(30800, 30801, [], 3) is None


@pytest.mark.parametrize(
    ("resources", "shards"),
    [
        (None, 1),
        ({"requests": {"cpu": "500m"}}, 1),
        ({"requests": {"cpu": 3}, "limits": {"memory": "1Gi"}}, 3),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "3900m"}}, 3),
        ({"limits": {"cpu": "2.5"}}, 2),
        ({"limits": {"cpu": "80"}}, 20),
        ({"limits": {"cpu": "lots"}}, 1),
    ],
)
def test_a_worker_has_a_shard_for_each_core(resources: Any, shards: int) -> None:
    containers = [{"name": "side", "resources": {"limits": {"cpu": 9}}}, {"name": "worker"}]
    if resources is not None:
        containers[1]["resources"] = resources
    assert shard_count(PoolSpec(pod_template={"spec": {"containers": containers}})) == shards
    assert shard_count(PoolSpec(shards=7, pod_template={"spec": {"containers": containers}})) == 7


def test_every_shard_has_ports_of_its_own() -> None:
    pool = PoolView("media", "default", PoolSpec(shards=3, drain_timeout=60.0))
    manifest: Any = build_pod(pool, "uid", DEFAULTS, "abc", 30810)
    ports = manifest["spec"]["containers"][0]["ports"]
    named = {port["name"]: (port["containerPort"], port.get("hostPort")) for port in ports}
    assert named == {
        "media-0": (50100, 30810), "media-1": (50101, 30811), "media-2": (50102, 30812),
        "telephony-0": (50200, None), "telephony-1": (50201, None), "telephony-2": (50202, None),
        "control": (50052, None), "metrics": (9090, None),
    }  # fmt: skip
    env = env_of(manifest)
    assert env["PARLEY_WORKER_SHARDS"]["value"] == "3"
    assert env["PARLEY_WORKER_ADVERTISED_PORT"]["value"] == "30810"
    assert spec_hash(pool, DEFAULTS) != spec_hash(POOL, DEFAULTS)


def env_of(manifest: Any) -> dict[str, Any]:
    return {item["name"]: item for item in manifest["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize("host_port", [None, 30801])
def test_workers_know_every_variable_they_are_given(host_port: int | None) -> None:
    known = {PREFIX + name.upper() for name in Settings.__dataclass_fields__}
    env = env_of(build_pod(POOL, "u", DEFAULTS, "abc", host_port))
    assert set(env) <= known
    plain = {
        name: item["value"] for name, item in env.items() if "value" in item and not name.endswith("_DIR")
    }
    here = {
        "PARLEY_WORKER_ADVERTISED_HOST": "h",
        "PARLEY_WORKER_NAME": "n",
        "PARLEY_WORKER_MEDIA_ADDRESS": "127.0.0.1:50100",
        "PARLEY_WORKER_TELEPHONY_ADDRESS": "127.0.0.1:50200",
        "PARLEY_WORKER_CONTROL_ADDRESS": "127.0.0.1:50052",
    }
    settings = Settings.from_environ({**plain, **here})
    assert settings.revision == spec_hash(POOL, DEFAULTS)
    # SIGTERM leaves sessions their whole time, and room for the last work after it.
    grace = within_grace(settings.drain_timeout, settings.termination_grace, settings.flush_timeout)
    assert grace == settings.drain_timeout
    assert settings.advertised_port == (host_port or 50100)
    assert settings.telephony_address is not None
    assert settings.drain_timeout == 60.0
    assert settings.log_level == "debug"


def test_pods_are_restricted_and_outlive_their_drain() -> None:
    manifest: Any = build_pod(POOL, "uid", DEFAULTS, "abc", 30801)
    spec, container = manifest["spec"], manifest["spec"]["containers"][0]
    assert manifest["metadata"]["name"] == "default-abc"
    assert manifest["metadata"]["ownerReferences"][0]["uid"] == "uid"
    assert spec["terminationGracePeriodSeconds"] > 60
    assert manifest["metadata"]["labels"]["parley.dev/revision"] == spec_hash(POOL, DEFAULTS)
    assert manifest["metadata"]["labels"]["parley.dev/busy"] == "false"
    safe = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    assert manifest["metadata"]["annotations"][safe] == "true"
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["ports"][0]["hostPort"] == 30801
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert named == {"media-0": 50100, "telephony-0": 50200, "control": 50052, "metrics": 9090}
    told = env_of(manifest)["PARLEY_WORKER_TELEPHONY_ADVERTISED_HOST"]["valueFrom"]
    assert told == {"fieldRef": {"fieldPath": "status.podIP"}}, "telephony has no port of the node"


def test_the_template_is_merged_over() -> None:
    template = {
        "metadata": {"labels": {"team": "voice", "parley.dev/pool": "stolen"}},
        "spec": {
            "nodeSelector": {"a": "b"},
            "terminationGracePeriodSeconds": 600,
            "containers": [
                {
                    "name": "worker",
                    "image": "mine:2",
                    "env": [{"name": "A", "value": "1"}, {"name": "PARLEY_WORKER_CAPACITY", "value": "9999"}],
                },
                {"name": "side", "image": "side:1"},
            ],
        },
    }
    pool = PoolView("media", "default", PoolSpec(pod_template=template, drain_timeout=60.0))
    manifest: Any = build_pod(pool, "uid", DEFAULTS, "abc", None)
    assert manifest["metadata"]["labels"]["team"] == "voice"
    assert manifest["metadata"]["labels"]["parley.dev/pool"] == "default"
    assert [c["image"] for c in manifest["spec"]["containers"]] == ["mine:2", "side:1"]
    env = env_of(manifest)
    assert env["A"]["value"] == "1"
    assert env["PARLEY_WORKER_CAPACITY"]["value"] == "20"
    assert manifest["spec"]["terminationGracePeriodSeconds"] == 600
    assert spec_hash(pool, DEFAULTS) != spec_hash(POOL, DEFAULTS)


def test_scaling_changes_no_pod() -> None:
    more = PoolView(
        "media",
        "default",
        PoolSpec(
            replicas=9,
            drain_timeout=60.0,
            allowed_hosts=("x",),
            autoscaling=AutoscalingSpec(1, 5),
            strategy=StrategySpec(Portion(7)),
            recycle=RecycleSpec(max_age=600.0),
        ),
    )
    assert spec_hash(more, DEFAULTS) == spec_hash(POOL, DEFAULTS)
    ported = PoolView("media", "default", PoolSpec(drain_timeout=60.0, exposure=Exposure(True, 1, 2)))
    assert spec_hash(ported, DEFAULTS) != spec_hash(POOL, DEFAULTS)


def test_an_operator_that_learned_a_field_replaces_no_worker() -> None:
    """The revision of a pool that says nothing new is the one of the pods that are there."""
    bare = PoolView("media", "default", PoolSpec(drain_timeout=60.0))
    assert spec_hash(bare, WorkerDefaults("w:1")) == "f50f63c70046cd58"
    spot = PoolView(
        "media", "default", PoolSpec(drain_timeout=60.0, strategy=StrategySpec(machine_grace=25.0))
    )
    assert spec_hash(spot, WorkerDefaults("w:1")) != "f50f63c70046cd58"


def test_certificates_are_renewed_in_their_last_third() -> None:
    now = 1_800_000_000.0
    ca = pki.make_ca(now)
    pair = pki.issue_server(ca, "default.media.parley.internal", now)
    day = 86400.0
    assert not pki.due(pair.certificate, now + 59 * day)
    assert pki.due(pair.certificate, now + 61 * day)
    assert pki.due(b"rubbish", now)
    assert pki.issued_by(pair.certificate, ca)
    assert not pki.issued_by(pair.certificate, pki.make_ca(now))
    assert b"PRIVATE" not in repr(pair).encode()
