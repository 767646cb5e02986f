"""Tools, scenarios, behaviour and recordings in the CRDs, on a real API server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import e2e_desk
import pytest
from parley_operator.api.v1alpha1 import parse_agent_spec, parse_pool_spec, parse_session_spec

# The first test waits for the API server.
pytestmark = pytest.mark.timeout(240)
Call = Callable[..., tuple[int, dict[str, Any]]]
BASE = "/apis/parley.dev/v1alpha1/namespaces/default"
PLURALS = {
    "VoiceSession": "voicesessions",
    "VoiceAgent": "voiceagents",
    "VoiceWorkerPool": "voiceworkerpools",
}
PARSERS: dict[str, Callable[[object], object]] = {
    "VoiceSession": parse_session_spec,
    "VoiceAgent": parse_agent_spec,
    "VoiceWorkerPool": parse_pool_spec,
}
OPENAI = {"type": "openai", "apiVersion": "ga", "credentialsSecretRef": {"name": "k"}}
AZURE = {"type": "azure", "apiVersion": "beta", "url": "https://x.openai.azure.com"}
PROVIDER = {"provider": OPENAI}
REF = {"agentRef": {"name": "a"}}
STORE = {"url": "s3://calls/eu", "credentialsSecretRef": {"name": "store"}}

AGENT: dict[str, Any] = {
    **PROVIDER,
    "tools": [
        {
            "type": "function",
            "name": "order",
            "description": "Order.",
            "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
            "route": {
                "webhook": {
                    "url": "https://shop.example/order",
                    "signingSecretRef": {"name": "hook"},
                    "caBundle": "pem",
                },
                "timeout": "5s",
                "retries": 1,
                "cancelOnBargeIn": True,
                "maxOutputBytes": 1024,
            },
        },
        {"type": "function", "name": "weather", "route": {"nats": {}}},
        {"type": "function", "name": "book", "route": {"scenario": {}}},
        {"type": "function", "name": "ask", "route": {"caller": {}}},
        {"type": "function", "name": "plain"},
        {
            "type": "mcp",
            "server_label": "docs",
            "server_url": "https://m.example",
            "require_approval": "never",
        },
    ],
    "greeting": {"text": "Hello."},
    "hangUp": {"tool": True, "phrases": ["goodbye"], "farewell": {"instructions": "Say goodbye."}},
    "idle": {"after": "10s", "lines": [{"text": "Are you still there?"}], "hangUp": True},
    "goodbye": {"before": "20s", "text": "Our time is up."},
    "scenario": {
        "configMapRef": {"name": "survey", "key": "survey.py"},
        "function": "run",
        "parameters": {"questions": [1, {"two": True}]},
        "limits": {"handlerTimeout": "2s", "memory": "128Mi", "timers": 5, "eventsPerSecond": 50},
    },
}
SESSION: dict[str, Any] = {
    **REF,
    "scenario": {"parameters": {"queue": "sales"}},
    "recording": {"format": "opus", "s3": {**STORE, "endpoint": "http://minio:9000", "region": "eu-1"}},
    "recovery": {"policy": "Fail", "webSocket": "Restore", "keepPrivate": True, "rotateAfter": "55m"},
    "trace": True,
}
POOL: dict[str, Any] = {
    "scenarios": {"allowSource": True, "entryPoints": ["shop.*", "survey:main"]},
    "tools": {"allowedHosts": ["*.example"]},
    "media": {"allowedHosts": ["m.example:443"], "directories": ["/media"]},
    "recordings": {"allowedHosts": ["minio:9000"], "directories": ["/recordings"]},
}


def create(call: Call, kind: str, name: str, spec: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    body = {"apiVersion": "parley.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return call("POST", f"{BASE}/{PLURALS[kind]}?fieldValidation=Strict", body)


@pytest.mark.parametrize(
    ("kind", "name", "spec"),
    [
        ("VoiceAgent", "everything", AGENT),
        ("VoiceAgent", "azure", {"provider": AZURE}),
        ("VoiceSession", "everything", SESSION),
        ("VoiceSession", "inline", {"agent": AGENT, "recording": {"volume": {"path": "/recordings"}}}),
        ("VoiceSession", "entry", {**REF, "scenario": {"entryPoint": "shop.calls:main"}}),
        ("VoiceWorkerPool", "everything", POOL),
    ],
)
def test_what_the_api_server_takes_the_operator_understands(
    call: Call, kind: str, name: str, spec: dict[str, Any]
) -> None:
    code, made = create(call, kind, f"conduct-{name}", spec)
    assert code == 201, made
    assert PARSERS[kind](made["spec"]) == PARSERS[kind](spec)


def tool(route: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**PROVIDER, "tools": [{"type": "function", "name": "t", "route": route, **more}]}


def agent(**spec: Any) -> dict[str, Any]:
    return {**PROVIDER, **spec}


def session(**spec: Any) -> dict[str, Any]:
    return {**REF, **spec}


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"),
    [
        ("VoiceAgent", tool({}), "spec.tools[0].route", "exactly one of caller, nats, webhook and scenario"),
        ("VoiceAgent", tool({"nats": {}, "caller": {}}), "spec.tools[0].route", "exactly one of"),
        ("VoiceAgent", tool({"nats": {}, "tempo": 1}), "spec.tools[0].route.tempo", "unknown field"),
        ("VoiceAgent", tool({"nats": {"subject": "x"}}), "spec.tools[0].route.nats.subject", "unknown field"),
        ("VoiceAgent", tool({"nats": {}, "retries": 1}), "spec.tools[0].route.retries", "only for webhook"),
        ("VoiceAgent", tool({"webhook": {}}), "spec.tools[0].route.webhook.url", "Required value"),
        (
            "VoiceAgent",
            tool({"webhook": {"url": "ftp://x"}}),
            "spec.tools[0].route.webhook.url",
            "should match",
        ),
        (
            "VoiceAgent",
            tool({"nats": {}}, type="mcp"),
            "spec.tools[0].route",
            "only for tools of type function",
        ),
        ("VoiceAgent", tool({"nats": {}}, name=None), "spec.tools[0].name", "name is required"),
        ("VoiceAgent", tool({"nats": {}}, name="a b"), "spec.tools[0].name", "should match"),
        ("VoiceAgent", agent(greeting={}), "spec.greeting", "exactly one of text and instructions"),
        ("VoiceAgent", agent(idle={"lines": [{"text": "x"}]}), "spec.idle.after", "Required value"),
        ("VoiceAgent", agent(idle={"after": "1s", "hangUp": False}), "spec.idle", "does nothing"),
        ("VoiceAgent", agent(idle={"after": "1s", "lines": [{}]}), "spec.idle.lines[0]", "exactly one of"),
        (
            "VoiceAgent",
            agent(goodbye={"before": "1s"}),
            "spec.goodbye",
            "exactly one of text and instructions",
        ),
        ("VoiceAgent", agent(scenario={}), "spec.scenario", "exactly one of entryPoint and configMapRef"),
        ("VoiceAgent", agent(scenario={"entryPoint": "a"}), "spec.scenario.entryPoint", "should match"),
        (
            "VoiceAgent",
            agent(scenario={"entryPoint": "a:b", "function": "c"}),
            "spec.scenario.function",
            "only for configMapRef",
        ),
        (
            "VoiceSession",
            session(
                scenario={"entryPoint": "a:b", "configMapRef": {"name": "m", "key": "k"}},
            ),
            "spec.scenario",
            "at most one of entryPoint and configMapRef",
        ),
        ("VoiceSession", session(recording={}), "spec.recording", "exactly one of volume and s3"),
        (
            "VoiceSession",
            session(recording={"volume": {"path": "/r"}, "s3": STORE}),
            "spec.recording",
            "exactly one of volume and s3",
        ),
        (
            "VoiceSession",
            session(privacy=True, recording={"volume": {"path": "/r"}}),
            "spec.recording",
            "cannot be given together with privacy",
        ),
        (
            "VoiceSession",
            session(privacy=True, trace=True),
            "spec.trace",
            "cannot be given together with privacy",
        ),
        (
            "VoiceSession",
            session(recording={"volume": {"path": "/r/../etc"}}),
            "spec.recording.volume.path",
            "must be an absolute path without",
        ),
        (
            "VoiceSession",
            session(recording={"s3": {"url": "s3://calls"}}),
            "spec.recording.s3.credentialsSecretRef",
            "Required value",
        ),
        (
            "VoiceSession",
            session(recording={"s3": {**STORE, "url": "https://x"}}),
            "spec.recording.s3.url",
            "should match",
        ),
        (
            "VoiceSession",
            session(recovery={"webSocket": "Resume"}),
            "spec.recovery.webSocket",
            "Unsupported value",
        ),
        (
            "VoiceWorkerPool",
            {"tools": {"allowedHosts": ["a b"]}},
            "spec.tools.allowedHosts[0]",
            "should match",
        ),
        ("VoiceWorkerPool", {"media": {"directories": ["x"]}}, "spec.media.directories[0]", "should match"),
        (
            "VoiceWorkerPool",
            {"scenarios": {"entryPoints": ["a b"]}},
            "spec.scenarios.entryPoints[0]",
            "should match",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_both_with_the_field(
    call: Call, kind: str, spec: dict[str, Any], field: str, words: str
) -> None:
    if "tools" in spec and isinstance(spec["tools"], list) and spec["tools"][0].get("name") is None:
        spec["tools"][0].pop("name")
    code, answer = create(call, kind, "bad", spec)
    assert code in (400, 422), answer
    assert field in answer["message"]
    assert words in answer["message"]


def test_rules_of_a_plain_pool(call: Call) -> None:
    code, pool = create(call, "VoiceWorkerPool", "conduct-plain", {"scenarios": {}})
    assert code == 201, pool
    assert pool["spec"]["scenarios"] == {"allowSource": False, "entryPoints": ["*"]}


def test_parameters_of_a_scenario_cannot_be_changed(call: Call) -> None:
    spec = session(scenario={"entryPoint": "a:b", "parameters": {"x": {"y": 1}}})
    code, made = create(call, "VoiceSession", "conduct-fixed", spec)
    assert code == 201, made
    made["spec"]["scenario"]["parameters"]["x"]["y"] = 2
    code, answer = call("PUT", f"{BASE}/voicesessions/conduct-fixed", made)
    assert code == 422, answer
    assert "scenario cannot be changed" in answer["message"]


def test_the_status_holds_where_telephony_attaches(call: Call) -> None:
    code, made = create(call, "VoiceSession", "conduct-phone", REF)
    assert code == 201, made
    patch = {"status": {"telephonyEndpoint": "wss://10.0.0.1:50200/twilio"}}
    code, answer = call(
        "PATCH", f"{BASE}/voicesessions/conduct-phone/status", patch, "application/merge-patch+json"
    )
    assert code == 200, answer
    assert answer["status"] == patch["status"]


CORE = {
    "ConfigMap": "/api/v1/namespaces/default/configmaps",
    "Service": "/api/v1/namespaces/default/services",
    "Pod": "/api/v1/namespaces/default/pods",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
}


def test_the_desk_of_the_end_to_end_tests_is_accepted(call: Call) -> None:
    provider = {"type": "custom", "apiVersion": "ga", "url": "ws://p:8765/v1/realtime", "model": "m"}
    template = {"spec": {"containers": [{"name": "worker", "resources": {}}]}}
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("VoiceWorkerPool", e2e_desk.pool_rules(template, ["p:8765"])),
        ("VoiceAgent", {"provider": provider, **e2e_desk.behaviour()}),
        ("VoiceSession", e2e_desk.session_spec()),
        ("VoiceSession", {"agentRef": {"name": "echo"}, **e2e_desk.scenario_spec("123456")}),
    ]
    for number, (kind, spec) in enumerate(wanted):
        code, made = create(call, kind, f"desk-{number}", spec)
        assert code == 201, made
        PARSERS[kind](made["spec"])
    source = e2e_desk.config_map("codes", **{"codes.py": e2e_desk.SCENARIO})
    for body in (*e2e_desk.provider("image:1"), source):
        path = f"{CORE[body['kind']]}?dryRun=All&fieldValidation=Strict"
        code, made = call("POST", path, body)
        assert code == 201, made
    compile(e2e_desk.SCENARIO, "codes.py", "exec")
