"""What a client is made from."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parley_realtime.client.listeners import HandlerRules
from parley_realtime.client.statistics import Statistics as Statistics
from parley_realtime.client.trace import TraceSink
from parley_realtime.errors import RealtimeError, ScenarioError
from parley_realtime.events import WebSocketCloseEvent
from parley_realtime.formats import DEFAULT_FORMAT, AudioFormat
from parley_realtime.protocol.shape import ClientType, Shape
from parley_realtime.protocol.urls import (
    DEFAULT_BASE_URL,
    Authentication,
    ProviderFlavour,
    authentication_of,
    azure_url,
    custom_url,
    flavour_of,
    realtime_url,
)
from parley_realtime.recovery import RecoveryParameters
from parley_realtime.transport import TransportName, check_transport

CloseCallback = Callable[[WebSocketCloseEvent], Awaitable[None] | None]
ScenarioErrorCallback = Callable[[ScenarioError], None]
Observer = Callable[[dict[str, Any]], None]
_SECRET_HEADER_WORDS = ("auth", "key", "token", "secret", "cookie", "password", "credential")
_POSITIVE = (
    "connect_timeout",
    "close_timeout",
    "send_timeout",
    "handler_timeout",
    "sync_handler_timeout",
    "max_frame_bytes",
    "media_buffer_ms",
    "playout_buffer_ms",
    "outgoing_events",
    "pending_events",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeAPIClientParameters:
    """Times in seconds unless the name says otherwise; ValueError names the field that cannot work.

    api_key: goes into the handshake and nowhere else; may be empty when `headers` authenticate.
    model: default by shape (GA `gpt-realtime`, beta `gpt-4o-realtime-preview-2024-10-01`). A transcription's
    connection names none: its model is part of the session.
    base_url: host root; https and wss, http and ws alike. A path ending in `/realtime` is taken as it is.
    flavour: whose addresses and headers are used; None: Azure's for a host of Azure, else OpenAI's.
    deployment: Azure's name of the model; `model` says the same. api_version: of Azure's preview only.
    authentication: how the key is shown; None: as the flavour expects it.
    headers: sent with the handshake; one named like a header of ours replaces it.
    connect_timeout: covers name resolution, TCP, TLS, upgrade and the first session event together.
    ping_interval, ping_timeout: a provider that answers no ping for that long is gone.
    send_timeout: a provider that reads nothing for that long is gone.
    input_format, output_format: the connector owns both; what a session update says about formats is
    replaced.
    media_buffer_ms: bound of `push_media`; the oldest audio is dropped and counted.
    playout_buffer_ms: bound per paced media unit; the newest audio is dropped and counted.
    outgoing_events: bound of client events not yet sent; beyond it calls raise OutgoingQueueFull.
    pending_events: bound of server events not yet handled by listeners; beyond it the scenario ends.
    sync_handler_timeout: how long a handler may keep the event loop; measured when it returns, and told to
    the log while it still blocks. handler_timeout: how long an async handler may take in all.
    on_handler_error: `end`: a handler that raises or breaks a limit ends the scenario; `log`: it is logged.
    clear_on_speech: clear the media units when the caller begins to speak; None: beta does, GA does not.
    observer: sees every decoded server event except audio deltas, before listeners, synchronously.
    recovery: outlive a lost WebSocket and the provider's time limit; None: a lost WebSocket is the end.
    statistics: log counters and latencies once, at close. trace: every frame, keys and audio left out,
    appended to this file or given to this function, which must not block.
    privacy: nothing of the conversation in logs and in texts of errors; excludes trace.
    allow_address: asked with the IP address that was connected to, before the key is sent; False refuses it.
    congestion: TCP congestion controls to ask the kernel for, the best first; empty: the system's own.
    proxy: None connects directly, True takes the proxy of the environment, a string is its URL.
    transport: what speaks WebSocket, `websockets` or `picows` (extra `fast`; through a proxy it is websockets
    all the same); None: websockets.
    gather: frames of the provider are handled when it calls back, together with those of other clients; None:
    the moment they come. For processes with very many clients.
    """

    api_key: str = field(default="", repr=False)
    model: str | None = None
    base_url: str = DEFAULT_BASE_URL
    type: ClientType = ClientType.REALTIME
    flavour: ProviderFlavour | None = None
    deployment: str | None = None
    api_version: str | None = None
    authentication: Authentication | None = None
    on_web_socket_close: CloseCallback | None = None
    on_scenario_error: ScenarioErrorCallback | None = None
    observer: Observer | None = None
    recovery: RecoveryParameters | None = None
    clear_on_speech: bool | None = None
    statistics: bool = False
    trace: Path | TraceSink | None = None
    privacy: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    organization: str | None = None
    project: str | None = None
    safety_identifier: str | None = None
    ssl: ssl.SSLContext | None = None
    proxy: Literal[True] | str | None = field(default=None, repr=False)
    allow_address: Callable[[str], bool] | None = None
    congestion: Sequence[str] = ()
    transport: TransportName | None = None
    gather: Callable[[Callable[[], None]], Any] | None = None
    connect_timeout: float = 15.0
    close_timeout: float = 1.0
    send_timeout: float = 20.0
    sync_handler_timeout: float = 1.0
    handler_timeout: float = 10.0
    on_handler_error: Literal["end", "log"] = "end"
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    max_frame_bytes: int = 16 * 1024 * 1024
    input_format: AudioFormat = DEFAULT_FORMAT
    output_format: AudioFormat = DEFAULT_FORMAT
    media_buffer_ms: int = 10_000
    playout_buffer_ms: int = 120_000
    outgoing_events: int = 1024
    pending_events: int = 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", ClientType(self.type))
        object.__setattr__(self, "flavour", ProviderFlavour(self.flavour or flavour_of(self.base_url)))
        if self.authentication is not None:
            object.__setattr__(self, "authentication", Authentication(self.authentication))
        self._check_flavour()
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)!r}")
        if self.transport is not None:
            check_transport(self.transport)
        if self.on_handler_error not in ("end", "log"):
            raise ValueError(f"on_handler_error must be 'end' or 'log', got {self.on_handler_error!r}")
        if self.privacy and self.trace is not None:
            raise ValueError("trace cannot be given together with privacy: leave one of them out")
        if self.trace is not None and not isinstance(self.trace, Path) and not callable(self.trace):
            raise ValueError(f"trace must be a Path or a function, got {type(self.trace).__name__}")
        headers = ((f"headers[{name!r}]", value) for name, value in self.headers.items())
        for name, value in (("api_key", self.api_key), *headers):
            if not isinstance(value, str) or any(c in value for c in "\r\n\0"):
                raise ValueError(f"{name} must be a string without line breaks")

    def _check_flavour(self) -> None:
        """What cannot go together whatever the shape; `url` says the rest."""
        flavour_of(self.base_url)
        if self.flavour is ProviderFlavour.AZURE:
            if self.deployment and self.model and self.deployment != self.model:
                raise ValueError("deployment and model name different things: on Azure give one of them")
            for name in ("organization", "project"):
                if getattr(self, name):
                    raise ValueError(f"{name}: Azure has none, leave it out")
        else:
            for name in ("deployment", "api_version"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} belongs to Azure: set flavour='azure', or leave it out")
        if self.flavour is not ProviderFlavour.OPENAI and self.base_url == DEFAULT_BASE_URL:
            raise ValueError(f"base_url: the flavour {self.flavour} needs the provider's own address")

    def url(self, shape: Shape) -> str:
        """The WebSocket address of a client of this shape; ValueError names what does not go together."""
        if self.flavour is ProviderFlavour.AZURE:
            deployment, beta = self.deployment or self.model, shape.label == "beta"
            return azure_url(self.base_url, deployment, self.type, beta=beta, api_version=self.api_version)
        if self.flavour is ProviderFlavour.CUSTOM:
            return custom_url(self.base_url, self.model, self.type)
        return realtime_url(self.base_url, self.model or shape.default_model, self.type)

    def handshake_headers(self, shape: Shape) -> dict[str, str]:
        """All headers we add to the handshake. Holds the key: never log it."""
        assert self.flavour is not None
        ours = shape.headers()
        if self.api_key:
            shown = self.authentication or authentication_of(self.flavour, self.api_key)
            name = "api-key" if shown is Authentication.API_KEY else "Authorization"
            ours[name] = self.api_key if name == "api-key" else f"Bearer {self.api_key}"
        named = {
            "OpenAI-Organization": self.organization,
            "OpenAI-Project": self.project,
            "OpenAI-Safety-Identifier": self.safety_identifier,
        }
        ours.update({name: value for name, value in named.items() if value})
        given = {name.lower() for name in self.headers}
        return {name: v for name, v in ours.items() if name.lower() not in given} | dict(self.headers)

    def handler_rules(self) -> HandlerRules:
        """What handlers may do."""
        return HandlerRules(
            self.sync_handler_timeout, self.handler_timeout, self.on_handler_error, self.privacy
        )

    def secrets(self) -> tuple[str, ...]:
        """What must be in no message."""
        words = [
            v
            for name, v in self.headers.items()
            if any(word in name.lower() for word in _SECRET_HEADER_WORDS)
        ]
        words += [part for word in words for part in word.split()[1:]]
        return tuple(word for word in (self.api_key, *words) if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMediaParameters:
    """How a media unit is attached.

    `tag` names the stream in `WebSocketMediaStarted/Ended` and for `clear_media_buffer`. `encoding` is a
    `WebSocketAudioEncoding`: the unit gets that instead of the client's output format.
    """

    tag: str
    custom_parameters: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearMediaBufferParameters:
    """Which units to clear: those attached under `tag`, or all."""

    tag: str | None = None


Outcome = RealtimeError | None
