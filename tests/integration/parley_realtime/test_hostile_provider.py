"""Bytes that no good provider sends: both transports end the same way, and nothing is left of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from parley_realtime import (
    AuthenticationError,
    ProtocolError,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeError,
    UnavailableError,
    WebSocketCloseEvent,
    create_realtime_api_client,
)
from raw_provider import (
    BINARY,
    CLOSE,
    CONTINUATION,
    CREATED,
    PING,
    PONG,
    TEXT,
    Script,
    Wire,
    event,
    frame,
    opened,
    raw_provider,
)

KEY = "sk-hidden-key"
MAX_FRAME = 20_000


def parameters(url: str, **more: Any) -> RealtimeAPIClientParameters:
    given = {"api_key": KEY, "base_url": url, "max_frame_bytes": MAX_FRAME, "close_timeout": 0.3, **more}
    return RealtimeAPIClientParameters(**given)


async def outcome(url: str, **more: Any) -> RealtimeError | None:
    """What ends a client that gets a session first."""
    client = await create_realtime_api_client(parameters(url, **more))
    return await asyncio.wait_for(client.wait_closed(), 10)


DAMAGE: dict[str, tuple[bytes, int]] = {
    "garbage": (b"\xff" * 64, 1002),
    "HTTP where frames should be": (b"HTTP/1.1 200 OK\r\n\r\n" * 10, 1002),
    "a reserved opcode": (frame(3, b"x"), 1002),
    "a reserved bit": (frame(TEXT, b"{}", rsv=4), 1002),
    "a reserved bit of a fragment": (frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"}", rsv=1), 1002),
    "masked": (frame(TEXT, b"{}", mask=b"abcd"), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"{}"), 1002),
    "a text within a text": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "an empty first fragment and a text": (frame(TEXT, b"", fin=False) + frame(BINARY, b"}"), 1002),
    "a ping in parts": (frame(PING, b"x", fin=False), 1002),
    "a ping too long": (frame(PING, b"x" * 126), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code of nobody's": (frame(CLOSE, b"\x03\xed"), 1002),
    "a close with code 0": (frame(CLOSE, b"\x00\x00"), 1002),
    "a close with code 5000": (frame(CLOSE, b"\x13\x88"), 1002),
    "a close whose reason is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff\xfe"), 1007),
    "too large": (frame(TEXT, b"x" * (MAX_FRAME + 1)), 1009),
    "said to be enormous": (frame(TEXT, b"x" * 100, length=1 << 40), 1009),
    "too large in parts": (
        frame(TEXT, b"x" * 15_000, fin=False) + frame(CONTINUATION, b"x" * 15_000, fin=False),
        1009,
    ),
    "frames and then garbage": (event("rate_limits.updated") * 3 + b"\xff\xff\xff", 1002),
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_what_is_no_frame_is_refused_by_its_code(what: str) -> None:
    data, code = DAMAGE[what]
    codes: list[int] = []

    async def then(wire: Wire) -> None:
        await wire.write(data)
        codes.append(await wire.until_close())

    async with raw_provider(opened(then)) as url:
        error = await outcome(url)
    assert type(error) is ProtocolError, error
    assert error.close_code == code
    assert codes == [code]


async def test_a_length_with_the_highest_bit_is_refused() -> None:
    """As no length, or as one too large."""

    async def then(wire: Wire) -> None:
        await wire.write(frame(TEXT, b"x" * 100, length=1 << 63))
        await wire.until_close()

    async with raw_provider(opened(then)) as url:
        error = await outcome(url)
    assert isinstance(error, ProtocolError)
    assert error.close_code in (1002, 1009)


async def test_not_utf8_text_is_refused() -> None:
    async def then(wire: Wire) -> None:
        await wire.write(frame(TEXT, b'{"type":"\xff"}'))
        await wire.until_close()

    async with raw_provider(opened(then)) as url:
        assert type(await outcome(url)) is ProtocolError


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("sent", [b"", b"\x81", frame(TEXT, b"{" * 500)[:200], frame(TEXT, b"{", fin=False)])
async def test_it_goes_in_the_middle(sent: bytes, end: str) -> None:
    closes: list[WebSocketCloseEvent] = []

    async def then(wire: Wire) -> None:
        await wire.write(sent)
        if end == "reset":
            await asyncio.sleep(0.05)
            wire.reset()

    async with raw_provider(opened(then)) as url:
        error = await outcome(url, on_web_socket_close=closes.append)
    assert type(error) is UnavailableError
    assert error.code == "connection_lost"
    assert [(c.code, c.was_clean) for c in closes] == [(1006, False)]


async def heard(script: Script, **more: Any) -> list[str]:
    """Types of the events until one called `over`."""
    kinds: list[str] = []
    over = asyncio.Event()

    def observer(payload: dict[str, Any]) -> None:
        kinds.append(payload["type"])
        if payload["type"] == "over":
            over.set()

    async with raw_provider(script) as url:
        client = await create_realtime_api_client(parameters(url, observer=observer, **more))
        await asyncio.wait_for(over.wait(), 10)
        client.close()
        assert await asyncio.wait_for(client.wait_closed(), 10) is None
    return kinds


async def test_byte_by_byte() -> None:
    async def script(wire: Wire) -> None:
        await wire.drip(
            wire.answer() + CREATED + event("one") + event("two", filler="x" * 300) + event("over")
        )
        await wire.until_close()

    assert await heard(script) == ["session.created", "one", "two", "over"]


async def test_all_at_once_with_the_answer() -> None:
    async def script(wire: Wire) -> None:
        many = b"".join(event("one", filler="x" * 1000) for _ in range(200))
        await wire.write(wire.answer() + CREATED + many + event("over"))
        await wire.until_close()

    assert await heard(script) == ["session.created", *["one"] * 200, "over"]


async def test_fragments_with_pings_between() -> None:
    got: list[tuple[int, bytes]] = []

    async def then(wire: Wire) -> None:
        text = json.dumps({"type": "whole", "filler": "ä" * 5000}, ensure_ascii=False).encode()
        parts = [text[:7], text[7:7], text[7:8001], text[8001:]]
        for number, part in enumerate(parts):
            kind = CONTINUATION if number else TEXT
            await wire.write(frame(kind, part, fin=number == 3) + frame(PING, b"p%d" % number))
        empty_first = frame(TEXT, b"", fin=False) + frame(CONTINUATION, b'{"type":"late"}')
        await wire.write(empty_first + frame(PONG, b"nobody asked") + frame(BINARY, b'{"type":"over"}'))
        await wire.until_close()
        got.extend(wire.got)

    assert await heard(opened(then)) == ["session.created", "whole", "late", "over"]
    assert [payload for kind, payload in got if kind == PONG] == [b"p0", b"p1", b"p2", b"p3"]


async def test_a_large_message_within_the_bound() -> None:
    async def then(wire: Wire) -> None:
        exactly = event("big", filler="")
        body = json.dumps({"type": "big", "filler": "x" * (MAX_FRAME - len(exactly) + 2)}).encode()
        assert len(body) == MAX_FRAME
        await wire.write(frame(TEXT, body) + event("over"))
        await wire.until_close()

    assert await heard(opened(then)) == ["session.created", "big", "over"]


async def test_what_follows_a_goodbye_is_not_heard() -> None:
    kinds: list[str] = []
    codes: list[int] = []

    async def then(wire: Wire) -> None:
        await wire.write(event("one") + frame(CLOSE, b"\x03\xf4gone") + event("two") + b"\xff" * 10)
        codes.append(await wire.until_close())

    async with raw_provider(opened(then)) as url:
        error = await outcome(url, observer=lambda payload: kinds.append(payload["type"]))
    assert type(error) is UnavailableError
    assert error.close_code == 1012
    assert kinds == ["session.created", "one"]
    assert codes == [1012]


async def test_a_goodbye_without_a_code() -> None:
    closes: list[WebSocketCloseEvent] = []

    async def then(wire: Wire) -> None:
        await wire.write(frame(CLOSE))
        await wire.until_close()

    async with raw_provider(opened(then)) as url:
        error = await outcome(url, on_web_socket_close=closes.append)
    assert type(error) is UnavailableError
    assert [(c.code, c.was_clean) for c in closes] == [(1005, True)]


async def test_who_never_lets_go_is_left_in_time() -> None:
    """It neither answers our goodbye nor closes, and goes on talking."""

    async def then(wire: Wire) -> None:
        while not wire.writer.transport.is_closing():
            await wire.write(event("more", filler="x" * 10_000))
            await asyncio.sleep(0.001)

    async with raw_provider(opened(then)) as url:
        client = await create_realtime_api_client(parameters(url))
        await asyncio.sleep(0.05)
        client.close()
        async with asyncio.timeout(3):
            assert await client.wait_closed() is None


async def test_who_reads_nothing_when_it_errs_is_left_in_time() -> None:
    """Our own bytes wait, and the frame is broken."""
    broken = asyncio.Event()

    async def then(wire: Wire) -> None:
        await broken.wait()
        await wire.write(b"\xff" * 20)
        await asyncio.sleep(1)

    async with raw_provider(opened(then)) as url:
        client = await create_realtime_api_client(parameters(url, outgoing_events=10_000))
        for _ in range(160):
            client.send_event({"type": "conversation.item.create", "item": {"filler": "x" * 50_000}})
        broken.set()
        async with asyncio.timeout(4):
            assert type(await client.wait_closed()) is ProtocolError


ANSWERS: dict[str, tuple[Callable[[Wire], bytes], type[RealtimeError], str | None]] = {
    "no HTTP": (lambda _: b"\x00\x01\x02\x03\r\n\r\n", UnavailableError, "connect"),
    "HTTP of another time": (lambda _: b"HTTP/0.9 200 OK\r\n\r\n", UnavailableError, "connect"),
    "nothing": (lambda _: b"", UnavailableError, "connect"),
    "half an answer": (lambda w: w.answer()[:60], UnavailableError, "connect"),
    "a header without end": (lambda _: b"HTTP/1.1 101 X\r\nA: " + b"a" * 20_000, UnavailableError, "connect"),
    "too many headers": (lambda w: w.answer("A: b\r\n" * 300), UnavailableError, "connect"),
    "the accept of another": (lambda w: w.answer(accept="AAAA"), ProtocolError, "handshake"),
    "no upgrade": (lambda w: w.answer(connection="close"), ProtocolError, "handshake"),
    "an extension": (
        lambda w: w.answer("Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        ProtocolError,
        "handshake",
    ),
    "a protocol": (lambda w: w.answer("Sec-WebSocket-Protocol: chat\r\n"), ProtocolError, "handshake"),
    "a redirect": (
        lambda _: b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n",
        ProtocolError,
        "http_302",
    ),
    "a status of one proxy": (
        lambda _: b"HTTP/1.1 521 Down\r\nContent-Length: 4\r\n\r\ndown",
        UnavailableError,
        "http_521",
    ),
    "a body in chunks": (
        lambda _: b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n4\r\n key\r\n0\r\n\r\n",
        AuthenticationError,
        "http_401",
    ),
    "a body to the end": (lambda _: b"HTTP/1.1 503 No\r\n\r\nlater", UnavailableError, "http_503"),
}


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize("what", ANSWERS)
async def test_an_answer_that_is_no_upgrade(what: str, slowly: bool) -> None:
    make, kind, code = ANSWERS[what]

    async def script(wire: Wire) -> None:
        assert KEY.encode() in wire.request
        answer = make(wire)
        cut = answer.find(b"\r\n\r\n") + 4 if slowly else len(answer)
        await wire.write(answer[:cut])
        await asyncio.sleep(0.05 if slowly else 0)
        await wire.write(answer[cut:])

    async with raw_provider(script) as url:
        client = RealtimeAPIClient(parameters(url))
        with pytest.raises(RealtimeError) as caught:
            await asyncio.wait_for(client.connect(), 10)
        await client.wait_closed()
    assert type(caught.value) is kind, caught.value
    assert getattr(caught.value, "code", None) == code
    assert KEY not in str(caught.value)
    said = {"a body in chunks": "bad key", "a body to the end": "later", "a status of one proxy": "down"}
    assert said.get(what, "") in str(caught.value)


async def test_an_upgrade_among_other_words_is_one() -> None:
    async def script(wire: Wire) -> None:
        await wire.write(wire.answer(connection="keep-alive, Upgrade") + CREATED + event("over"))
        await wire.until_close()

    assert await heard(script) == ["session.created", "over"]


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.1])
async def test_an_attempt_that_is_given_up_leaves_nothing(moment: float) -> None:
    """Cancelled, or closed, before and after the upgrade."""
    gone: list[int] = []

    async def script(wire: Wire) -> None:
        await asyncio.sleep(0.05)
        await wire.write(wire.answer())
        gone.append(await wire.until_close())

    give_up: tuple[Callable[[RealtimeAPIClient, asyncio.Task[Any]], Any], ...] = (
        lambda _, task: task.cancel(),
        lambda client, _: client.close(),
    )
    for leave in give_up:
        async with raw_provider(script) as url:
            client = RealtimeAPIClient(parameters(url))
            task = asyncio.ensure_future(client.connect())
            await asyncio.sleep(moment)
            leave(client, task)
            await asyncio.wait({task}, timeout=5)
            assert task.done()
            assert task.cancelled() or isinstance(task.exception(), RealtimeError)
            await asyncio.wait_for(client.wait_closed(), 5)
