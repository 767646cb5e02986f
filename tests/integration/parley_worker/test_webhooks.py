"""The webhook route against a real HTTP server: signed, repeated, bounded, refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from parley_worker.clock import SystemClock
from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.model import Secret, SessionKey
from parley_worker.core.tool_routing import ToolCode, ToolProblem
from parley_worker.transport.tool_ports import ToolCallFailed, ToolRequest
from parley_worker.transport.webhook import Webhooks
from pki import TestAuthority
from webhook_server import Hit, hang, result, webhook_server

KEY = "whsec_" + base64.b64encode(b"a key of thirty-two bytes or so!").decode()
SESSION = SessionKey("calls", "first-call", "uid-7", 2)


def request(url: str, timeout: float = 10.0, **route: Any) -> ToolRequest:
    clock = SystemClock()
    made = ToolRoute("weather", ToolRouteKind.WEBHOOK, timeout, url, **{"signing_key": Secret(KEY), **route})
    return ToolRequest(
        SESSION, "call_1", "weather", '{"city": "Graz"}', made,
        clock.monotonic() + timeout, clock.wall() + timeout,
    )  # fmt: skip


@asynccontextmanager
async def webhooks(**given: Any) -> AsyncIterator[Webhooks]:
    """Without waits between tries."""
    client = Webhooks(SystemClock(), **{"chance": lambda: 0.0, **given})
    try:
        yield client
    finally:
        await client.close()


async def problem_of(call: ToolRequest, **given: Any) -> ToolProblem:
    async with webhooks(**given) as client:
        with pytest.raises(ToolCallFailed) as failed:
            await client.call(call)
    assert "127.0.0.1" not in failed.value.problem.message
    assert KEY not in str(failed.value) + failed.value.problem.message
    return failed.value.problem


async def test_a_call_is_signed_and_names_its_session() -> None:
    async with webhook_server(result({"sky": "clear"})) as server, webhooks() as client:
        call = request(server.url)
        assert json.loads(await client.call(call)) == {"sky": "clear"}
        hit = server.hits[0]
    assert hit.request.method == "POST"
    assert hit.call["arguments"] == {"city": "Graz"}
    assert hit.call["session"] == {"uid": "uid-7", "attempt": 2, "namespace": "calls", "name": "first-call"}
    assert (hit.call["name"], hit.call["call_id"]) == ("weather", "call_1")
    assert hit.headers["Idempotency-Key"] == hit.headers["webhook-id"] == "uid-7.2.call_1"
    stamp = hit.headers["webhook-timestamp"]
    assert abs(int(stamp) - time.time()) < 60
    secret = base64.b64decode(KEY.removeprefix("whsec_"))
    signed = f"uid-7.2.call_1.{stamp}.".encode() + hit.body
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    assert hit.headers["webhook-signature"] == f"v1,{expected}"


async def test_a_key_of_plain_text_signs_too_and_no_key_does_not() -> None:
    async with webhook_server(result(1)) as server, webhooks() as client:
        await client.call(request(server.url, signing_key=Secret("plain text")))
        await client.call(request(server.url, signing_key=Secret("")))
        plain, unsigned = server.hits
    signed = f"uid-7.2.call_1.{plain.headers['webhook-timestamp']}.".encode() + plain.body
    expected = base64.b64encode(hmac.new(b"plain text", signed, hashlib.sha256).digest()).decode()
    assert plain.headers["webhook-signature"] == f"v1,{expected}"
    assert "webhook-signature" not in unsigned.headers


@pytest.mark.parametrize("status", [500, 502, 503, 599])
async def test_a_flaky_server_is_asked_again_with_the_same_key_and_body(status: int) -> None:
    async def answer(hit: Hit) -> web.StreamResponse:
        return web.json_response({}, status=status) if hit.number < 3 else web.json_response("at last")

    async with webhook_server(answer) as server, webhooks() as client:
        assert await client.call(request(server.url, retries=2)) == '"at last"'
        assert len({(h.headers["Idempotency-Key"], h.body) for h in server.hits}) == 1
        assert len(server.hits) == 3


async def test_a_server_that_stays_broken_is_given_up_after_its_retries() -> None:
    async with webhook_server(result({"error": {"message": "at /srv/app.py"}}, 500)) as server:
        problem = await problem_of(request(server.url, retries=2))
        assert len(server.hits) == 3
    assert problem == ToolProblem(ToolCode.FAILED, "'weather' failed (HTTP 500)")


async def test_connections_that_break_are_made_again() -> None:
    async def answer(hit: Hit) -> web.StreamResponse:
        if hit.number == 1:
            assert hit.request.transport is not None
            hit.request.transport.abort()
        return web.json_response("ok")

    async with webhook_server(answer) as server, webhooks() as client:
        assert await client.call(request(server.url)) == '"ok"'
        assert len(server.hits) == 2


async def test_nobody_listens() -> None:
    async with webhook_server(result(1)) as server:
        url = server.url
    assert (await problem_of(request(url))).code is ToolCode.UNAVAILABLE
    assert (await problem_of(request("http://no-such-host.invalid/"))).code is ToolCode.UNAVAILABLE


async def test_a_busy_server_says_when_to_come_back() -> None:
    async def answer(hit: Hit) -> web.StreamResponse:
        if hit.number == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.json_response("ok")

    async with webhook_server(answer) as server, webhooks() as client:
        began = time.monotonic()
        assert await client.call(request(server.url)) == '"ok"'
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("after", ["3600", "Fri, 31 Dec 2999 23:59:59 GMT"])
async def test_a_server_that_is_busy_past_the_deadline_is_not_waited_for(after: str) -> None:
    async with webhook_server(result({}, 429, {"Retry-After": after})) as server:
        began = time.monotonic()
        problem = await problem_of(request(server.url))
        assert time.monotonic() - began < 5
        assert len(server.hits) == 1
    assert problem == ToolProblem(ToolCode.UNAVAILABLE, "'weather' is busy (HTTP 429)")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
async def test_a_refusal_is_not_repeated_and_may_say_why(status: int) -> None:
    async with webhook_server(result({"error": {"message": "no such city"}}, status)) as server:
        problem = await problem_of(request(server.url))
        assert len(server.hits) == 1
    assert problem == ToolProblem(ToolCode.REFUSED, "'weather' refused the call: no such city")


async def test_a_refusal_without_words_names_its_status() -> None:
    async with webhook_server(result(["x"] * 10_000, 403)) as server:
        problem = await problem_of(request(server.url))
    assert problem == ToolProblem(ToolCode.REFUSED, "'weather' refused the call: HTTP 403")


async def test_redirects_are_not_followed() -> None:
    async with webhook_server(result("secret")) as other:

        async def answer(hit: Hit) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": other.url})

        async with webhook_server(answer) as server:
            problem = await problem_of(request(server.url))
            assert (len(server.hits), len(other.hits)) == (1, 0)
    assert problem.code is ToolCode.REFUSED


async def test_a_server_that_hangs_is_left_at_the_deadline() -> None:
    async with webhook_server(hang) as server:
        began = time.monotonic()
        problem = await problem_of(request(server.url, timeout=0.3))
        assert 0.25 < time.monotonic() - began < 5
        assert len(server.hits) == 1
    assert problem == ToolProblem(ToolCode.TIMEOUT, "'weather' did not answer within 0.3 seconds")


async def test_a_cancelled_call_closes_its_connection() -> None:
    async with webhook_server(hang) as server, webhooks() as client:
        calling = asyncio.create_task(client.call(request(server.url)))
        await server.expect()
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled()
        async with asyncio.timeout(10):
            await server.cancelled.wait()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_result_that_never_ends_is_cut(announced: bool) -> None:
    async def answer(hit: Hit) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "text/plain"
        if announced:
            response.content_length = 1 << 40
        await response.prepare(hit.request)
        try:
            while True:
                await response.write(b"x" * 65536)
        except ConnectionError:
            return response

    async with webhook_server(answer) as server:
        problem = await problem_of(request(server.url, max_output_bytes=100_000))
        assert len(server.hits) == 1
    assert problem.code is ToolCode.TOO_LARGE


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(body=b"{", content_type="application/json"),
        web.Response(body=b"\xff\xfe", content_type="text/plain"),
        web.Response(body=b"x" * 30, headers={"Content-Encoding": "gzip"}),
    ],
    ids=["bad-json", "not-text", "compressed"],
)
async def test_what_is_no_result_is_not_repeated(answer: web.Response) -> None:
    async def give(hit: Hit) -> web.StreamResponse:
        return answer

    async with webhook_server(give) as server:
        problem = await problem_of(request(server.url))
        assert len(server.hits) == 1
    assert problem.code is ToolCode.INVALID_RESULT


async def test_an_answer_that_is_no_http_is_no_result() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HELLO\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        problem = await problem_of(request(f"http://127.0.0.1:{port}/"))
    assert problem.code is ToolCode.INVALID_RESULT


async def test_certificates_are_verified_against_the_routes_own_authority(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, other = TestAuthority(), TestAuthority("somebody-else")
    folder = authority.issue("localhost").write(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    async with webhook_server(result("trusted"), tls) as server:
        good = request(server.url, ca_pem=authority.pem.decode())
        async with webhooks() as client:
            assert await client.call(good) == '"trusted"'
        with caplog.at_level(logging.WARNING):
            for pem in ("", other.pem.decode(), "no certificate"):
                problem = await problem_of(replace(good, route=replace(good.route, ca_pem=pem)))
                assert problem.code is ToolCode.UNAVAILABLE
        assert len(server.hits) == 1
    assert "certificate" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://100.100.100.200/",
        "http://0.0.0.0/",
    ],
)
async def test_addresses_of_nobody_are_refused_without_a_try(url: str) -> None:
    problem = await problem_of(request(url, timeout=5))
    assert problem == ToolProblem(
        ToolCode.REFUSED, "'weather' refused the call: its address may not be called"
    )


async def test_a_name_that_leads_to_a_refused_address_is_refused() -> None:
    async with webhook_server(result(1)) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        problem = await problem_of(request(url), may_reach=lambda address: False)
        assert server.hits == []
    assert problem.code is ToolCode.REFUSED


@pytest.mark.parametrize(
    "url", ["ftp://host/", "http://", "nonsense", "http://host:99999/", "http://2130706433/"]
)
async def test_urls_that_cannot_be_used(url: str) -> None:
    assert (await problem_of(request(url))).code is ToolCode.UNAVAILABLE
