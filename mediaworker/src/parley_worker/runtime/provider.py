"""The provider's side of a session: one RealtimeAPIClient and the media unit that takes its audio."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from parley_realtime import RealtimeAPIClient, RealtimeAPIClientParameters, RealtimeError, beta, recovery
from parley_realtime.client.lifeline import Lifeline
from parley_realtime.client.trace import TraceEntry
from parley_realtime.events import AUDIO_DELTA_TYPES, MediaChunk, MediaSource
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.restore import Refusal
from parley_realtime.protocol.urls import ProviderFlavour
from parley_realtime.recovery import Fillable, RecoveryParameters, RecoveryRecord
from parley_realtime.transport import TransportName

from parley_worker.core.addresses import may_be_reached
from parley_worker.core.agent import RecoveryConfig
from parley_worker.core.events import ProviderReconnected, ProviderReconnecting, RestoreRefused
from parley_worker.core.model import DEFAULT_PROVIDER_AUDIO, REALTIME_FORMATS, SessionConfig
from parley_worker.runtime.unravel import unravel
from parley_worker.transport.tls import trusting

# A custom provider's host tells.
_FLAVOURS = {"openai": ProviderFlavour.OPENAI, "azure": ProviderFlavour.AZURE}

MAX_TRACE_CHARACTERS = 64 * 1024
_AUDIO_FRAMES = frozenset({"input_audio_buffer.append", "audio delta"}) | AUDIO_DELTA_TYPES

PING_SECONDS = 5.0
"""A provider that answers no ping is found out within twice as long."""

OnRecovery = Callable[[ProviderReconnecting | ProviderReconnected | RestoreRefused], None]
OnEvent = Callable[[Mapping[str, Any]], None]
OnAudio = Callable[[bytes, str, str, int], None]
OnAudioDone = Callable[[str, str, int], None]
OnTrace = Callable[[str, str], None]


class _Unit:
    """Takes chunks the moment they come: the session has a playout clock of its own."""

    own_clock = True

    def __init__(self, on_audio: OnAudio, on_audio_done: OnAudioDone) -> None:
        self._on_audio = on_audio
        self._on_audio_done = on_audio_done

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """Nothing to prepare."""

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        self._on_audio(chunk.payload, chunk.response_id, chunk.item_id, chunk.content_index)

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        self._on_audio_done(response_id, item_id, content_index)

    def media_cleared(self, source: MediaSource) -> None:
        """The session clears by itself."""


class Provider:
    """A thin hand on the client: connect, send, push audio, close."""

    def __init__(self, client: RealtimeAPIClient | beta.RealtimeAPIClient, unit: _Unit) -> None:
        self._client = client
        self._unit = unit

    @property
    def client_id(self) -> str:
        return self._client.id()

    @property
    def web_socket_id(self) -> str:
        return self._client.web_socket_id()

    @property
    def queued_bytes(self) -> int:
        """Client events and caller audio that the provider has not read."""
        return self._client.queued_bytes

    @property
    def messages_received(self) -> int:
        """All that came from the provider, whatever it was."""
        return self._client.messages_received

    async def connect(self) -> None:
        """Raises the RealtimeError that prevented it."""
        self._client.send_media_to(self._unit)
        await self._client.connect()

    async def wait_closed(self) -> RealtimeError | None:
        """What ended the connection; None when `close` did."""
        return await self._client.wait_closed()

    def send(self, event: Mapping[str, Any]) -> None:
        """A client event; InvalidEventError or RealtimeError when it cannot be sent."""
        self._client.send_event(event)

    @property
    def push_audio(self) -> Callable[[bytes], None]:
        """Takes caller audio in the provider's format."""
        return self._client.media_inlet

    def handing_over(self) -> tuple[Mapping[str, Any], ...] | str | None:
        """The items that another worker's provider has to be given, or why they cannot be; None while
        something is under way."""
        connection = self._client._connection
        if not isinstance(connection, Lifeline):
            return "a lost WebSocket ends the session: nothing of the conversation is kept"
        plan = connection.handing_over()
        if isinstance(plan, Refusal):
            return plan.reason
        return None if plan is None else tuple(create["item"] for create in plan.creates)

    @property
    def unsettled_ms(self) -> float:
        """How much of the latest caller audio another worker's provider has to hear again."""
        connection = self._client._connection
        return connection.unsettled_ms() if isinstance(connection, Lifeline) else 0.0

    def close(self) -> None:
        """Close the connection or the attempt."""
        self._client.close()

    def let_go(self) -> None:
        """After the end: clear the client, which nobody uses any more, and what stands behind it."""
        client = self._client
        client._uplink.let_go()
        connection = client._connection
        over: list[object] = [client._dispatcher, client, connection]
        if isinstance(connection, Lifeline) and connection._line is not None:
            over += [connection._line, connection._line.connection]
        unravel(*over)


