"""The Admits of one worker: a few calls at a time, and what waits meanwhile goes together in the next one.

A call costs both sides more than all else about an Admit: a hundred sessions made at once need some dozen
calls. One that comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import grpc
import grpc.aio
from parley.control.v1 import control_pb2 as pb
from parley.control.v1 import control_pb2_grpc

from parley_operator.domain.model import AdmitOutcome, AdmitVerdict

from . import codec

AT_ONCE = 2
# Requests in one call; the protocol allows 64.
TOGETHER = 32
# Codes that prove that the worker never saw the request or would never have run it.
_REFUSING = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}
# gRPC's words when there was no connection to send the request on. Other words mean "unknown", which is safe.
_NOT_SENT = "failed to connect to all addresses"

_Waiting = tuple[pb.AdmitRequest, "asyncio.Future[AdmitOutcome]"]


class Admits:
    """`send` from the loop; `close` when the worker is left."""

    def __init__(
        self,
        stub: control_pb2_grpc.WorkerControlServiceAsyncStub,
        timeout: float,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        """`timeout` of a call in seconds; `may_act` is asked before each."""
        self._stub = stub
        self._timeout = timeout
        self._may_act = may_act
        self._calls = 0
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        # Workers of an earlier release know only Admit.
        self._joins = True

    async def send(self, request: pb.AdmitRequest) -> AdmitOutcome:
        """The worker's word. Waits for the calls under way first, where there are as many as may be."""
        if self._joins and self._calls >= AT_ONCE:
            answer: asyncio.Future[AdmitOutcome] = asyncio.get_running_loop().create_future()
            self._waiting.append((request, answer))
            return await answer
        self._calls += 1
        try:
            return await self._alone(request)
        finally:
            self._calls -= 1
            self._next()

    async def close(self) -> None:
        """Nothing more is sent; whoever waits learns that nothing is known."""
        waiting = list(self._waiting)
        self._waiting.clear()
        _answer(waiting, [])
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _next(self) -> None:
        while self._waiting and self._calls < AT_ONCE:
            part = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
            self._calls += 1
            task = asyncio.create_task(self._together(part), name="admit many")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _together(self, part: list[_Waiting]) -> None:
        found: list[AdmitOutcome] = []
        try:
            found = await self._many([request for request, _ in part])
        finally:
            self._calls -= 1
            _answer(part, found)
            self._next()

    async def _many(self, requests: list[pb.AdmitRequest]) -> list[AdmitOutcome]:
        if len(requests) > 1 and self._joins:
            if not self._may_act():
                return []
            message = pb.AdmitManyRequest(admits=requests)
            try:
                response = await self._stub.AdmitMany(message, timeout=self._timeout)
                return [codec.admit_outcome(answer) for answer in response.answers]
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    return [_no_answer(error)] * len(requests)
                self._joins = False
        return await asyncio.gather(*map(self._alone, requests))

    async def _alone(self, request: pb.AdmitRequest) -> AdmitOutcome:
        if not self._may_act():
            return _unknown("this operator does not lead")
        try:
            return codec.admit_outcome(await self._stub.Admit(request, timeout=self._timeout))
        except grpc.aio.AioRpcError as error:
            return _no_answer(error)


def _answer(part: list[_Waiting], found: list[AdmitOutcome]) -> None:
    """Give each its answer; without one nothing is known, and the worker will be asked again."""
    fits = len(found) == len(part)
    for number, (_, answer) in enumerate(part):
        if not answer.done():
            answer.set_result(found[number] if fits else _unknown("no answer"))


def _unknown(words: str) -> AdmitOutcome:
    return AdmitOutcome(AdmitVerdict.UNKNOWN, words)


def _no_answer(error: grpc.aio.AioRpcError) -> AdmitOutcome:
    if error.code() in _REFUSING:
        return AdmitOutcome(AdmitVerdict.OVERLOADED, f"the worker refuses us: {error.code().name}")
    if error.code() is grpc.StatusCode.UNAVAILABLE and _NOT_SENT in (error.details() or ""):
        return AdmitOutcome(AdmitVerdict.UNREACHABLE, "no connection")
    return _unknown(error.code().name)
