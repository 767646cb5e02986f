"""What the pool's owner allows sessions to do beside conversing, and what a worker is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley.control.v1 import control_pb2 as pb
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import AgentSpec, SessionSpec, parse_agent_spec, parse_pool_spec
from parley_operator.api.v1alpha1 import parse_session_spec as parse_session
from parley_operator.domain.checks import Problem, SecretView
from parley_operator.domain.conduct import Conduct, Materials, Needs
from parley_operator.domain.model import AdmitRequest
from parley_operator.domain.observation import Plan
from parley_operator.domain.subjects import PoolView, make_plan, needs_of
from parley_operator.workers.codec import admit_message

PROVIDER = {"type": "custom", "url": "ws://127.0.0.1:1", "model": "m"}
PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
POOL = {
    "provider": {"allowedHosts": ["127.0.0.1"]},
    "scenarios": {"allowSource": True},
    "tools": {"allowedHosts": ["hooks.example.com", "127.0.0.1", "plain.example:8080"]},
    "media": {"allowedHosts": ["m.example"], "directories": ["/media"]},
    "recordings": {"allowedHosts": ["minio:9000", "*.amazonaws.com"], "directories": ["/recordings"]},
}
HOOK = {"name": "hook"}
STORE = {"url": "s3://calls", "endpoint": "http://minio:9000", "credentialsSecretRef": {"name": "store"}}


def secret(name: str, purpose: str, hosts: str, **values: str) -> SecretView:
    return SecretView(
        name,
        {f"parley.dev/{purpose}-credentials": "true"},
        {f"parley.dev/{purpose}-hosts": hosts},
        {key: SecretText(text) for key, text in values.items()},
    )


STORE_KEYS = {"accessKeyId": "id-hidden", "secretAccessKey": "key-hidden"}
GIVEN = Materials(
    {
        "hook": secret("hook", "tool", "hooks.example.com", signingKey="sign-hidden"),
        "store": secret(
            "store", "recording", "minio:9000", accessKeyId="id-hidden", secretAccessKey="key-hidden"
        ),
    },
    {"survey": {"survey.py": "async def main(ctx): ...\n"}},
)


def parts(
    agent: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
) -> tuple[AgentSpec, SessionSpec, PoolView]:
    return (
        parse_agent_spec({"provider": PROVIDER, **(agent or {})}),
        parse_session({"agentRef": {"name": "a"}, **(spec or {})}),
        PoolView("media", "p", parse_pool_spec({**POOL, "allowedNamespaces": ["*"], **(pool or {})})),
    )


def plan(
    agent: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    given: Materials = GIVEN,
) -> Plan | Problem:
    who, what, where = parts(agent, spec, pool)
    return make_plan("ns", what, who, where, given)


def tool(**route: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "name": "t", "route": route}]}


def webhook(url: str, **more: Any) -> dict[str, Any]:
    return tool(webhook={"url": url, **more})


SOURCE = {"scenario": {"configMapRef": {"name": "survey", "key": "survey.py"}}}


@pytest.mark.parametrize(
    ("agent", "spec", "pool", "reason", "words"),
    [
        (
            webhook("https://evil.example/x"),
            {},
            {},
            "HostNotAllowed",
            "tools[0].route.webhook.url: host evil",
        ),
        (webhook("https://169.254.169.254/x"), {}, {}, "HostForbidden", "169.254.169.254"),
        (
            webhook("http://2852039166/x"),
            {},
            {"tools": {"allowedHosts": ["169.254.169.254"]}},
            "HostForbidden",
            "reserved",
        ),
        (webhook("http://hooks.example.com/x"), {}, {}, "PlaintextCredentials", "unencrypted"),
        (webhook("wss://hooks.example.com/x"), {}, {}, "InvalidSpec", "must begin with https:// or http://"),
        (webhook("https://u:hidden@hooks.example.com/"), {}, {}, "InvalidSpec", "must not hold a user name"),
        (
            webhook("https://hooks.example.com/", caBundle="nothing"),
            {},
            {},
            "InvalidSpec",
            "route.webhook.caBundle: holds no certificate",
        ),
        (tool(scenario={}), {}, {}, "InvalidSpec", "tools[0].route.scenario: the session has no scenario"),
        (SOURCE, {}, {"scenarios": {}}, "ScenarioSourceNotAllowed", "spec.scenarios.allowSource"),
        (
            {"scenario": {"entryPoint": "os:system"}},
            {},
            {"scenarios": {"entryPoints": ["shop.*", "survey:main"]}},
            "EntryPointNotAllowed",
            "scenario.entryPoint: os:system is not in the pool's",
        ),
        ({}, {"scenario": {"parameters": {}}}, {}, "InvalidSpec", "spec.scenario: has no code"),
        (
            {"goodbye": {"before": "1m", "text": "Bye."}},
            {"limits": {"maxDuration": "1m"}},
            {},
            "InvalidSpec",
            "goodbye.before: is 60 s, which is not less than spec.limits.maxDuration",
        ),
        (
            {},
            {"recording": {"volume": {"path": "/etc"}}},
            {},
            "DirectoryNotAllowed",
            "spec.recording.volume.path: /etc is not below one of the pool's",
        ),
        (
            {},
            {"recording": {"volume": {"path": "/recordings2"}}},
            {},
            "DirectoryNotAllowed",
            "/recordings2",
        ),
        (
            {},
            {"recording": {"s3": {**STORE, "endpoint": "https://evil.example"}}},
            {},
            "HostNotAllowed",
            "spec.recording.s3.endpoint: host evil.example:443",
        ),
    ],
)
def test_what_the_pool_does_not_allow_is_refused_before_anything_is_read(
    agent: dict[str, Any], spec: dict[str, Any], pool: dict[str, Any], reason: str, words: str
) -> None:
    for given in (GIVEN, Materials()):
        found = plan(agent, spec, pool, given)
        assert isinstance(found, Problem)
        assert found.reason == reason
        assert words in found.message
        assert "hidden" not in found.message


@pytest.mark.parametrize(
    ("agent", "spec", "given", "reason", "words"),
    [
        (
            webhook("https://hooks.example.com/", signingSecretRef={"name": "absent"}),
            {},
            {},
            "SecretNotFound",
            "signingSecretRef.name: Secret absent does not exist",
        ),
        (
            webhook("https://hooks.example.com/", signingSecretRef={"name": "hook"}),
            {},
            {"hook": secret("hook", "provider", "hooks.example.com", signingKey="x")},
            "SecretNotLabelled",
            "label it parley.dev/tool-credentials=true",
        ),
        (
            webhook("https://127.0.0.1/", signingSecretRef={"name": "hook"}),
            {},
            {},
            "SecretHostMismatch",
            "its annotation parley.dev/tool-hosts must name that host",
        ),
        (
            webhook("https://hooks.example.com/", signingSecretRef={"name": "hook", "key": "other"}),
            {},
            {},
            "SecretKeyMissing",
            "has no key other",
        ),
        (
            {},
            {"recording": {"s3": STORE}},
            {"store": secret("store", "recording", "minio:9000", accessKeyId="id-hidden")},
            "SecretKeyMissing",
            "has no key secretAccessKey",
        ),
        (
            {},
            {"recording": {"s3": {**STORE, "endpoint": ""}}},
            {},
            "SecretHostMismatch",
            "may not be sent to s3.us-east-1.amazonaws.com:443",
        ),
    ],
)
def test_secrets_go_only_where_they_are_meant_to(
    agent: dict[str, Any], spec: dict[str, Any], given: dict[str, Any], reason: str, words: str
) -> None:
    found = plan(agent, spec, given=replace(GIVEN, secrets={**GIVEN.secrets, **given}))
    assert isinstance(found, Problem)
    assert found.reason == reason
    assert words in found.message
    assert "hidden" not in found.message


@pytest.mark.parametrize(
    ("maps", "reason", "words"),
    [
        ({}, "ConfigMapNotFound", "configMapRef.name: ConfigMap survey does not exist in namespace ns"),
        ({"survey": {}}, "ConfigMapKeyMissing", "configMapRef.key: ConfigMap survey has no text under key"),
        ({"survey": {"survey.py": "#" * 262145}}, "ScenarioTooLarge", "has 262145 bytes"),
    ],
)
def test_source_that_cannot_be_had(maps: dict[str, dict[str, str]], reason: str, words: str) -> None:
    found = plan(SOURCE, given=Materials(config_maps=maps))
    assert isinstance(found, Problem)
    assert found.reason == reason
    assert words in found.message


def test_only_what_is_named_is_read() -> None:
    who, what, _ = parts(
        {
            **webhook("https://hooks.example.com/", signingSecretRef={"name": "hook"}),
            **SOURCE,
            "provider": {**PROVIDER, "credentialsSecretRef": {"name": "key"}},
        },
        {"recording": {"s3": STORE}},
    )
    assert needs_of(who, what) == Needs(frozenset({"hook", "store", "key"}), frozenset({"survey"}))
    bare, plain, _ = parts()
    assert needs_of(bare, plain) == Needs()


def test_the_sessions_scenario_stands_over_the_agents() -> None:
    agent = {"scenario": {"entryPoint": "a:b", "parameters": {"x": {"y": 1}}, "limits": {"timers": 5}}}
    merged = plan(agent, {"scenario": {"parameters": {"x": {"z": 2}}, "limits": {"memory": "64Mi"}}})
    assert isinstance(merged, Plan)
    assert merged.conduct.scenario is not None
    assert merged.conduct.scenario.parameters_json == '{"x":{"y":1,"z":2}}'
    assert merged.conduct.scenario.spec.entry_point == "a:b"
    assert merged.conduct.scenario.spec.limits.timers == 5
    assert merged.conduct.scenario.spec.limits.memory_bytes == 64 * 1024 * 1024
    other = plan(agent, {"scenario": {"entryPoint": "c:d"}})
    assert isinstance(other, Plan)
    assert other.conduct.scenario is not None
    assert (other.conduct.scenario.spec.entry_point, other.conduct.scenario.parameters_json) == ("c:d", "")


def admitted(found: Plan | Problem) -> pb.SessionConfig:
    assert isinstance(found, Plan), found
    request = AdmitRequest(
        "ns", "s", "u", 1, "i", found.provider, found.session_json, found.greet, found.spec.limits,
        b"", False, "", found.conduct,
    )  # fmt: skip
    return admit_message(request, 1).config


def test_a_worker_is_told_whose_account_pays() -> None:
    account = {"organization": "org-1", "project": "proj_1", "safetyIdentifier": "caller-7"}
    config = admitted(plan({}, {"provider": account}))
    assert dict(config.provider.headers) == {
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj_1",
        "OpenAI-Safety-Identifier": "caller-7",
    }


def test_a_worker_is_told_everything() -> None:
    agent = {
        "tools": [
            {"type": "function", "name": "hook", "parameters": {}, "route": {
                "webhook": {"url": "https://hooks.example.com/x", "signingSecretRef": HOOK, "caBundle": PEM},
                "timeout": "1500ms", "retries": 0, "cancelOnBargeIn": True, "maxOutputBytes": 9,
            }},
            {"type": "function", "name": "nats", "route": {"nats": {}}},
            {"type": "function", "name": "code", "route": {"scenario": {}}},
            {"type": "function", "name": "plain"},
            {"type": "mcp", "server_label": "docs"},
        ],
        **SOURCE,
        "greeting": {"text": "Hello."},
        "speaksFirst": True,
        "hangUp": {"tool": True, "phrases": ["bye"], "farewell": {"text": "Bye."}},
        "idle": {"after": "1500ms", "lines": [{"text": "Hello?"}]},
        "goodbye": {"before": "20s", "instructions": "Say it."},
    }  # fmt: skip
    spec = {
        "recording": {"format": "opus", "s3": {**STORE, "region": "eu"}},
        "recovery": {"webSocket": "Fail", "rotateAfter": "55m"},
        "trace": True,
    }
    found = plan(agent, spec)
    config = admitted(found)
    assert not config.greet, "the greeting is what is said first"
    assert '"route"' not in config.session_json
    assert '"mcp"' in config.session_json
    hook, nats, code, plain = config.tools
    assert (hook.name, hook.timeout.ToMilliseconds(), hook.max_output_bytes) == ("hook", 1500, 9)
    assert hook.cancel_on_barge_in
    assert (hook.webhook.url, hook.webhook.ca_pem) == ("https://hooks.example.com/x", PEM)
    assert hook.webhook.signing_key == "sign-hidden"
    assert (hook.webhook.HasField("retries"), hook.webhook.retries) == (True, 0)
    assert [route.WhichOneof("route") for route in (nats, code, plain)] == ["nats", "scenario", "caller"]
    assert config.scenario.source.startswith("async def main")
    assert (config.scenario.file_name, config.scenario.function) == ("survey.py", "main")
    told = config.behaviour
    assert (told.greeting.text, told.farewell.text, told.goodbye.instructions) == (
        "Hello.",
        "Bye.",
        "Say it.",
    )
    assert (told.idle_after.ToMilliseconds(), told.goodbye_before.ToMilliseconds()) == (1500, 20_000)
    assert (told.hang_up_tool, list(told.hang_up_phrases), told.idle_hang_up) == (True, ["bye"], True)
    assert (config.recording.format, config.recording.s3.region) == ("opus", "eu")
    assert config.recording.s3.access_key_id == "id-hidden"
    assert config.recording.s3.secret_access_key == "key-hidden"
    assert (config.recovery.restore, config.recovery.rotate_after.ToMilliseconds()) == (False, 3_300_000)
    assert (list(config.media_access.hosts), list(config.media_access.directories)) == (
        ["m.example"],
        ["/media"],
    )
    assert config.trace
    assert "hidden" not in repr(found)


def test_a_plain_session_tells_nothing_more_than_before() -> None:
    config = admitted(plan(pool={"media": {}}))
    for name in ("behaviour", "scenario", "recording", "media_access"):
        assert not config.HasField(name)
    assert not config.tools
    assert config.recovery.restore
    assert not config.trace
    assert admitted(plan({"speaksFirst": True})).greet
    assert Conduct().recovery.restore


def test_a_recording_goes_to_a_folder_below_a_listed_one() -> None:
    config = admitted(plan({}, {"recording": {"volume": {"path": "/recordings/team"}}}))
    assert config.recording.directory == "/recordings/team"


def test_azure_is_told_apart() -> None:
    key = SecretView(
        "key",
        {"parley.dev/provider-credentials": "true"},
        {"parley.dev/provider-hosts": "x.openai.azure.com"},
        {"apiKey": SecretText("hidden")},
    )
    provider = {"type": "azure", "url": "wss://x.openai.azure.com", "model": "deployment"}
    pool = {"provider": {"allowedHosts": ["*.openai.azure.com"]}}
    missing = plan({"provider": provider}, pool=pool)
    assert isinstance(missing, Problem)
    assert "credentialsSecretRef: is required for type azure" in missing.message
    full = {"provider": {**provider, "credentialsSecretRef": {"name": "key"}}}
    config = admitted(plan(full, pool=pool, given=Materials({"key": key})))
    assert (config.provider.type, config.provider.model) == ("azure", "deployment")
