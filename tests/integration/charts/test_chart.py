"""The chart as Helm renders it: compared with checked-in manifests, judged by schemas, refused when wrong.

After a wanted change, `UPDATE=1 tests/support/chart/chart-test.sh` writes the manifests anew: read the diff.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from chart_tools import CHART, Tools, documents, find_tools

HERE = Path(__file__).parent
SETS = ("default", "trial", "production")
RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def tools() -> Tools:
    return find_tools()


def render(tools: Tools, values: str, *arguments: str) -> str:
    return tools.helm(
        "template", "trial", str(CHART), "--namespace", "voice",
        "--values", str(HERE / "values" / f"{values}.yaml"), *arguments,
    ).stdout  # fmt: skip


def pods(manifests: list[dict]) -> list[tuple[str, dict]]:
    """Name and pod spec of everything that runs pods, the default pool's template apart."""
    found = []
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            found.append((manifest["metadata"]["name"], manifest["spec"]))
        elif manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
            found.append((manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]))
    return found


@pytest.mark.parametrize("values", SETS)
def test_lint(tools: Tools, values: str) -> None:
    tools.helm("lint", "--strict", str(CHART), "--values", str(HERE / "values" / f"{values}.yaml"))


@pytest.mark.parametrize("values", SETS)
def test_rendered_as_checked_in(tools: Tools, values: str) -> None:
    # The definitions are 90 % of the text and have a test of their own.
    rendered = render(tools, values, "--set", "crds.enabled=false")
    golden = HERE / "golden" / f"{values}.yaml"
    if os.environ.get("UPDATE") == "1":
        golden.write_text(rendered)
    assert rendered == golden.read_text(), f"{golden.name} differs: if that is wanted, run with UPDATE=1"


@pytest.mark.parametrize("values", SETS)
def test_valid_for_kubernetes(tools: Tools, values: str) -> None:
    tools.kubeconform(render(tools, values))


def test_kubeconform_would_notice(tools: Tools) -> None:
    """The schemas are closed: an unknown field is found, so the test above can fail."""
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"prot": 1}]},
    }  # fmt: skip
    with pytest.raises(subprocess.CalledProcessError) as failure:
        tools.kubeconform(yaml.safe_dump(service))
    assert "prot" in failure.value.stdout


@pytest.mark.parametrize("values", SETS)
def test_default_pool_is_valid_for_its_own_definition(tools: Tools, values: str) -> None:
    manifests = documents(render(tools, values))
    pools = [
        yaml.safe_load(m["data"]["pool.yaml"])
        for m in manifests
        if m["kind"] == "ConfigMap" and "pool.yaml" in m["data"]
    ]
    assert len(pools) == 1
    tools.kubeconform(yaml.safe_dump(pools[0]))


@pytest.mark.parametrize("values", SETS)
def test_every_pod_is_restricted(tools: Tools, values: str) -> None:
    for name, spec in pods(documents(render(tools, values))):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert RESTRICTED_CONTAINER.items() <= context.items(), name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
        assert spec["automountServiceAccountToken"] is name.endswith(("-operator", "-uninstall")), name


