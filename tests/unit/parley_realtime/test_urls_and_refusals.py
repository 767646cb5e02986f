"""Addresses, headers and which error a refusal is."""

from __future__ import annotations

import pytest
from parley_realtime import (
    AuthenticationError,
    BetaShapeDisabled,
    ClientType,
    ModelRefusedError,
    ProtocolError,
    ProviderError,
    QuotaError,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    SessionExpired,
    UnavailableError,
)
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.refusals import ErrorDetail, from_close, from_status
from parley_realtime.protocol.shape import Shape
from parley_realtime.protocol.urls import realtime_url


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.openai.com/", "wss://api.openai.com/v1/realtime?model=m"),
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/realtime?model=m"),
        ("wss://host", "wss://host/v1/realtime?model=m"),
        ("WS://Host:1/", "ws://host:1/v1/realtime?model=m"),
        ("https://host/gateway", "wss://host/gateway/v1/realtime?model=m"),
        ("https://host/v1", "wss://host/v1/realtime?model=m"),
        ("https://host/openai/realtime", "wss://host/openai/realtime?model=m"),
        (
            "https://host/openai/realtime?api-version=2025-04-01-preview&deployment=d",
            "wss://host/openai/realtime?api-version=2025-04-01-preview&deployment=d",
        ),
        ("wss://host/v1/realtime/?key=1", "wss://host/v1/realtime?key=1&model=m"),
        ("http://[::1]:9", "ws://[::1]:9/v1/realtime?model=m"),
    ],
)
def test_url(base: str, url: str) -> None:
    assert realtime_url(base, "m", ClientType.REALTIME) == url


