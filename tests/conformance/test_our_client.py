"""Every scenario by our own client against a live provider, recorded, and the recording played back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import client_recorder
import protocol_scenarios as scenarios
import pytest
from parley_local import LocalProvider, LocalProviderConfig, serve
from parley_realtime import transport
from recorded_session import parse, replay


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    config = LocalProviderConfig(port=0, audio_speed=4, brain=f"script:{scenarios.BRAIN}")
    async with serve(config) as running:
        yield running


@pytest.mark.parametrize("scenario", scenarios.load(), ids=lambda scenario: scenario.id)
async def test_live_and_played_back(
    scenario: scenarios.Scenario, provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await client_recorder.record(scenario, f"ws://127.0.0.1:{provider.port}")
    recording = parse(live.lines())
    assert recording.heard
    replayed = replay(recording)
    assert (replayed.heard, replayed.audio) == (recording.heard, recording.audio)

    async def open_socket(*args: object, **kwargs: object) -> Any:
        return client_recorder.PlayedBack(recording)

    monkeypatch.setattr(transport, "open_socket", open_socket)
    again = await client_recorder.play_back(recording)
    assert (tuple(again.heard), again.audio) == (recording.heard, recording.audio)
