"""The WebSocket server: handshake, refusals after the 101, health, life and end."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from .clock import epoch_of_loop
from .config import LocalProviderConfig
from .connection import Connection, new_id
from .core.errors import error_body
from .core.session import SessionOptions
from .core.settings import Shape
from .engines import Engines

log = logging.getLogger("parley_local")
PATHS = ("/v1/realtime", "/openai/v1/realtime", "/openai/realtime")
MAX_MESSAGE = 24 * 1024 * 1024  # an append of 15 MiB in base64, and room
KEY_PROTOCOL = "openai-insecure-api-key."
BETA_PROTOCOL = "openai-beta.realtime-v1"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection is closed right after the 101: close code and the error's code and message."""

    close_code: int
    code: str | None
    message: str

    @property
    def reason(self) -> str:
        return "invalid_request_error" + (f".{self.code}" if self.code else "")


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client's handshake asks for."""

    key: str | None
    shape: Shape
    model: str | None
    transcription: bool

    @classmethod
    def read(cls, path: str, headers: Mapping[str, str], protocols: list[str]) -> Hello:
        query = {name: values[-1] for name, values in parse_qs(urlsplit(path).query).items()}
        key = headers.get("api-key") or query.get("api-key")
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and bearer.strip():
            key = bearer.strip()
        for protocol in protocols:
            if protocol.startswith(KEY_PROTOCOL):
                key = protocol.removeprefix(KEY_PROTOCOL)
        beta = "realtime=v1" in headers.get("OpenAI-Beta", "") or BETA_PROTOCOL in protocols
        model = query.get("model") or query.get("deployment")
        shape = Shape.BETA if beta else Shape.GA
        return cls(key, shape, model, query.get("intent") == "transcription")

    def refusal(self, config: LocalProviderConfig) -> Refusal | None:
        """The provider's own words for what is wrong with this handshake; None when all is well."""
        if config.api_keys:
            if self.key is None:
                return Refusal(3000, None, "Missing bearer or basic authentication in header")
            key = self.key.encode()
            if not any(hmac.compare_digest(key, known.encode()) for known in config.api_keys):
                return Refusal(3000, "invalid_api_key", "Incorrect API key provided.")
        if self.shape is Shape.BETA and config.refuse_beta:
            message = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
            return Refusal(4000, "beta_api_shape_disabled", message)
        if self.transcription:
            return None
        if not self.model:
            return Refusal(4000, "missing_model", "You must provide a model parameter.")
        if config.models and self.model not in config.models:
            return Refusal(
                4000, "invalid_model", f"Model {self.model[:64]!r} is not supported in realtime mode."
            )
        return None


class LocalProvider:
    """A running server. `url` is what clients connect to; `connections` counts the open ones."""

    def __init__(self, config: LocalProviderConfig, engines: Engines) -> None:
        self._config = config
        self._engines = engines
        self._server: Server | None = None
        self.connections = 0

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the server is not running")
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        scheme = "wss" if self._config.tls_cert else "ws"
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"{scheme}://{host}:{self.port}{PATHS[0]}"

    async def start(self) -> None:
        context = None
        if self._config.tls_cert is not None and self._config.tls_key is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._config.tls_cert, self._config.tls_key)
        self._server = await serve_websocket(
            self._serve,
            self._config.host,
            self._config.port,
            ssl=context,
            max_size=MAX_MESSAGE,
            process_request=self._process_request,
            select_subprotocol=_select_subprotocol,
            server_header=None,
            close_timeout=5,
        )

    async def close(self) -> None:
        """Close every connection (1001) and wait for them, at most some seconds each."""
        if self._server is not None:
            self._server.close(code=1001, reason="server is shutting down")
            await self._server.wait_closed()

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        if path in ("/healthz", "/readyz"):
            return connection.respond(HTTPStatus.OK, "ok\n")
        if path.rstrip("/") not in PATHS:
            return connection.respond(HTTPStatus.NOT_FOUND, f"no such path; the service is at {PATHS[0]}\n")
        if self.connections >= self._config.max_connections:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        request = socket.request
        if request is None:
            return
        offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
        protocols = [protocol.strip() for protocol in offered.split(",") if protocol.strip()]
        headers = {name: request.headers.get_all(name)[-1] for name in request.headers}
        hello = Hello.read(request.path, _CaseInsensitive(headers), protocols)
        refusal = hello.refusal(self._config)
        if refusal is not None:
            await _refuse(socket, refusal)
            return
        options = SessionOptions(
            shape=hello.shape,
            model=hello.model or "local",
            transcription_only=hello.transcription,
            max_duration_s=self._config.max_session_s,
            epoch=epoch_of_loop(asyncio.get_running_loop().time()),
            pace=self._config.audio_speed,
            mcp_servers=self._engines.mcp_servers,
        )
        self.connections += 1
        try:
            await Connection(socket, self._engines, options).run()
        finally:
            self.connections -= 1


class _CaseInsensitive(dict[str, str]):
    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        return super().get(name.lower(), default)


def _select_subprotocol(connection: ServerConnection, offered: object) -> Subprotocol | None:
    wanted = Subprotocol("realtime")
    return wanted if isinstance(offered, list | tuple) and wanted in offered else None


async def _refuse(socket: ServerConnection, refusal: Refusal) -> None:
    body = error_body(refusal.code, refusal.message, None, None)
    event = {"type": "error", "event_id": new_id("event_"), "error": body}
    try:
        await socket.send(json.dumps(event))
        await socket.close(refusal.close_code, refusal.reason)
    except ConnectionClosed:
        return


@asynccontextmanager
async def serve(config: LocalProviderConfig) -> AsyncIterator[LocalProvider]:
    """Run a server for the length of the block. Raises ConfigError, SpeechError or OSError (the port)."""
    engines = await asyncio.to_thread(Engines, config)
    try:
        provider = LocalProvider(config, engines)
        await provider.start()
        try:
            yield provider
        finally:
            await provider.close()
    finally:
        await engines.close_brain()
        await asyncio.to_thread(engines.close)


async def run(config: LocalProviderConfig) -> None:
    """Serve until SIGTERM or SIGINT; one JSON line on stdout says where, once it is ready."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config) as provider:
        sys.stdout.write(json.dumps({"listening": provider.url}) + "\n")
        sys.stdout.flush()
        await stop.wait()
