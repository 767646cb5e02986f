"""Connections to the telephony port that never become a stream: how many, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.media_websocket import TelephonyServer, TelephonySettings
from parley_worker.transport.tls import TlsContext
from pki import TestAuthority
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidMessage, InvalidStatus

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Nobody:
    """A directory without sessions."""

    def find_by_ticket(self, digest: bytes) -> None: ...
    def find_by_resume(self, digest: bytes) -> None: ...
    def find_by_uid(self, uid: str) -> None: ...


@asynccontextmanager
async def telephony(tls: TlsContext | None = None, **given: float) -> AsyncIterator[int]:
    """Its port."""
    settings = TelephonySettings(**given)  # type: ignore[arg-type]
    server = TelephonyServer(Nobody(), Metrics(), settings)
    try:
        yield await server.start("127.0.0.1", 0, tls)
    finally:
        await server.stop()


async def opened(port: int, count: int) -> list[Stream]:
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]


async def is_cut(stream: Stream, within: float) -> bool:
    """Whether the server ends it in that time, whatever it says before."""
    try:
        async with asyncio.timeout(within):
            while await stream[0].read(4096):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


async def close(streams: list[Stream]) -> None:
    for _, writer in streams:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_connections_that_say_nothing_are_bounded_in_number() -> None:
    async with telephony(unattached=4, start_timeout=30) as port:
        silent = await opened(port, 20)
        cut = await asyncio.gather(*(is_cut(stream, 1.0) for stream in silent))
        assert sum(cut) == 20 - 2 * 4
        with pytest.raises((InvalidMessage, ConnectionError)):
            await connect(f"ws://127.0.0.1:{port}/twilio", open_timeout=2)
        await close(silent)
        await asyncio.sleep(0.1)
        async with connect(f"ws://127.0.0.1:{port}/twilio"):
            pass


async def test_a_stream_that_finds_too_many_waiting_is_told_so() -> None:
    async with telephony(unattached=3, start_timeout=30) as port:
        silent = await opened(port, 3)
        await asyncio.sleep(0.1)
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{port}/twilio/a-ticket")
        assert refused.value.response.status_code == 503
        await close(silent)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_connections_that_say_nothing_are_bounded_in_time(encrypted: bool, tmp_path: Path) -> None:
    tls = TlsContext(TestAuthority().issue("w").write(tmp_path)) if encrypted else None
    async with telephony(tls, start_timeout=0.3) as port:
        silent = await opened(port, 1)
        assert await is_cut(silent[0], 5)
        await close(silent)


@pytest.mark.parametrize("text", ["\\ud800", "x" * 600, "ticket", "\\u0000", "9" * 500])
async def test_no_ticket_is_an_error_of_ours(text: str) -> None:
    begin = '{"event":"start","streamSid":"MZ1","start":{"mediaFormat":{"encoding":"audio/x-mulaw",'
    begin += f'"sampleRate":8000,"channels":1}},"customParameters":{{"ticket":"{text}"}}}}}}'
    async with telephony() as port, connect(f"ws://127.0.0.1:{port}/twilio") as stream:
        await stream.send(begin)
        with pytest.raises(ConnectionClosedError) as closed:
            await stream.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
