"""`WorkerControlService` of a worker with shards: every request goes to the shard that it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from parley.control.v1 import control_pb2 as pb

from parley_worker.codec import control_pb
from parley_worker.codec.shard_frames import Kind
from parley_worker.config import MAX_SHARDS
from parley_worker.core.admission import TRY_ANOTHER, Fence, Refusal, RefusalReason
from parley_worker.core.lost import LostSession
from parley_worker.core.model import EndReason, SessionConfig, SessionKey
from parley_worker.transport.control_server import ControlBase, WatchedPort, abort
from parley_worker.transport.shard_link import Aborted, LinkLost, ShardLink

MAX_LOSSES = 2
"""Shards that may be lost under one Admit: perhaps it is the Admit that ends them."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A place on a shard. `older` is an attempt that must end on another shard: its link and number."""

    link: ShardLink
    older: tuple[ShardLink, int] | None = None


class FrontPort(WatchedPort, Protocol):
    """The places of all shards."""

    def place(self, config: SessionConfig, fence: Fence) -> Placed | Refusal: ...

    def settle(self, key: SessionKey, link: ShardLink) -> bool: ...

    def withdraw(self, key: SessionKey, overloaded: str = "") -> None: ...

    def link_of(self, key: SessionKey) -> ShardLink | None: ...


Found = TypeVar("Found", pb.TerminateResponse, pb.CommandResponse, pb.MigrateResponse)
Spawn = Callable[[str, Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class FrontControl(ControlBase):
    """Chooses a shard for each Admit, passes on what concerns one session, and answers the rest itself.

    `last_word` writes the end of a session that no worker has; None where nothing is written.
    """

    def __init__(
        self,
        *,
        registry: FrontPort,
        spawn: Spawn,
        last_word: Callable[[LostSession], None] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(registry=registry, **others)
        self._front, self._spawn, self._last_word = registry, spawn, last_word

    async def _place(
        self, request: pb.AdmitRequest, config: SessionConfig, fence: Fence
    ) -> pb.Admitted | Refusal:
        # What is begun is finished also when the caller goes away: else the place would stay in doubt.
        task = self._spawn(f"admit-{config.key.uid}", self._carry(request, config, fence))
        verdict: pb.Admitted | Refusal = await asyncio.shield(task)
        return verdict

    async def _carry(
        self, request: pb.AdmitRequest, config: SessionConfig, fence: Fence
    ) -> pb.Admitted | Refusal:
        refusal = Refusal(RefusalReason.OVERLOADED, f"shards were lost under it{TRY_ANOTHER}")
        losses = 0
        for _ in range(MAX_SHARDS + MAX_LOSSES):
            placed = self._front.place(config, fence)
            if isinstance(placed, Refusal):
                refusal = placed
                break
            try:
                verdict = await self._ask(placed, request, config.key)
            except LinkLost:
                self._front.withdraw(config.key)
                losses += 1
                if losses == MAX_LOSSES:
                    break
                continue
            if isinstance(verdict, pb.Admitted):
                return verdict
            if verdict.reason is not RefusalReason.OVERLOADED:
                refusal = verdict
                break
            # It lags since its last sign of life: now the front knows, and chooses another one, or none.
        self._metrics.refused(refusal.reason)
        return refusal

    async def _ask(self, placed: Placed, request: pb.AdmitRequest, key: SessionKey) -> pb.Admitted | Refusal:
        answer = pb.AdmitResponse.FromString(await placed.link.call(Kind.ADMIT, request.SerializeToString()))
        if not answer.HasField("admitted"):
            refusal = control_pb.parse_refusal(answer.refused)
            short = refusal.message.removesuffix(TRY_ANOTHER)
            short = short if refusal.reason is RefusalReason.OVERLOADED else ""
            self._front.withdraw(key, short)
            return refusal
        if not self._front.settle(key, placed.link):
            raise LinkLost
        if placed.older is not None:
            self._spawn(f"take-over-{key.uid}", self._end_older(*placed.older, request))
        return answer.admitted

    async def _end_older(self, link: ShardLink, attempt: int, request: pb.AdmitRequest) -> None:
        order = pb.TerminateRequest(
            session=request.session,
            fence=request.fence,
            reason=EndReason.WORKER_LOST,
            message=f"attempt {request.session.attempt} takes over",
        )
        order.session.attempt = attempt
        try:
            await link.call(Kind.TERMINATE, order.SerializeToString())
        except (LinkLost, Aborted):
            # It is over already, or about to be.
            return

    async def Terminate(self, request: pb.TerminateRequest, context: Any) -> pb.TerminateResponse:
        key, _ = await self._ending(request, context)
        return await self._answer(key, Kind.TERMINATE, request, context, pb.TerminateResponse)

    async def RecordEnd(self, request: pb.RecordEndRequest, context: Any) -> pb.RecordEndResponse:
        lost = await self._last_words(request, context)
        taken = False
        if self._last_word is not None and self._front.link_of(lost.report.key) is None:
            self._last_word(lost)
            taken = True
        return pb.RecordEndResponse(worker_instance_id=self._identity.instance, taken=taken)

    async def Command(self, request: pb.CommandRequest, context: Any) -> pb.CommandResponse:
        key, _ = await self._instruction(request, context)
        return await self._answer(key, Kind.COMMAND, request, context, pb.CommandResponse)

    async def Migrate(self, request: pb.MigrateRequest, context: Any) -> pb.MigrateResponse:
        key, _ = await self._moving(request, context)
        return await self._answer(key, Kind.MIGRATE, request, context, pb.MigrateResponse)

    async def Moved(self, request: pb.MovedRequest, context: Any) -> pb.MovedResponse:
        key, _ = await self._moved(request, context)
        reply = await self._pass(key, Kind.MOVED, request, context)
        return self._told(key, reply is not None and pb.MovedResponse.FromString(reply).found)

    async def _answer(
        self, key: SessionKey, kind: Kind, request: Any, context: Any, response: type[Found]
    ) -> Found:
        """What the shard says, or that there is no such placement."""
        reply = await self._pass(key, kind, request, context)
        if reply is not None:
            return response.FromString(reply)
        return response(worker_instance_id=self._identity.instance, found=False)

    async def _pass(self, key: SessionKey, kind: Kind, request: Any, context: Any) -> bytes | None:
        """The answer of the shard that runs this placement; None when there is none, or no more."""
        link = self._front.link_of(key)
        if link is None:
            return None
        try:
            return await link.call(kind, request.SerializeToString())
        except LinkLost:
            return None
        except Aborted as error:
            await abort(context, error.code, error.message)
