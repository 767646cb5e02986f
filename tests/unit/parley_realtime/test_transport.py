"""Which transport is used, and the answer to an opening handshake, however it is cut."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_realtime import RealtimeAPIClientParameters, transport
from parley_realtime.transport import SocketOptions, reference
from parley_realtime.transport.opening import Opening
from parley_worker.config import ConfigError, Settings
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.uri import parse_uri
from websockets.utils import accept_key

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
URI = parse_uri("ws://a.test/v1/realtime?model=m")
YES = (
    f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\n\r\n"
).encode()
NO = b"HTTP/1.1 429 Too Many\r\nContent-Length: 7\r\n\r\nnot now"


def options(proxy: Any = None) -> SocketOptions:
    return SocketOptions({}, None, proxy, None, None, 1.0, 1000, None, ())


async def used(monkeypatch: pytest.MonkeyPatch, proxy: Any, name: Any) -> str:
    """Which of the two is asked to open."""
    from parley_realtime.transport import fast

    async def one(*_: object) -> str:
        return "websockets"

    async def other(*_: object) -> str:
        return "picows"

    monkeypatch.setattr(transport, "open_reference", one)
    monkeypatch.setattr(fast, "open_fast", other)
    return str(await transport.open_socket("ws://a.test/", options(proxy), name))


@pytest.mark.parametrize(
    ("proxy", "name", "environment", "chosen"),
    [
        (None, None, "", "websockets"),
        (None, "picows", "", "picows"),
        (None, "picows", "http://proxy.test:3128", "picows"),
        (True, "picows", "", "picows"),
        (True, "picows", "http://proxy.test:3128", "websockets"),
        ("http://proxy.test:3128", "picows", "", "websockets"),
        (None, "websockets", "", "websockets"),
    ],
)
def test_a_proxy_is_the_references_business(
    monkeypatch: pytest.MonkeyPatch, proxy: Any, name: Any, environment: str, chosen: str
) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy", "socks_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    if environment:
        monkeypatch.setenv("http_proxy", environment)
        monkeypatch.setenv("https_proxy", environment)
    assert asyncio.run(used(monkeypatch, proxy, name)) == chosen


def test_what_there_is_not_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="websockets, picows, got 'carrier pigeon'"):
        RealtimeAPIClientParameters(transport="carrier pigeon")  # type: ignore[arg-type]
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "picows" else found(name, *more)
    )
    assert transport.fastest() == "websockets"
    with pytest.raises(ValueError, match=r"picows is not installed: install parley\[fast\]"):
        RealtimeAPIClientParameters(transport="picows")
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ({"PARLEY_WORKER_PROVIDER_TRANSPORT": "picows"})
    assert "parley[fast]" in caught.value.problems[0]


def test_the_worker_takes_the_fastest_unless_it_is_told() -> None:
    assert Settings.from_environ({}).provider_transport == transport.fastest() == "picows"
    chosen = Settings.from_environ({"PARLEY_WORKER_PROVIDER_TRANSPORT": "websockets"})
    assert chosen.provider_transport == "websockets"


def test_trusted_certificates_are_read_once() -> None:
    assert reference.default_tls() is reference.default_tls()


@given(cuts=st.lists(st.integers(0, len(YES) + 20), max_size=6), rest=st.binary(max_size=20))
def test_an_upgrade_in_any_pieces(cuts: list[int], rest: bytes) -> None:
    opening = Opening(URI, KEY)
    data = YES + rest
    given_ = 0
    for end in [*sorted(cuts), len(data)]:
        if opening.done:
            break
        opening.received(data[given_:end])
        given_ = max(given_, min(end, len(data)))
    assert opening.done
    assert opening.error is None
    assert opening.rest + data[given_:] == rest


@given(cuts=st.lists(st.integers(0, len(NO)), max_size=6))
def test_a_refusal_in_any_pieces(cuts: list[int]) -> None:
    opening = Opening(URI, KEY)
    begin = 0
    for end in [*sorted(cuts), len(NO)]:
        opening.received(NO[begin:end])
        begin = max(begin, end)
    assert not opening.done
    assert isinstance(opening.error, InvalidStatus)
    assert opening.error.response.body == b"not now"


@given(
    data=st.binary(max_size=200) | st.sampled_from([YES[:-1], NO[:40], b"\r\n\r\n", b"HTTP/1.1 101\r\n\r\n"])
)
def test_any_bytes_and_then_nothing(data: bytes) -> None:
    opening = Opening(URI, KEY)
    opening.received(data)
    assert not opening.done
    assert opening.error is not None or isinstance(opening.ended(), InvalidMessage | InvalidStatus)
