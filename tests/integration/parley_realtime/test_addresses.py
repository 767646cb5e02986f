"""The address that a name leads to is judged before the key is sent."""

from __future__ import annotations

import asyncio

import pytest
from parley_realtime import RealtimeAPIClient, RealtimeAPIClientParameters, UnavailableError
from scripted_provider import ScriptedProvider


async def test_a_refused_address_never_sees_the_request() -> None:
    received = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked: list[str] = []

    def allow(address: str) -> bool:
        asked.append(address)
        return False

    client = RealtimeAPIClient(
        RealtimeAPIClientParameters(
            api_key="sk-secret", base_url=f"ws://localhost:{port}", allow_address=allow
        )
    )
    with pytest.raises(UnavailableError, match="not allowed") as caught:
        await client.connect()
    await client.wait_closed()
    server.close()
    await server.wait_closed()
    assert asked == ["127.0.0.1"]
    assert caught.value.code == "address_refused"
    assert not caught.value.retryable
    assert bytes(received) == b""


async def test_an_allowed_address_is_connected_to() -> None:
    async with ScriptedProvider() as provider:
        parameters = RealtimeAPIClientParameters(
            api_key="sk-secret", base_url=provider.base_url, allow_address=lambda _: True
        )
        async with RealtimeAPIClient(parameters) as client:
            assert client.web_socket_id()
