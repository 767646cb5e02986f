"""A worker that others took for lost comes back with nothing to say; and what NATS away means."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from nats_reader import journal_of
from parley.control.v1 import control_pb2 as pb
from recovering import fleet, in_order, reference, resume

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("shards", [0, 1])
async def test_a_worker_that_slept_cannot_talk_for_a_session_that_moved(tmp_path: Path, shards: int) -> None:
    async with fleet(tmp_path, shards=shards, shard_timeout="60") as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            await it.settled("u")
            first.signal(signal.SIGSTOP)
            try:
                await it.admit(second, "u", 2, resume())
                # Nothing tells the caller but that nobody answers.
                await guest.until(lambda: guest.call.stats.resumes == 1)
                await guest.ask("q2 recall")
                assert await guest.answered("a2") == "a2 alpha"
            finally:
                first.signal(signal.SIGCONT)
            await first.watch.until(lambda: first.watch.workers[-1].sessions == 0)
            assert first.watch.ended("u") is None
            await guest.ask("q3 remember beta")
            await guest.answered("a3")
            in_order(guest.numbers())
            assert {attempt for attempt, _ in guest.numbers()[-3:]} == {2}
        facts = await it.facts("u")
        assert facts.count("session_moved") == 1
        journal = await journal_of(it.nats.url, "default", "u")
        attempts = [record.body.attempt for record in journal]
        assert attempts == sorted(attempts), "the old worker wrote behind the new one"


@pytest.mark.parametrize("word", ["moved", "lost"])
async def test_a_worker_that_was_only_cut_off_from_the_operator_sends_its_caller_on(
    tmp_path: Path, word: str
) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            await it.settled("u")
            moved = await it.admit(second, "u", 2, resume())
            assert guest.call.stats.resumes == guest.call.stats.moves == 0
            # The operator can be heard again, and says how things are.
            if word == "moved":
                assert not await it.moved(first, "u", 1, moved)
            else:
                end = pb.TerminateRequest(session=reference("u", 1), fence=first.operator.fence())
                end.reason = "WorkerLost"
                assert (await first.operator.stub.Terminate(end)).found
            await guest.until(lambda: guest.call.stats.resumes + guest.call.stats.moves == 1)
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 alpha"
            in_order(guest.numbers())
            assert first.watch.ended("u") is None
        assert (await it.facts("u")).count("ended") == 1


async def test_an_older_attempt_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, workers=1) as it:
        (host,) = it.hosts
        await it.admit(host, "u", 3, resume())
        request = host.operator.request(it.local.url, "u", attempt=2)
        answer = await host.operator.admit(request)
        assert answer.refused.reason == pb.REFUSAL_REASON_STALE_ATTEMPT
        assert host.state("u", 3) == pb.SESSION_STATE_READY


async def test_what_is_lost_while_nats_is_away_is_said(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            await it.settled("u")
            await it.nats.kill()
            await guest.ask("q2 remember beta")
            await guest.answered("a2")
            await guest.calm()
            await first.watch.until(lambda: first.watch.workers[-1].journal_degraded)
            first.signal(signal.SIGKILL)
            # The journal cannot be read either: the call goes on with the agent as it is, and that is said.
            await it.admit(second, "u", 2, resume())
            await guest.until(lambda: guest.call.stats.resumes == 1)
            assert second.report("u").recovery_degraded
            await guest.ask("q3 recall")
            assert (await guest.answered("a3")).split() == ["a3"]
            await it.nats.start()
            await second.watch.until(lambda: not second.watch.workers[-1].journal_degraded)
        facts = await it.facts("u")
        assert facts.count("recovery_degraded") == 1


async def test_a_conversation_that_begins_anew_keeps_its_caller(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.ask("q1 remember alpha")
            await guest.answered("a1")
            await it.settled("u")
            first.signal(signal.SIGKILL)
            await it.admit(second, "u", 2, pb.Restore(mode=pb.Restore.MODE_RESTART))
            await guest.until(lambda: guest.call.stats.resumes == 1)
            await guest.ask("q2 recall")
            assert (await guest.answered("a2")).split() == ["a2"]
            assert not second.report("u").recovery_degraded
            in_order(guest.numbers())
