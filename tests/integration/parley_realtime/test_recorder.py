"""The library's recorder on its own: a client's audio into a file, long uploads, stores that fail."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from aiohttp import web
from object_store import S3_KEY, S3_SECRET, object_store
from obstore.store import S3Store
from parley_realtime import PCM16, RealtimeAPIClientParameters, create_realtime_api_client
from parley_realtime.audio import Encoding, SampleFormat
from parley_realtime.units import FolderSink, RecorderUnit, Recording, RecordingError, S3Sink, S3Target
from parley_realtime.units.encoders import WavEncoder
from parley_realtime.units.storage import PART_BYTES, safe_name
from scripted_provider import ScriptedProvider

RATE = 24_000
MONO = SampleFormat(Encoding.PCM16, RATE)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def target(endpoint: str, **changes: str) -> S3Target:
    given = {"url": "s3://calls/deep/down", "access_key": S3_KEY, "secret_key": S3_SECRET, **changes}
    return S3Target(endpoint=endpoint, **given)  # type: ignore[arg-type]


async def stored(store: S3Store) -> list[str]:
    return [str(meta["path"]) for page in [await store.list().collect_async()] for meta in page]


async def test_a_client_is_recorded(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    sink = FolderSink(tmp_path, "a/call.wav", threads)
    recording = Recording(sink, format="wav", rate=RATE, executor=threads, clock=time.monotonic, hold=0)
    writing = asyncio.create_task(recording.run())
    async with ScriptedProvider() as provider:
        parameters = RealtimeAPIClientParameters(api_key="k", base_url=provider.base_url)
        async with await create_realtime_api_client(parameters) as client:
            client.send_media_to(RecorderUnit(recording, "right", time.monotonic))
            line = await provider.accepted()
            await line.audio(np.full(RATE // 2, 3000, "<i2").tobytes())
            recording.left(time.monotonic(), np.full(RATE // 4, -500, "<i2").tobytes(), MONO)
            await asyncio.sleep(0.8)
    recording.stop(time.monotonic())
    done = await writing
    assert done.url == (tmp_path / "a" / "call.wav").as_uri()
    samples, rate = soundfile.read(tmp_path / "a" / "call.wav", dtype="int16")
    assert rate == RATE
    assert np.count_nonzero(samples[:, 0] == -500) == RATE // 4
    assert np.count_nonzero(samples[:, 1] == 3000) > RATE // 2 - PCM16.frame_bytes
    assert done.duration_ms == len(samples) * 1000 // RATE
    assert done.dropped_ms == 0


async def test_writing_that_cannot_follow_leaves_silence_and_is_counted(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    now = 100.0
    sink = FolderSink(tmp_path, "call.wav", threads)
    recording = Recording(
        sink, format="wav", rate=RATE, executor=threads, clock=lambda: now, hold=0, max_queued_bytes=RATE * 2
    )
    for i in range(100):
        recording.left(now + i * 0.02, np.full(480, 9, "<i2").tobytes(), MONO)
    recording.stop(now + 3)
    done = await recording.run()
    assert done.dropped_ms == 1000
    samples, _ = soundfile.read(tmp_path / "call.wav", dtype="int16")
    assert len(samples) == RATE * 3
    assert np.count_nonzero(samples) == RATE


async def test_a_file_that_is_there_is_never_written_over(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    for name in ("call.wav", "other.wav.part"):
        (tmp_path / name).write_bytes(b"precious")
        with pytest.raises(RecordingError):
            await FolderSink(tmp_path, name.removesuffix(".part"), threads).open()
        assert (tmp_path / name).read_bytes() == b"precious"


async def test_a_long_recording_is_uploaded_in_parts_and_shown_when_it_is_whole() -> None:
    async with object_store() as (endpoint, store):
        sink = S3Sink(target(endpoint), "long.wav")
        await sink.open()
        encoder, size = WavEncoder(RATE), 0
        for n in range(30):
            data = encoder.encode(np.full((RATE * 5, 2), n + 1, np.int16))
            size += len(data)
            await sink.write(data, encoder.header(size))
        assert await stored(store) == []
        await sink.finish(encoder.header(size))
        assert size > 2 * PART_BYTES
        assert await stored(store) == ["deep/down/long.wav"]
        whole = bytes(await (await store.get_async("deep/down/long.wav")).bytes_async())
        samples, rate = soundfile.read(io.BytesIO(whole), dtype="int16")
        assert (rate, len(samples)) == (RATE, RATE * 150)
        assert [int(samples[RATE * 5 * n, 0]) for n in range(30)] == list(range(1, 31))


async def test_an_abandoned_upload_shows_nothing() -> None:
    async with object_store() as (endpoint, store):
        sink = S3Sink(target(endpoint), "lost.wav")
        await sink.open()
        await sink.write(bytes(PART_BYTES + 10), b"")
        await sink.abandon()
        assert await stored(store) == []


async def test_a_store_that_stumbles_is_asked_again() -> None:
    answers = [503, 500, 200]

    async def put(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=answers.pop(0), headers={"ETag": "x"})

    app = web.Application()
    app.router.add_put("/{path:.*}", put)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sink = S3Sink(target(f"http://127.0.0.1:{runner.addresses[0][1]}"), "call.wav")
        await sink.open()
        await sink.write(b"sound", b"")
        await sink.finish(b"")
        assert answers == []
    finally:
        await runner.cleanup()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything, answer nothing."""
    while await reader.read(65536):
        pass
    writer.close()


