"""The same client on uvloop, the loop of the media worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from parley_realtime import (
    PCM16,
    ConnectAborted,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    UnavailableError,
    create_realtime_api_client,
)
from realtime_units import RecordingUnit
from scripted_provider import Line, ScriptedProvider

FRAME = PCM16.frame_bytes


def parameters(provider: ScriptedProvider) -> RealtimeAPIClientParameters:
    return RealtimeAPIClientParameters(api_key="k", base_url=provider.base_url)


async def audio_both_ways() -> None:
    async with ScriptedProvider() as provider:
        client = await create_realtime_api_client(parameters(provider))
        line, unit = await provider.accepted(), RecordingUnit()
        client.send_media_to(unit)
        client.push_media(b"\1\2" * FRAME)
        await line.audio(b"\3\4" * FRAME)
        assert await line.heard(FRAME * 2) == b"\1\2" * FRAME
        await unit.wait_for_audio(FRAME * 2)
        assert unit.audio == b"\3\4" * FRAME
        client.close()
        assert await asyncio.wait_for(client.wait_closed(), 15) is None


async def cut() -> None:
    async with ScriptedProvider() as provider:
        client = await create_realtime_api_client(parameters(provider))
        (await provider.accepted()).socket.transport.abort()
        assert isinstance(await asyncio.wait_for(client.wait_closed(), 15), UnavailableError)


async def closed_while_connecting() -> None:
    async with ScriptedProvider(Line.listen) as provider:
        client = RealtimeAPIClient(parameters(provider))
        connecting = asyncio.create_task(client.connect())
        await provider.accepted()
        client.close()
        with pytest.raises(ConnectAborted):
            await asyncio.wait_for(connecting, 15)


@pytest.mark.parametrize("scene", [audio_both_ways, cut, closed_while_connecting])
def test_on_uvloop(scene: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        before = asyncio.all_tasks()
        await scene()
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == before

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
        runner.run(run())
