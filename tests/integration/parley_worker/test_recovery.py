"""A worker is lost in the middle of a conversation; another one goes on with it, and the caller follows."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from nats_reader import journal_of
from recovering import fleet, resume


def in_order(numbers: list[tuple[int, int]]) -> None:
    assert numbers == sorted(set(numbers)), "an event came twice, or out of order"


@pytest.mark.parametrize("shards", [0, 1])
async def test_a_conversation_goes_on_where_its_worker_was_killed(tmp_path: Path, shards: int) -> None:
    async with fleet(tmp_path, shards=shards) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.ask("q1 remember alpha")
            await guest.answered("a1")
            await guest.calm()
            await guest.ask("q2 lookup beta")
            await guest.until(lambda: bool(guest.events("response.function_call_arguments.done")))
            (asked,) = guest.events("response.function_call_arguments.done")
            await guest.call.send_tool_output(asked["call_id"], "q2 gamma")
            await guest.answered("a2")
            await guest.calm()
            await asyncio.sleep(0.3)
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