async def test_a_store_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parley_realtime.units.storage.WRITE_SECONDS", 0.5)
    async with asyncio.timeout(10), await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        sink = S3Sink(target(f"http://127.0.0.1:{port}"), "lost.wav")
        await sink.open()
        with pytest.raises(RecordingError) as refused:
            await sink.write(bytes(PART_BYTES * 3), b"")
        assert "took longer than 0.5 s" in str(refused.value)
        assert S3_SECRET not in str(refused.value)
        assert refused.value.url == "s3://calls/deep/down/lost.wav"
        await sink.abandon()


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"url": "calls"}, "s3://bucket"),
        ({"url": "s3://"}, "s3://bucket"),
        ({"endpoint": "ftp://x"}, "https"),
    ],
)
def test_a_target_that_cannot_work_is_refused(change: dict[str, str], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        S3Target(**{"url": "s3://calls", **change})  # type: ignore[arg-type]


async def test_a_store_that_leads_to_a_refused_address_gets_nothing() -> None:
    asked: list[str] = []

    def allow(address: str) -> bool:
        asked.append(address)
        return False

    async with object_store() as (endpoint, store):
        port = endpoint.rpartition(":")[2]
        sink = S3Sink(replace(target(f"http://localhost:{port}"), allow_address=allow), "call.wav")
        with pytest.raises(RecordingError, match="leads to an address that is refused") as refused:
            await sink.open()
        assert S3_SECRET not in str(refused.value)
        assert await stored(store) == []
    assert asked
    assert set(asked) <= {"127.0.0.1", "::1"}
    nowhere = S3Sink(replace(target("http://nowhere.invalid"), allow_address=allow), "call.wav")
    with pytest.raises(RecordingError, match="is not found"):
        await nowhere.open()


def test_the_environment_does_not_say_where_a_store_is() -> None:
    assert target("").service == "https://s3.us-east-1.amazonaws.com"
    assert target("", region="eu-west-1").service == "https://s3.eu-west-1.amazonaws.com"
    assert target("http://minio:9000").service == "http://minio:9000"


def test_names_stay_below_their_folder() -> None:
    assert safe_name("default", "../../etc/passwd", "a b.wav") == "default/.._.._etc_passwd/a_b.wav"
    assert safe_name("..", ".", "x") == "_/_/x"
