"""Many callers on one stream: each leg looks like a stream of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}


def failure(failed: pb.LegFailed) -> grpc.aio.AioRpcError:
    """What Converse would have ended with."""
    trailing = [("parley-reason", failed.reason)] if failed.reason else []
    trailing += [("parley-field", failed.field)] if failed.field else []
    none = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(CODES[failed.code], none, grpc.aio.Metadata(*trailing), failed.message)


class ManyLeg:
    """One handle of a stream, read and written like a Converse stream."""

    def __init__(self, side: ManySide, handle: int) -> None:
        self.handle = handle
        self.over = False
        self.entries = 0
        self._side = side
        self._item = ""
        self._cancelled = False
        self._arrived: asyncio.Queue[pb.AgentEntry | Exception | None] = asyncio.Queue()

    def take(self, entry: pb.AgentEntry | Exception | None) -> None:
        self.entries += 1
        self._arrived.put_nowait(entry)

    async def read(self) -> Any:
        entry = await self._arrived.get()
        if entry is None:
            return grpc.aio.EOF
        if isinstance(entry, Exception):
            raise entry
        assert not self.over, f"an entry came behind the last one: {entry}"
        kind = entry.WhichOneof("content")
        if kind == "failed":
            self.over = True
            raise failure(entry.failed)
        if kind == "message":
            assert entry.message.WhichOneof("message") not in (None, "audio")
            if entry.message.HasField("ended"):
                self.over = True
                self._arrived.put_nowait(None)
            return entry.message
        assert kind == "audio"
        if entry.HasField("item_id"):
            assert entry.item_id != self._item or entry.sequence == 1
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

    async def write(self, message: pb.ConverseRequest) -> None:
        if message.HasField("audio") and message.audio.payload:
            audio = message.audio
            await self.say(audio=audio.payload, sequence=audio.sequence, media_time_ms=audio.media_time_ms)
        else:
            await self.say(message=message)

    async def say(self, **fields: Any) -> None:
        """One entry, by itself."""
        await self._side.write([pb.CallerEntry(handle=self.handle, **fields)])

    async def done_writing(self) -> None:
        await self.say(detach=pb.Detach())

    def cancel(self) -> None:
        """A caller who vanishes: of this kind the whole stream does."""
        self._cancelled = True
        self._arrived.put_nowait(None)
        if self._side.alone:
            self._side.stream.cancel()

    def cancelled(self) -> bool:
        return self._cancelled


class ManySide:
    """The gateway's side of a stream. `alone` while it stands for one Converse stream."""

    def __init__(self, stream: Any, *, alone: bool = False) -> None:
        self.stream = stream
        self.alone = alone
        self.responses = 0
        self.sizes: list[int] = []
        self.status: grpc.aio.AioRpcError | None = None
        self.done = asyncio.Event()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._legs: dict[int, ManyLeg] = {}
        self._writing = asyncio.Lock()
        self._reader = asyncio.create_task(self._read())

    def leg(self, handle: int) -> ManyLeg:
        """A new leg under the handle."""
        leg = self._legs[handle] = ManyLeg(self, handle)
        return leg

    def leg_of(self, handle: int) -> ManyLeg:
        """The leg that is under the handle now."""
        return self._legs[handle]

    async def write(self, entries: list[pb.CallerEntry]) -> None:
        async with self._writing:
            await self.stream.write(pb.ConverseManyRequest(entries=entries))

    async def _read(self) -> None:
        end: Exception | None = None
        try:
            while (response := await self.stream.read()) is not grpc.aio.EOF:
                self.responses += 1
                self.sizes.append(response.ByteSize())
                for entry in response.entries:
                    self._legs[entry.handle].take(entry)
                await self.flowing.wait()
        except grpc.aio.AioRpcError as error:
            self.status = end = error
        except asyncio.CancelledError:
            if not self.stream.cancelled():
                raise
        finally:
            self.done.set()
            for leg in self._legs.values():
                leg.take(end)

    async def close(self) -> None:
        self.stream.cancel()
        self.flowing.set()
        await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def gateway(address: str, *, alone: bool = False) -> AsyncIterator[ManySide]:
    """A ConverseMany stream to the worker."""
    async with grpc.aio.insecure_channel(address) as channel:
        side = ManySide(media_pb2_grpc.MediaServiceStub(channel).ConverseMany(), alone=alone)
        try:
            yield side
        finally:
            await side.close()
