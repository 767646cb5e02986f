"""The CRDs on a real API server: good objects pass, bad ones are refused with the field named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver import CRDS
from parley_operator.api.changes import CHANGEABLE, CHANGEABLE_IN_AGENT

# The first test waits for the API server.
pytestmark = pytest.mark.timeout(240)
Call = Callable[..., tuple[int, dict[str, Any]]]
BASE = "/apis/parley.dev/v1alpha1/namespaces/default"
PLURALS = {
    "VoiceSession": "voicesessions",
    "VoiceAgent": "voiceagents",
    "VoiceWorkerPool": "voiceworkerpools",
}
OPENAI = {"type": "openai", "credentialsSecretRef": {"name": "k"}}


def thing(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "parley.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def create(call: Call, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return call("POST", f"{BASE}/{PLURALS[body['kind']]}?fieldValidation=Strict", body)


def test_the_examples_are_accepted(call: Call, examples: Path) -> None:
    seen = 0
    for path in sorted(examples.rglob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            if isinstance(body, dict) and body.get("apiVersion") == "parley.dev/v1alpha1":
                code, answer = create(call, body)
                assert code == 201, (path, answer)
                seen += 1
    assert seen >= 4


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"),
    [
        ("VoiceSession", {}, "spec", "exactly one of agentRef and agent"),
        (
            "VoiceSession",
            {"agentRef": {"name": "a"}, "agent": {"provider": OPENAI}},
            "spec",
            "exactly one of agentRef and agent",
        ),
        ("VoiceSession", {"agentRef": {"name": "A b"}}, "spec.agentRef.name", "should match"),
        ("VoiceSession", {"agentRef": {"name": "a"}, "surprise": 1}, "spec.surprise", "unknown field"),
        (
            "VoiceSession",
            {"agentRef": {"name": "a"}, "limits": {"maxDuration": "soon"}},
            "spec.limits.maxDuration",
            "should match",
        ),
        (
            "VoiceSession",
            {"agentRef": {"name": "a"}, "audio": {"providerFormat": "mp3"}},
            "spec.audio.providerFormat",
            "Unsupported value",
        ),
        (
            "VoiceSession",
            {"agentRef": {"name": "a"}, "provider": {"type": "aws"}},
            "spec.provider.type",
            "Unsupported value",
        ),
        (
            "VoiceSession",
            {"agentRef": {"name": "a"}, "recovery": {"policy": "Retry"}},
            "spec.recovery.policy",
            "Unsupported value",
        ),
        (
            "VoiceSession",
            {"agentRef": {"name": "a"}, "recovery": {"policy": "Resume"}, "privacy": True},
            "spec.recovery.policy",
            "Resume needs the journal",
        ),
        (
            "VoiceSession",
            {"agent": {"provider": {"type": "custom"}}},
            "spec.agent.provider.url",
            "url is required when type is azure or custom",
        ),
        ("VoiceAgent", {}, "spec.provider", "Required value"),
        ("VoiceAgent", {"provider": {"type": "custom"}}, "spec.provider.url", "url is required"),
        (
            "VoiceAgent",
            {"provider": {**OPENAI, "url": "wss://x.example"}},
            "spec.provider.url",
            "only for types azure and custom",
        ),
        (
            "VoiceAgent",
            {"provider": {"type": "custom", "url": "ftp://x"}},
            "spec.provider.url",
            "should match",
        ),
        (
            "VoiceAgent",
            {"provider": {**OPENAI, "project": "line\nbreak"}},
            "spec.provider.project",
            "should match",
        ),
        ("VoiceWorkerPool", {"replicas": -1}, "spec.replicas", "greater than or equal to 0"),
        (
            "VoiceWorkerPool",
            {"exposure": {"type": "HostPort"}},
            "spec.exposure.hostPortRange",
            "required when type is HostPort",
        ),
        (
            "VoiceWorkerPool",
            {"exposure": {"type": "HostPort", "hostPortRange": {"min": 5, "max": 4}}},
            "spec.exposure.hostPortRange.min",
            "min must not be greater than max",
        ),
        (
            "VoiceWorkerPool",
            {"autoscaling": {"min": 3, "max": 2}},
            "spec.autoscaling.min",
            "min must not be greater than max",
        ),
        (
            "VoiceWorkerPool",
            {"autoscaling": {"max": 0}},
            "spec.autoscaling.max",
            "greater than or equal to 1",
        ),
        ("VoiceWorkerPool", {"autoscaling": {"min": 1}}, "spec.autoscaling.max", "Required value"),
        (
            "VoiceWorkerPool",
            {"autoscaling": {"max": 2, "bufferSessions": "half"}},
            "spec.autoscaling.bufferSessions",
            "should match",
        ),
        (
            "VoiceWorkerPool",
            {"updateStrategy": {"maxSurge": 0}},
            "spec.updateStrategy.maxSurge",
            "greater than or equal to 1",
        ),
        (
            "VoiceWorkerPool",
            {"recycle": {"maxAge": "30s"}},
            "spec.recycle.maxAge",
            "maxAge must be at least 1m",
        ),
        ("VoiceWorkerPool", {"recycle": {"maxMemory": "2 GB"}}, "spec.recycle.maxMemory", "should match"),
        ("VoiceWorkerPool", {"shards": 0}, "spec.shards", "greater than or equal to 1"),
        ("VoiceWorkerPool", {"shards": 65}, "spec.shards", "less than or equal to 64"),
        (
            "VoiceWorkerPool",
            {"shards": 4, "sessionsPerWorker": 3},
            "spec.shards",
            "must not be greater than sessionsPerWorker",
        ),
        (
            "VoiceWorkerPool",
            {"shards": 3, "exposure": {"type": "HostPort", "hostPortRange": {"min": 5, "max": 6}}},
            "spec.exposure",
            "hostPortRange must have a port for each shard of a worker",
        ),
        ("VoiceWorkerPool", {"provider": {"allowedHosts": ["a b"]}}, "allowedHosts[0]", "should match"),
    ],
)
def test_bad_objects_are_refused_with_the_field(
    call: Call, kind: str, spec: dict[str, Any], field: str, words: str
) -> None:
    code, answer = create(call, thing(kind, "bad", spec))
    assert code in (400, 422), answer
    assert field in answer["message"]
    assert words in answer["message"]


def test_names_too_long_are_refused(call: Call) -> None:
    code, answer = create(call, thing("VoiceWorkerPool", "p" * 41, {}))
    assert code == 422
    assert "at most 40 characters" in answer["message"]


CHANGES = {
    "agentRef": {"name": "other"},
    "provider": {"model": "other"},
    "audio": {"providerFormat": "g711_alaw"},
    "poolRef": {"name": "other"},
    "selectors": [{"zone": "z1"}],
    "access": {"ticket": "None"},
    "privacy": True,
    "scenario": {"entryPoint": "shop.calls:main"},
    "recording": {"volume": {"path": "/recordings"}},
    "recovery": {"webSocket": "Fail"},
    "trace": True,
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_the_spec_of_a_session_cannot_be_changed(call: Call, name: str) -> None:
    body = thing("VoiceSession", f"fixed-{name.lower()}", {"agentRef": {"name": "a"}})
    code, made = create(call, body)
    assert code == 201, made
    changed = copy.deepcopy(made)
    changed["spec"][name] = CHANGES[name]
    code, answer = call("PUT", f"{BASE}/voicesessions/{body['metadata']['name']}", changed)
    assert code == 422, answer
    assert f"spec.{name}" in answer["message"]
    assert "cannot be changed" in answer["message"]


def test_session_and_limits_can_be_changed(call: Call) -> None:
    spec = {"agentRef": {"name": "a"}, "session": {"audio": {"input": {"turn_detection": {"type": "x"}}}}}
    code, made = create(call, thing("VoiceSession", "changed", spec))
    assert code == 201, made
    made["spec"]["session"]["audio"]["input"]["turn_detection"]["type"] = "y"
    made["spec"]["session"]["instructions"] = "Be brief."
    made["spec"]["limits"] = {"maxDuration": "2h", "idleTimeout": "5m"}
    code, answer = call("PUT", f"{BASE}/voicesessions/changed", made)
    assert code == 200, answer
    assert answer["metadata"]["generation"] == 2


OWN = {"provider": OPENAI, "voice": "ash", "instructions": "x", "tools": [{"type": "function", "name": "f"}]}
AGENT_CHANGES = {
    "provider": {**OPENAI, "model": "m"},
    "voice": "cedar",
    "speaksFirst": True,
    "greeting": {"text": "hello"},
    "hangUp": {"tool": True},
    "idle": {"after": "10s"},
    "goodbye": {"before": "10s", "text": "bye"},
    "scenario": {"entryPoint": "shop.calls:main"},
}


@pytest.mark.parametrize("name", sorted(AGENT_CHANGES))
def test_what_a_session_s_own_agent_keeps(call: Call, name: str) -> None:
    code, made = create(call, thing("VoiceSession", f"own-{name.lower()}", {"agent": OWN}))
    assert code == 201, made
    made["spec"]["agent"][name] = AGENT_CHANGES[name]
    code, answer = call("PUT", f"{BASE}/voicesessions/own-{name.lower()}", made)
    assert code == 422, answer
    assert f"spec.agent.{name}" in answer["message"]
    assert "cannot be changed" in answer["message"]


def test_what_a_session_s_own_agent_can_be_told_later(call: Call) -> None:
    code, made = create(call, thing("VoiceSession", "own-told", {"agent": OWN}))
    assert code == 201, made
    made["spec"]["agent"]["instructions"] = "y"
    made["spec"]["agent"]["tools"] = [{"type": "function", "name": "g", "route": {"nats": {}}}]
    made["spec"]["agent"]["session"] = {"tool_choice": "required"}
    assert call("PUT", f"{BASE}/voicesessions/own-told", made)[0] == 200
    made["spec"] = {"agentRef": {"name": "a"}}
    code, answer = call("PUT", f"{BASE}/voicesessions/own-told", made)
    assert code in (409, 422), answer


def test_operator_and_definition_agree_on_what_can_be_changed() -> None:
    rules = [*schema_rules("spec"), *(f"agent.{name}" for name in schema_rules("spec", "agent"))]
    properties = SESSION_SPEC["properties"]
    fixed = (properties.keys() - CHANGEABLE) | {
        f"agent.{name}" for name in properties["agent"]["properties"].keys() - CHANGEABLE_IN_AGENT
    }
    assert set(rules) == fixed


SESSION_SPEC = yaml.safe_load((CRDS / "voicesessions.yaml").read_text())["spec"]["versions"][0]["schema"][
    "openAPIV3Schema"
]["properties"]["spec"]


def schema_rules(*path: str) -> list[str]:
    """Fields that a transition rule holds fast."""
    schema = SESSION_SPEC if path == ("spec",) else SESSION_SPEC["properties"][path[1]]
    rules = schema["x-kubernetes-validations"]
    return [rule["fieldPath"].removeprefix(".") for rule in rules if "oldSelf" in rule["rule"]]


def test_the_time_to_live_of_a_session_can_be_changed(call: Call) -> None:
    code, made = create(call, thing("VoiceSession", "mortal", {"agentRef": {"name": "a"}}))
    assert code == 201, made
    made["spec"]["ttlSecondsAfterFinished"] = 60
    code, answer = call("PUT", f"{BASE}/voicesessions/mortal", made)
    assert code == 200, answer


def test_defaults_are_filled_in(call: Call) -> None:
    code, pool = create(call, thing("VoiceWorkerPool", "plain", {}))
    assert code == 201
    assert pool["spec"]["replicas"] == 1
    assert pool["spec"]["provider"] == {"allowedHosts": ["api.openai.com"]}


def test_a_fleet_may_be_said_in_numbers_or_shares(call: Call) -> None:
    spec = {
        "autoscaling": {"min": 0, "max": 4, "bufferSessions": 3},
        "updateStrategy": {"maxSurge": "50%", "machineGrace": "25s"},
        "recycle": {"maxAge": "1h30m", "maxMemory": "2Gi", "maxSessions": 5},
    }
    code, pool = create(call, thing("VoiceWorkerPool", "fleet", spec))
    assert code == 201, pool
    assert pool["spec"]["autoscaling"]["stabilization"] == "5m"
    code, pool = create(call, thing("VoiceWorkerPool", "shares", {"autoscaling": {"max": 4}}))
    assert code == 201, pool
    assert pool["spec"]["autoscaling"] == {
        "min": 1, "max": 4, "bufferSessions": "20%", "stabilization": "5m",
    }  # fmt: skip


def test_pools_scale(call: Call) -> None:
    create(call, thing("VoiceWorkerPool", "scaled", {"replicas": 1}))
    code, scale = call("GET", f"{BASE}/voiceworkerpools/scaled/scale")
    assert code == 200
    scale["spec"]["replicas"] = 3
    assert call("PUT", f"{BASE}/voiceworkerpools/scaled/scale", scale)[0] == 200
    assert call("GET", f"{BASE}/voiceworkerpools/scaled")[1]["spec"]["replicas"] == 3
