"""What NATS says of each record that was sent, and what it does not say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg
from parley_worker.core.model import SessionKey
from parley_worker.core.outbox import Entry, Lane
from parley_worker.core.records import EventRecord
from parley_worker.transport.nats_flight import Flight


class Client:
    """Keeps what was published, and the callback that takes answers."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.broken: Exception | None = None
        self.answered: Any = None

    def new_inbox(self) -> str:
        return "_INBOX.x"

    async def subscribe(self, subject: str, cb: Any) -> None:
        assert subject == "_INBOX.x.*"
        self.answered = cb

    async def publish(self, subject: str, payload: bytes, reply: str, headers: dict[str, str]) -> None:
        if self.broken is not None:
            raise self.broken
        self.sent.append(reply)

    async def answer(self, number: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        await self.answered(Msg(self, self.sent[number], data=data, headers=headers))  # type: ignore[arg-type]


class Scene:
    def __init__(self) -> None:
        self.client = Client()
        self.wake = asyncio.Event()
        self.flight = Flight(self.client, self.wake)  # type: ignore[arg-type]

    async def send(self, deadline: float = 5.0) -> Entry:
        key = SessionKey("ns", "call", "u", 1)
        entry = Entry(EventRecord("event", key, 1, 0.0, "first_audio", {}), 100, 0.0)
        lane = Lane(("event", "u", 1), under_way=entry)
        await self.flight.publish(lane, entry, deadline, "parley.events.ns.u.first-audio", b"{}", {})
        return entry


@pytest.fixture
async def scene() -> Scene:
    made = Scene()
    await made.flight.open()
    return made


async def test_each_answer_is_told_once_and_in_order(scene: Scene) -> None:
    first, second = await scene.send(), await scene.send()
    await scene.client.answer(1, b'{"stream":"S","seq":8,"duplicate":true,"domain":"d"}')
    await scene.client.answer(0, b'{"stream":"S","seq":7}')
    await scene.client.answer(0, b'{"stream":"S","seq":7}')
    assert scene.wake.is_set()
    answers = scene.flight.answers()
    assert [(answer.entry, answer.sequence, answer.refused) for answer in answers] == [
        (second, 8, None),
        (first, 7, None),
    ]
    assert scene.flight.answers() == []


@pytest.mark.parametrize(
    ("data", "headers", "code", "words"),
    [
        (b"", {"Status": "503"}, 0, "no stream takes this subject"),
        (b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"}}', None, 10071, "3"),
        (b'{"error":{"code":500}}', None, 0, ""),
        (b'{"stream":"S"}', None, 0, "not readable"),
        (b'{"seq":"7"}', None, 0, "not readable"),
        (b'{"error":"no"}', None, 0, "not readable"),
        (b"\xff\x00", None, 0, "not readable"),
        (b"[]", None, 0, "not readable"),
        (b"", None, 0, "not readable"),
    ],
)
async def test_whatever_else_comes_is_a_refusal(
    scene: Scene, data: bytes, headers: dict[str, str] | None, code: int, words: str
) -> None:
    await scene.send()
    await scene.client.answer(0, data, headers)
    (answer,) = scene.flight.answers()
    assert answer.refused is not None
    assert answer.refused.err_code == code
    assert words in str(answer.refused)


async def test_what_did_not_go_out_waits_for_no_answer(scene: Scene) -> None:
    scene.client.broken = ValueError("full")
    with pytest.raises(ValueError, match="full"):
        await scene.send()
    assert scene.flight.next_deadline() == float("inf")
    assert not scene.flight.expired(1e9)


async def test_the_oldest_without_an_answer_says_when_the_connection_is_given_up(scene: Scene) -> None:
    await scene.send(5.0)
    await scene.send(6.0)
    assert (scene.flight.next_deadline(), scene.flight.expired(4.9)) == (5.0, False)
    await scene.client.answer(0, b'{"seq":1}')
    assert scene.flight.next_deadline() == 6.0
    assert scene.flight.expired(6.0)
