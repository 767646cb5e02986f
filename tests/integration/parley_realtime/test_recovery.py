"""When a client moves to a new WebSocket, when it does not, and what its user is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from cutting_proxy import cutting
from parley_realtime import (
    ConnectAborted,
    RealtimeAPIClient,
    RealtimeAPIClientParameters,
    RealtimeAPIEvents,
    UnavailableError,
    WebSocketCloseEvent,
)
from parley_realtime.recovery import Reconnected, Reconnecting, RecoveryEvents, RestoreRefused
from provider_script import Socket, scripted
from recall import recalling
from surviving import GA, QUICK, Talker, talking

UNTRANSCRIBED = {**GA, "audio": {"input": {"turn_detection": GA["audio"]["input"]["turn_detection"]}}}


def records(talker: Talker, kind: type) -> list[Any]:
    return [record for record in talker.records if isinstance(record, kind)]


async def test_a_silent_socket_is_found_by_what_it_does_not_answer() -> None:
    quick = replace(QUICK, progress_timeout=0.3)
    async with (
        recalling() as (local, _),
        cutting(local.url) as proxy,
        talking(proxy.url, 1, quick, ping_interval=None) as talker,
    ):
        proxy.cut("hole")
        await talker.answered(talker.ask_remember())
        (lost,) = records(talker, Reconnecting)
        assert "said nothing for 0.3 s" in lost.reason
        assert await talker.recall() == talker.facts


async def test_a_provider_that_is_away_at_first_is_tried_again() -> None:
    quick = replace(QUICK, connect_attempts=50, backoff_base=0.02, backoff_cap=0.02)
    async with recalling() as (local, _), cutting(local.url) as proxy:
        proxy.refusing = True

        async def come_back() -> None:
            while proxy.refused < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            proxy.refusing = False

        back = asyncio.create_task(come_back())
        async with talking(proxy.url, 1, quick) as talker:
            await talker.answered(talker.ask_remember())
            assert await talker.recall() == talker.facts
            assert talker.records == [], "nothing was lost yet"
        await back
        assert proxy.refused >= 3


@pytest.mark.parametrize("attempts", [1, 3])
async def test_the_first_websocket_is_tried_a_few_times(attempts: int) -> None:
    quick = replace(QUICK, connect_attempts=attempts, backoff_base=0.001)
    async with recalling() as (local, _), cutting(local.url) as proxy:
        proxy.refusing = True
        client = RealtimeAPIClient(RealtimeAPIClientParameters(base_url=proxy.url, recovery=quick))
        with pytest.raises(UnavailableError):
            await client.connect()
        assert proxy.refused == attempts
        assert await client.wait_closed() is client.error


async def test_close_ends_the_wait_before_the_next_try() -> None:
    quick = replace(QUICK, backoff_base=60.0, backoff_cap=60.0, random=lambda: 0.1)
    async with recalling() as (local, _), cutting(local.url) as proxy:
        proxy.refusing = True
        client = RealtimeAPIClient(RealtimeAPIClientParameters(base_url=proxy.url, recovery=quick))
        connecting = asyncio.create_task(client.connect())
        while not proxy.refused:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        client.close()
        with pytest.raises(ConnectAborted):
            await asyncio.wait_for(connecting, 2)
        await client.wait_closed()
        assert proxy.refused == 1


async def test_a_response_that_never_ends_is_cancelled_and_then_asked_for_elsewhere() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect("response.create")
        if len(script.sockets) == 1:
            await socket.send("response.created", response={"id": "resp_stuck", "status": "in_progress"})
            await socket.expect("response.cancel")
            await asyncio.sleep(30)
        await socket.say(bytes(960), "resp_good", "item_good")

    quick = replace(QUICK, response_timeout=0.3)
    async with scripted(behaviour) as script, talking(script.url, 1, quick) as talker:
        talker.send({"type": "response.create", "response": {"instructions": "speak"}})
        await talker.until(lambda: len(done(talker)) == 2, "both ends")
        assert done(talker) == [("resp_stuck", "incomplete"), ("resp_good", "completed")]
        assert (await script.sockets[1].expect("response.create"))["response"] == {"instructions": "speak"}
        assert "neither finished nor cancelled" in records(talker, Reconnecting)[0].reason


async def test_a_request_that_is_never_taken_up_is_made_again_elsewhere() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect("response.create")
        if len(script.sockets) > 1:
            await socket.say(bytes(960), "resp_good", "item_good")
        while len(script.sockets) == 1:
            await socket.send("rate_limits.updated", rate_limits=[])
            await asyncio.sleep(0.02)

    async with (
        scripted(behaviour) as script,
        talking(script.url, 1, replace(QUICK, response_timeout=0.3)) as talker,
    ):
        talker.send({"type": "response.create"})
        await talker.until(lambda: bool(done(talker)), "an answer")
        assert done(talker) == [("resp_good", "completed")]


def done(talker: Talker) -> list[tuple[str, str]]:
    found = [event["response"] for event in talker.events if event["type"] == "response.done"]
    return [(response["id"], response["status"]) for response in found]


FATAL = pytest.mark.parametrize(
    ("code", "close"), [("invalid_api_key", 3000), ("invalid_model", 4000), ("insufficient_quota", 4000)]
)


@FATAL
async def test_a_connection_that_serves_and_is_ended_for_good_is_not_replaced(code: str, close: int) -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect("response.create")
        await socket.send("error", error={"type": "invalid_request_error", "code": code, "message": "no"})
        await socket.connection.close(close, f"invalid_request_error.{code}")

    async with scripted(behaviour) as script, talking(script.url, 1) as talker:
        assert talker.client is not None
        talker.send({"type": "response.create"})
        outcome = await talker.client.wait_closed()
        assert outcome is not None
        assert (outcome.code, outcome.retryable) == (code, False)
        assert len(script.sockets) == 1
        assert records(talker, Reconnecting) == []


@FATAL
async def test_what_no_new_socket_can_mend_is_not_tried_again(code: str, close: int) -> None:
    async def behaviour(socket: Socket) -> None:
        if len(script.sockets) == 1:
            await socket.greet()
            await asyncio.sleep(0.05)
            socket.connection.transport.abort()
            return
        await socket.send("error", error={"type": "invalid_request_error", "code": code, "message": "no"})
        await socket.connection.close(close, f"invalid_request_error.{code}")

    async with scripted(behaviour) as script, talking(script.url, 1) as talker:
        assert talker.client is not None
        outcome = await talker.client.wait_closed()
        assert outcome is not None
        assert outcome.code == code
        assert not outcome.retryable
        assert len(script.sockets) == 2
        assert len(records(talker, Reconnecting)) == 1


async def test_tries_are_bounded_and_wait_longer_each_time() -> None:
    waits = iter((0.5, 0.5, 0.5, 0.5))
    quick = replace(QUICK, attempts=4, backoff_base=0.02, backoff_cap=0.06)
    async with recalling() as (local, _), cutting(local.url) as proxy:
        async with talking(proxy.url, 1, quick) as talker:
            talker.random.random = lambda: next(waits)  # type: ignore[method-assign]
            proxy.refusing = True
            proxy.cut()
            assert talker.client is not None
            outcome = await talker.client.wait_closed()
        assert isinstance(outcome, UnavailableError)
        tries = records(talker, Reconnecting)
        assert [each.attempt for each in tries] == [1, 2, 3, 4]
        assert [each.delay for each in tries] == [0.01, 0.02, 0.03, 0.03]


async def test_a_provider_that_dies_at_once_every_time_is_given_up() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await asyncio.sleep(0.02)
        socket.connection.transport.abort()

    async with scripted(behaviour) as script, talking(script.url, 1, replace(QUICK, attempts=5)) as talker:
        assert talker.client is not None
        outcome = await talker.client.wait_closed()
        assert isinstance(outcome, UnavailableError)
        assert [r.attempt for r in records(talker, Reconnecting)] == [1, 2, 3, 4, 5]


async def test_the_providers_own_limit_brings_a_rotation_before_it() -> None:
    async with recalling(max_session_s=2.5) as (local, _), talking(local.url, 1) as talker:
        await talker.answered(talker.ask_remember())
        await talker.answered(talker.ask_lookup())
        await talker.until(lambda: talker.moves == 2, "two rotations")
        assert await talker.recall() == talker.facts
        assert {record.cause for record in records(talker, Reconnected)} == {"rotation"}
        assert [record.gap for record in records(talker, Reconnected)] == [0.0, 0.0]
        assert not records(talker, Reconnecting)


async def test_a_rotation_waits_for_a_quiet_moment_and_is_forced_in_the_end() -> None:
    loud = replace(QUICK, quiet=lambda: False)
    async with recalling(max_session_s=2.5) as (local, _), talking(local.url, 1, loud) as talker:
        await talker.answered(talker.ask_remember())
        await talker.until(lambda: talker.moves == 1, "a rotation")
        (forced,) = records(talker, Reconnecting)
        assert forced.cause == "rotation"
        assert await talker.recall() == talker.facts


async def test_speech_that_begins_while_a_rotation_is_made_is_heard_once() -> None:
    async with (
        recalling() as (local, held),
        talking(local.url, 1, replace(QUICK, rotate_after=0.15)) as talker,
    ):
        spoken = []
        for _ in range(4):
            spoken.append(await talker.speak(pace=0.004))
            await talker.answered(spoken[-1])
        await talker.until(lambda: talker.moves >= 2, "rotations")
        assert talker.answers["heard"] == spoken
        assert await talker.recall() == talker.facts
        assert len(held.sessions) > 2


async def test_without_transcription_a_rotation_does_not_take_place_and_a_loss_is_the_end() -> None:
    quick = replace(QUICK, rotate_after=0.2, held_audio_ms=1)
    async with recalling() as (local, held), cutting(local.url) as proxy:
        async with talking(proxy.url, 1, quick, session=UNTRANSCRIBED) as talker:
            heard = await talker.speak()
            await talker.answered(heard)
            await talker.until(lambda: bool(records(talker, RestoreRefused)), "a refusal")
            await talker.answered(talker.ask_remember())
            assert len(held.sessions) == 1, "the conversation goes on where it is"
            proxy.cut()
            assert talker.client is not None
            outcome = await talker.client.wait_closed()
        first, second = records(talker, RestoreRefused)
        assert (first.cause, second.cause) == ("rotation", "lost")
        assert outcome is not None
        assert "session.audio.input.transcription" in outcome.message
        assert outcome.code == "restore_refused"


async def test_a_provider_that_does_not_take_the_items_is_told_with_its_own_words() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        create = await socket.expect("conversation.item.create")
        if len(script.sockets) == 1:
            await socket.send("conversation.item.added", item=create["item"], previous_item_id=None)
            await asyncio.sleep(0.05)
            socket.connection.transport.abort()
            return
        error = {"type": "invalid_request_error", "message": "no such item", "event_id": create["event_id"]}
        await socket.send("error", error=error)

    async with scripted(behaviour) as script, talking(script.url, 1) as talker:
        part = {"type": "input_text", "text": "hello"}
        item = {"type": "message", "role": "user", "content": [part]}
        talker.send({"type": "conversation.item.create", "item": item})
        assert talker.client is not None
        outcome = await talker.client.wait_closed()
        assert outcome is not None
        assert "the provider refused it: no such item" in outcome.message


async def test_what_is_said_in_the_gap_is_sent_after_it_and_close_ends_the_gap() -> None:
    async with recalling() as (local, _), cutting(local.url) as proxy:
        async with talking(proxy.url, 1, replace(QUICK, attempts=1000)) as talker:
            proxy.refusing = True
            proxy.cut()
            await talker.until(lambda: bool(records(talker, Reconnecting)), "a loss")
            heard = await talker.speak()
            proxy.refusing = False
            await talker.answered(heard)
            proxy.refusing = True
            proxy.cut()
            await talker.until(lambda: len(records(talker, Reconnecting)) > 2, "another loss")
            question = talker.ask_remember()
            proxy.refusing = False
            await talker.answered(question)
            assert len(talker.answers[question]) == 1
            assert await talker.recall() == talker.facts
            proxy.refusing = True
            proxy.cut()
            tries = len(records(talker, Reconnecting))
            await talker.until(lambda: len(records(talker, Reconnecting)) > tries, "a third loss")
        assert talker.client is not None
        assert talker.client.error is None


async def test_listeners_hear_of_it_and_of_every_socket_that_closed() -> None:
    closed: list[WebSocketCloseEvent] = []
    told: list[str] = []
    async with recalling() as (local, _), cutting(local.url) as proxy:
        talk = talking(proxy.url, 1, on_web_socket_close=closed.append)
        async with talk as talker:
            client = talker.client
            assert client is not None
            for event in RecoveryEvents:
                client.add_event_listener(event, lambda e: told.append(e.name))
            client.add_event_listener(
                RealtimeAPIEvents.ConversationItemAdded,
                lambda e: told.append(e.data["payload"]["item"]["id"]),
            )
            await talker.answered(talker.ask_remember())
            first = client.web_socket_id()
            proxy.cut()
            await talker.until(lambda: talker.moves == 1, "a new socket")
            assert client.web_socket_id() != first
            await talker.answered(talker.ask_remember())
    assert len(closed) == len({event.web_socket_id for event in closed}) == 2
    items = [word for word in told if word.startswith("item_")]
    assert len(items) == len(set(items)) == 4
    assert [word for word in told if word.startswith("Parley.")] == [
        "Parley.Reconnecting",
        "Parley.Reconnected",
    ]


async def test_without_recovery_a_lost_socket_is_the_end() -> None:
    async with recalling() as (local, held), cutting(local.url) as proxy:
        async with talking(proxy.url, 1) as talker:
            plain = RealtimeAPIClient(
                RealtimeAPIClientParameters(api_key="k", model="local", base_url=proxy.url)
            )
            await plain.connect()
            proxy.cut()
            outcome = await plain.wait_closed()
            assert isinstance(outcome, UnavailableError)
            await talker.until(lambda: talker.moves == 1, "the other client's new socket")
        assert len(held.sessions) == 3


@pytest.mark.parametrize("shape", ["ga", "beta"])
async def test_a_transcription_goes_on_over_a_cut_in_the_middle_of_a_sentence(shape: str) -> None:
    turns = GA["audio"]["input"]
    session: dict[str, Any] = {"type": "transcription", "audio": {"input": turns}}
    update = "session.update"
    if shape == "beta":
        update = "transcription_session.update"
        session = {
            "input_audio_transcription": turns["transcription"],
            "turn_detection": turns["turn_detection"],
        }
    async with recalling() as (local, held), cutting(local.url) as proxy:
        talk = talking(
            proxy.url,
            1,
            replace(QUICK, rotate_after=0.4),
            shape,
            session=session,
            update=update,
            type="transcription",
        )
        async with talk as talker:
            told = []
            for _ in range(3):
                talker.on("input_audio_buffer.speech_started", proxy.cut)
                told.append((await talker.speak(pace=0.001)).removeprefix("heard "))
                await talker.until(lambda: len(transcripts(talker)) == len(told), "the transcript")
            await talker.until(
                lambda: any(r.cause == "rotation" for r in records(talker, Reconnected)), "a rotation"
            )
            assert transcripts(talker) == told
            assert not [event for event in talker.events if event["type"] == "error"]
        assert len(held.sessions) >= 5


def transcripts(talker: Talker) -> list[str]:
    kind = "conversation.item.input_audio_transcription.completed"
    return [event["transcript"] for event in talker.events if event["type"] == kind]