def open_provider(
    config: SessionConfig,
    *,
    connect_timeout: float,
    close_timeout: float,
    on_event: OnEvent,
    on_audio: OnAudio,
    on_audio_done: OnAudioDone,
    on_recovery: OnRecovery,
    quiet: Callable[[], bool],
    on_trace: OnTrace,
    transport: TransportName | None = None,
    congestion: tuple[str, ...] = (),
    pace: Callable[[], float] | None = None,
    frame_bytes: int = 4 * 1024 * 1024,
    gather: Callable[[Callable[[], None]], Any] | None = None,
    carry: Callable[[Fillable], None] | None = None,
) -> Provider:
    """A client for this session, not connected yet. ValueError names the field that cannot work.

    `carry` fills in a conversation that it goes on with.
    """
    provider = config.provider
    audio = AudioFormat.named(REALTIME_FORMATS[config.provider_audio or DEFAULT_PROVIDER_AUDIO])
    parameters = RealtimeAPIClientParameters(
        api_key=provider.api_key.reveal(),
        model=provider.model or None,
        base_url=provider.url,
        flavour=_FLAVOURS.get(provider.type),
        headers=provider.headers,
        ssl=trusting(provider.ca_pem) if _is_tls(provider.url) else None,
        observer=on_event,
        clear_on_speech=False,
        privacy=config.privacy,
        trace=functools.partial(_trace, on_trace) if config.trace else None,
        allow_address=may_be_reached,
        transport=transport,
        congestion=congestion,
        gather=gather,
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
        recovery=_recovery(config.recovery, on_recovery, quiet, pace, carry),
        max_frame_bytes=frame_bytes,
        input_format=audio,
        output_format=audio,
    )
    kind = beta.RealtimeAPIClient if provider.api_version == "beta" else RealtimeAPIClient
    return Provider(kind(parameters), _Unit(on_audio, on_audio_done))


def _trace(on_trace: OnTrace, entry: TraceEntry) -> None:
    """Direction and JSON of a frame; audio says nothing but that it came, fifty times a second."""
    kind = entry.frame.get("type")
    if kind in _AUDIO_FRAMES:
        return
    text = json.dumps(entry.frame, separators=(",", ":"))
    if len(text) > MAX_TRACE_CHARACTERS:
        text = json.dumps({"type": kind, "omitted_characters": len(text)}, separators=(",", ":"))
    on_trace(entry.direction, text)


def _recovery(
    config: RecoveryConfig,
    on_recovery: OnRecovery,
    quiet: Callable[[], bool],
    pace: Callable[[], float] | None,
    carry: Callable[[Fillable], None] | None,
) -> RecoveryParameters | None:
    if not config.restore and carry is None:
        return None
    return RecoveryParameters(
        carry=carry,
        replaces=config.restore,
        keep_private=config.keep_private,
        rotate_after=config.rotate_after,
        quiet=quiet,
        pace=pace,
        on_recovery=lambda record: on_recovery(_as_event(record)),
    )


def _as_event(record: RecoveryRecord) -> ProviderReconnecting | ProviderReconnected | RestoreRefused:
    match record:
        case recovery.Reconnecting():
            return ProviderReconnecting(record.word, record.attempt, record.delay, bool(record.cut_items))
        case recovery.Reconnected():
            return ProviderReconnected(record.web_socket_id, record.cause, record.gap, record.items)
        case recovery.RestoreRefused():
            return RestoreRefused(record.cause, record.reason)


def _is_tls(url: str) -> bool:
    return urlsplit(url).scheme in ("wss", "https")
