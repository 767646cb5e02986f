"""Players in a worker: what the caller and the provider hear, and that the agent's truncation stays true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from media_calls import PCM8, PCM24, ULAW, Caller, Worker, calling, start, worker
from parley.media.v1 import media_pb2 as pb
from parley_worker.core import events as ev
from parley_worker.core.agent import MediaAccess, RecordingConfig
from parley_worker.core.audio import Encoding, decode
from parley_worker.core.model import SessionConfig, SessionState
from parley_worker.core.units import (
    CALLER,
    CLIENT,
    ControlPlayer,
    CreatePlayer,
    PlayerAction,
    SendMedia,
    StartRecorder,
    StopMedia,
    UnitEventKind,
    UnitOrder,
)
from parley_worker.runtime.session_runner import SessionRunner
from provider_script import Socket, scripted
from sound_files import share_of_tone, sound_file, sound_server

AGENT = 9000


def level(value: int, seconds: float) -> bytes:
    return np.full(int(24_000 * seconds), value, "<i2").tobytes()


@dataclass
class Call:
    """A call with one caller, the runner behind it, and what was told of its units."""

    host: Worker
    config: SessionConfig
    caller: Caller
    socket: Socket
    runner: SessionRunner
    told: list[ev.UnitEvent] = field(default_factory=list)

    def order(self, *orders: UnitOrder) -> None:
        for order in orders:
            self.runner._media.units.order(order)

    async def until(self, kind: UnitEventKind, unit: str = "music") -> ev.UnitEvent:
        async with asyncio.timeout(15):
            while True:
                for event in self.told:
                    if (event.kind, event.unit) == (kind, unit):
                        return event
                await asyncio.sleep(0.01)

    async def count(self, item: str, count: int) -> None:
        """Wait for so many frames of an item."""
        async with asyncio.timeout(15):
            while True:
                if len(self.frames(item)) >= count:
                    return
                await asyncio.sleep(0.005)

    def frames(self, item: str = "") -> list[Any]:
        return [frame for frame in self.caller.of("audio") if frame.item_id == item]

    def heard(self) -> npt.NDArray[np.int16]:
        return np.frombuffer(self.caller.audio(), "<i2")


@asynccontextmanager
async def call(tmp_path: Path, seconds: float = 1.0, **given: Any) -> AsyncIterator[Call]:
    """A call in which `<tmp_path>/tone.wav` may be played."""

    async def friendly(socket: Socket) -> None:
        await socket.greet()

    (tmp_path / "tone.wav").write_bytes(sound_file("wav", seconds))
    start_fields = {k: given.pop(k) for k in ("output_format", "playout_mode") if k in given}
    async with scripted(friendly) as provider, worker() as host:
        access = MediaAccess(("127.0.0.1",), (str(tmp_path),))
        config = host.admit(provider.url, media_access=access, **given)
        await host.state(config, SessionState.READY)
        runner = host.app.registry._live(config.key)
        assert isinstance(runner, SessionRunner)
        async with calling(host, start(config, **start_fields)) as caller:
            await caller.expect("started")
            made = Call(host, config, caller, await provider.socket(), runner)
            feed = runner._feed

            def noting(event: ev.Event) -> None:
                if isinstance(event, ev.UnitEvent):
                    made.told.append(event)
                feed(event)

            runner._media.units._tell = noting
            runner._media.units._players._on_event = noting
            yield made
            if not caller.done.is_set():
                await caller.send(hangup=pb.Hangup())
                await caller.expect("ended")
        await host.nothing_left()


def music(tmp_path: Path, target: str = CALLER, **given: Any) -> tuple[UnitOrder, ...]:
    source = str(tmp_path / "tone.wav")
    return CreatePlayer("music", source, **given), SendMedia("music", target, "hold")


async def test_the_caller_hears_a_player(tmp_path: Path) -> None:
    async with call(tmp_path) as made:
        made.order(*music(tmp_path))
        ended = await made.until(UnitEventKind.ENDED)
        assert ended.duration_ms == pytest.approx(1000, abs=40)
        await asyncio.sleep(0.1)
        heard = made.heard()
        assert 0.95 < len(heard) / 24_000 < 1.1
        assert share_of_tone(heard, 24_000) > 0.95
        assert [e.kind.value for e in made.told] == ["ready", "started", "ended"]
        facts = {r.type: r.fields for r in made.host.of(made.config, "event")}
        assert facts["media_started"] == {"unit": "music", "tag": "hold"}
        assert facts["media_ended"]["duration_ms"] == ended.duration_ms
        assert "first_audio" not in facts


async def test_a_url_is_played_to_a_telephone_and_recorded_as_it_was_heard(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    recording = RecordingConfig(directory=str(folder))
    async with sound_server() as url:
        async with call(tmp_path, output_format=ULAW, recording=recording) as made:
            made.order(CreatePlayer("music", f"{url}/tone.mp3?token=s3cret"), SendMedia("music", CALLER))
            await made.until(UnitEventKind.ENDED)
            await asyncio.sleep(0.1)
            heard = decode(made.caller.audio(), Encoding.G711_ULAW)
            assert share_of_tone(heard, 8000) > 0.95
        finished = await made.until(UnitEventKind.RECORDING_FINISHED, "recorder")
        samples, rate = soundfile.read(Path(finished.url.removeprefix("file://")), dtype="int16")
        loud = np.flatnonzero(np.abs(samples[:, 1].astype(int)) > 3000)
        assert (loud[-1] - loud[0]) / rate == pytest.approx(1.0, abs=0.08)
        assert not samples[:, 0].any()
        assert "s3cret" not in str(made.told)


@pytest.mark.parametrize("mode", [pb.PLAYOUT_MODE_REALTIME, pb.PLAYOUT_MODE_BURST])
async def test_the_agent_speaks_over_the_music_and_is_truncated_where_it_was_heard(
    tmp_path: Path, mode: pb.PlayoutMode
) -> None:
    async with call(tmp_path, seconds=0.3, playout_mode=mode) as made:
        made.order(*music(tmp_path, loop=True))
        await made.caller.expect("audio", 5)
        await made.socket.say(level(AGENT, 3), "resp_1", "item_1", finish=False)
        await made.count("item_1", 20)
        await made.socket.send("input_audio_buffer.speech_started", item_id="item_2", audio_start_ms=0)
        clear = await made.caller.expect("clear")
        spoken = [f for f in made.frames("item_1") if f.epoch == clear.epoch]
        mixed = np.frombuffer(b"".join(frame.payload for frame in spoken[2:]), "<i2").astype(int)
        assert abs(mixed.mean() - AGENT) < 300
        assert 1500 < abs(mixed - AGENT).max() < 3200
        assert np.count_nonzero(mixed != AGENT) > len(mixed) / 2
        said = spoken[-1].position_ms
        await made.caller.send(cleared=pb.Cleared(epoch=clear.epoch, item_id="item_1", played_ms=said))
        cut = await made.socket.expect("conversation.item.truncate")
        assert cut["audio_end_ms"] == said
        before = len(made.frames())
        await made.count("", before + 10)
        assert all(f.epoch > clear.epoch for f in made.frames()[-5:])


async def test_the_provider_hears_a_player_with_and_without_the_caller(tmp_path: Path) -> None:
    async with call(tmp_path, seconds=0.3) as made:
        made.order(*music(tmp_path, CLIENT, loop=True))
        alone = np.frombuffer(await made.socket.expect_audio(24_000), "<i2")
        assert share_of_tone(alone[-12_000:], 24_000) > 0.9
        size = len(made.socket.audio)
        for _ in range(25):
            await made.caller.speak(level(5000, 0.02))
            await asyncio.sleep(0.02)
        both = np.frombuffer((await made.socket.expect_audio(size + 20_000))[size:], "<i2").astype(int)
        assert 3500 < both.mean() < 5500
        assert both.max() > 10_000
        made.order(ControlPlayer("music", PlayerAction.STOP))
        await asyncio.sleep(0.1)
        silent = len(made.socket.audio)
        await asyncio.sleep(0.2)
        assert len(made.socket.audio) == silent


async def test_a_player_that_has_ended_plays_again_where_it_was_heard(tmp_path: Path) -> None:
    async with call(tmp_path, seconds=0.2) as made:
        made.order(*music(tmp_path))
        await made.until(UnitEventKind.ENDED)
        await asyncio.sleep(0.15)
        first = len(made.heard())
        made.told.clear()
        made.order(ControlPlayer("music", PlayerAction.PLAY))
        await made.until(UnitEventKind.ENDED)
        await asyncio.sleep(0.15)
        assert len(made.heard()) == pytest.approx(2 * first, rel=0.15)
        made.order(ControlPlayer("music", PlayerAction.STOP), ControlPlayer("music", PlayerAction.PLAY))
        assert "create it first" in (await made.until(UnitEventKind.FAILED)).message


async def test_who_hears_whom_can_be_changed(tmp_path: Path) -> None:
    async with call(tmp_path) as made:
        made.order(StopMedia(CALLER, CLIENT), StopMedia(CLIENT, CALLER))
        await made.caller.speak(level(5000, 0.02))
        await made.socket.say(level(AGENT, 0.2), "resp_1", "item_1")
        await made.caller.expect_event("response.done")
        assert len(made.socket.audio) == 0
        assert not made.caller.of("audio")
        made.order(SendMedia(CALLER, CLIENT), SendMedia(CLIENT, CALLER))
        await made.caller.speak(level(5000, 0.02))
        await made.socket.expect_audio(960)
        await made.socket.say(level(AGENT, 0.2), "resp_2", "item_2")
        await made.caller.expect("mark")
        assert sum(len(frame.payload) for frame in made.frames("item_2")) == len(level(AGENT, 0.2))


async def test_a_caller_that_comes_back_in_another_format_goes_on_hearing_it(tmp_path: Path) -> None:
    async with call(tmp_path, seconds=0.3) as made:
        made.order(*music(tmp_path, loop=True))
        await made.caller.expect("audio", 5)
        token = (await made.caller.expect("started")).resume_token
        first = start(resume_token=token, input_format=PCM24, output_format=PCM8)
        async with calling(made.host, first) as again:
            await again.expect("audio", 30)
            heard = np.frombuffer(again.audio(), "<i2")
            assert share_of_tone(heard[1600:], 8000) > 0.95
            await again.send(hangup=pb.Hangup())
            await again.expect("ended")


@pytest.mark.parametrize(
    ("orders", "unit", "words"),
    [
        ([CreatePlayer("caller", "x")], "caller", "is taken"),
        ([CreatePlayer("music", "/etc/hostname")], "music", "lies in no allowed directory"),
        ([CreatePlayer("music", "http://elsewhere.test/x.wav")], "music", "allowed hosts"),
        ([CreatePlayer("music", "x", volume=9)], "music", "volume must be from 0 to 4"),
        ([SendMedia("ghost", CALLER)], "ghost", "create it first"),
        ([SendMedia("ghost", "recorder")], "ghost", "use 'caller' or 'client'"),
        ([CreatePlayer(f"p{n}", "x") for n in range(11)], "p10", "are the most"),
        ([StartRecorder()], "recorder", "set spec.recording"),
    ],
)
async def test_an_order_that_cannot_be_done_is_told_and_costs_no_call(
    tmp_path: Path, orders: list[UnitOrder], unit: str, words: str
) -> None:
    async with call(tmp_path) as made:
        made.order(*orders)
        kind = UnitEventKind.RECORDING_FAILED if unit == "recorder" else UnitEventKind.FAILED
        told = await made.until(kind, unit)
        assert words in told.message
        await made.socket.say(level(AGENT, 0.1), "resp_1", "item_1")
        await made.caller.expect("mark")
