"""A caller stays attached while the provider's WebSocket is cut and replaced, and notices events only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from cutting_proxy import cutting
from media_calls import Caller, calling, start, worker
from parley.media.v1 import media_pb2 as pb
from parley_worker.core.agent import RecoveryConfig
from parley_worker.core.model import EndReason, SessionState
from provider_script import Socket, scripted
from recall import recalling, spoken
from surviving import BETA, GA

WORDS = ("response.output_audio_transcript.done", "response.audio_transcript.done")
R = EndReason


class Talk:
    """A caller that asks in text and in speech, and answers the tool."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self._asked = 0

    def events(self, *types: str) -> list[dict[str, Any]]:
        return [json.loads(e.event_json) for e in self.caller.of("event") if e.type in types]

    async def send(self, event: dict[str, Any]) -> None:
        await self.caller.send(client_event=pb.ClientEvent(event_json=json.dumps(event)))

    async def ask(self, text: str) -> str:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.send({"type": "conversation.item.create", "item": item})
        await self.send({"type": "response.create"})
        return "a" + text.split(" ")[0].removeprefix("q")

    async def answered(self, head: str) -> str:
        await self.until(lambda: any(words.startswith(head + " ") for words in self.answers()))
        return next(words for words in self.answers() if words.startswith(head + " "))

    async def until(self, test: Callable[[], bool]) -> None:
        """Wait until what has come so far passes the test."""
        async with asyncio.timeout(20), self.caller._news:
            await self.caller._news.wait_for(test)

    def answers(self) -> list[str]:
        """The words of all answers that were completed."""
        done = [
            e["response"]["id"]
            for e in self.events("response.done")
            if e["response"]["status"] == "completed"
        ]
        return [e["transcript"] for e in self.events(*WORDS) if e["response_id"] in done]

    async def say(self, numbers: list[int], pace: float = 0.0) -> None:
        audio = spoken(numbers)
        for at in range(0, len(audio), 960):
            await self.caller.speak(audio[at : at + 960])
            await asyncio.sleep(pace)


def uninterrupted(shape: str) -> dict[str, Any]:
    """A session in which speech cuts no answer: what was said is what is held."""
    turns = {**BETA["turn_detection"], "interrupt_response": False}
    if shape == "beta":
        return {**BETA, "turn_detection": turns}
    return {**GA, "audio": {"input": {**GA["audio"]["input"], "turn_detection": turns}}}


@pytest.mark.parametrize("shape", ["ga", "beta"])
async def test_a_call_goes_on_over_cut_and_rotated_web_sockets(shape: str) -> None:
    provider = {"model": "local", "api_version": shape}
    async with (
        recalling(audio_speed=30.0) as (local, held),
        cutting(local.url) as proxy,
        worker() as host,
    ):
        config = host.admit(
            proxy.url,
            provider=provider,
            session=uninterrupted(shape),
            recovery=RecoveryConfig(rotate_after=2.0),
        )
        async with calling(host, start(config, playout_mode=pb.PLAYOUT_MODE_BURST)) as caller:
            await caller.expect("started")
            talk = Talk(caller)
            await talk.answered(await talk.ask("q1 remember alpha"))
            await talk.ask("q2 lookup beta")
            await talk.until(lambda: bool(talk.events("response.function_call_arguments.done")))
            (call,) = talk.events("response.function_call_arguments.done")
            proxy.cut()
            await caller.send(tool_output=pb.ToolOutput(call_id=call["call_id"], output="q2 gamma"))
            await talk.answered("a2")
            await talk.say([12, 34, 56])
            assert await talk.answered("heard") == "heard numbers 12 34 56"
            before = held.items(-1)
            proxy.cut("end")
            await host.until(config, lambda r: reconnects(host, config) >= 2)
            assert held.items(-1)[: len(before)] == before
            speaking = asyncio.create_task(talk.say([7, 8, 9], pace=0.005))
            await asyncio.sleep(0.1)
            proxy.cut()
            await speaking
            await talk.until(lambda: "heard numbers 7 8 9" in talk.answers())
            await host.until(config, lambda r: "rotation" in causes(host, config), timeout=20)
            assert await talk.answered(await talk.ask("q3 recall")) == "a3 alpha gamma 12-34-56 7-8-9"
            assert sorted(talk.answers()) == sorted(set(talk.answers()))
            created = [e["item"]["id"] for e in talk.events("conversation.item.added")]
            assert len(created) == len(set(created)), "an echo of a restoration reached the caller"
            assert len(talk.events("session.created")) == 1
            assert len(caller.of("started")) == 1
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == R.CALLER_HANGUP
        report = await host.state(config, SessionState.ENDED)
        facts = host.facts(config)
        assert facts.count("provider_connected") == 1
        assert facts.count("provider_reconnecting") >= 3
        sockets = [r.fields["web_socket_id"] for r in records(host, config, "provider_reconnected")]
        assert len(set(sockets)) == len(sockets)
        assert report.web_socket_id == sockets[-1]
        await host.nothing_left()


def records(host: Any, config: Any, type_: str) -> list[Any]:
    return [record for record in host.of(config, "event") if record.type == type_]


def causes(host: Any, config: Any) -> list[str]:
    return [record.fields["cause"] for record in records(host, config, "provider_reconnected")]


def reconnects(host: Any, config: Any) -> int:
    return len(causes(host, config))


