"""Connections of callers use the TCP congestion control that was asked for; those of others the system's."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from parley_worker.transport import congestion, grpc_base
from tcp_sockets import congestion_control, congestion_of_accepted

SYSTEMS = Path("/proc/sys/net/ipv4/tcp_congestion_control")
pytestmark = pytest.mark.skipif(not SYSTEMS.exists(), reason="the kernel does not tell")


def systems() -> str:
    return SYSTEMS.read_text().strip()


@asynccontextmanager
async def grpc_port() -> AsyncIterator[int]:
    server = grpc_base.new_server()
    port = grpc_base.listen(server, "127.0.0.1:0", None)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_a_grpc_servers_connections_inherit_it() -> None:
    async with grpc_port() as port:
        assert congestion.settle(("reno",), {port}) == "reno"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readexactly(9)  # the server's settings: it has accepted
        assert congestion_of_accepted(port) == ["reno"]
        writer.close()
        await writer.wait_closed()


async def test_other_ports_are_left_alone() -> None:
    other = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with grpc_port() as port, other:
        congestion.settle(("reno",), {port})
        with socket.socket(fileno=os.dup(other.sockets[0].fileno())) as listening:
            assert congestion_control(listening) == systems()


async def test_one_that_the_kernel_does_not_have_is_told_and_leaves_the_systems(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with grpc_port() as port:
        with caplog.at_level(logging.WARNING):
            assert congestion.settle(("nosuch",), {port}) == systems()
    assert f"keep {systems()}" in caplog.text
    assert "nosuch" in caplog.text


async def test_the_systems_is_left_where_that_was_asked_for() -> None:
    async with grpc_port() as port:
        assert congestion.settle(congestion.instead("system"), {port}) == systems()
