"""A WebSocket as a media unit: audio both ways in VoxEngine's raw media format."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from parley_realtime.audio import SampleFormat
from parley_realtime.client.parameters import SendMediaParameters
from parley_realtime.errors import UnavailableError
from parley_realtime.events import MediaChunk, MediaSource, MediaUnit
from parley_realtime.formats import WebSocketAudioEncoding
from parley_realtime.units.outlets import Outlets
from parley_realtime.units.raw_media import Begun, Frame, ReceivedStreams, SentStream, Silent, Sounding

logger = logging.getLogger(__name__)

MAX_QUEUED = 500
MAX_MESSAGE_BYTES = 1024 * 1024


class WebSocketEvents(StrEnum):
    """What a WebSocketMedia tells its listeners."""

    MEDIA_STARTED = "WebSocket.MediaEventStarted"
    MEDIA_ENDED = "WebSocket.MediaEventEnded"
    MESSAGE = "WebSocket.Message"
    CLOSE = "WebSocket.Close"


@dataclass(frozen=True, slots=True)
class WebSocketEvent:
    """`data`: MEDIA_STARTED has `tag`, `encoding` and `custom_parameters`, MEDIA_ENDED `tag` and
    `media_info`, MESSAGE `text` (or `data` of a binary one), CLOSE `code` and `reason`."""

    name: WebSocketEvents
    websocket: WebSocketMedia
    data: dict[str, Any]


WebSocketListener = Callable[[WebSocketEvent], None]


@dataclass(slots=True, eq=False)
class _Hearer:
    unit: MediaUnit
    parameters: SendMediaParameters | None

    @property
    def tag(self) -> str:
        return (self.parameters.tag if self.parameters else None) or ""


class WebSocketMedia:
    """One WebSocket that units send audio to, and that sends audio to units.

    `await connect()` once; all else returns at once. Each source has a stream of its own: a second one needs
    another tag. `send_media_to(unit, {"tag": ...})` gives the unit the received stream of that tag. What
    cannot be sent in time waits in a queue of 10 s; the oldest is dropped and counted. Listeners are called
    on the event loop and must not block.
    """

    default_encoding = WebSocketAudioEncoding.PCM16_16KHZ

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        ssl: ssl.SSLContext | None = None,
        open_timeout: float = 10.0,
    ) -> None:
        self._url, self._headers, self._ssl, self._open_timeout = url, dict(headers or {}), ssl, open_timeout
        self._id = f"websocket_{uuid.uuid4().hex}"
        self._socket: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: deque[str] = deque()
        self._wake = asyncio.Event()
        self._sent: dict[str, tuple[str | None, SentStream]] = {}
        self._received = ReceivedStreams()
        self._outlets: dict[str, Outlets] = {}
        self._hearers: list[_Hearer] = []
        self._listeners: list[tuple[WebSocketEvents, WebSocketListener]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.dropped = 0
        """Messages that waited too long to be sent."""

    def id(self) -> str:
        """The unit's own id."""
        return self._id

    @property
    def received(self) -> ReceivedStreams:
        """Counters of what came."""
        return self._received

    # Its life

    async def connect(self) -> Self:
        """Open the WebSocket. Raises UnavailableError when that fails or takes too long."""
        try:
            self._socket = await connect(
                self._url,
                additional_headers=self._headers,
                ssl=self._ssl,
                open_timeout=self._open_timeout,
                max_size=MAX_MESSAGE_BYTES,
                compression=None,
                proxy=None,
                close_timeout=1,
            )
        except (OSError, TimeoutError, WebSocketException) as exc:
            raise UnavailableError(f"the media WebSocket cannot be opened: {type(exc).__name__}") from None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        return self

    def close(self) -> None:
        """End all streams and close; what waits is sent first, for a second at most."""
        for source in tuple(self._sent):
            self._end(source)
        if self._tasks:
            self._tasks[1].cancel()

    async def wait_closed(self) -> None:
        """Wait until the socket and its tasks are gone."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self if self._socket is not None else await self.connect()

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def add_event_listener(self, event: WebSocketEvents, callback: WebSocketListener) -> None:
        """Call `callback(event)` for every such event."""
        self._listeners.append((WebSocketEvents(event), callback))

    def send(self, text: str) -> None:
        """Send any text; it waits its turn behind audio."""
        self._put(text)

    # What is sent (MediaUnit)

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """See MediaUnit. ValueError: another source has that tag, or the encoding has no place here."""
        self._end(source.id())
        if any(used == tag for used, _ in self._sent.values()):
            raise ValueError(f"tag {tag!r} is another source's here: give this one a tag of its own")
        stream = SentStream(encoding, tag, custom_parameters)
        self._sent[source.id()] = (tag, stream)
        self._put(stream.start())

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        """See MediaUnit."""
        entry = self._sent.get(source.id())
        if entry is not None:
            self._put(entry[1].media(chunk.payload))

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """See MediaUnit: the stream goes on."""

    def media_cleared(self, source: MediaSource) -> None:
        """See MediaUnit: audio is sent as it is to be played, none lies here."""

    def media_stopped(self, source: MediaSource) -> None:
        """The source sends nothing more here: its stream is stopped."""
        self._end(source.id())

    def _end(self, source: str) -> None:
        entry = self._sent.pop(source, None)
        if entry is not None:
            self._put(entry[1].stop())

    def _put(self, text: str) -> None:
        self._queue.append(text)
        if len(self._queue) > MAX_QUEUED:
            oldest = next(
                (n for n, waits in enumerate(self._queue) if waits.startswith('{"event":"media"')), 0
            )
            del self._queue[oldest]
            self.dropped += 1
        self._wake.set()

    # What is heard

    def send_media_to(
        self, media_unit: MediaUnit, parameters: SendMediaParameters | Mapping[str, Any] | None = None
    ) -> None:
        """Give the unit the received stream of the parameters' tag, or the one without a tag."""
        if isinstance(parameters, Mapping):
            parameters = SendMediaParameters(**parameters)
        self.stop_media_to(media_unit)
        hearer = _Hearer(media_unit, parameters)
        self._hearers.append(hearer)
        outlets = self._outlets.get(hearer.tag)
        if outlets is not None:
            outlets.attach(media_unit, parameters)

    def stop_media_to(self, media_unit: MediaUnit) -> None:
        """The unit hears it no more."""
        self._hearers = [hearer for hearer in self._hearers if hearer.unit is not media_unit]
        for outlets in self._outlets.values():
            outlets.detach(media_unit)

    def clear_media_buffer(self) -> None:
        """Forget what came and was not heard yet, in the units too."""
        self._received.clear()
        for outlets in self._outlets.values():
            outlets.clear()

    def _begin(self, begun: Begun) -> None:
        if begun.tag not in self._outlets or self._outlets[begun.tag].audio != begun.audio:
            self._outlets[begun.tag] = self._made(begun.tag, begun.audio)

    def _made(self, tag: str, audio: SampleFormat) -> Outlets:
        outlets = Outlets(self, audio)
        for hearer in self._hearers:
            if hearer.tag == tag:
                outlets.attach(hearer.unit, hearer.parameters)
        return outlets

    # Inside

    async def _read(self) -> None:
        assert self._socket is not None
        loop, begun = asyncio.get_running_loop(), dict[str, Begun]()
        try:
            async for message in self._socket:
                if not isinstance(message, str):
                    self._tell(WebSocketEvents.MESSAGE, data=message)
                    continue
                invalid = self._received.invalid
                start = self._received.take(message, loop.time())
                if start is not None:
                    begun[start.tag] = start
                    self._begin(start)
                elif self._received.invalid != invalid:
                    self._tell(WebSocketEvents.MESSAGE, text=message)
                self._play(begun)
        except ConnectionClosed:
            pass
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._tasks[1].cancel()
            code, reason = self._socket.close_code, self._socket.close_reason
            self._tell(WebSocketEvents.CLOSE, code=code or 1006, reason=reason or "")

    def _play(self, begun: Mapping[str, Begun]) -> None:
        """Give what is due, and come back when more is."""
        loop = asyncio.get_running_loop()
        for item in self._received.due(loop.time()):
            match item:
                case Frame(tag, payload):
                    self._outlets[tag].send(payload)
                case Sounding(tag):
                    start = begun[tag]
                    custom = dict(start.custom_parameters)
                    named = {"tag": tag or None, "encoding": start.encoding, "custom_parameters": custom}
                    self._tell(WebSocketEvents.MEDIA_STARTED, **named)
                case Silent(tag, duration):
                    self._outlets[tag].done()
                    info = {"duration": duration}
                    self._tell(WebSocketEvents.MEDIA_ENDED, tag=tag or None, media_info=info)
        due = self._received.deadline()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else loop.call_at(due, self._play, begun)

    async def _write(self) -> None:
        assert self._socket is not None
        try:
            while True:
                while self._queue:
                    await self._socket.send(self._queue.popleft())
                self._wake.clear()
                await self._wake.wait()
        except ConnectionClosed:
            return
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(1):
                    while self._queue:
                        await self._socket.send(self._queue.popleft())
        await self._socket.close()

    def _tell(self, name: WebSocketEvents, **data: Any) -> None:
        event = WebSocketEvent(name, self, data)
        for wanted, listener in tuple(self._listeners):
            if wanted is name:
                try:
                    listener(event)
                except Exception as exc:  # noqa: BLE001 - another party's code; the stream goes on
                    logger.error("a listener of a media WebSocket raised %s", type(exc).__name__)
