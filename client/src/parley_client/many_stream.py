"""One ConverseMany stream to a worker, and the legs on it. Handles are reused once a leg is over."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc as pb_grpc

from .errors import AttachRefused, ConnectError, ParleyError, ProtocolError, SlowConsumer, StreamError
from .leg import channel_to, refusal_of, stream_error
from .target import Target

Queued = Callable[[float], int]
"""Bytes of agent audio that the caller has not heard yet, at that time."""

SEND_SECONDS: Final = 0.005
CREDIT_SECONDS: Final = 0.02
MAX_REQUEST_BYTES: Final = 512 * 1024
MAX_REQUEST_ENTRIES: Final = 2048
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
LEG_QUEUE: Final = 4096
LAST_ENTRIES_SECONDS: Final = 1.0

_STATUS: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class ManyStream:
    """See the module. Its tasks end with the stream; `over` is true from then on."""

    def __init__(self, target: Target) -> None:
        self.over = False
        self._target = target
        self._channel = channel_to(target)
        self._stream = pb_grpc.MediaServiceStub(self._channel).ConverseMany()
        self._legs: dict[int, ManyLeg] = {}
        self._free: list[int] = []
        self._handles = 0
        self._waiting: deque[pb.CallerEntry] = deque()
        self._waiting_bytes = 0
        self._sent = asyncio.Condition()
        self._asked = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._read(), name="parley-gateway-read"),
            asyncio.create_task(self._write(), name="parley-gateway-write"),
            asyncio.create_task(self._give_credit(), name="parley-gateway-credit"),
        ]

    async def open(self, start: pb.Start, timeout: float, window: int | None, queued: Queued) -> ManyLeg:
        """Attach under a free handle and wait for Started. `window` is the credit in bytes, None for none.

        Raises:
            ConnectError, TlsError, AttachRefused, ProtocolError: as `Leg.open`.
        """
        handle = heapq.heappop(self._free) if self._free else self._next_handle()
        leg = self._legs[handle] = ManyLeg(self, handle, window, queued)
        try:
            async with asyncio.timeout(timeout):
                self.put(pb.CallerEntry(handle=handle, message=pb.ConverseRequest(start=start)))
                if window is not None:
                    self.put(pb.CallerEntry(handle=handle, credit=pb.Credit(audio_bytes=window)))
                first = await leg.read()
        except TimeoutError as error:
            raise ConnectError(f"{self._target.address} did not answer within {timeout:g} s") from error
        except StreamError as error:
            raise AttachRefused(error.status, error.message, reason=error.reason) from error
        else:
            if first is None or first.WhichOneof("message") != "started":
                kind = "its end" if first is None else first.WhichOneof("message")
                raise ProtocolError(f"{self._target.address} answered Start with {kind}")
            leg.started = first.started
            leg.attached = True
            return leg
        finally:
            if not leg.attached:
                await leg.close()

    def _next_handle(self) -> int:
        self._handles += 1
        return self._handles

    def put(self, entry: pb.CallerEntry) -> None:
        """Send an entry soon; nothing happens when the stream is over."""
        if not self.over:
            self._waiting.append(entry)
            self._waiting_bytes += entry.ByteSize() + 8
            self._asked.set()

    async def room(self) -> None:
        """Wait while more is to be sent than the transport takes."""
        if self._waiting_bytes > MAX_WAITING_BYTES:
            async with self._sent:
                await self._sent.wait_for(lambda: self.over or self._waiting_bytes <= MAX_WAITING_BYTES)

    async def close(self) -> None:
        """Send what waits, as far as that is quick, and end the stream. Idempotent and never fails."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ENTRIES_SECONDS), self._sent:
                await self._sent.wait_for(lambda: self.over or not self._waiting)
        self._stream.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._channel.close(None)

    async def _read(self) -> None:
        failure: grpc.aio.AioRpcError | None = None
        try:
            async for response in self._stream:
                for entry in response.entries:
                    leg = self._legs.get(entry.handle)
                    if leg is not None:
                        leg.take(entry)
        except grpc.aio.AioRpcError as error:
            failure = error
        except asyncio.CancelledError:
            if not self._stream.cancelled():
                raise
        finally:
            self._end(failure)
        async with self._sent:
            self._sent.notify_all()
        await self._channel.close(None)

    def _end(self, error: grpc.aio.AioRpcError | None) -> None:
        self.over = True
        legs = list(self._legs.values())
        self._legs.clear()
        for leg in legs:
            if error is None:
                leg.end(None)
            else:
                leg.end(stream_error(error) if leg.attached else refusal_of(self._target, error))
        self._waiting.clear()
        self._asked.set()

    async def _write(self) -> None:
        try:
            while not self.over:
                await self._asked.wait()
                self._asked.clear()
                while self._waiting:
                    await self._stream.write(self._next_request())
                async with self._sent:
                    self._sent.notify_all()
                await asyncio.sleep(SEND_SECONDS)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader knows why

    def _next_request(self) -> pb.ConverseManyRequest:
        request, size = pb.ConverseManyRequest(), 0
        while self._waiting and len(request.entries) < MAX_REQUEST_ENTRIES:
            more = self._waiting[0].ByteSize() + 8
            if size and size + more > MAX_REQUEST_BYTES:
                break
            request.entries.append(self._waiting.popleft())
            size += more
        self._waiting_bytes -= size
        return request

    async def _give_credit(self) -> None:
        """Let the worker send what players have made room for."""
        now = asyncio.get_running_loop().time
        while not self.over:
            await asyncio.sleep(CREDIT_SECONDS)
            for leg in list(self._legs.values()):
                if (more := leg.credit_due(now())) > 0:
                    self.put(pb.CallerEntry(handle=leg.handle, credit=pb.Credit(audio_bytes=more)))

    def free(self, handle: int) -> None:
        """The last entry under the handle was received."""
        if self._legs.pop(handle, None) is not None:
            heapq.heappush(self._free, handle)


