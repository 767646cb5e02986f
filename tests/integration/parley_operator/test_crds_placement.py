"""Placement on a real API server: what is accepted, what is refused, what `kubectl get` shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from parley_operator.api.v1alpha1 import parse_pool_spec, parse_session_spec
from parley_operator.domain.placement.desk import WaitReason

pytestmark = pytest.mark.timeout(240)
Call = Callable[..., tuple[int, dict[str, Any]]]
BASE = "/apis/parley.dev/v1alpha1/namespaces/default"
AGENT = {"agentRef": {"name": "a"}}


def create(call: Call, kind: str, name: str, spec: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    plural = {"VoiceSession": "voicesessions", "VoiceWorkerPool": "voiceworkerpools"}[kind]
    body = {"apiVersion": "parley.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return call("POST", f"{BASE}/{plural}?fieldValidation=Strict", body)


def test_what_is_stored_is_what_the_operator_reads(call: Call) -> None:
    labels = {"example.com/tier": "gold", "empty": ""}
    selectors = [{"zone": "z1", "matchLabels": labels}, {"pool": {"namespace": "n"}}, {}]
    code, session = create(call, "VoiceSession", "choosy", {**AGENT, "selectors": selectors})
    assert code == 201, session
    found = parse_session_spec(session["spec"]).selectors
    assert [(s.zone, dict(s.labels)) for s in found] == [("z1", labels), ("", {}), ("", {})]
    assert found[1].pool is not None
    assert (found[1].pool.name, found[1].pool.namespace) == ("default", "n")
    spec = {
        "placement": {"zones": ["b", "a"]},
        "quotas": [{"namespace": "shop", "maxSessions": 3}, {"namespace": "*", "whenExceeded": "Refuse"}],
    }
    code, pool = create(call, "VoiceWorkerPool", "divided-for-a-test", spec)
    assert code == 201, pool
    read = parse_pool_spec(pool["spec"])
    assert (read.placement.policy, read.placement.zones) == ("Packed", ("b", "a"))
    assert [(q.namespace, q.most, q.weight, q.refuse) for q in read.quotas] == [
        ("shop", 3, 1, False), ("*", None, 1, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"),
    [
        ("VoiceSession", {**AGENT, "selectors": []}, "spec.selectors", "at least 1 items"),
        ("VoiceSession", {**AGENT, "selectors": [{}] * 9}, "spec.selectors", "at most 8 items"),
        ("VoiceSession", {**AGENT, "selectors": [{"zone": "a/b"}]}, "spec.selectors[0].zone", "should match"),
        (
            "VoiceSession",
            {**AGENT, "selectors": [{"pool": {"name": "A"}}]},
            "spec.selectors[0].pool.name",
            "should match",
        ),
        ("VoiceSession", {**AGENT, "selectors": [{"labels": {}}]}, "labels", "unknown field"),
        (
            "VoiceSession",
            {**AGENT, "selectors": [{"matchLabels": {"a": "x y"}}]},
            "spec.selectors[0].matchLabels.a",
            "should match",
        ),
        (
            "VoiceWorkerPool",
            {"placement": {"policy": "Random"}},
            "spec.placement.policy",
            "Unsupported value",
        ),
        (
            "VoiceWorkerPool",
            {"placement": {"zones": ["a", "a"]}},
            "spec.placement.zones[1]",
            "Duplicate value",
        ),
        ("VoiceWorkerPool", {"quotas": [{}]}, "spec.quotas[0].namespace", "Required value"),
        ("VoiceWorkerPool", {"quotas": [{"namespace": "A"}]}, "spec.quotas[0].namespace", "should match"),
        (
            "VoiceWorkerPool",
            {"quotas": [{"namespace": "a"}, {"namespace": "a"}]},
            "spec.quotas[1]",
            "Duplicate value",
        ),
        (
            "VoiceWorkerPool",
            {"quotas": [{"namespace": "a", "weight": 101}]},
            "spec.quotas[0].weight",
            "less than or equal to 100",
        ),
        (
            "VoiceWorkerPool",
            {"quotas": [{"namespace": "a", "maxSessions": -1}]},
            "spec.quotas[0].maxSessions",
            "greater than or equal to 0",
        ),
    ],
)
def test_bad_placement_is_refused_with_the_field(
    call: Call, kind: str, spec: dict[str, Any], field: str, words: str
) -> None:
    code, answer = create(call, kind, "bad-placement", spec)
    assert code in (400, 422), answer
    assert field in answer["message"]
    assert words in answer["message"]


def test_the_place_in_the_queue_is_a_column(call: Call) -> None:
    code, made = create(call, "VoiceSession", "queued", AGENT)
    assert code == 201, made
    path = f"{BASE}/voicesessions/queued"
    for reason in WaitReason:
        queue = {
            "position": 7, "length": 9, "reason": reason.value, "deadline": "2026-11-26T12:00:30Z",
            "time": "2026-11-26T12:00:00Z",
        }  # fmt: skip
        code, answer = call(
            "PATCH", f"{path}/status", {"status": {"queue": queue}}, "application/merge-patch+json"
        )
        assert code == 200, answer
        assert answer["status"]["queue"] == queue
    code, crd = call(
        "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/voicesessions.parley.dev"
    )
    assert code == 200
    columns = {c["name"]: c["jsonPath"] for c in crd["spec"]["versions"][0]["additionalPrinterColumns"]}
    assert columns["Queue"] == ".status.queue.position"
