"""Losses at the worst moments, on real sockets: what ends, what goes on, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cutting_proxy import cutting
from parley_realtime import ConnectAborted, RealtimeAPIClient, RealtimeAPIClientParameters
from parley_realtime.recovery import Reconnected, Reconnecting, RecoveryParameters, RestoreRefused
from provider_script import Socket, scripted
from recall import recalling
from surviving import GA, QUICK, Talker, talking

USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
ENDS_WITHOUT_CLOSING = """
import asyncio, sys
from parley_realtime import RealtimeAPIClient, RealtimeAPIClientParameters
from parley_realtime.recovery import RecoveryParameters

async def main():
    parameters = RealtimeAPIClientParameters(
        api_key="k", model="m", base_url=sys.argv[1], recovery=RecoveryParameters()
    )
    await RealtimeAPIClient(parameters).connect()

asyncio.run(main())
print("ended")
"""


def parameters(url: str, recovery: RecoveryParameters = QUICK, **changes: Any) -> RealtimeAPIClientParameters:
    return RealtimeAPIClientParameters(api_key="k", model="m", base_url=url, recovery=recovery, **changes)


def records(talker: Talker, kind: type) -> list[Any]:
    return [record for record in talker.records if isinstance(record, kind)]


async def confirm_item(socket: Socket) -> dict[str, Any]:
    create = await socket.expect("conversation.item.create")
    await socket.send("conversation.item.added", item=create["item"], previous_item_id=None)
    return create


async def test_a_program_that_ends_without_close_ends() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.send("session.created", session={"model": "m"})
        await asyncio.sleep(20)

    async with scripted(behaviour) as script:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ENDS_WITHOUT_CLOSING,
            script.url,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(15):
                said, complained = await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        assert (said.decode().strip(), complained.decode(), program.returncode) == ("ended", "", 0)


@pytest.mark.parametrize("private", [False, True])
async def test_what_is_asked_and_said_before_the_session_is_made_is_sent_then(private: bool) -> None:
    async def behaviour(socket: Socket) -> None:
        await asyncio.sleep(0.2)
        await socket.send("session.created", session={"model": "m"})
        await asyncio.sleep(20)

    async with scripted(behaviour) as script:
        client = RealtimeAPIClient(parameters(script.url, privacy=private))
        connecting = asyncio.create_task(client.connect())
        socket = await script.socket()
        client.send_event({"type": "session.update", "session": {"type": "realtime"}})
        client.push_media(b"\1" * 960)
        client.send_event({"type": "response.create"})
        await connecting
        assert await socket.expect_audio(960, timeout=5) == b"\1" * 960
        await socket.expect("response.create", timeout=5)
        assert [event["type"] for event in socket.received] == ["session.update", "response.create"]
        client.close()
        await client.wait_closed()


async def test_a_provider_that_is_busy_while_restoring_is_asked_again() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        create = await confirm_item(socket) if len(script.sockets) != 2 else None
        if len(script.sockets) == 1:
            await asyncio.sleep(0.05)
            socket.connection.transport.abort()
        elif create is None:
            create = await socket.expect("conversation.item.create")
            error = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "slow down"}
            await socket.send("error", error={**error, "event_id": create["event_id"]})
        await asyncio.sleep(20)

    async with scripted(behaviour) as script, talking(script.url, 1) as talker:
        talker.send({"type": "conversation.item.create", "item": USER})
        await talker.until(lambda: talker.moves == 1, "a new socket")
        assert [record.word for record in records(talker, Reconnecting)] == [
            "ProviderUnavailable",
            "ProviderQuota",
        ]
        assert not records(talker, RestoreRefused)


async def test_a_provider_that_renames_items_is_refused_at_once_with_the_reason() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        if len(script.sockets) == 1:
            await confirm_item(socket)
            await asyncio.sleep(0.05)
            socket.connection.transport.abort()
            return
        create = await socket.expect("conversation.item.create")
        await socket.send("conversation.item.added", item={**create["item"], "id": "item_mine"})
        await asyncio.sleep(20)

    async with scripted(behaviour) as script, talking(script.url, 1) as talker:
        talker.send({"type": "conversation.item.create", "item": USER})
        assert talker.client is not None
        async with asyncio.timeout(5):
            outcome = await talker.client.wait_closed()
        assert outcome is not None
        assert "a name of its own (item_mine)" in outcome.message


async def test_a_rotation_is_given_up_at_once_when_the_connection_it_replaces_is_lost() -> None:
    async def behaviour(socket: Socket) -> None:
        number = len(script.sockets)
        if number == 2:
            script.sockets[0].connection.transport.abort()
            await asyncio.sleep(20)
        await socket.greet()
        await asyncio.sleep(20)

    quick = replace(QUICK, rotate_after=0.2)
    async with scripted(behaviour) as script, talking(script.url, 1, quick) as talker:
        async with asyncio.timeout(5):
            await talker.until(lambda: talker.moves == 1, "a new socket")
        assert [record.cause for record in records(talker, Reconnected)] == ["lost"]


async def test_a_rotation_that_fails_is_tried_again_ever_later() -> None:
    quick = replace(QUICK, rotate_after=0.1, backoff_base=0.0)
    async with recalling() as (local, _), cutting(local.url) as proxy, talking(proxy.url, 1, quick) as talker:
        proxy.refusing = True
        await asyncio.sleep(2.0)
        assert 1 <= proxy.refused <= 3, "after 0.1, 0.5 and 1.3 s"
        assert not records(talker, Reconnecting), "the conversation goes on where it is"


async def test_a_provider_that_dies_of_what_it_is_sent_is_not_stormed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("parley_realtime.client.lifeline.MAX_SHORT_LIVES", 12)
    waits: list[float] = []

    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await asyncio.sleep(0.02)
        await socket.send("input_audio_buffer.speech_started", item_id="u", audio_start_ms=0)
        await asyncio.sleep(0.01)
        socket.connection.transport.abort()

    quick = replace(QUICK, backoff_base=0.01, backoff_cap=0.08)
    async with scripted(behaviour) as script, talking(script.url, 1, quick) as talker:
        assert talker.client is not None
        talker.random.random = lambda: 1.0  # type: ignore[method-assign]
        outcome = await talker.client.wait_closed()
        waits = [record.delay for record in records(talker, Reconnecting)]
        assert waits[:8] == pytest.approx([0.01, 0.01, 0.01, 0.02, 0.04, 0.08, 0.08, 0.08])
        assert len(waits) == 12
        assert outcome is not None
        assert outcome.retryable


def count(talker: Talker, kind: str) -> int:
    return sum(event["type"] == kind for event in talker.events)


async def test_a_full_queue_of_events_survives_the_gap() -> None:
    patient = replace(QUICK, attempts=1000)
    async with (
        recalling() as (local, _),
        cutting(local.url) as proxy,
        talking(proxy.url, 1, patient, outgoing_events=20) as talker,
    ):
        await talker.answered(talker.ask_remember())
        talker.ask_long()
        await talker.until(
            lambda: [e["type"] for e in talker.events].count("response.created") == 2, "an answer"
        )
        proxy.refusing = True
        proxy.cut()
        await talker.until(lambda: bool(records(talker, Reconnecting)), "a loss")
        for number in range(20):
            part = {"type": "input_text", "text": f"note {number}"}
            talker.send({"type": "conversation.item.create", "item": {**USER, "content": [part]}})
        proxy.refusing = False
        notes = "conversation.item.added"
        await talker.until(lambda: [e["type"] for e in talker.events].count(notes) >= 23, "all of it")
        # An answer that was cut before its first word is given again, and only then another may be asked for.
        await talker.until(
            lambda: count(talker, "response.created") == count(talker, "response.done"),
            "the end of every answer",
        )
        await talker.answered(talker.ask_remember())


async def test_session_close_in_the_gap_ends_the_client() -> None:
    async with (
        recalling() as (local, _),
        cutting(local.url) as proxy,
        talking(proxy.url, 1, replace(QUICK, attempts=1000)) as talker,
    ):
        proxy.refusing = True
        proxy.cut()
        await talker.until(lambda: bool(records(talker, Reconnecting)), "a loss")
        talker.send({"type": "session.close"})
        assert talker.client is not None
        async with asyncio.timeout(5):
            assert await talker.client.wait_closed() is None


async def test_a_late_word_on_what_is_gone_reaches_no_provider() -> None:
    """An answer of which audio came and no word: it goes with its connection, and its truncation with it."""

    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        if len(script.sockets) == 1:
            await socket.expect("response.create")
            await socket.say(bytes(4800), "resp_1", "item_1", finish=False)
            await asyncio.sleep(0.05)
            socket.connection.transport.abort()
        await asyncio.sleep(20)

    async with scripted(behaviour) as script, talking(script.url, 1) as talker:

        def truncate() -> None:
            kind = "conversation.item.truncate"
            talker.send({"type": kind, "item_id": "item_1", "content_index": 0, "audio_end_ms": 50})

        talker.told = lambda record: truncate() if isinstance(record, Reconnecting) else None
        talker.send({"type": "response.create"})
        await talker.until(lambda: talker.moves == 1, "a new socket")
        truncate()
        second = await script.socket(1)
        await second.expect("response.create")
        assert not second.of("conversation.item.truncate")
        assert [e["type"] for e in talker.events].count("conversation.item.truncated") == 2


async def test_closing_at_any_moment_of_a_loss_leaves_nothing_behind() -> None:
    """Every few milliseconds of reconnecting and restoring; a leaked task fails the test by itself."""
    for moment in range(24):
        async with (
            recalling() as (local, _),
            cutting(local.url) as proxy,
            talking(proxy.url, 1, replace(QUICK, backoff_base=0.005)) as talker,
        ):
            await talker.answered(talker.ask_remember())
            proxy.cut()
            await asyncio.sleep(moment * 0.002)
            assert talker.client is not None
            talker.client.close()
            async with asyncio.timeout(5):
                assert await talker.client.wait_closed() is None


async def test_cancelling_who_waits_for_the_end_ends_nothing() -> None:
    async with recalling() as (local, _), cutting(local.url) as proxy, talking(proxy.url, 1) as talker:
        assert talker.client is not None
        waiting = asyncio.create_task(talker.client.wait_closed())
        await asyncio.sleep(0)
        proxy.cut()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await talker.answered(talker.ask_remember())
        assert talker.moves == 1


async def test_cancelling_the_first_connect_leaves_nothing_behind() -> None:
    async def behaviour(socket: Socket) -> None:
        await asyncio.sleep(20)

    async with scripted(behaviour) as script:
        client = RealtimeAPIClient(parameters(script.url))
        connecting = asyncio.create_task(client.connect())
        await script.socket()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        async with asyncio.timeout(5):
            assert isinstance(await client.wait_closed(), ConnectAborted)


async def test_hundreds_of_rotations_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parley_realtime.client.lifeline.LOOK_SECONDS", 0.001)

    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await confirm_item(socket)
        await asyncio.sleep(600)

    quick = replace(QUICK, rotate_after=0.001, quiet=None)
    fds = Path("/proc/self/fd")
    async with scripted(behaviour) as script, talking(script.url, 1, quick) as talker:
        talker.send({"type": "conversation.item.create", "item": USER})

        async def seen(moves: int) -> tuple[int, int, int]:
            await talker.until(lambda: talker.moves >= moves, f"{moves} rotations")
            await asyncio.sleep(0.1)
            gc.collect()
            lines = sum(type(each).__name__ in ("Line", "Connection") for each in gc.get_objects())
            return lines, len(asyncio.all_tasks()), len(os.listdir(fds))

        early = await seen(20)
        late = await seen(170)
        assert all(b <= a + 12 for a, b in zip(early, late, strict=True)), (early, late)


async def test_a_hundred_clients_that_lose_their_provider_at_once_come_back_spread() -> None:
    recovery = RecoveryParameters(truncate_grace=0.05)
    delays: list[float] = []
    back = asyncio.Semaphore(0)

    def told(record: Any) -> None:
        if isinstance(record, Reconnecting):
            delays.append(record.delay)
        elif isinstance(record, Reconnected):
            back.release()

    async with recalling() as (local, _), cutting(local.url) as proxy:
        clients = [
            RealtimeAPIClient(parameters(proxy.url, replace(recovery, on_recovery=told))) for _ in range(100)
        ]
        await asyncio.gather(*(client.connect() for client in clients))
        for client in clients:
            client.send_event({"type": "session.update", "session": GA})
        proxy.cut()
        async with asyncio.timeout(30):
            for _ in clients:
                await back.acquire()
        first = sorted(delays)[:100]
        assert first[0] < 0.05 < 0.2 < first[-1] <= 0.25
        for client in clients:
            client.close()
        await asyncio.gather(*(client.wait_closed() for client in clients))
