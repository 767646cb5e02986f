"""Recordings of calls through a worker: what is in them, where they go, and that they outlive faults."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from media_calls import PCM24, ULAW, Caller, Worker, calling, start, worker
from object_store import S3_KEY, S3_SECRET, object_store
from parley.control.v1 import control_pb2
from parley.media.v1 import media_pb2 as pb
from parley_worker.core.agent import RecordingConfig
from parley_worker.core.model import EndReason, Secret, SessionConfig, SessionState
from parley_worker.core.records import EventRecord
from parley_worker.core.units import StartRecorder, StopRecorder
from parley_worker.runtime.deps import RunnerSettings
from parley_worker.runtime.session_runner import SessionRunner
from provider_script import Socket, scripted
from worker_process import control, worker_process

RATE = 24_000
AGENT, CALLER = 6000, -4000
LEAD_MS = RunnerSettings().playout_lead_ms


def level(value: int, seconds: float, rate: int = RATE) -> bytes:
    return np.full(int(rate * seconds), value, "<i2").tobytes()


async def friendly(socket: Socket) -> None:
    await socket.greet()


async def speak(caller: Caller, seconds: float, value: int = CALLER) -> None:
    """The caller's voice in real time."""
    for _ in range(round(seconds / 0.02)):
        await caller.speak(level(value, 0.02))
        await asyncio.sleep(0.02)


async def last_fact(host: Worker, config: SessionConfig, *types: str) -> EventRecord:
    """The first event of one of these types, waiting for it; it may come after `ended`."""
    async with asyncio.timeout(20):
        while True:
            for record in host.of(config, "event"):
                if record.type in types:
                    return record
            await asyncio.sleep(0.02)


def lengths(samples: npt.NDArray[Any], value: int) -> float:
    """Seconds of this level, conversion's ringing aside."""
    return float(np.count_nonzero(np.abs(samples.astype(int) - value) < 60)) / RATE


def read(path: Path) -> npt.NDArray[Any]:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    assert samples.shape[1] == 2
    return np.asarray(samples)


def files(root: Path, pattern: str) -> list[Path]:
    return sorted(root.rglob(pattern))


async def test_caller_left_agent_right_and_the_event_says_where(tmp_path: Path) -> None:
    async with scripted(friendly) as provider, worker() as host:
        config = host.admit(provider.url, recording=RecordingConfig(directory=str(tmp_path)))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            socket = await provider.socket()
            await socket.say(level(AGENT, 0.5), "resp_1", "item_1")
            await speak(caller, 0.6)
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        done = await last_fact(host, config, "recording_finished", "recording_failed")
        assert done.type == "recording_finished"
        path = tmp_path / "default" / f"{config.key.name}-{config.key.uid}-1.wav"
        assert done.fields["url"] == path.as_uri()
        assert done.fields["bytes"] == path.stat().st_size
        samples = read(path)
        assert abs(len(samples) / RATE * 1000 - int(str(done.fields["duration_ms"]))) < 1
        assert lengths(samples[:, 0], CALLER) == pytest.approx(0.6, abs=0.001)
        assert lengths(samples[:, 1], AGENT) == pytest.approx(0.5, abs=0.001)
        assert set(samples[:, 1]) == {0, AGENT}
        assert not files(tmp_path, "*.part")
        await host.nothing_left()


