"""Where a worker's client connects to, by the provider's type."""

from __future__ import annotations

from unittest import mock

import pytest
from parley_realtime import RealtimeAPIClientParameters
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import Shape
from parley_worker.core.model import (
    AccessConfig,
    LimitsConfig,
    ProviderConfig,
    Secret,
    SessionConfig,
    SessionKey,
)
from parley_worker.runtime import provider


def parameters(kind: str, url: str, version: str) -> RealtimeAPIClientParameters:
    config = SessionConfig(
        key=SessionKey("ns", "call", "uid-1", 1),
        provider=ProviderConfig(url, version, "voice-eu", Secret("hidden"), type=kind),
        session={},
        greet=False,
        limits=LimitsConfig(1, 1, 1, 1),
        access=AccessConfig(b""),
    )
    with (
        mock.patch.object(provider, "RealtimeAPIClient") as ga,
        mock.patch("parley_realtime.beta.RealtimeAPIClient") as beta,
    ):
        provider.open_provider(
            config,
            connect_timeout=1,
            close_timeout=1,
            on_event=mock.Mock(),
            on_audio=mock.Mock(),
            on_audio_done=mock.Mock(),
            on_recovery=mock.Mock(),
            quiet=mock.Mock(),
            on_trace=mock.Mock(),
        )
    made = beta if version == "beta" else ga
    found = made.call_args.args[0]
    assert isinstance(found, RealtimeAPIClientParameters)
    return found


@pytest.mark.parametrize(
    ("kind", "url", "version", "address", "header"),
    [
        (
            "openai",
            "wss://api.openai.com/v1/realtime",
            "ga",
            "wss://api.openai.com/v1/realtime?model=voice-eu",
            "Authorization",
        ),
        (
            "azure",
            "https://gateway.example",
            "ga",
            "wss://gateway.example/openai/v1/realtime?model=voice-eu",
            "api-key",
        ),
        (
            "azure",
            "https://x.openai.azure.com",
            "beta",
            "wss://x.openai.azure.com/openai/realtime?",
            "api-key",
        ),
        ("custom", "ws://local:8765", "ga", "ws://local:8765/v1/realtime?model=voice-eu", "Authorization"),
    ],
)
def test_address_and_key_follow_the_type(
    kind: str, url: str, version: str, address: str, header: str
) -> None:
    found = parameters(kind, url, version)
    shape: Shape = BETA if version == "beta" else GA
    assert found.url(shape).startswith(address)
    assert ("deployment=voice-eu" in found.url(shape)) == (version == "beta")
    assert {"Authorization", "api-key"} & set(found.handshake_headers(shape)) == {header}
