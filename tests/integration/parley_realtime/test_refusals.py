"""How an attempt to connect ends when the provider refuses, or is not there. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from parley_realtime import (
    AuthenticationError,
    BetaShapeDisabled,
    ClientStateError,
    ConnectAborted,
    ConnectionState,
    ConnectTimeout,
    ModelRefusedError,
    ProtocolError,
    ProviderError,
    QuotaError,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    UnavailableError,
    WebSocketCloseEvent,
    beta,
    create_realtime_api_client,
)
from scripted_provider import Line, ScriptedProvider

KEY = "sk-very-secret-key"


def parameters(url: str, **more: Any) -> RealtimeAPIClientParameters:
    return RealtimeAPIClientParameters(**{"api_key": KEY, "base_url": url, "connect_timeout": 10.0, **more})


def refusing(code: int, error: dict[str, Any], reason: str) -> Callable[[Line], Awaitable[None]]:
    async def script(line: Line) -> None:
        await line.refuse(code, error, reason)

    return script


def error(code: str | None, message: str = "no") -> dict[str, Any]:
    return {
        "type": "invalid_request_error",
        "code": code,
        "message": message,
        "param": None,
        "event_id": None,
    }


@pytest.mark.parametrize(
    ("close", "code", "kind"),
    [
        (3000, "invalid_api_key", AuthenticationError),
        (3000, None, AuthenticationError),
        (4000, "invalid_model", ModelRefusedError),
        (4000, "missing_model", ModelRefusedError),
        (4004, "model_not_found", ModelRefusedError),
        (4000, "unheard_of", ProtocolError),
    ],
)
async def test_error_and_close_after_the_upgrade(
    close: int, code: str | None, kind: type[ProviderError]
) -> None:
    closes: list[WebSocketCloseEvent] = []
    reason = "invalid_request_error" + (f".{code}" if code else "")
    async with ScriptedProvider(refusing(close, error(code), reason)) as provider:
        with pytest.raises(kind) as caught:
            await create_realtime_api_client(parameters(provider.base_url, on_web_socket_close=closes.append))
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.close_code) == (code, close)
    assert not caught.value.retryable
    assert [(c.code, c.reason, c.was_clean) for c in closes] == [(close, reason, True)]


async def test_the_beta_shape_is_switched_off() -> None:
    script = refusing(4000, error("beta_api_shape_disabled"), "invalid_request_error.beta_api_shape_disabled")
    async with ScriptedProvider(script) as provider:
        with pytest.raises(BetaShapeDisabled, match="use the GA client"):
            await beta.create_realtime_api_client(parameters(provider.base_url))
        assert (await provider.accepted()).headers["openai-beta"] == "realtime=v1"


async def test_the_providers_words_are_passed_on_without_the_key() -> None:
    message = f"Incorrect API key provided: {KEY}. See also sk-abc***wxyz"
    seen: list[Any] = []
    async with ScriptedProvider(refusing(3000, error("invalid_api_key", message), f"key {KEY}")) as provider:
        client = RealtimeAPIClient(
            parameters(provider.base_url, observer=seen.append, on_web_socket_close=seen.append)
        )
        client.add_event_listener(RealtimeAPIEvents.Error, seen.append)
        client.add_event_listener(RealtimeAPIEvents.WebSocketError, seen.append)
        with pytest.raises(AuthenticationError, match="Incorrect API key provided") as caught:
            await client.connect()
    assert len(seen) == 4
    for text in (str(caught.value), *map(repr, seen)):
        assert "secret" not in text
        assert "wxyz" not in text


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (401, AuthenticationError, False),
        (403, AuthenticationError, False),
        (404, ModelRefusedError, False),
        (429, QuotaError, True),
        (500, UnavailableError, True),
        (503, UnavailableError, True),
        (200, ProtocolError, False),
    ],
)
async def test_http_answers_to_the_handshake(status: int, kind: type[ProviderError], retryable: bool) -> None:
    closes: list[WebSocketCloseEvent] = []
    async with ScriptedProvider(status=status, body="the reason") as provider:
        with pytest.raises(kind, match=f"HTTP {status}") as caught:
            await create_realtime_api_client(parameters(provider.base_url, on_web_socket_close=closes.append))
    assert caught.value.retryable is retryable
    assert closes == []


async def test_a_key_at_the_end_of_what_is_shown_of_an_answer_does_not_show_in_part() -> None:
    key = "0123456789" * 4
    async with ScriptedProvider(status=401, body="x" * 180 + key) as provider:
        with pytest.raises(AuthenticationError) as caught:
            await create_realtime_api_client(parameters(provider.base_url, api_key=key))
    assert "0123" not in str(caught.value)


@asynccontextmanager
async def plain_server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A TCP server that is no WebSocket server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def until_gone(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def test_credentials_follow_no_redirect() -> None:
    async with ScriptedProvider() as elsewhere:

        async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.base_url}\r\nContent-Length: 0\r\n\r\n"
            writer.write(head.encode())
            await writer.drain()

        async with plain_server(redirect) as url:
            with pytest.raises(ProtocolError, match="HTTP 302"):
                await create_realtime_api_client(parameters(url))
        assert elsewhere.connections == 0


async def test_a_server_that_is_no_web_server() -> None:
    async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await writer.drain()
        await reader.read(100)

    async with plain_server(smtp) as url:
        with pytest.raises(UnavailableError):
            await create_realtime_api_client(parameters(url))


async def test_a_server_that_hangs_up_during_the_handshake() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    async with plain_server(hang_up) as url:
        with pytest.raises(UnavailableError) as caught:
            await create_realtime_api_client(parameters(url))
    assert caught.value.retryable


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError, match="cannot be reached") as caught:
            await create_realtime_api_client(parameters(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert caught.value.retryable


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(UnavailableError, match="cannot be resolved") as caught:
        await create_realtime_api_client(parameters("http://provider.invalid"))
    assert caught.value.code == "dns"


async def test_tls_where_there_is_none() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await until_gone(reader, writer)

    async with plain_server(plain) as url:
        with pytest.raises(UnavailableError, match="TLS with the provider failed") as caught:
            await create_realtime_api_client(parameters(url.replace("http:", "https:")))
    assert (caught.value.code, caught.value.retryable) == ("tls", False)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scripted provider")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "provider.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with ScriptedProvider(tls=tls) as provider:
        with pytest.raises(UnavailableError, match="self-signed certificate") as caught:
            await create_realtime_api_client(parameters(provider.base_url))
        assert (caught.value.code, caught.value.retryable) == ("tls", False)
        assert provider.connections == 0


async def test_a_certificate_of_an_authority_that_was_given(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with ScriptedProvider(tls=tls) as provider:
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with RealtimeAPIClient(parameters(provider.base_url, ssl=trusting)) as client:
            assert client.state is ConnectionState.OPEN


async def test_accepts_tcp_and_stays_silent() -> None:
    async with plain_server(until_gone) as url:
        with pytest.raises(ConnectTimeout, match=r"could not be connected to within 0\.2 s") as caught:
            await create_realtime_api_client(parameters(url, connect_timeout=0.2))
    assert (caught.value.reason, caught.value.retryable) == ("ProviderUnavailable", True)


async def test_upgrades_and_stays_silent() -> None:
    closes: list[WebSocketCloseEvent] = []
    async with ScriptedProvider(Line.listen) as provider:
        client = RealtimeAPIClient(
            parameters(provider.base_url, connect_timeout=1.0, on_web_socket_close=closes.append)
        )
        with pytest.raises(ConnectTimeout, match=r"did not create a session within 1 s"):
            await client.connect()
        line = await provider.accepted()
        await asyncio.wait_for(line.closed.wait(), 10)
    assert client.state is ConnectionState.CLOSED
    assert len(closes) == 1


async def test_an_error_without_close_is_what_the_timeout_says() -> None:
    async def script(line: Line) -> None:
        await line.send({"type": "error", "error": error("invalid_api_key")})
        await line.listen()

    async with ScriptedProvider(script) as provider:
        with pytest.raises(AuthenticationError):
            await create_realtime_api_client(parameters(provider.base_url, connect_timeout=1.0))


class TestCloseDuringConnect:
    async def attempt(self, url: str, then: Callable[[], Awaitable[None]]) -> RealtimeAPIClient:
        client = RealtimeAPIClient(parameters(url))
        connecting = asyncio.create_task(client.connect())
        await then()
        client.close()
        client.close()
        with pytest.raises(
            ConnectAborted, match=r"close\(\) was called before the connection was open"
        ) as caught:
            await asyncio.wait_for(connecting, 10)
        assert caught.value.reason == "Terminated"
        assert client.state is ConnectionState.CLOSED
        return client

    async def test_before_the_upgrade(self) -> None:
        reached = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            await until_gone(reader, writer)

        async def then() -> None:
            await reached.wait()

        async with plain_server(silent) as url:
            await self.attempt(url, then)

    async def test_before_the_session(self) -> None:
        async with ScriptedProvider(Line.listen) as provider:

            async def then() -> None:
                await provider.accepted()

            await self.attempt(provider.base_url, then)

    async def test_at_once(self) -> None:
        async with ScriptedProvider() as provider:
            await self.attempt(provider.base_url, lambda: asyncio.sleep(0))

    async def test_before_connect(self) -> None:
        client = RealtimeAPIClient(parameters("http://127.0.0.1:9"))
        client.close()
        assert await client.wait_closed() is None
        with pytest.raises(ClientStateError, match="works once"):
            await client.connect()

    async def test_the_task_that_connects_is_cancelled(self) -> None:
        async with ScriptedProvider(Line.listen) as provider:
            client = RealtimeAPIClient(parameters(provider.base_url))
            connecting = asyncio.create_task(client.connect())
            line = await provider.accepted()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert client.state is ConnectionState.CLOSED
            await asyncio.wait_for(line.closed.wait(), 10)
