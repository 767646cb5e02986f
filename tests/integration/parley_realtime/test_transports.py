"""What a parameter or TLS changes about a transport; all other tests of this folder run over both."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from parley_realtime import (
    PCM16,
    RealtimeAPIClientParameters,
    RealtimeError,
    create_realtime_api_client,
    transport,
)
from parley_realtime.transport import Socket
from pki import TestAuthority
from realtime_units import RecordingUnit
from scripted_provider import ScriptedProvider
from tcp_sockets import congestion_of_connections_to


@pytest.mark.parametrize("name", transport.TRANSPORTS)
async def test_the_transport_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    opened: list[Socket] = []
    open_socket = transport.open_socket

    async def noting(*given: Any) -> Socket:
        opened.append(await open_socket(*given))
        return opened[-1]

    monkeypatch.setattr(transport, "open_socket", noting)
    async with ScriptedProvider() as provider:
        parameters = RealtimeAPIClientParameters(api_key="k", base_url=provider.base_url, transport=name)
        async with await create_realtime_api_client(parameters):
            line = await provider.accepted()
    expected = {"websockets": "ReferenceSocket", "picows": "FastSocket"}
    assert [type(socket).__name__ for socket in opened] == [expected[name]]
    assert line.headers["user-agent"] == "parley-realtime"
    assert "sec-websocket-extensions" not in line.headers


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="the system has no such choice")
@pytest.mark.parametrize("name", transport.TRANSPORTS)
async def test_the_congestion_control_that_is_named_is_asked_for(name: Any) -> None:
    async with ScriptedProvider() as provider:
        port = urlsplit(provider.base_url).port
        assert port is not None
        parameters = RealtimeAPIClientParameters(
            api_key="k", base_url=provider.base_url, transport=name, congestion=("nosuch", "reno")
        )
        async with await create_realtime_api_client(parameters):
            assert congestion_of_connections_to(port) == ["reno"]


@asynccontextmanager
async def over_tls(folder: Path) -> AsyncIterator[tuple[ScriptedProvider, RealtimeAPIClientParameters]]:
    """A provider with a certificate, and parameters that trust it."""
    made = TestAuthority().issue("provider")
    (folder / "provider.pem").write_bytes(made.certificate + made.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "provider.pem")
    trusting = ssl.create_default_context(cadata=made.ca.decode())
    async with ScriptedProvider(tls=tls) as provider:
        yield (
            provider,
            RealtimeAPIClientParameters(api_key="k", base_url=provider.base_url, ssl=trusting),
        )


async def test_audio_both_ways_and_a_goodbye_over_tls(tmp_path: Path) -> None:
    """More than a TLS record, more than the socket's buffers, in both directions."""
    async with over_tls(tmp_path) as (provider, parameters):
        client = await create_realtime_api_client(parameters)
        line = await provider.accepted()
        unit = RecordingUnit()
        client.send_media_to(unit, {"tag": "unit"})
        said = bytes(range(256)) * 4000
        for at in range(0, len(said), 200_000):
            await line.audio(said[at : at + 200_000])
        heard = bytes(range(255, -1, -1)) * 900
        for at in range(0, len(heard), PCM16.frame_bytes):
            client.push_media(heard[at : at + PCM16.frame_bytes])
        assert await line.heard(len(heard)) == heard
        await line.socket.close(1012, "moved")
        error = await asyncio.wait_for(client.wait_closed(), 10)
    assert isinstance(error, RealtimeError)
    assert error.close_code == 1012
    assert client.statistics.audio_bytes_received == len(said)


async def test_a_cut_within_tls(tmp_path: Path) -> None:
    async with over_tls(tmp_path) as (provider, parameters):
        client = await create_realtime_api_client(parameters)
        (await provider.accepted()).socket.transport.abort()
        error = await asyncio.wait_for(client.wait_closed(), 10)
    assert getattr(error, "code", None) == "connection_lost"


class Ear:
    """Hears when a socket is over."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def frame(self, data: bytes) -> None: ...

    def filled(self) -> None: ...

    def drained(self) -> None: ...

    def lost(self, ending: transport.Ending) -> None:
        self.over.set()


@pytest.mark.parametrize("provider_leaves", [False, True])
async def test_a_connection_that_is_over_is_freed_without_the_collector(
    tmp_path: Path, provider_leaves: bool
) -> None:
    """In a worker the collector of old objects hardly ever runs: a knot of references would be a leak."""
    async with over_tls(tmp_path) as (provider, parameters):
        options = transport.SocketOptions(
            headers={},
            tls=parameters.ssl,
            proxy=None,
            ping_interval=None,
            ping_timeout=None,
            close_timeout=5.0,
            max_frame_bytes=1 << 20,
            allow_address=None,
            secrets=(),
        )
        ear = Ear()
        gc.disable()
        try:
            url = provider.base_url.replace("https", "wss")
            socket = await transport.open_socket(url, options, "picows")
            line = await provider.accepted()
            socket.start(ear)
            if provider_leaves:
                await line.socket.close(1000)
            await socket.close(1000, "")
            await asyncio.wait_for(ear.over.wait(), 10)
            left = weakref.ref(socket)
            del socket
            await asyncio.sleep(0.1)
            assert left() is None
        finally:
            gc.enable()