def test_url_of_transcription_names_no_model_and_models_are_quoted() -> None:
    assert (
        realtime_url("http://h", "m", ClientType.TRANSCRIPTION) == "ws://h/v1/realtime?intent=transcription"
    )
    assert (
        realtime_url("http://h", "a b&c/d", ClientType.REALTIME) == "ws://h/v1/realtime?model=a%20b%26c%2Fd"
    )


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("ftp://host", "must start with"),
        ("host:80", "must start with"),
        ("", "must start with"),
        ("https:///path", "no host"),
        ("https://user:pass@host", "credentials"),
        ("https://host/#x", "fragment"),
        ("https://host:99999", "not a URL"),
        ("https://[::1", "not a URL"),
    ],
)
def test_url_that_cannot_work(base: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RealtimeAPIClientParameters(api_key="k", base_url=base)


AZURE_HOST = "https://r.openai.azure.com"


@pytest.mark.parametrize(
    ("shape", "fields", "said"),
    [
        (
            GA,
            {"base_url": AZURE_HOST, "deployment": "d", "api_version": "2025-04-01-preview"},
            "api_version: the GA",
        ),
        (GA, {"base_url": f"{AZURE_HOST}/openai/v1?api-version=1", "deployment": "d"}, "api_version: the GA"),
        (GA, {"base_url": f"{AZURE_HOST}/openai/realtime", "deployment": "d"}, "base_url: the path"),
        (GA, {"base_url": f"{AZURE_HOST}?deployment=d"}, "base_url: the GA address of Azure names"),
        (GA, {"base_url": AZURE_HOST}, "deployment: name the Azure deployment"),
        (BETA, {"base_url": AZURE_HOST}, "deployment: name the Azure deployment"),
        (BETA, {"base_url": f"{AZURE_HOST}/openai/v1/realtime", "deployment": "d"}, "base_url: the path"),
        (
            BETA,
            {"base_url": f"{AZURE_HOST}?api-version=1", "deployment": "d", "api_version": "2"},
            "api_version: base_url says '1' and api_version '2'",
        ),
        (GA, {"base_url": AZURE_HOST, "deployment": "d", "model": "m"}, "deployment and model"),
        (GA, {"base_url": AZURE_HOST, "deployment": "d", "project": "p"}, "project: Azure has none"),
        (
            GA,
            {"base_url": AZURE_HOST, "deployment": "d", "organization": "p"},
            "organization: Azure has none",
        ),
        (GA, {"deployment": "d"}, "deployment belongs to Azure"),
        (GA, {"api_version": "d"}, "api_version belongs to Azure"),
        (GA, {"flavour": "azure", "deployment": "d"}, "base_url: the flavour azure needs"),
        (GA, {"flavour": "custom"}, "base_url: the flavour custom needs"),
        (GA, {"flavour": "gcp"}, "gcp"),
        (GA, {"authentication": "basic"}, "basic"),
        (GA, {"base_url": "https://host?api-key=k"}, "base_url must not hold a key"),
    ],
)
def test_what_does_not_go_together_is_named(shape: Shape, fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RealtimeAPIClientParameters(**fields).url(shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "flavour"),
    [
        (AZURE_HOST, "azure"),
        ("wss://r.openai.azure.us/openai/v1", "azure"),
        ("https://r.cognitiveservices.azure.com", "azure"),
        ("https://r.services.ai.azure.com", "azure"),
        ("https://openai.azure.com.example.org", "openai"),
        ("http://127.0.0.1:8090", "openai"),
    ],
)
def test_the_host_tells_the_flavour(host: str, flavour: str) -> None:
    assert RealtimeAPIClientParameters(base_url=host, model="m").flavour == flavour


def test_a_client_refuses_what_its_shape_cannot_use() -> None:
    with pytest.raises(ValueError, match="api_version"):
        RealtimeAPIClient(
            RealtimeAPIClientParameters(base_url=AZURE_HOST, deployment="d", api_version="2025-04-01-preview")
        )


class TestParameters:
    def test_no_key_in_the_text(self) -> None:
        p = RealtimeAPIClientParameters(api_key="sk-secret", headers={"api-key": "other-secret"})
        assert "secret" not in repr(p)

    @pytest.mark.parametrize(
        "changes",
        [
            {"connect_timeout": 0},
            {"media_buffer_ms": -1},
            {"outgoing_events": 0},
            {"api_key": "a\r\nX: y"},
            {"headers": {"X": "a\nb"}},
            {"type": "telepathy"},
        ],
    )
    def test_what_cannot_work_is_refused(self, changes: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(changes)) if "type" not in changes else "telepathy"):
            RealtimeAPIClientParameters(**changes)  # type: ignore[arg-type]

    def test_defaults(self) -> None:
        p = RealtimeAPIClientParameters(api_key="k")
        assert p.url(GA) == "wss://api.openai.com/v1/realtime?model=gpt-realtime"
        assert p.url(BETA).endswith("?model=gpt-4o-realtime-preview-2024-10-01")

    def test_headers(self) -> None:
        p = RealtimeAPIClientParameters(
            api_key="k", organization="o", project="p", safety_identifier="s", headers={"X-Own": "1"}
        )
        ga = {
            "Authorization": "Bearer k",
            "OpenAI-Organization": "o",
            "OpenAI-Project": "p",
            "OpenAI-Safety-Identifier": "s",
            "X-Own": "1",
        }
        assert p.handshake_headers(GA) == ga
        assert p.handshake_headers(BETA) == {"OpenAI-Beta": "realtime=v1", **ga}

    def test_a_header_of_the_user_replaces_ours(self) -> None:
        p = RealtimeAPIClientParameters(api_key="k", headers={"authorization": "Bearer entra"})
        assert p.handshake_headers(GA) == {"authorization": "Bearer entra"}

    def test_no_key_no_header(self) -> None:
        assert RealtimeAPIClientParameters(headers={"api-key": "k"}).handshake_headers(GA) == {"api-key": "k"}

    def test_the_value_of_any_header_named_like_a_secret_is_one(self) -> None:
        headers = {"X-Api-Key": "one-secret", "X-Auth": "Basic two-secret", "X-Region": "eu-west"}
        secrets = RealtimeAPIClientParameters(api_key="k", headers=headers).secrets()
        assert {"one-secret", "two-secret"} <= set(secrets)
        assert "eu-west" not in secrets

    def test_privacy_excludes_trace(self, tmp_path: object) -> None:
        with pytest.raises(ValueError, match="trace"):
            RealtimeAPIClientParameters(privacy=True, trace=tmp_path)  # type: ignore[arg-type]


