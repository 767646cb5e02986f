"""Workers that are killed in the middle of an answer, a sentence, a function call: what the caller hears."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from parley.control.v1 import control_pb2 as pb
from parley_client import MediaGateway, Playout
from recovering import fleet, in_order, longest_silence, resume

pytestmark = pytest.mark.timeout(180)


async def test_an_answer_that_was_cut_is_taken_up_where_it_was_heard(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place, playout=Playout.REALTIME) as guest:
            await guest.ask("q1 long")
            await guest.until(lambda: bool(guest.events("response.done")) and len(guest.audio()) > 40)
            await asyncio.sleep(0.3)
            heard = len(guest.audio()) * 0.02
            first.signal(signal.SIGKILL)
            killed = asyncio.get_running_loop().time()
            await it.admit(second, "u", 2, resume())
            await guest.until(lambda: guest.audio()[-1][0] > killed + 0.5)
            user, cut, *_ = it.held.items(-1)
            whole = it.held.items(0)[1]["words"]
            assert user == it.held.items(0)[0]
            assert cut["id"] == it.held.items(0)[1]["id"]
            assert whole.startswith(cut["words"])
            assert 0 < len(cut["words"]) < 0.9 * len(whole), heard
            await guest.until(lambda: len(guest.answers()) == 2)
            in_order(guest.numbers())
            epochs = [audio.epoch for _, audio in guest.audio()]
            assert epochs == sorted(epochs)
            assert longest_silence(guest) < 10


@pytest.mark.parametrize("at", [0.9, 1.3])
async def test_a_sentence_during_which_the_worker_was_killed_is_heard_whole(
    tmp_path: Path, at: float
) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.remember()
            speaking = asyncio.create_task(guest.say([12, 34, 56, 78, 90]))
            await guest.until(lambda: bool(guest.events("input_audio_buffer.speech_started")))
            await asyncio.sleep(at - 0.9)
            first.signal(signal.SIGKILL)
            await it.admit(second, "u", 2, resume())
            await speaking
            assert await guest.answered("heard") == "heard numbers 12 34 56 78 90"
            await guest.calm()
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 alpha 12-34-56-78-90"
            in_order(guest.numbers())


async def test_a_function_that_the_caller_runs_may_be_answered_to_the_next_worker(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        place = await it.admit(first, "u")
        async with it.call("u", place) as guest:
            await guest.ask("q1 lookup beta")
            await guest.until(lambda: bool(guest.events("response.function_call_arguments.done")))
            await guest.calm()
            await it.settled("u")
            (asked,) = guest.events("response.function_call_arguments.done")
            first.signal(signal.SIGKILL)
            await guest.call.send_tool_output(asked["call_id"], "q1 gamma")
            await it.admit(second, "u", 2, resume())
            await guest.answered("a1")
            await guest.calm()
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 gamma"
            in_order(guest.numbers())


async def test_a_function_that_a_service_ran_is_not_run_again(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        first, second = it.hosts
        runs: list[bytes] = []
        ran = asyncio.Event()
        client = await it.nats.connect()

        async def run(message: Msg) -> None:
            runs.append(message.data)
            ran.set()

        await client.subscribe("parley.tools.lookup", cb=run)
        routes = [pb.ToolRoute(name="lookup", nats=pb.NatsRoute())]
        place = await it.admit(first, "u", tools=routes)
        async with it.call("u", place) as guest:
            await guest.ask("q1 lookup beta")
            async with asyncio.timeout(15):
                await ran.wait()
            await it.settled("u")
            first.signal(signal.SIGKILL)
            await it.admit(second, "u", 2, resume(), tools=routes)
            await guest.until(lambda: len(guest.answers()) == 1)
            (output,) = [i for i in it.held.items(-1) if i["type"] == "function_call_output"]
            assert "whether it took effect is not known" in output["output"]
            assert len(runs) == 1
        await client.close()


async def test_calls_of_a_gateway_follow_their_sessions(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it, MediaGateway() as gateway:
        first, second = it.hosts
        places = [await it.admit(first, uid) for uid in ("u1", "u2")]
        guests = [
            await it.through(gateway, uid, place) for uid, place in zip(("u1", "u2"), places, strict=True)
        ]
        for guest in guests:
            await guest.remember()
        await asyncio.sleep(0.5)
        await it.migrate(first, second, "u1")
        await guests[0].until(lambda: guests[0].call.stats.moves == 1)
        first.signal(signal.SIGKILL)
        await it.admit(second, "u2", 2, resume())
        await guests[1].until(lambda: guests[1].call.stats.resumes == 1)
        for guest in guests:
            await guest.ask("q2 recall")
            assert await guest.answered("a2") == "a2 alpha"
            in_order(guest.numbers())
            await guest.leave()