async def test_an_answer_cut_in_the_middle_ends_at_what_was_heard_and_is_given_again() -> None:
    async with recalling(audio_speed=6.0) as (local, held), cutting(local.url) as proxy, worker() as host:
        config = host.admit(proxy.url, provider={"model": "local"}, session=GA)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            talk = Talk(caller)
            await talk.ask("q1 long")
            await caller.expect("audio", 20)
            proxy.cut()
            clear = await caller.expect("clear")
            assert clear.reason == pb.CLEAR_REASON_RECONNECT
            frame = [f for f in caller.of("audio") if f.epoch == clear.epoch][-1]
            heard = pb.Cleared(epoch=clear.epoch, item_id=frame.item_id, played_ms=frame.position_ms)
            await caller.send(cleared=heard)
            await talk.answered("a1")
            (cut,) = talk.events("conversation.item.truncated")
            assert cut["audio_end_ms"] == frame.position_ms
            (half, whole) = [i for i in held.items(1) if i["type"] == "message" and i["role"] == "assistant"]
            assert whole["words"].startswith(half["words"])
            assert len(half["words"]) <= frame.position_ms / 60 + 1
            assert [d["response"]["status"] for d in talk.events("response.done")] == [
                "incomplete",
                "completed",
            ]


@pytest.mark.parametrize("keep", [False, True])
async def test_privacy_refuses_to_keep_a_conversation_unless_it_may(
    keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with recalling() as (local, _), cutting(local.url) as proxy, worker() as host:
        config = host.admit(
            proxy.url,
            provider={"model": "local"},
            session=GA,
            privacy=True,
            recovery=RecoveryConfig(keep_private=keep),
        )
        async with calling(host, start(config, playout_mode=pb.PLAYOUT_MODE_BURST)) as caller:
            await caller.expect("started")
            talk = Talk(caller)
            await talk.answered(await talk.ask("q1 remember canary"))
            proxy.cut()
            if keep:
                assert await talk.answered(await talk.ask("q2 recall")) == "a2 canary"
            else:
                ended = await caller.expect("ended")
                assert ended.reason == R.PROVIDER_UNAVAILABLE
                assert "keepPrivate" in ended.message
        assert "canary" not in caplog.text
        assert not host.of(config, "journal")
        assert "canary" not in repr([(r.type, r.fields) for r in host.of(config, "event")])


async def test_a_used_up_quota_ends_the_call_and_is_never_retried() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect("response.create")
        error = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "check your plan"}
        await socket.send("response.created", response={"id": "resp_1", "status": "in_progress"})
        details = {"type": "failed", "error": error}
        await socket.send(
            "response.done", response={"id": "resp_1", "status": "failed", "status_details": details}
        )

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await Talk(caller).send({"type": "response.create"})
            ended = await caller.expect("ended")
            assert ended.reason == R.PROVIDER_QUOTA
            assert "quota is used up" in ended.message
        assert len(script.sockets) == 1


async def test_rate_limits_are_told_once_when_they_run_low() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect("response.create")
        for remaining in (9000, 400, 300, 9000, 100):
            limits = [{"name": "tokens", "limit": 10000, "remaining": remaining, "reset_seconds": 30.5}]
            await socket.send("rate_limits.updated", rate_limits=limits)
        await socket.send("response.created", response={"id": "resp_1", "status": "in_progress"})

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await Talk(caller).send({"type": "response.create"})
            await caller.expect_event("response.created")
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
        told = [r.fields["remaining"] for r in records(host, config, "rate_limited")]
        assert told == [400, 100]


async def in_the_gap(host: Any, config: Any, proxy: Any) -> None:
    """The provider is gone, and does not come back."""
    proxy.refusing = True
    proxy.cut()
    await host.until(config, lambda r: bool(records(host, config, "provider_reconnecting")))


async def test_a_caller_comes_back_in_the_gap_and_is_answered_once_after_it() -> None:
    async with recalling() as (local, _), cutting(local.url) as proxy, worker() as host:
        config = host.admit(proxy.url, provider={"model": "local"}, session=GA)
        async with calling(host, start(config, playout_mode=pb.PLAYOUT_MODE_BURST)) as caller:
            token = (await caller.expect("started")).resume_token
            talk = Talk(caller)
            await talk.answered(await talk.ask("q1 remember alpha"))
            await in_the_gap(host, config, proxy)
            await talk.ask("q2 remember beta")
            seen = max(e.sequence for e in caller.of("event"))
        await host.state(config, SessionState.DETACHED)
        first = start(resume_token=token, last_event_sequence=seen, playout_mode=pb.PLAYOUT_MODE_BURST)
        async with calling(host, first) as again:
            await again.expect("started")
            talk = Talk(again)
            await talk.say([4, 5])
            proxy.refusing = False
            await talk.until(lambda: "heard numbers 4 5" in talk.answers())
            assert await talk.answered(await talk.ask("q3 recall")) == "a3 alpha beta 4-5"
            numbers = [e.sequence for e in again.of("event")]
            assert numbers == list(range(seen + 1, seen + 1 + len(numbers))), "nothing twice, nothing missing"
        done = [r.fields["item_json"] for r in host.of(config, "journal") if r.type == "item_done"]
        items = [json.loads(each)["id"] for each in done]
        assert len(items) == len(set(items)), "the journal has each item once"


async def test_who_hangs_up_in_the_gap_has_hung_up() -> None:
    async with recalling() as (local, _), cutting(local.url) as proxy, worker() as host:
        config = host.admit(proxy.url, provider={"model": "local"}, session=GA)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await in_the_gap(host, config, proxy)
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended", timeout=5)).reason == R.CALLER_HANGUP


async def test_the_longest_time_is_over_in_the_gap_too_and_silence_is_not() -> None:
    limits = {"max_duration": 3.0, "idle_timeout": 1.0}
    async with recalling() as (local, _), cutting(local.url) as proxy, worker() as host:
        config = host.admit(proxy.url, provider={"model": "local"}, session=GA, limits=limits)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await in_the_gap(host, config, proxy)
            assert (await caller.expect("ended")).reason == R.MAX_DURATION
