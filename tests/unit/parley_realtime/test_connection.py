"""A connection over a socket of its own making: what goes out when, and what waits while nothing does."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from parley_realtime import (
    PCM16,
    PCMU,
    OutgoingQueueFull,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeError,
    UnavailableError,
    transport,
)
from parley_realtime.recovery import RecoveryParameters
from parley_realtime.transport import Ending, Receiver

FRAME = PCM16.frame_bytes
CREATED = b'{"type":"session.created","session":{"id":"s"}}'


class FakeSocket:
    """See transport.Socket; `writable` is the test's to set, `taken` fills it up after so many messages."""

    latency = 0.0
    close_code = 1000
    close_reason = ""

    def __init__(self) -> None:
        self.writable = True
        self.room: int | None = None
        self.sent: list[dict[str, Any]] = []
        self.receiver: Receiver | None = None
        self.news = asyncio.Event()
        self.closed: list[int] = []

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        receiver.frame(CREATED)

    def send(self, data: str | bytes) -> None:
        assert self.writable, "sent though it is not writable"
        self.sent.append(json.loads(data))
        self.news.set()
        if self.room is not None:
            self.room -= 1
            if self.room <= 0:
                self.fill()

    def fill(self) -> None:
        self.writable = False
        assert self.receiver is not None
        self.receiver.filled()

    def drain(self) -> None:
        self.writable, self.room = True, None
        assert self.receiver is not None
        self.receiver.drained()

    async def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def abort(self) -> None:
        """Nothing is open."""

    @property
    def kinds(self) -> str:
        """`a` for an append, `e` for another event."""
        return "".join("a" if e["type"].endswith(".append") else "e" for e in self.sent)

    @property
    def audio(self) -> bytes:
        return b"".join(base64.b64decode(e["audio"]) for e in self.sent if "audio" in e)


@pytest.fixture(params=[None, RecoveryParameters()], ids=["alone", "recovering"])
def more(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"recovery": request.param}


@asynccontextmanager
async def connected(**more: Any) -> AsyncIterator[tuple[RealtimeAPIClient, FakeSocket]]:
    socket = FakeSocket()

    async def open_socket(*_: object) -> FakeSocket:
        return socket

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "open_socket", open_socket)
        client = RealtimeAPIClient(RealtimeAPIClientParameters(api_key="k", base_url="ws://a.test", **more))
        await client.connect()
        try:
            yield client, socket
        finally:
            client.close()
            await client.wait_closed()


