"""Admits that wait for each other go together, and each gets its own answer whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from parley.control.v1 import control_pb2 as pb
from parley_operator.domain.model import AdmitOutcome, AdmitVerdict
from parley_operator.workers.admits import AT_ONCE, TOGETHER, Admits


def failure(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def request(name: str) -> pb.AdmitRequest:
    return pb.AdmitRequest(session=pb.SessionRef(session_uid=name))


def answer(asked: pb.AdmitRequest) -> pb.AdmitResponse:
    return pb.AdmitResponse(admitted=pb.Admitted(endpoint=asked.session.session_uid))


class Stub:
    """A worker; calls are held while `closed`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.calls: list[list[str]] = []
        self.many: Callable[[pb.AdmitManyRequest], pb.AdmitManyResponse] = lambda asked: pb.AdmitManyResponse(
            answers=map(answer, asked.admits)
        )

    async def Admit(self, asked: pb.AdmitRequest, timeout: float) -> pb.AdmitResponse:
        self.calls.append([asked.session.session_uid])
        await self.open.wait()
        return answer(asked)

    async def AdmitMany(self, asked: pb.AdmitManyRequest, timeout: float) -> pb.AdmitManyResponse:
        self.calls.append([each.session.session_uid for each in asked.admits])
        await self.open.wait()
        return self.many(asked)


class Ground:
    def __init__(self) -> None:
        self.stub = Stub()
        self.leads = True
        self.admits = Admits(self.stub, 5.0, lambda: self.leads)  # type: ignore[arg-type]

    async def send(self, count: int) -> list[asyncio.Task[AdmitOutcome]]:
        tasks = [asyncio.create_task(self.admits.send(request(f"s{n}"))) for n in range(count)]
        await asyncio.sleep(0)
        return tasks


async def test_what_waits_goes_together_and_each_has_its_own_answer() -> None:
    ground = Ground()
    tasks = await ground.send(AT_ONCE + TOGETHER + 3)
    assert [len(call) for call in ground.stub.calls] == [1] * AT_ONCE
    ground.stub.open.set()
    found = [await task for task in tasks]
    assert [outcome.endpoint for outcome in found] == [f"s{n}" for n in range(len(tasks))]
    assert [len(call) for call in ground.stub.calls] == [1] * AT_ONCE + [TOGETHER, 3]
    # One that comes alone later is sent alone.
    assert (await ground.admits.send(request("later"))).endpoint == "later"
    assert ground.stub.calls[-1] == ["later"]


async def test_a_worker_of_an_earlier_release_is_asked_one_by_one() -> None:
    ground = Ground()

    def unknown(asked: pb.AdmitManyRequest) -> Any:
        raise failure(grpc.StatusCode.UNIMPLEMENTED)

    ground.stub.many = unknown
    tasks = await ground.send(AT_ONCE + 4)
    ground.stub.open.set()
    found = [await task for task in tasks]
    assert [outcome.verdict for outcome in found] == [AdmitVerdict.ADMITTED] * len(tasks)
    assert [outcome.endpoint for outcome in found] == [f"s{n}" for n in range(len(tasks))]
    assert sum(len(call) > 1 for call in ground.stub.calls) == 1
    before = len(ground.stub.calls)
    await asyncio.gather(*await ground.send(AT_ONCE + 4))
    assert [len(call) for call in ground.stub.calls[before:]] == [1] * (AT_ONCE + 4)


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", AdmitVerdict.UNKNOWN),
        (grpc.StatusCode.UNAVAILABLE, "socket closed", AdmitVerdict.UNKNOWN),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", AdmitVerdict.UNREACHABLE),
        (grpc.StatusCode.PERMISSION_DENIED, "", AdmitVerdict.OVERLOADED),
    ],
)
async def test_a_call_that_fails_is_everybodys_answer(
    code: grpc.StatusCode, details: str, verdict: AdmitVerdict
) -> None:
    ground = Ground()

    def fails(asked: pb.AdmitManyRequest) -> Any:
        raise failure(code, details)

    ground.stub.many = fails
    tasks = await ground.send(AT_ONCE + 3)
    ground.stub.open.set()
    found = [(await task).verdict for task in tasks]
    assert found == [AdmitVerdict.ADMITTED] * AT_ONCE + [verdict] * 3


async def test_too_few_answers_are_none() -> None:
    ground = Ground()
    ground.stub.many = lambda asked: pb.AdmitManyResponse(answers=[answer(asked.admits[0])])
    tasks = await ground.send(AT_ONCE + 2)
    ground.stub.open.set()
    assert [(await task).verdict for task in tasks[AT_ONCE:]] == [AdmitVerdict.UNKNOWN] * 2


async def test_who_does_not_lead_any_more_sends_nothing_that_waited() -> None:
    ground = Ground()
    tasks = await ground.send(AT_ONCE + 3)
    ground.leads = False
    ground.stub.open.set()
    found = [(await task).verdict for task in tasks]
    assert found == [AdmitVerdict.ADMITTED] * AT_ONCE + [AdmitVerdict.UNKNOWN] * 3
    assert len(ground.stub.calls) == AT_ONCE


async def test_closing_leaves_nobody_waiting() -> None:
    ground = Ground()
    tasks = await ground.send(AT_ONCE + 2)
    await ground.admits.close()
    assert [(await task).verdict for task in tasks[AT_ONCE:]] == [AdmitVerdict.UNKNOWN] * 2
    ground.stub.open.set()
    await asyncio.gather(*tasks)
    more = await ground.send(AT_ONCE + 2)
    assert [(await task).verdict for task in more] == [AdmitVerdict.ADMITTED] * (AT_ONCE + 2)


async def test_closing_during_a_call_for_many_answers_them_too() -> None:
    ground = Ground()
    tasks = await ground.send(AT_ONCE + 2)
    ground.stub.open.set()
    await asyncio.gather(*tasks[:AT_ONCE])
    ground.stub.open.clear()
    await asyncio.sleep(0)
    await ground.admits.close()
    assert all(task.done() for task in tasks)


async def test_one_who_gives_up_does_not_disturb_the_others() -> None:
    ground = Ground()
    tasks = await ground.send(AT_ONCE + 3)
    tasks[AT_ONCE].cancel()
    await asyncio.gather(tasks[AT_ONCE], return_exceptions=True)
    ground.stub.open.set()
    found = [await task for number, task in enumerate(tasks) if number != AT_ONCE]
    assert [outcome.verdict for outcome in found] == [AdmitVerdict.ADMITTED] * (AT_ONCE + 2)
