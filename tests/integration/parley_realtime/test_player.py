"""The library's player with real files and a real HTTP server, good and bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parley_realtime import PCMU, RealtimeAPIClientParameters, create_realtime_api_client
from parley_realtime.audio import Encoding, decode
from parley_realtime.units.player import Player, PlayerEvent, PlayerEvents
from parley_realtime.units.sources import PlayerAccess
from realtime_units import RecordingUnit
from scripted_provider import ScriptedProvider
from sound_files import FORMATS, share_of_tone, sound_file, sound_server

HOME = PlayerAccess(hosts=("127.0.0.1",), directories=(), load_seconds=1.0, max_bytes=4 * 1024 * 1024)


class Watched:
    """A player, its task and what it told."""

    def __init__(self, source: str, **given: Any) -> None:
        self.player = Player(source, **given)
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._news = asyncio.Event()
        for name in PlayerEvents:
            self.player.add_event_listener(name, self._note)
        self.task = asyncio.create_task(self.player.run())

    def _note(self, event: PlayerEvent) -> None:
        self.told.append((event.name.name, event.data))
        self._news.set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]

    async def until(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while name not in self.names:
                self._news.clear()
                await self._news.wait()
        return dict(self.told[self.names.index(name)][1])


@asynccontextmanager
async def playing(source: str, **given: Any) -> AsyncIterator[Watched]:
    watched = Watched(source, **given)
    try:
        yield watched
    finally:
        watched.player.stop()
        await asyncio.wait_for(watched.task, 10)


def samples(unit: RecordingUnit) -> Any:
    return np.frombuffer(unit.audio, "<i2")


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_file_of_each_format(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tone"
    path.write_bytes(sound_file(kind, seconds=0.5))
    async with playing(str(path), access=PlayerAccess(directories=(str(tmp_path),))) as watched:
        unit = RecordingUnit()
        watched.player.send_media_to(unit, {"tag": "music"})
        finished = await watched.until("PlaybackFinished")
        assert watched.names == ["PlaybackReady", "Started", "PlaybackFinished"]
        heard = samples(unit)
        assert 0.48 < len(heard) / 24_000 < 0.6
        assert share_of_tone(heard, 24_000) > 0.98
        assert finished == {"duration": pytest.approx(len(heard) / 24, abs=20), "stopped": False}
        assert unit.names()[0] == "started"
        assert unit.names()[-1] == "done"


@pytest.mark.parametrize("path", ["tone.wav", "tone.ogg", "tone.mp3", "found"])
async def test_a_url(path: str) -> None:
    async with sound_server() as url, playing(f"{url}/{path}?secret=token", access=HOME) as watched:
        unit = RecordingUnit()
        watched.player.send_media_to(unit)
        await unit.wait_for_audio(24_000)
        assert share_of_tone(samples(unit), 24_000) > 0.98


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{url}/slow?token=s3cret", "took longer than 1 s"),
        ("{url}/huge", "sends more than 4194304 bytes"),
        ("{url}/broken.wav", "no WAV, Ogg, MP3 or FLAC"),
        ("{url}/text", "no WAV, Ogg, MP3 or FLAC"),
        ("{url}/packed", "sends the audio compressed: serve it as it is"),
        ("{url}/gone", "answered 404"),
        ("{url}/loop", "redirects more than 3 times"),
        ("{url}/away", "'169.254.169.254' is not allowed"),
        ("http://127.0.0.1:9/x", "cannot be read"),
        ("http://elsewhere.test/x", "add it to the allowed hosts"),
        ("ftp://127.0.0.1/x", "give an http or https URL"),
        ("http://[broken/x", "no URL"),
        ("/etc/hostname", "lies in no allowed directory"),
    ],
)
async def test_a_source_that_cannot_be_played_is_told(source: str, words: str) -> None:
    async with sound_server() as url, playing(source.format(url=url), access=HOME) as watched:
        watched.player.send_media_to(RecordingUnit())
        told = await watched.until("Error")
        assert words in told["message"]
        assert "s3cret" not in told["message"]
        assert watched.names == ["Error"]


async def test_an_address_is_judged_where_it_is_connected_to() -> None:
    access = PlayerAccess(hosts=("localhost",), allow_address=lambda address: False, load_seconds=3)
    async with (
        sound_server() as url,
        playing(f"{url}/tone.wav".replace("127.0.0.1", "localhost"), access=access) as watched,
    ):
        told = await watched.until("Error")
        assert "leads to an address that is not allowed" in told["message"]


async def test_a_link_out_of_the_allowed_directory_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside.wav"
    inside.mkdir()
    outside.write_bytes(sound_file("wav"))
    (inside / "link.wav").symlink_to(outside)
    access = PlayerAccess(directories=(str(inside),))
    for source in (inside / "link.wav", inside / ".." / "outside.wav", inside / "absent.wav"):
        async with playing(str(source), access=access) as watched:
            await watched.until("Error")


async def test_loop_pause_and_stop(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    path.write_bytes(sound_file("wav", seconds=0.1))
    async with playing(str(path), loop=True, volume=0.5) as watched:
        unit = RecordingUnit()
        watched.player.send_media_to(unit)
        await unit.wait_for_audio(24_000)
        watched.player.pause()
        await asyncio.sleep(0.05)
        held = len(unit.audio)
        await asyncio.sleep(0.1)
        assert len(unit.audio) == held
        watched.player.play()
        await unit.wait_for_audio(held + 4800)
        watched.player.stop()
        finished = await watched.until("PlaybackFinished")
        assert finished["stopped"] is True
        assert unit.names()[-1] == "cleared"
        assert abs(samples(unit)).max() == pytest.approx(32767 / 6, rel=0.05)


async def test_a_provider_hears_it_in_its_own_format_and_real_time(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(sound_file("wav", seconds=0.6))
    async with ScriptedProvider() as provider:
        parameters = RealtimeAPIClientParameters(base_url=provider.base_url, input_format=PCMU)
        async with await create_realtime_api_client(parameters) as client, playing(str(path)) as watched:
            line = await provider.accepted()
            loop = asyncio.get_running_loop()
            begun = loop.time()
            watched.player.send_media_to(client)
            heard = await line.heard(4700)
            assert loop.time() - begun > 0.5
            assert share_of_tone(decode(heard, Encoding.G711_ULAW), 8000) > 0.98


async def test_a_unit_that_raises_is_detached_and_the_player_goes_on(tmp_path: Path) -> None:
    class Broken(RecordingUnit):
        def media(self, source: Any, chunk: Any) -> None:
            raise OSError("unplugged")

    path = tmp_path / "tone.wav"
    path.write_bytes(sound_file("wav", seconds=0.3))
    async with playing(str(path)) as watched:
        good = RecordingUnit()
        watched.player.send_media_to(Broken())
        watched.player.send_media_to(good)
        await watched.until("PlaybackFinished")
        assert good.names()[-1] == "done"
