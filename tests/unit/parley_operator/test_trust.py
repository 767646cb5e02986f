"""Hosts, credentials, namespaces: what may go where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_operator.api.fields import FieldError
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import PoolSpec, ProviderSpec, SecretRef, SessionSpec, parse_agent_spec
from parley_operator.domain.checks import (
    Problem,
    SecretView,
    check_credentials,
    check_host,
    check_namespace,
    check_plaintext,
)
from parley_operator.domain.conduct import Materials
from parley_operator.domain.hosts import canonical_host, is_forbidden, is_loopback, parse_url
from parley_operator.domain.merge import deep_merge, merge_provider, provider_headers, session_object
from parley_operator.domain.observation import Plan
from parley_operator.domain.subjects import PoolView, make_plan


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.16689662",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[64:ff9b::a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[64:ff9b:1::a9fe:a9fe]",
        "168.63.129.16",
        "0.0.0.0",
        "0",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "169.254.1.1",
        "100.100.100.200",
        "[::]",
        "224.0.0.1",
        "[::a9fe:a9fe]",
    ],
)
def test_reserved_addresses_are_refused_however_spelled_and_whoever_lists_them(host: str) -> None:
    endpoint = parse_url(f"http://{host}/x", "f")
    assert is_forbidden(endpoint.host)
    pool = PoolSpec(allowed_hosts=(host, endpoint.host, "*.internal"))
    found = check_host(endpoint, pool, "spec.provider.url")
    assert found is not None
    assert found.reason == "HostForbidden"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "127.1", "x.localhost"]
)
def test_loopback_needs_to_be_listed_exactly(host: str) -> None:
    endpoint = parse_url(f"ws://{host}:8765", "f")
    assert is_loopback(endpoint.host)
    wild = check_host(endpoint, PoolSpec(allowed_hosts=("*.localhost", "*.1")), "f")
    assert wild is not None
    assert wild.reason == "HostNotAllowed"
    listed = endpoint.host if ":" not in endpoint.host else f"[{endpoint.host}]"
    assert check_host(endpoint, PoolSpec(allowed_hosts=(listed,)), "f") is None


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        ("api.openai.com", "wss://api.openai.com/v1", True),
        ("api.openai.com", "wss://API.OpenAI.com./v1", True),
        ("api.openai.com", "wss://api.openai.com.evil.example", False),
        ("api.openai.com:443", "wss://api.openai.com:8443", False),
        ("api.openai.com:8o43", "wss://api.openai.com", False),
        ("api.openai.com:0", "wss://api.openai.com", False),
        ("api.openai.com:443/v1", "wss://api.openai.com", False),
        ("*.example.com", "wss://a.b.example.com", True),
        ("*.example.com", "wss://example.com", False),
        ("*.example.com", "wss://badexample.com", False),
        ("local.trial.svc:8765", "ws://local.trial.svc:8765", True),
        ("10.0.0.1", "ws://167772161", True),
        ("[2001:db8::1]:443", "wss://[2001:DB8:0::1]", True),
    ],
)
def test_the_list_of_hosts(entry: str, url: str, allowed: bool) -> None:
    found = check_host(parse_url(url, "f"), PoolSpec(allowed_hosts=(entry,)), "f")
    assert (found is None) == allowed


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "x",
        "wss://",
        "wss://user:pw@host",
        "wss://ho st",
        "wss://a%2eb",
        "wss://h:99999",
        "wss://a\\b",
        "wss://allowed@evil.example",
        "wss://allowed:80@evil.example",
        "wss://metadata\u3002google.internal",
        "wss://\uff11\uff16\uff19.254.169.254",
        "wss://xn--\u00e4.example.com",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(FieldError, match=r"^spec\.provider\.url: "):
        parse_url(url, "spec.provider.url")


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_spelling_of_an_address_is_one_host(value: int) -> None:
    octets = [(value >> shift) & 255 for shift in (24, 16, 8, 0)]
    dotted = ".".join(map(str, octets))
    tail = value & 0xFFFFFF
    spellings = {str(value), hex(value), dotted, ".".join(hex(o) for o in octets), f"{octets[0]}.{tail}"}
    assert {canonical_host(text) for text in spellings} == {dotted}


def test_a_url_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(FieldError) as caught:
        parse_url("wss://user:hunter2@host:99999", "spec.provider.url")
    assert "hunter2" not in str(caught.value)


def secret(**changes: Any) -> SecretView:
    values = {
        "name": "key",
        "labels": {"parley.dev/provider-credentials": "true"},
        "annotations": {"parley.dev/provider-hosts": "api.openai.com, *.example.com"},
        "values": {"apiKey": SecretText("sk-1234")},
    }
    return SecretView(**{**values, **changes})  # type: ignore[arg-type]


OPENAI = parse_url("wss://api.openai.com/v1/realtime", "f")


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (None, "SecretNotFound"),
        (secret(labels={}), "SecretNotLabelled"),
        (secret(labels={"parley.dev/provider-credentials": "false"}), "SecretNotLabelled"),
        (secret(annotations={}), "SecretHostMismatch"),
        (secret(annotations={"parley.dev/provider-hosts": "other.example"}), "SecretHostMismatch"),
        (secret(values={}), "SecretKeyMissing"),
        (secret(values={"apiKey": SecretText(" \n")}), "SecretKeyMissing"),
        (secret(values={"apiKey": SecretText("sk-\r\nX-Header: 1")}), "SecretKeyInvalid"),
    ],
)
def test_secrets_that_may_not_be_sent(view: SecretView | None, reason: str) -> None:
    found = check_credentials(SecretRef("key"), view, "ns", OPENAI, "spec.provider")
    assert isinstance(found, Problem)
    assert found.reason == reason
    assert found.message.startswith("spec.provider.credentialsSecretRef.")
    assert "sk-" not in found.message


def test_a_secret_that_may() -> None:
    found = check_credentials(SecretRef("key"), secret(), "ns", OPENAI, "spec.provider")
    assert isinstance(found, SecretText)
    assert found.reveal() == "sk-1234"


def test_keys_do_not_travel_in_the_clear() -> None:
    plain = parse_url("ws://local.trial.svc:8765", "f")
    assert check_plaintext(plain, PoolSpec(allowed_hosts=("local.trial.svc",)), "f") is not None
    assert check_plaintext(plain, PoolSpec(allowed_hosts=("*.trial.svc:8765",)), "f") is not None
    assert check_plaintext(plain, PoolSpec(allowed_hosts=("local.trial.svc:8765",)), "f") is None
    assert check_plaintext(OPENAI, PoolSpec(), "f") is None


def test_namespaces() -> None:
    assert check_namespace(PoolSpec(), "p", "mine", "mine") is None
    assert check_namespace(PoolSpec(allowed_namespaces=("*",)), "p", "mine", "other") is None
    assert check_namespace(PoolSpec(allowed_namespaces=("other",)), "p", "mine", "other") is None
    found = check_namespace(PoolSpec(allowed_namespaces=("third",)), "p", "mine", "other")
    assert found is not None
    assert "spec.poolRef" in found.message


def test_another_address_drops_the_agents_key() -> None:
    agent = ProviderSpec("custom", "wss://good.example", "ga", "m", SecretRef("key"))
    moved = merge_provider(agent, ProviderSpec(url="wss://evil.example"))
    assert moved.credentials is None
    assert merge_provider(agent, ProviderSpec(model="other")).credentials == SecretRef("key")
    assert merge_provider(agent, ProviderSpec(type="openai")).url == ""


def test_the_account_goes_into_headers_and_not_to_another_address() -> None:
    given = {"type": "openai", "organization": "org-1", "project": "proj_1", "safetyIdentifier": "caller-7"}
    agent = parse_agent_spec({"provider": given}).provider
    assert provider_headers(merge_provider(agent, ProviderSpec())) == {
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj_1",
        "OpenAI-Safety-Identifier": "caller-7",
    }
    own = merge_provider(agent, ProviderSpec(project="proj_2", safety_identifier="caller-8"))
    assert (own.project, own.safety_identifier) == ("proj_2", "caller-8")
    moved = merge_provider(agent, ProviderSpec(type="custom", url="wss://other.example"))
    assert provider_headers(moved) == {"OpenAI-Safety-Identifier": "caller-7"}


@pytest.mark.parametrize("bad", ["two words", "line\nbreak", "ünïcode", "x" * 257])
def test_what_no_header_can_carry_is_refused_with_its_field(bad: str) -> None:
    with pytest.raises(FieldError, match=r"^spec\.provider\.organization"):
        parse_agent_spec({"provider": {"type": "openai", "organization": bad}})


def test_openai_needs_a_key() -> None:
    agent = parse_agent_spec({"provider": {"type": "openai"}})
    found = make_plan("ns", SessionSpec(agent_ref="a"), agent, PoolView("ns", "p", PoolSpec()), Materials())
    assert isinstance(found, Problem)
    assert found.reason == "CredentialsMissing"


def test_a_plan_holds_what_the_worker_runs() -> None:
    agent = parse_agent_spec(
        {
            "provider": {"type": "openai", "credentialsSecretRef": {"name": "key"}},
            "instructions": "Hi",
            "voice": "slt",
            "speaksFirst": True,
        }
    )
    spec = SessionSpec(agent_ref="a", session={"instructions": "Bye"})
    found = make_plan("ns", spec, agent, PoolView("ns", "p", PoolSpec()), Materials({"key": secret()}))
    assert isinstance(found, Plan)
    assert found.provider.url == "wss://api.openai.com/v1/realtime"
    assert found.provider.api_key.reveal() == "sk-1234"
    assert found.greet
    assert '"Bye"' in found.session_json


def test_sessions_merge_over_agents() -> None:
    assert deep_merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None, "e": 3}, "d": [2]}) == {
        "a": {"c": 2, "e": 3},
        "d": [2],
    }
    agent = parse_agent_spec({"provider": {"type": "custom", "url": "ws://x"}, "voice": "v"})
    spec = SessionSpec(agent_ref="a", session={"audio": {"output": {"speed": 1.1}}})
    assert session_object(agent, spec, "ga") == {
        "type": "realtime",
        "audio": {"output": {"voice": "v", "speed": 1.1}},
    }
    assert session_object(agent, SessionSpec(agent_ref="a"), "beta") == {"voice": "v"}
