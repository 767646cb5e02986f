"""What a client is made from."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parley_realtime.errors import RealtimeError, ScenarioError
from parley_realtime.events import WebSocketCloseEvent
from parley_realtime.formats import DEFAULT_FORMAT, AudioFormat
from parley_realtime.protocol.shape import ClientType
from parley_realtime.protocol.urls import DEFAULT_BASE_URL, realtime_url

CloseCallback = Callable[[WebSocketCloseEvent], Awaitable[None] | None]
ScenarioErrorCallback = Callable[[ScenarioError], None]
Observer = Callable[[dict[str, Any]], None]
_SECRET_HEADER_WORDS = ("auth", "key", "token", "secret", "cookie", "password", "credential")
_POSITIVE = (
    "connect_timeout",
    "close_timeout",
    "send_timeout",
    "handler_timeout",
    "max_frame_bytes",
    "media_buffer_ms",
    "playout_buffer_ms",
    "outgoing_events",
    "pending_events",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeAPIClientParameters:
    """Times in seconds unless the name says otherwise; ValueError names the field that cannot work.

    api_key: goes into the Authorization header and nowhere else; may be empty when `headers` authenticate.
    model: default by shape (GA `gpt-realtime`, beta `gpt-4o-realtime-preview-2024-10-01`).
    base_url: host root; https and wss, http and ws alike. A path ending in `/realtime` is taken as it is.
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
    handler_timeout: an async handler that takes longer ends the scenario.
    clear_on_speech: clear the media units when the caller begins to speak; None: beta does, GA does not.
    observer: sees every decoded server event except audio deltas, before listeners, synchronously.
    statistics: log the counters once, at close. trace: append every frame to this file, keys and audio left
    out.
    privacy: log nothing about the connection; excludes trace.
    allow_address: asked with the IP address that was connected to, before the key is sent; False refuses it.
    proxy: None connects directly, True takes the proxy of the environment, a string is its URL.
    """

    api_key: str = field(default="", repr=False)
    model: str | None = None
    base_url: str = DEFAULT_BASE_URL
    type: ClientType = ClientType.REALTIME
    on_web_socket_close: CloseCallback | None = None
    on_scenario_error: ScenarioErrorCallback | None = None
    observer: Observer | None = None
    clear_on_speech: bool | None = None
    statistics: bool = False
    trace: Path | None = None
    privacy: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    organization: str | None = None
    project: str | None = None
    safety_identifier: str | None = None
    ssl: ssl.SSLContext | None = None
    proxy: Literal[True] | str | None = field(default=None, repr=False)
    allow_address: Callable[[str], bool] | None = None
    connect_timeout: float = 15.0
    close_timeout: float = 1.0
    send_timeout: float = 20.0
    handler_timeout: float = 10.0
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
        realtime_url(self.base_url, self.model or "model", self.type)
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)!r}")
        if self.privacy and self.trace is not None:
            raise ValueError("trace cannot be given together with privacy: leave one of them out")
        headers = ((f"headers[{name!r}]", value) for name, value in self.headers.items())
        for name, value in (("api_key", self.api_key), *headers):
            if not isinstance(value, str) or any(c in value for c in "\r\n\0"):
                raise ValueError(f"{name} must be a string without line breaks")

    def url(self, default_model: str) -> str:
        """The WebSocket address of this client."""
        return realtime_url(self.base_url, self.model or default_model, self.type)

    def handshake_headers(self, shape_headers: Mapping[str, str]) -> dict[str, str]:
        """All headers we add to the handshake. Holds the key: never log it."""
        ours = dict(shape_headers)
        if self.api_key:
            ours["Authorization"] = f"Bearer {self.api_key}"
        named = {
            "OpenAI-Organization": self.organization,
            "OpenAI-Project": self.project,
            "OpenAI-Safety-Identifier": self.safety_identifier,
        }
        ours.update({name: value for name, value in named.items() if value})
        given = {name.lower() for name in self.headers}
        return {name: v for name, v in ours.items() if name.lower() not in given} | dict(self.headers)

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


@dataclass(slots=True)
class Statistics:
    """Counters of one client. Bytes are audio bytes before base64."""

    events_sent: int = 0
    events_received: int = 0
    events_ignored_after_close: int = 0
    audio_bytes_sent: int = 0
    audio_bytes_received: int = 0
    audio_chunks_received: int = 0
    input_bytes_dropped: int = 0
    playout_bytes_dropped: int = 0
    late_chunks_dropped: int = 0
    media_units_failed: int = 0


Outcome = RealtimeError | None