async def test_a_frame_goes_out_at_once(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        client.push_media(b"\1\2" * (FRAME // 2))
        assert socket.kinds == "a"
        assert socket.audio == b"\1\2" * (FRAME // 2)
        assert (client.statistics.events_sent, client.statistics.audio_bytes_sent) == (1, FRAME)


async def test_what_can_change_later_is_copied(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        frame = bytearray(b"\1" * FRAME)
        client.push_media(frame)
        frame[:] = bytes(FRAME)
        assert socket.audio == b"\1" * FRAME


async def test_small_pieces_wait_for_their_like(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        for _ in range(8):
            client.push_media(bytes(FRAME // 4))
        assert [len(base64.b64decode(e["audio"])) for e in socket.sent] == [FRAME, FRAME]


async def test_a_small_piece_alone_does_not_wait_for_ever(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        client.push_media(bytes(100))
        assert socket.sent == []
        await asyncio.wait_for(socket.news.wait(), 5)
        assert len(socket.audio) == 100
        client.push_media(bytes(FRAME))
        assert socket.kinds == "aa"


async def test_a_long_piece_is_cut(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        client.push_media(bytes(FRAME * 5))
        assert [len(base64.b64decode(e["audio"])) // FRAME for e in socket.sent] == [2, 2, 1]


async def test_an_inlet_takes_a_tenth_of_a_second_as_one_append(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        client.push_media(bytes(FRAME))
        client.media_inlet(bytes(FRAME * 5))
        client.media_inlet(bytes(FRAME * 6))
        assert [len(base64.b64decode(e["audio"])) // FRAME for e in socket.sent] == [1, 5, 2, 2, 2]
        with pytest.raises(ValueError, match="no whole number of pcm16 samples"):
            client.media_inlet(bytes(FRAME + 1))


async def test_events_and_audio_keep_their_order(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        client.push_media(bytes(100))
        client.send_event({"type": "input_audio_buffer.commit"})
        client.push_media(bytes(FRAME))
        client.send_event({"type": "response.create"})
        assert socket.kinds == "aeae"


async def test_nothing_is_sent_into_a_full_socket_and_all_of_it_later(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        socket.room = 1
        for number in range(4):
            client.push_media(bytes([number]) * FRAME)
        client.send_event({"type": "input_audio_buffer.commit"})
        client.push_media(bytes([9]) * FRAME)
        assert socket.kinds == "a"
        socket.drain()
        assert socket.kinds == "aaaea"
        assert socket.audio == b"".join(bytes([n]) * FRAME for n in (0, 1, 2, 3, 9))
        client.push_media(bytes(FRAME))
        assert socket.kinds == "aaaeaa"


async def test_a_socket_that_fills_up_while_it_is_emptied(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        socket.room = 0
        socket.fill()
        client.send_event({"type": "response.create"})
        client.push_media(bytes(FRAME * 4))
        socket.writable, socket.room = True, 1
        assert socket.receiver is not None
        socket.receiver.drained()
        assert socket.kinds == "e"
        socket.drain()
        assert socket.kinds == "eaa"


async def test_the_oldest_audio_goes_when_the_socket_stays_full(more: dict[str, Any]) -> None:
    async with connected(media_buffer_ms=100, **more) as (client, socket):
        socket.fill()
        client.send_event({"type": "response.create"})
        for number in range(8):
            client.push_media(bytes([number]) * FRAME)
        assert client.statistics.input_bytes_dropped == 3 * FRAME
        socket.drain()
        assert socket.audio == b"".join(bytes([n]) * FRAME for n in range(3, 8))


async def test_events_are_bounded_while_the_socket_is_full() -> None:
    async with connected(outgoing_events=3) as (client, socket):
        for _ in range(5):
            client.send_event({"type": "response.create"})
        socket.fill()
        for _ in range(3):
            client.send_event({"type": "response.create"})
        with pytest.raises(OutgoingQueueFull):
            client.send_event({"type": "response.create"})
        socket.drain()
        assert socket.kinds == "e" * 8


async def test_a_socket_that_stays_full_is_given_up() -> None:
    async with connected(send_timeout=0.05) as (client, socket):
        socket.room = 1
        client.push_media(bytes(FRAME))
        error = await asyncio.wait_for(client.wait_closed(), 5)
        assert isinstance(error, UnavailableError)
        assert error.code == "send_timeout"


async def test_a_socket_that_drains_in_time_is_not() -> None:
    async with connected(send_timeout=0.2) as (client, socket):
        for _ in range(4):
            socket.room = 1
            client.push_media(bytes(FRAME))
            await asyncio.sleep(0.1)
            socket.drain()
        await asyncio.sleep(0.25)
        assert client.error is None


async def test_half_samples_are_refused_at_once(more: dict[str, Any]) -> None:
    async with connected(**more) as (client, socket):
        with pytest.raises(ValueError, match="whole number"):
            client.push_media(bytes(FRAME + 1))
        assert socket.sent == []


async def test_a_format_is_told_before_the_first_audio(more: dict[str, Any]) -> None:
    async with connected(input_format=PCMU, **more) as (client, socket):
        client.push_media(bytes(160))
        client.push_media(bytes(160))
        assert [e["type"] for e in socket.sent] == ["session.update", *["input_audio_buffer.append"] * 2]


async def test_nothing_goes_out_after_the_end() -> None:
    async with connected() as (client, socket):
        client.close()
        client.push_media(bytes(FRAME))
        client.send_event({"type": "response.create"})
        assert socket.sent == []
        assert client.statistics.input_bytes_dropped == FRAME


async def test_frames_after_the_end_are_not_heard() -> None:
    heard: list[str] = []
    async with connected(observer=lambda event: heard.append(event["type"])) as (client, socket):
        assert socket.receiver is not None
        client.close()
        socket.receiver.frame(b'{"type":"rate_limits.updated"}')
        socket.receiver.lost(Ending(1000, "", 1000))
        assert await client.wait_closed() is None
    assert heard == ["session.created"]


async def test_a_mistake_of_ours_ends_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (client, socket):
        assert socket.receiver is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "received", lambda _: {}["nothing"])
            socket.receiver.frame(b'{"type":"rate_limits.updated"}')
        error = await asyncio.wait_for(client.wait_closed(), 5)
    assert type(error) is RealtimeError
    assert "KeyError" in str(error)
    assert "unexpected KeyError" in caplog.text
    assert socket.closed == [1000]
