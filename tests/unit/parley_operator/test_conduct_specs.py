"""What an agent does beside conversing, as it is written, and the rules of its pool."""

from __future__ import annotations

from typing import Any

import pytest
from parley_operator.api.conduct import (
    BehaviourSpec,
    LineSpec,
    RecordingSpec,
    RecoverySpec,
    ScenarioLimitsSpec,
    ScenarioSpec,
)
from parley_operator.api.fields import FieldError
from parley_operator.api.references import ConfigMapRef, SecretRef
from parley_operator.api.tools import RouteSpec
from parley_operator.api.v1alpha1 import (
    AgentSpec,
    Places,
    ScenarioRules,
    parse_agent_spec,
    parse_pool_spec,
    parse_session_spec,
)

PROVIDER = {"type": "custom", "url": "ws://127.0.0.1:1"}
KEYS = {"credentialsSecretRef": {"name": "k"}}


def agent(**spec: Any) -> AgentSpec:
    return parse_agent_spec({"provider": PROVIDER, **spec})


def function(name: str, **route: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {}, **({"route": route} if route else {})}


def test_routes_are_taken_from_the_tools_and_never_shown_to_the_provider() -> None:
    webhook = {"url": "https://h/x", "signingSecretRef": {"name": "s"}, "caBundle": "pem"}
    mcp = {"type": "mcp", "server_label": "docs", "server_url": "https://m"}
    found = agent(
        tools=[
            function("plain"),
            function("weather", nats={}, timeout="2s", cancelOnBargeIn=True, maxOutputBytes=10),
            function("order", webhook=webhook, retries=0),
            function("book", scenario={}),
            {"name": "short", "route": {"caller": {}}},
            mcp,
        ]
    ).tools
    signing = SecretRef("s", "signingKey")
    assert [tool.route for tool in found] == [
        RouteSpec(),
        RouteSpec("nats", timeout=2.0, max_output_bytes=10, cancel_on_barge_in=True),
        RouteSpec("webhook", url="https://h/x", signing=signing, ca_pem="pem", retries=0),
        RouteSpec("scenario"),
        RouteSpec("caller"),
        None,
    ]
    assert all("route" not in tool.definition for tool in found)
    assert found[4].definition == {"type": "function", "name": "short"}
    assert found[5].definition == mcp


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        (["x"], "spec.tools[0]: must be an object"),
        ([function("a b", nats={})], "spec.tools[0].name: 'a b' is not a function's name"),
        ([{"type": "function", "route": {"nats": {}}}], "spec.tools[0].name: ''"),
        ([function("a"), function("a")], "spec.tools[1].name: 'a' is the name of an earlier tool"),
        (
            [function("a", timeout="1s")],
            "spec.tools[0].route: exactly one of caller, nats, webhook,",
        ),
        ([function("a", nats={}, caller={})], "spec.tools[0].route: exactly one of"),
        ([function("a", nats={}, tempo=1)], "spec.tools[0].route.tempo: is not a known field"),
        ([function("a", nats={"subject": "x"})], "spec.tools[0].route.nats.subject: is not a known field"),
        ([function("a", nats={}, retries=1)], "spec.tools[0].route.retries: is only for webhook"),
        ([function("a", nats={}, timeout="6m")], "spec.tools[0].route.timeout: is 360 s; at most 300 s"),
        ([function("a", webhook={})], "spec.tools[0].route.webhook.url: is required"),
        ([{"type": "mcp", "route": {"nats": {}}}], "spec.tools[0].route: is only for type function"),
    ],
)
def test_tools_that_cannot_be(tools: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        agent(tools=tools)
    assert words in str(caught.value)


def test_a_route_in_a_passed_through_session_is_refused() -> None:
    tools = {"tools": [function("a", nats={})]}
    with pytest.raises(FieldError, match=r"^spec\.session\.tools\[0\]\.route: is not passed through"):
        agent(session=tools)
    with pytest.raises(FieldError, match=r"^spec\.session\.tools\[0\]\.route: is not passed through"):
        parse_session_spec({"agentRef": {"name": "a"}, "session": tools})


def test_behaviour() -> None:
    found = agent(
        greeting={"text": "Hello."},
        hangUp={"tool": True, "phrases": ["goodbye"], "farewell": {"instructions": "Say goodbye."}},
        idle={"after": "10s", "lines": [{"text": "Are you still there?"}], "hangUp": False},
        goodbye={"before": "20s", "text": "Our time is up."},
    ).behaviour
    assert found == BehaviourSpec(
        greeting=LineSpec("Hello."),
        hang_up_tool=True,
        hang_up_phrases=("goodbye",),
        farewell=LineSpec(instructions="Say goodbye."),
        idle_after=10.0,
        idle_lines=(LineSpec("Are you still there?"),),
        idle_hang_up=False,
        goodbye_before=20.0,
        goodbye=LineSpec("Our time is up."),
    )
    assert agent().behaviour == BehaviourSpec()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"greeting": {}}, "spec.greeting: exactly one of text and instructions"),
        ({"greeting": {"text": "a", "instructions": "b"}}, "spec.greeting: exactly one of"),
        ({"greeting": {"text": "a", "loud": True}}, "spec.greeting.loud: is not a known field"),
        ({"idle": {"lines": []}}, "spec.idle.after: is required"),
        ({"idle": {"after": "0s"}}, "spec.idle.after: is required and must be more than 0s"),
        ({"idle": {"after": "1s", "hangUp": False}}, "spec.idle: does nothing"),
        ({"idle": {"after": "1s", "lines": [{}]}}, "spec.idle.lines[0]: exactly one of"),
        ({"goodbye": {"text": "a"}}, "spec.goodbye.before: is required"),
        ({"goodbye": {"before": "1s"}}, "spec.goodbye: exactly one of"),
        ({"hangUp": {"phrases": [" "]}}, "spec.hangUp.phrases[0]: must be words"),
        ({"hangUp": {"tools": True}}, "spec.hangUp.tools: is not a known field"),
    ],
)
def test_behaviour_that_cannot_be(spec: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        agent(**spec)
    assert words in str(caught.value)


def test_scenarios() -> None:
    found = agent(
        scenario={
            "configMapRef": {"name": "survey", "key": "survey.py"},
            "function": "run",
            "parameters": {"questions": 3},
            "limits": {"handlerTimeout": "2s", "memory": "128Mi", "timers": 5, "eventsPerSecond": 50},
        }
    ).scenario
    assert found == ScenarioSpec(
        source=ConfigMapRef("survey", "survey.py"),
        function="run",
        parameters={"questions": 3},
        limits=ScenarioLimitsSpec(2.0, 128 * 1024 * 1024, 5, 50),
    )
    plain = parse_session_spec({"agentRef": {"name": "a"}, "scenario": {"parameters": {"a": 1}}}).scenario
    assert plain == ScenarioSpec(parameters={"a": 1})


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ({}, "spec.scenario: exactly one of entryPoint and configMapRef"),
        ({"entryPoint": "a:b", "configMapRef": {"name": "m", "key": "k"}}, "spec.scenario: exactly one of"),
        ({"entryPoint": "a.b"}, "spec.scenario.entryPoint: 'a.b' is not an entry point"),
        ({"entryPoint": "a:b", "function": "c"}, "spec.scenario.function: cannot be used"),
        ({"configMapRef": {"name": "m"}}, "spec.scenario.configMapRef.key: is required"),
        ({"configMapRef": {"name": "m", "key": "k"}, "function": "a b"}, "spec.scenario.function: cannot be"),
        ({"entryPoint": "a:b", "limits": {"memory": "8Mi"}}, "spec.scenario.limits.memory: '8Mi'"),
        ({"entryPoint": "a:b", "limits": {"memory": "lots"}}, "spec.scenario.limits.memory: 'lots'"),
        ({"entryPoint": "a:b", "limits": {"handlerTimeout": "2m"}}, "spec.scenario.limits.handlerTimeout"),
        ({"entryPoint": "a:b", "limits": {"cpu": 1}}, "spec.scenario.limits.cpu: is not a known field"),
        ({"entryPoint": "a:b", "parameters": {"a": "x" * 65536}}, "spec.scenario.parameters: is larger"),
    ],
)
def test_scenarios_that_cannot_be(scenario: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        agent(scenario=scenario)
    assert words in str(caught.value)


def session(**spec: Any) -> Any:
    return parse_session_spec({"agentRef": {"name": "a"}, **spec})


def test_recordings() -> None:
    assert session(recording={"volume": {"path": "/recordings/"}}).recording == RecordingSpec(
        directory="/recordings"
    )
    store = {"url": "s3://calls/eu", "endpoint": "https://minio:9000", "region": "eu-1", **KEYS}
    assert session(recording={"format": "opus", "s3": store}).recording == RecordingSpec(
        "opus", "", "s3://calls/eu", "https://minio:9000", "eu-1", "k"
    )
    assert session().recording is None


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        ({}, "spec.recording: exactly one of volume and s3"),
        ({"volume": {"path": "/r"}, "s3": {"url": "s3://calls", **KEYS}}, "spec.recording: exactly one of"),
        ({"volume": {}}, "spec.recording.volume.path: is required"),
        ({"volume": {"path": "r"}}, "spec.recording.volume.path: 'r' is not an absolute path"),
        ({"volume": {"path": "/r/../etc"}}, "spec.recording.volume.path: '/r/../etc'"),
        ({"format": "mp3", "volume": {"path": "/r"}}, "spec.recording.format: 'mp3' is not supported"),
        ({"s3": {"url": "https://x", **KEYS}}, "spec.recording.s3.url: 'https://x' is no place"),
        ({"s3": {"url": "s3://calls/../x", **KEYS}}, "spec.recording.s3.url"),
        ({"s3": {"url": "s3://calls"}}, "spec.recording.s3.credentialsSecretRef: is required"),
    ],
)
def test_recordings_that_cannot_be(recording: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        session(recording=recording)
    assert words in str(caught.value)


def test_a_private_session_is_not_recorded() -> None:
    with pytest.raises(FieldError, match=r"^spec\.recording: cannot be given together with privacy"):
        session(privacy=True, recording={"volume": {"path": "/r"}})


def test_a_private_session_is_not_traced() -> None:
    assert session(trace=True).trace
    with pytest.raises(FieldError, match=r"^spec\.trace: cannot be given together with privacy"):
        session(privacy=True, trace=True)


def test_recovery() -> None:
    assert session().recovery == RecoverySpec()
    given = {"policy": "Fail", "webSocket": "Fail", "keepPrivate": True, "rotateAfter": "55m"}
    assert session(recovery=given).recovery == RecoverySpec(False, True, 3300.0)
    with pytest.raises(FieldError, match=r"^spec\.recovery\.webSocket: 'Resume' is not supported"):
        session(recovery={"webSocket": "Resume"})


def test_rules_of_a_pool() -> None:
    plain = parse_pool_spec({})
    assert plain.scenarios == ScenarioRules(source=False, entry_points=("*",))
    assert (plain.tool_hosts, plain.media, plain.recordings) == ((), Places(), Places())
    found = parse_pool_spec(
        {
            "scenarios": {"allowSource": True, "entryPoints": ["shop.*"]},
            "tools": {"allowedHosts": ["*.example.com"]},
            "media": {"allowedHosts": ["m.example"], "directories": ["/media/"]},
            "recordings": {"allowedHosts": ["minio:9000"], "directories": ["/recordings"]},
        }
    )
    assert found.scenarios == ScenarioRules(True, ("shop.*",))
    assert found.tool_hosts == ("*.example.com",)
    assert found.media == Places(("m.example",), ("/media",))
    assert found.recordings == Places(("minio:9000",), ("/recordings",))
    with pytest.raises(FieldError, match=r"^spec\.media\.directories\[0\]: 'x' is not an absolute path"):
        parse_pool_spec({"media": {"directories": ["x"]}})
    with pytest.raises(FieldError, match=r"^spec\.tools\.directories: is not a known field"):
        parse_pool_spec({"tools": {"directories": ["/x"]}})


def test_azure_needs_its_address() -> None:
    with pytest.raises(FieldError, match=r"^spec\.provider\.url: is required when type is azure"):
        parse_agent_spec({"provider": {"type": "azure", "model": "m"}})
