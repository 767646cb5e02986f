"""HTTP for scenarios against servers that do everything wrong, and requests that mean something else."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from parley_worker.transport.scenario_http import HttpRefused, HttpRequest, ScenarioHttp, check_url

LIMIT = 64 * 1024


@asynccontextmanager
async def answering(*lines: str, body: bytes = b"") -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers every request so; its URL and the heads that came."""
    heads: list[bytes] = []
    length = f"Content-Length: {len(body)}"
    head = "\r\n".join(("HTTP/1.1 200 OK", length, "Connection: close", *lines, "", "")).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(head + body)
        writer.close()
        await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/path", heads


async def ask(url: str, **changes: Any) -> dict[str, Any]:
    http = ScenarioHttp()
    given: dict[str, Any] = {"method": "GET", "url": url, "headers": {}, "body": None, "timeout": 5.0}
    try:
        return await http.request(HttpRequest(**(given | changes)), ("127.0.0.1",), LIMIT)
    finally:
        await http.close()


@pytest.mark.parametrize("name", ["Host", "host ", "Transfer-Encoding", "Content-Length", "Connection"])
async def test_a_request_goes_where_its_url_says_and_nowhere_else(name: str) -> None:
    async with answering() as (url, heads):
        with pytest.raises(HttpRefused, match=r"header .* leave it out"):
            await ask(url, headers={name: "internal.example"})
    assert heads == []


async def test_a_header_holds_no_other_header() -> None:
    async with answering() as (url, heads):
        with pytest.raises(HttpRefused, match="ValueError"):
            await ask(url, headers={"X-One": "1\r\nX-Two: 2"})
    assert heads == []


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"fine")),
        ("deflate", zlib.compress(b"fine")),
        ("deflate", zlib.compress(b"fine", wbits=-15)),
        ("identity", b"fine"),
    ],
)
async def test_a_compressed_answer_is_unpacked(encoding: str, packed: bytes) -> None:
    async with answering(f"Content-Encoding: {encoding}", body=packed) as (url, _):
        assert (await ask(url))["text"] == "fine"


@pytest.mark.parametrize(
    ("encoding", "packed", "says"),
    [
        ("gzip", gzip.compress(b"0" * 30_000_000), f"more than {LIMIT} bytes"),
        ("deflate", zlib.compress(b"0" * 30_000_000), f"more than {LIMIT} bytes"),
        ("gzip", b"no gzip at all", "damaged"),
        ("br", b"x", "was not asked for"),
        ("gzip, gzip", b"x", "was not asked for"),
        ("identity", b"0" * (LIMIT + 1), f"more than {LIMIT} bytes"),
    ],
)
async def test_no_answer_becomes_larger_than_its_limit(encoding: str, packed: bytes, says: str) -> None:
    async with answering(f"Content-Encoding: {encoding}", body=packed) as (url, _):
        with pytest.raises(HttpRefused, match=says):
            await ask(url)


@pytest.mark.parametrize("charset", ["nonsense", "hex", "undefined", "punycode", "idna", "a\0b", "utf-8"])
async def test_an_answer_is_text_whatever_it_calls_its_characters(charset: str) -> None:
    async with answering(f"Content-Type: text/plain; charset={charset}", body="grün".encode()) as (url, _):
        try:
            assert (await ask(url))["text"] == "grün"
        except HttpRefused:
            assert "\0" in charset


@pytest.mark.parametrize(
    ("url", "rules", "says"),
    [
        ("https://crm.example.com/x", ("crm.example.com",), ""),
        ("https://CRM.example.com/x", ("*.example.com",), ""),
        ("http://crm.example.com:8080/x", ("crm.example.com:8080",), ""),
        ("http://127.0.0.1/x", ("127.0.0.1",), ""),
        ("http://crm.example.com/x", ("crm.example.com", "*.example.com"), "for https only"),
        ("https://crm.example.com.evil.test/x", ("crm.example.com",), "is not allowed"),
        ("https://crm.example.com@evil.test/x", ("crm.example.com",), "is not allowed"),
        ("https://evil.test#@crm.example.com/", ("crm.example.com",), "is not allowed"),
        ("https://evil.test\\@crm.example.com/", ("evil.example",), "is not allowed"),
        ("https://crm.example.com:444/x", ("crm.example.com:443",), "is not allowed"),
        ("https://2130706433/", ("127.0.0.1",), "is not allowed"),
        ("file:///etc/passwd", ("*.example.com",), "http or https"),
        ("https://crm.example.com:port/", ("crm.example.com",), "the url is none"),
    ],
)
def test_hosts(url: str, rules: tuple[str, ...], says: str) -> None:
    request = HttpRequest("GET", url, {}, None, 5.0)
    if not says:
        assert check_url(request, rules)
        return
    with pytest.raises(HttpRefused, match=says):
        check_url(request, rules)


@pytest.mark.parametrize("trick", ["http://{0}\\@169.254.169.254/", "http://{0}#@169.254.169.254/"])
async def test_what_is_judged_is_what_is_connected_to(trick: str) -> None:
    async with answering() as (url, heads):
        place = url.split("/")[2]
        try:
            await ask(trick.format(place))
        except HttpRefused:
            return
        assert len(heads) == 1
