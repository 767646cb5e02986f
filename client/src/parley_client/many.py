"""Many calls on one stream for each worker shard: for gateways. `MediaGateway.call` gives ordinary calls.

The wire is `ConverseMany` of parley.media.v1. What calls say is sent together, every 5 ms at most.
"""

from __future__ import annotations

import asyncio
import weakref
from types import TracebackType
from typing import Any, Final, Self

from parley.media.v1 import media_pb2 as pb

from .audio import BufferedPlayer
from .call import Call, connect
from .errors import UsageError
from .formats import PCM16_24K, AudioFormat
from .leg import AttachedLeg
from .many_stream import ManyStream, Queued
from .options import CallOptions, Playout
from .opus import carried_per_second
from .resolving import Resolver
from .target import Target

CREDIT_MS: Final = (20, 60_000)


class MediaGateway:
    """Carries calls on one stream for each endpoint, opened when the first call needs it.

        async with MediaGateway() as gateway:
            call = await gateway.attach(target, input_format="g711_ulaw")

    A stream that is cut detaches all its calls, and each resumes by itself, on a new stream. Leaving the
    `async with` block closes every call without hanging up: the sessions are held for their reattach timeout.
    """

    def __init__(self) -> None:
        self._streams: dict[tuple[str, bool, str, str], ManyStream] = {}
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def call(
        self,
        target: Target,
        *,
        input_format: AudioFormat | str = PCM16_24K,
        output_format: AudioFormat | str | None = None,
        playout: Playout = Playout.REALTIME,
        player: BufferedPlayer | None = None,
        options: CallOptions | None = None,
        resolver: Resolver | None = None,
        credit_ms: int | None = None,
    ) -> Call:
        """Return a call to use as `async with gateway.call(target) as call`, as `parley_client.connect` does.

        Args:
            target, input_format, output_format, playout, player, options, resolver: as for `connect`.
            credit_ms: how much agent audio may be on its way or unheard in the player, 20 to 60000 ms; the
                worker holds back the rest of a BURST. None for no limit but the worker's.

        Raises:
            UsageError: `credit_ms` is out of range.
            And on entering, as `connect`.
        """
        low, high = CREDIT_MS
        if credit_ms is not None and not low <= credit_ms <= high:
            raise UsageError(f"credit_ms {credit_ms}: {low} to {high}")
        heard = player or BufferedPlayer()

        async def open_leg(where: Target, start: pb.Start, timeout: float) -> AttachedLeg:
            a_second = carried_per_second(made.options.output_format, made.options.opus)
            window = None if credit_ms is None else credit_ms * a_second // 1000
            return await self._stream(where).open(start, timeout, window, _queued(heard, a_second))

        made = connect(
            target,
            input_format=input_format,
            output_format=output_format,
            playout=playout,
            player=heard,
            options=options,
            resolver=resolver,
            open_leg=open_leg,
        )
        self._calls.add(made)
        return made

    async def attach(self, target: Target, **how: Any) -> Call:
        """Attach and return the call; end it with `hang_up` and `close`. Arguments and errors of `call`."""
        return await self.call(target, **how).__aenter__()

    async def close(self) -> None:
        """Close every call and every stream. Idempotent."""
        self._closed = True
        await asyncio.gather(*(call.close() for call in list(self._calls)))
        streams = list(self._streams.values())
        self._streams.clear()
        await asyncio.gather(*(stream.close() for stream in streams))

    def _stream(self, target: Target) -> ManyStream:
        """The live stream to that endpoint, opened when there is none."""
        if self._closed:
            raise UsageError("the gateway is closed: make another one")
        key = (target.address, target.tls, target.tls_server_name, target.ca_pem)
        stream = self._streams.get(key)
        if stream is None or stream.over:
            stream = self._streams[key] = ManyStream(target)
        return stream


def _queued(player: BufferedPlayer, a_second: int) -> Queued:
    """Bytes of the stream for what is in the player and was not heard yet."""

    def queued(now: float) -> int:
        line = player.line
        return 0 if line is None else line.queued_ms(now) * a_second // 1000

    return queued
