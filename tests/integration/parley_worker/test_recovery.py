"""A worker is lost in the middle of a conversation; another one goes on with it, and the caller follows."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from nats_reader import journal_of
from parley.control.v1 import control_pb2 as pb
from parley_client import Reconnecting
from recovering import fleet, in_order, reference, resume

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("shards", [0, 1])
async def test_a_conversation_goes_on_where_its_worker_was_killed(tmp_path: Path, shards: int) -> None:
    async with fleet(tmp_path, shards=shards) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            await guest.ask("q2 lookup beta")
            await guest.until(lambda: bool(guest.events("response.function_call_arguments.done")))
            (asked,) = guest.events("response.function_call_arguments.done")
            await guest.call.send_tool_output(asked["call_id"], "q2 gamma")
            await guest.answered("a2")
            await guest.calm()
            await it.settled("u")
            before = it.held.items(-1)
            first.signal(signal.SIGKILL)
            await it.admit(second, "u", 2, resume())
            await guest.until(lambda: guest.call.stats.resumes == 1)
            assert it.held.items(-1) == before
            await guest.ask("q3 recall")
            assert await guest.answered("a3") == "a3 alpha gamma"
            in_order(guest.numbers())
            assert guest.call.started is not None
            assert guest.call.started.attempt == 2
        report = await second.watch.end_of("u")
        assert report.end_reason == "CallerHangup"
        assert not report.recovery_degraded
        usage = report.usage
        facts = await it.facts("u")
        assert facts.count("session_restored") == 1
        journal = await journal_of(it.nats.url, "default", "u")
        taken = [r for r in journal if r.body.attempt == 2]
        assert taken[0].kind == "takeover"
        assert [r.body.sequence for r in taken] == list(range(1, len(taken) + 1))
        saved = [json.loads(r.body.checkpoint.state_json) for r in journal if r.kind == "checkpoint"]
        assert usage.input_tokens == saved[-1]["usage"][0] > 0


@pytest.mark.parametrize("shards", [0, 2])
async def test_a_session_moves_and_nobody_hears_it(tmp_path: Path, shards: int) -> None:
    async with fleet(tmp_path, shards=shards) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            await it.migrate(first, second, "u")
            await guest.until(lambda: guest.call.stats.moves == 1)
            assert it.held.items(-1) == it.held.items(-2)
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 alpha"
            in_order(guest.numbers())
            assert guest.call.stats.events_missed == 0
            assert not guest.of(Reconnecting)
            await guest.calm()
            await it.migrate(second, first, "u", 2)
            await guest.until(lambda: guest.call.stats.moves == 2)
            await guest.ask("q3 recall")
            assert await guest.answered("a3") == "a3 alpha"
            in_order(guest.numbers())
        assert (await first.watch.end_of("u")).end_reason == "CallerHangup"
        assert second.watch.ended("u") is None, "a session that moved away was told as ended"
        facts = await it.facts("u")
        assert facts.count("session_moved") == 2
        assert facts.count("ended") == 1
        assert {w.sessions for w in second.watch.workers[-1:]} == {0}
        journal = await journal_of(it.nats.url, "default", "u")
        assert [r.kind for r in journal].count("session_ended") == 1
        attempts = [r.body.attempt for r in journal]
        assert attempts == sorted(attempts)


async def test_what_is_said_while_a_session_moves_is_heard_once(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            await asyncio.sleep(0.5)
            given = await it.freeze(first, "u")
            assert given.ready, given.message
            speaking = asyncio.create_task(guest.say([12, 34, 56]))
            await asyncio.sleep(1.2)
            moved = await it.admit(second, "u", 2, resume(given.hand_over))
            assert await it.moved(first, "u", 1, moved)
            await speaking
            assert await guest.answered("heard") == "heard numbers 12 34 56"
            assert len(guest.answers()) == 2
            in_order(guest.numbers())


async def test_what_a_program_says_before_it_hears_of_the_move_is_done_once(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            leg = guest.call._leg
            assert leg is not None
            read = leg.read

            async def late() -> Any:
                response = await read()
                if response is not None and response.HasField("moved"):
                    # Under way to the old worker while its word is under way to us.
                    await guest.ask("q2 recall")
                    while guest.call._control:  # noqa: ASYNC110 - few rounds
                        await asyncio.sleep(0.01)
                return response

            leg.read = late  # type: ignore[method-assign]
            await it.migrate(first, second, "u")
            await guest.until(lambda: guest.call.stats.moves == 1)
            assert await guest.answered("a2") == "a2 alpha"
            await guest.calm()
            assert len(guest.answers()) == 2
            in_order(guest.numbers())


@pytest.mark.parametrize("stirs", [True, False])
async def test_a_session_that_is_not_told_where_to_goes_on(tmp_path: Path, stirs: bool) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            given = await it.freeze(first, "u")
            assert given.ready, given.message
            moved = await it.admit(second, "u", 2, resume(given.hand_over))
            await guest.say([7, 8])
            assert len(guest.answers()) == 1
            if stirs:
                # The caller's program says something: the session goes on with all that it was told.
                await guest.call.clear()
            assert await guest.answered("heard") == "heard numbers 7 8"
            assert not await it.moved(first, "u", 1, moved)
            await guest.calm()
            end = pb.TerminateRequest(session=reference("u", 2), fence=second.operator.fence())
            await second.operator.stub.Terminate(end)
            await guest.ask("q3 recall")
            assert await guest.answered("a3") == "a3 alpha 7-8"
        report = await first.watch.end_of("u")
        assert report.end_reason == "CallerHangup"
        assert (await it.facts("u")).count("ended") == 1
