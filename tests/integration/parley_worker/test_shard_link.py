"""The private line between supervisor and shard, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from parley_worker.codec.shard_frames import Kind, encode
from parley_worker.transport import shard_link
from parley_worker.transport.shard_link import Aborted, LinkLost, ShardLink


async def serve(kind: Kind, body: bytes) -> bytes:
    if kind is Kind.TERMINATE:
        raise Aborted(grpc.StatusCode.INVALID_ARGUMENT, "reason is wrong:\ngive one")
    return kind.name.encode() + body


class Pair:
    """Both ends, read in the background."""

    def __init__(self) -> None:
        one, two = socket.socketpair()
        self.heard: list[tuple[Kind, bytes]] = []
        self.front = ShardLink(one, lambda kind, body: self.heard.append((kind, body)))
        self.shard = ShardLink(two, lambda kind, body: self.heard.append((kind, body)), serve)


@asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    pair = Pair()
    await pair.front.open()
    await pair.shard.open()
    tasks = [asyncio.create_task(link.run()) for link in (pair.front, pair.shard)]
    yield pair
    pair.front.close()
    pair.shard.close()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)


async def test_requests_are_answered_in_order() -> None:
    async with connected() as pair:
        answers = await asyncio.gather(*(pair.front.call(Kind.ADMIT, str(n).encode()) for n in range(50)))
        assert answers == [b"ADMIT" + str(n).encode() for n in range(50)]
        big = bytes(3 << 20)
        assert await pair.front.call(Kind.METRICS, big) == b"METRICS" + big


async def test_an_error_status_comes_back() -> None:
    async with connected() as pair:
        with pytest.raises(Aborted) as caught:
            await pair.front.call(Kind.TERMINATE)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.message == "reason is wrong:\ngive one"


async def test_what_is_said_is_heard_before_the_answer_that_follows_it() -> None:
    async with connected() as pair:
        pair.shard.send(Kind.REPORT, b"1")
        pair.shard.send(Kind.BEAT, b"2")
        await pair.front.call(Kind.COMMAND)
        assert pair.heard == [(Kind.REPORT, b"1"), (Kind.BEAT, b"2")]


async def test_a_side_that_goes_ends_what_the_other_waits_for() -> None:
    async with connected() as pair:
        waiting = asyncio.create_task(pair.shard.call(Kind.METRICS))
        await asyncio.sleep(0)
        pair.front.close()
        with pytest.raises(LinkLost):
            await waiting
        with pytest.raises(LinkLost):
            await pair.shard.call(Kind.METRICS)
        pair.shard.send(Kind.BEAT)
        assert pair.shard.lost


async def test_nonsense_ends_the_link() -> None:
    one, two = socket.socketpair()
    link = ShardLink(one, lambda kind, body: None)
    await link.open()
    two.sendall(b"\xff" * 32)
    async with asyncio.timeout(5):
        await link.run()
    assert link.lost
    two.close()


async def test_a_side_that_does_not_read_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_link, "MAX_UNREAD_BYTES", 1 << 20)
    one, two = socket.socketpair()
    link = ShardLink(one, lambda kind, body: None)
    await link.open()
    reading = asyncio.create_task(link.run())
    for _ in range(64):
        link.send(Kind.DRAIN, bytes(1 << 16))
    async with asyncio.timeout(5):
        await reading
    assert link.lost
    two.close()


async def test_half_a_frame_is_no_frame() -> None:
    heard: list[Kind] = []
    one, two = socket.socketpair()
    link = ShardLink(one, lambda kind, body: heard.append(kind))
    await link.open()
    two.sendall(encode(Kind.BEAT, 0, b"abc")[:-1])
    two.close()
    async with asyncio.timeout(5):
        await link.run()
    assert heard == []
