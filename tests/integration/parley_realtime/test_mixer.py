"""Several sources to one unit, through a mixer."""

from __future__ import annotations

import asyncio

import numpy as np
from parley_realtime import RealtimeAPIClientParameters, create_realtime_api_client
from parley_realtime.units import Mixer
from realtime_units import RecordingUnit
from scripted_provider import ScriptedProvider


async def test_two_agents_are_heard_at_once_and_one_goes_on_alone() -> None:
    async with ScriptedProvider() as left, ScriptedProvider() as right, ScriptedProvider() as third:
        clients = [
            await create_realtime_api_client(RealtimeAPIClientParameters(base_url=provider.base_url))
            for provider in (left, right, third)
        ]
        one, two, hearer = clients
        mixer, unit = Mixer(), RecordingUnit()
        for target in (hearer, unit):
            mixer.send_media_to(target)
        for source in (one, two):
            source.send_media_to(mixer)
        await (await left.accepted()).audio(np.full(24_000, 3000, "<i2").tobytes())
        await (await right.accepted()).audio(np.full(12_000, 500, "<i2").tobytes(), "resp_2")
        await unit.wait_for_audio(45_000)
        heard = np.frombuffer(unit.audio, "<i2")
        assert set(heard) <= {500, 3000, 3500}
        assert 9_000 <= np.count_nonzero(heard == 3500) <= 12_000
        assert np.count_nonzero(heard == 3000) > 9_000
        said = np.frombuffer(await (await third.accepted()).heard(40_000), "<i2")
        assert np.count_nonzero(said == 3500) >= 9_000
        two.stop_media_to(mixer)
        one.clear_media_buffer()
        await asyncio.sleep(0.1)
        size = len(unit.audio)
        await asyncio.sleep(0.1)
        assert len(unit.audio) == size
        mixer.close()
        for client in clients:
            client.close()
            await client.wait_closed()