REASONS = {
    AuthenticationError: "ProviderAuthFailed",
    ModelRefusedError: "ProviderModelRefused",
    QuotaError: "ProviderQuota",
    UnavailableError: "ProviderUnavailable",
    SessionExpired: "ProviderUnavailable",
    ProtocolError: "ProviderProtocolError",
    BetaShapeDisabled: "ProviderProtocolError",
}


@pytest.mark.parametrize(
    ("close", "reason", "code", "ready", "kind", "retryable"),
    [
        (3000, "invalid_request_error.invalid_api_key", "invalid_api_key", False, AuthenticationError, False),
        (3000, "invalid_request_error", None, False, AuthenticationError, False),
        (
            4000,
            "invalid_request_error.beta_api_shape_disabled",
            "beta_api_shape_disabled",
            False,
            BetaShapeDisabled,
            False,
        ),
        (4000, "invalid_request_error.invalid_model", "invalid_model", False, ModelRefusedError, False),
        (4000, "invalid_request_error.missing_model", None, False, ModelRefusedError, False),
        (4000, "invalid_request_error", None, False, ProtocolError, False),
        (4004, "invalid_request_error.model_not_found", "model_not_found", False, ModelRefusedError, False),
        (4004, "", None, False, ModelRefusedError, False),
        (1008, "", "invalid_api_key", False, AuthenticationError, False),
        (1000, "", "insufficient_quota", False, QuotaError, False),
        (1013, "", "rate_limit_exceeded", False, QuotaError, True),
        (1001, "Your session hit the maximum duration of 60 minutes.", None, True, SessionExpired, True),
        (1000, "", "session_expired", True, SessionExpired, True),
        (1000, "", None, True, UnavailableError, True),
        (1001, "going away", None, True, UnavailableError, True),
        (1006, "", None, True, UnavailableError, True),
        (1011, "internal error", None, True, UnavailableError, True),
        (1012, "", None, False, UnavailableError, True),
        (1002, "", None, True, ProtocolError, False),
        (1008, "policy", None, True, ProtocolError, False),
    ],
)
def test_close_codes(
    close: int, reason: str, code: str | None, ready: bool, kind: type[ProviderError], retryable: bool
) -> None:
    last = ErrorDetail("invalid_request_error", code, "the provider's words") if code else None
    got = from_close(close, reason, last, ready=ready)
    assert type(got) is kind
    assert (got.reason, got.retryable, got.close_code) == (REASONS[kind], retryable, close)
    if code:
        assert got.code == code
        assert "the provider's words" in str(got)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (401, AuthenticationError, False),
        (403, AuthenticationError, False),
        (404, ModelRefusedError, False),
        (429, QuotaError, True),
        (402, QuotaError, False),
        (500, UnavailableError, True),
        (503, UnavailableError, True),
        (301, ProtocolError, False),
        (400, ProtocolError, False),
        (200, ProtocolError, False),
    ],
)
def test_http_statuses(status: int, kind: type[ProviderError], retryable: bool) -> None:
    got = from_status(status, "words")
    assert type(got) is kind
    assert (got.reason, got.retryable, got.code) == (REASONS[kind], retryable, f"http_{status}")
    assert "words" in str(got)


@pytest.mark.parametrize(
    "payload", [{}, {"error": None}, {"error": []}, {"error": {"code": 5, "message": {}}}]
)
def test_an_error_event_without_sense_has_an_empty_detail(payload: dict[str, object]) -> None:
    assert ErrorDetail.of(payload) == ErrorDetail("", None, "")