class ManyLeg:
    """See `AttachedLeg`. `started` is empty until it is `attached`."""

    def __init__(self, stream: ManyStream, handle: int, window: int | None, queued: Queued) -> None:
        self.handle = handle
        self.started = pb.Started()
        self.attached = False
        self._stream = stream
        self._window = window
        self._queued = queued
        self._credit = window or 0
        self._item = ""
        self._arrived: deque[pb.AgentEntry] = deque()
        self._news = asyncio.Event()
        self._closed = False
        self._over = False
        self._failure: ParleyError | None = None

    async def read(self) -> pb.ConverseResponse | None:
        """Return the next response, or None when the worker ended the stream with OK.

        Raises:
            StreamError: the leg ended without its session.
            SlowConsumer: responses were not read in time.
        """
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if self._over or self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        entry = self._arrived.popleft()
        kind = entry.WhichOneof("content")
        if kind == "failed":
            failed = entry.failed
            raise StreamError(_STATUS.get(failed.code, "UNKNOWN"), failed.message, reason=failed.reason)
        return self._audio(entry) if kind == "audio" else entry.message

    def _audio(self, entry: pb.AgentEntry) -> pb.ConverseResponse:
        self._credit -= len(entry.audio)
        if entry.HasField("item_id"):
            self._item = entry.item_id
        audio = pb.AgentAudio(
            payload=entry.audio,
            item_id=self._item,
            content_index=entry.content_index,
            epoch=entry.epoch,
            sequence=entry.sequence,
            position_ms=entry.position_ms,
        )
        return pb.ConverseResponse(audio=audio)

    async def write(self, request: pb.ConverseRequest) -> None:
        """Send a request; waits while the transport is full.

        Raises:
            StreamError: the leg is over; `read` says why.
        """
        await self._stream.room()
        if self._over or self._closed:
            raise StreamError("UNAVAILABLE", "the stream is over")
        entry = pb.CallerEntry(handle=self.handle)
        if request.HasField("audio"):
            entry.audio = request.audio.payload
            entry.sequence = request.audio.sequence
            entry.media_time_ms = request.audio.media_time_ms
        else:
            entry.message.CopyFrom(request)
        self._stream.put(entry)

    async def close(self) -> None:
        """Give the leg up; the session, unless it is over, is held for its reattach timeout."""
        if not self._closed and not self._over:
            self._stream.put(pb.CallerEntry(handle=self.handle, detach=pb.Detach()))
        self._closed = True
        self._arrived.clear()
        self._news.set()

    def take(self, entry: pb.AgentEntry) -> None:
        """An entry came."""
        last = entry.HasField("failed") or entry.message.HasField("ended")
        if not self._closed and len(self._arrived) >= LEG_QUEUE:
            self._failure = SlowConsumer(f"{LEG_QUEUE} entries wait; take the call's events")
            self._stream.put(pb.CallerEntry(handle=self.handle, detach=pb.Detach()))
            self._closed = True
        if not self._closed:
            self._arrived.append(entry)
            self._news.set()
        if last:
            self._over = True
            self._stream.free(self.handle)

    def end(self, failure: ParleyError | None) -> None:
        """The stream is gone."""
        self._over = True
        self._failure = self._failure or failure
        self._news.set()

    def credit_due(self, now: float) -> int:
        """Bytes of credit to give now; not in crumbs."""
        if self._window is None or self._closed or not self.attached:
            return 0
        more = self._window - self._credit - self._queued(now)
        if more < self._window // 4:
            return 0
        self._credit += more
        return more