@pytest.mark.parametrize("answers", [True, False])
async def test_cleared_audio_is_not_in_the_recording(tmp_path: Path, answers: bool) -> None:
    """It ends where the history at the provider does, by the caller's word or by the clock."""
    async with scripted(friendly) as provider, worker() as host:
        config = host.admit(provider.url, recording=RecordingConfig(directory=str(tmp_path)))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            socket = await provider.socket()
            await socket.say(level(AGENT, 5), "resp_1", "item_1", finish=False)
            await caller.expect("audio", 20)
            await socket.send("input_audio_buffer.speech_started", item_id="item_2", audio_start_ms=0)
            clear = await caller.expect("clear")
            if answers:
                await caller.send(cleared=pb.Cleared(epoch=clear.epoch, item_id="item_1", played_ms=270))
            cut = await socket.expect("conversation.item.truncate")
            await socket.say(level(AGENT // 2, 0.3), "resp_2", "item_3")
            await caller.expect("mark", 1)
            await asyncio.sleep(0.1)
        await last_fact(host, config, "leg_detached")
        host.app.registry.terminate(config.key, EndReason.TERMINATED, "over")
        await last_fact(host, config, "recording_finished")
        samples = read(files(tmp_path, "*.wav")[0])
        heard = 400 - 20 - LEAD_MS  # of 20 frames, the last of which has just come
        assert cut["audio_end_ms"] == 270 or (not answers and cut["audio_end_ms"] >= heard)
        assert lengths(samples[:, 1], AGENT) == pytest.approx(cut["audio_end_ms"] / 1000, abs=0.0015)
        assert lengths(samples[:, 1], AGENT // 2) == pytest.approx(0.3, abs=0.0015)


async def test_a_part_of_the_call_can_be_left_out(tmp_path: Path) -> None:
    async with scripted(friendly) as provider, worker() as host:
        config = host.admit(provider.url, recording=RecordingConfig(directory=str(tmp_path)))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            runner = host.app.registry._live(config.key)
            assert isinstance(runner, SessionRunner)
            await speak(caller, 0.2)
            runner._media.units.order(StopRecorder())
            await speak(caller, 0.2, value=1234)
            runner._media.units.order(StartRecorder())
            await speak(caller, 0.3)
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        await host.nothing_left()
        done = [r for r in host.of(config, "event") if r.type == "recording_finished"]
        assert [str(r.fields["url"])[-6:] for r in done] == ["-1.wav", "-2.wav"]
        spoken = [lengths(read(path)[:, 0], CALLER) for path in files(tmp_path, "*.wav")]
        assert sorted(spoken) == [pytest.approx(0.2, abs=0.03), pytest.approx(0.3, abs=0.03)]
        assert not any(lengths(read(path)[:, 0], 1234) > 0.03 for path in files(tmp_path, "*.wav"))


async def test_other_formats_and_opus(tmp_path: Path) -> None:
    async with scripted(friendly) as provider, worker() as host:
        config = host.admit(provider.url, recording=RecordingConfig(format="opus", directory=str(tmp_path)))
        first = start(config, input_format=ULAW, output_format=ULAW)
        async with calling(host, first) as caller:
            await caller.expect("started")
            await (await provider.socket()).say(level(AGENT, 0.5), "resp_1", "item_1")
            await caller.expect("mark")
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        done = await last_fact(host, config, "recording_finished", "recording_failed")
        (path,) = files(tmp_path, "*.opus")
        assert done.fields["url"] == path.as_uri()
        samples = read(path)
        assert len(samples) > RATE * 0.4


def to_s3(endpoint: str, bucket: str = "calls") -> RecordingConfig:
    return RecordingConfig(
        s3_url=f"s3://{bucket}/eu/calls",
        s3_endpoint=endpoint,
        s3_access_key=Secret(S3_KEY),
        s3_secret_key=Secret(S3_SECRET),
    )


async def test_to_an_s3_compatible_store() -> None:
    async with object_store() as (endpoint, store), scripted(friendly) as provider, worker() as host:
        config = host.admit(provider.url, recording=to_s3(endpoint))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await (await provider.socket()).say(level(AGENT, 0.3), "resp_1", "item_1")
            await caller.expect("mark")
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        done = await last_fact(host, config, "recording_finished", "recording_failed")
        key = f"eu/calls/default/{config.key.name}-{config.key.uid}-1.wav"
        assert done.fields["url"] == f"s3://calls/{key}"
        data = bytes(await (await store.get_async(key)).bytes_async())
        assert len(data) == done.fields["bytes"]
        samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
        assert rate == RATE
        assert lengths(samples[:, 1], AGENT) == pytest.approx(0.3, abs=0.06)
        await host.nothing_left()


@pytest.mark.parametrize("fault", ["no bucket", "nobody listens", "no volume", "volume gone"])
async def test_a_recording_that_fails_is_told_and_costs_no_call(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with object_store() as (endpoint, _), scripted(friendly) as provider, worker() as host:
        target = {
            "no bucket": to_s3(endpoint, "nothing"),
            "nobody listens": to_s3("http://127.0.0.1:9"),
            "no volume": RecordingConfig(directory="/absent-volume/calls"),
            "volume gone": RecordingConfig(directory=str(tmp_path)),
        }[fault]
        config = host.admit(provider.url, recording=target)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            socket = await provider.socket()
            if fault == "volume gone":
                await asyncio.sleep(0.3)
                os.rename(tmp_path / "default", tmp_path / "elsewhere")
            await socket.say(level(AGENT, 0.3), "resp_1", "item_1")
            await caller.expect("mark")
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == "CallerHangup"
        failed = await last_fact(host, config, "recording_failed", "recording_finished")
        assert failed.type == "recording_failed"
        assert failed.fields["url"]
        shown = f"{failed.fields} {caplog.text}"
        assert S3_SECRET not in shown
        assert S3_KEY not in shown
        if fault == "no volume":
            assert "mount a volume" in str(failed.fields["message"])
        await host.nothing_left()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (RecordingConfig(s3_url="s3://calls"), "the keys are empty"),
        (RecordingConfig(directory="/recordings/../etc"), "without '..'"),
        (RecordingConfig(directory="recordings"), "an absolute path"),
    ],
)
async def test_a_target_that_cannot_work_is_refused_before_the_call(
    target: RecordingConfig, words: str
) -> None:
    async with scripted(friendly) as provider, worker() as host:
        config = host.admit(provider.url, recording=target)
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is EndReason.INVALID_SPEC
        assert words in report.end_message


async def test_privacy_refuses_a_recording(tmp_path: Path) -> None:
    async with scripted(friendly) as provider, worker() as host:
        config = host.admit(provider.url, privacy=True, recording=RecordingConfig(directory=str(tmp_path)))
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is EndReason.INVALID_SPEC
        assert "privacy" in report.end_message
        assert not provider.sockets


async def test_a_killed_worker_leaves_a_file_that_plays(tmp_path: Path) -> None:
    ticket = hashlib.sha256(b"ticket").digest()
    async with scripted(friendly) as provider, worker_process() as process:
        async with control(process.ready["control"], process.instance) as operator:
            recording = control_pb2.Recording(format="wav", directory=str(tmp_path))
            request = operator.request(provider.url, ticket_sha256=ticket, recording=recording)
            answer = await operator.admit(request)
            assert answer.WhichOneof("result") == "admitted", answer
        first = pb.Start(ticket="ticket", input_format=PCM24, output_format=PCM24)
        async with calling(process.ready["media"], first) as caller:
            await caller.expect("started")
            await (await provider.socket()).say(level(AGENT, 6), "resp_1", "item_1")
            await speak(caller, 2.8)
            os.kill(process.process.pid, signal.SIGKILL)
            await process.wait()
    (part,) = files(tmp_path, "*.part")
    samples, rate = soundfile.read(io.BytesIO(part.read_bytes()), dtype="int16")
    assert rate == RATE
    assert len(samples) * 4 + 44 == part.stat().st_size
    assert lengths(samples[:, 0], CALLER) > 0.5
    assert lengths(samples[:, 1], AGENT) > 0.5


async def test_a_worker_that_is_told_to_go_finishes_its_recordings(tmp_path: Path) -> None:
    async with scripted(friendly) as provider, worker_process(drain_timeout="0") as process:
        async with control(process.ready["control"], process.instance) as operator:
            recording = control_pb2.Recording(format="opus", directory=str(tmp_path))
            await operator.admit(operator.request(provider.url, recording=recording))
        first = pb.Start(session_uid="uid-1", input_format=PCM24, output_format=PCM24)
        async with calling(process.ready["media"], first) as caller:
            await caller.expect("started")
            await speak(caller, 0.5)
            process.process.terminate()
            assert await process.wait() == 0
    (whole,) = files(tmp_path, "*.opus")
    assert not files(tmp_path, "*.part")
    assert len(read(whole)) > RATE * 0.4