def test_definitions_are_kept_unless_told_otherwise(tools: Tools) -> None:
    for keep, expected in (("true", "keep"), ("false", None)):
        crds = [
            m
            for m in documents(render(tools, "default", "--set", f"crds.keep={keep}"))
            if m["kind"] == "CustomResourceDefinition"
        ]
        assert {m["spec"]["names"]["kind"] for m in crds} == {"VoiceSession", "VoiceAgent", "VoiceWorkerPool"}
        policies = {m["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for m in crds}
        assert policies == {expected}


def test_no_pod_monitor_without_the_kind(tools: Tools) -> None:
    assert "PodMonitor" not in render(tools, "default")
    with_kind = render(tools, "default", "--api-versions", "monitoring.coreos.com/v1")
    assert with_kind.count("kind: PodMonitor\n") == 2
    never = "monitoring.podMonitors.create=Never"
    assert "PodMonitor" not in render(
        tools, "default", "--api-versions", "monitoring.coreos.com/v1", "--set", never
    )


def test_nodes_are_read_only_where_they_are_watched(tools: Tools) -> None:
    for watched, verbs in (("true", {"list", "watch"}), ("false", set())):
        manifests = documents(render(tools, "default", "--set", f"operator.watchNodes={watched}"))
        rules = [r for m in manifests if m["kind"] == "ClusterRole" for r in m["rules"]]
        assert {v for r in rules if "nodes" in r["resources"] for v in r["verbs"]} == verbs
        told = {
            item["value"]
            for _, spec in pods(manifests)
            for container in spec["containers"]
            for item in container.get("env", [])
            if item["name"] == "PARLEY_OPERATOR_WATCH_NODES"
        }
        assert told == {watched}


def test_the_default_pool_may_scale_by_itself_or_be_scaled(tools: Tools) -> None:
    def pool(*settings: str) -> dict:
        arguments = [part for setting in settings for part in ("--set", setting)]
        manifests = documents(render(tools, "default", *arguments))
        [found] = [m for m in manifests if m["kind"] == "ConfigMap" and "pool.yaml" in m["data"]]
        made = yaml.safe_load(found["data"]["pool.yaml"])
        tools.kubeconform(yaml.safe_dump(made))
        return made["spec"]

    scaled = pool("defaultPool.autoscaling.enabled=true", "defaultPool.recycle.maxAge=24h")
    assert "replicas" not in scaled
    assert scaled["autoscaling"] == {"min": 1, "max": 10, "bufferSessions": "20%", "stabilization": "5m"}
    assert scaled["recycle"] == {"maxAge": "24h"}
    assert "replicas" not in pool("defaultPool.replicas=null")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        pool("defaultPool.autoscaling.min=20")
    assert "must not be greater than max" in failure.value.stderr


def test_operator_cannot_look_around_in_secrets(tools: Tools) -> None:
    roles = [m for m in documents(render(tools, "trial")) if m["kind"] in ("ClusterRole", "Role")]
    verbs = {v for m in roles for r in m["rules"] if "secrets" in r["resources"] for v in r["verbs"]}
    assert "get" in verbs
    assert not verbs & {"list", "watch", "deletecollection", "*"}
    assert not any("*" in rule["resources"] or "*" in rule["verbs"] for m in roles for rule in m["rules"])


def test_without_the_session_service_the_operator_cannot_make_sessions(tools: Tools) -> None:
    def creates(*arguments: str) -> list[dict]:
        roles = [m for m in documents(render(tools, "default", *arguments)) if "Role" in m["kind"]]
        rules = [r for m in roles for r in m.get("rules", [])]
        return [r for r in rules if "create" in r["verbs"] and "voicesessions" in r["resources"]]

    assert len(creates()) == 1
    off = render(tools, "default", "--set", "sessions.enabled=false")
    assert creates("--set", "sessions.enabled=false") == []
    assert not [word for word in ("tokenreviews", "subjectaccessreviews", "SESSIONS") if word in off]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("operator.imag.tag=1", ("/operator", "imag")),
        ("unknown=1", ("unknown",)),
        ("nats.storage.sise=1Gi", ("/nats/storage", "sise")),
        ("monitoring.podMonitors.labels.a=b", ("/monitoring/podMonitors", "labels")),
        ("defaultPool.replicas=two", ("/defaultPool/replicas", "integer")),
        ("defaultPool.exposure=NodePort", ("/defaultPool/exposure", "HostPort")),
        ("defaultPool.drainTimeout=90", ("/defaultPool/drainTimeout",)),
        ("operator.logLevel=loud", ("/operator/logLevel",)),
        ("nats.urls={http://nats:4222}", ("/nats/urls/0",)),
        ("operator.image.digest=sha256:12", ("/operator/image/digest",)),
        ("sessions.port=0", ("/sessions/port",)),
        ("sessions.service.type=ExternalName", ("/sessions/service/type", "ClusterIP")),
    ],
)
def test_bad_value_is_refused_with_its_key(tools: Tools, setting: str, words: tuple[str, ...]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        render(tools, "default", "--set", setting)
    for word in words:
        assert word in failure.value.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["defaultPool.drainTimeout=5m"], ("terminationGracePeriodSeconds is 90", "at least", "315")),
        (["defaultPool.drainTimeout=1h1m1s"], ("3676",)),
        (["defaultPool.hostPortRange.min=31000"], ("hostPortRange.min is 31000",)),
        (["nats.enabled=true", "nats.urls={nats://x:4222}"], ("nats.enabled and nats.urls",)),
        (["nats.storage.existingClaim=a", "nats.storage.createClaim=true"], ("exclude each other",)),
        (["operator.serviceAccount.create=false"], ("operator.serviceAccount.name is needed",)),
        (
            ["operator.extraEnv[0].name=PARLEY_OPERATOR_NAMESPACE", "operator.extraEnv[0].value=x"],
            ("operator.extraEnv", "PARLEY_OPERATOR_NAMESPACE"),
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(
    tools: Tools, settings: list[str], words: tuple[str, ...]
) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(subprocess.CalledProcessError) as failure:
        render(tools, "default", *arguments)
    for word in words:
        assert word in failure.value.stderr


def test_drain_just_fits(tools: Tools) -> None:
    settings = "defaultPool.drainTimeout=5m,defaultPool.terminationGracePeriodSeconds=315"
    assert "drainTimeout: 5m" in render(tools, "default", "--set", settings)


def test_long_names_stay_valid(tools: Tools) -> None:
    name = "a" * 53
    rendered = tools.helm(
        "template", name, str(CHART), "--namespace", "n" * 63,
        "--set", "nats.enabled=true,localProvider.enabled=true,crds.enabled=false",
    ).stdout  # fmt: skip
    for manifest in documents(rendered):
        longest = 253 if manifest["kind"].startswith(("ClusterRole", "Role")) else 63
        assert len(manifest["metadata"]["name"]) <= longest, manifest["metadata"]["name"]
        for value in manifest["metadata"].get("labels", {}).values():
            assert len(value) <= 63


def test_examples_fit_the_definitions(tools: Tools) -> None:
    found = sorted((CHART.parents[1] / "examples").glob("*.yaml"))
    assert found
    for path in found:
        tools.kubeconform(path.read_text())
