"""Reads a session's events and journal from JetStream, as any subscriber would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nats
from google.protobuf import json_format
from nats.errors import TimeoutError as NatsTimeout
from parley.events.v1 import events_pb2


@dataclass(frozen=True)
class Record:
    """One message of a stream, its payload parsed strictly: an unknown field is an error."""

    subject: str
    headers: dict[str, str]
    text: str
    body: events_pb2.SessionEvent | events_pb2.JournalEntry

    @property
    def kind(self) -> str:
        """Name of the fact or content."""
        group = "fact" if isinstance(self.body, events_pb2.SessionEvent) else "content"
        return str(self.body.WhichOneof(group))


async def read(url: str, stream: str, subject: str) -> list[Record]:
    """Every message of `stream` on `subject`, from the start."""
    kind = events_pb2.SessionEvent if stream == "PARLEY_EVENTS" else events_pb2.JournalEntry
    found: list[Record] = []
    connection = await nats.connect(url, max_reconnect_attempts=2, connect_timeout=5)
    try:
        context = connection.jetstream()
        held = (await context.stream_info(stream, subjects_filter=subject)).state.subjects or {}
        subscription = await context.subscribe(subject, stream=stream, ordered_consumer=True)
        for _ in range(sum(held.values())):
            message = await subscription.next_msg(timeout=10)
            text = message.data.decode()
            body = json_format.Parse(text, kind())
            found.append(Record(message.subject, dict(message.headers or {}), text, body))
        await subscription.unsubscribe()
    except NatsTimeout:
        raise AssertionError(f"{stream} {subject}: {len(found)} messages, then silence") from None
    finally:
        await connection.close()
    return found


async def events_of(url: str, namespace: str, uid: str) -> list[Record]:
    return await read(url, "PARLEY_EVENTS", f"parley.events.{namespace}.{uid}.>")


async def journal_of(url: str, namespace: str, uid: str) -> list[Record]:
    return await read(url, "PARLEY_JOURNAL", f"parley.journal.{namespace}.{uid}")


def check_complete(records: Sequence[Record], uid: str, last: str) -> None:
    """From 1, in order, without gap or repetition, and ended."""
    numbers = [record.body.sequence for record in records]
    assert numbers == list(range(1, len(numbers) + 1)), f"{uid}: {numbers}"
    assert records, f"{uid}: nothing was written"
    assert {record.body.session_uid for record in records} == {uid}
    assert [record.kind for record in records].index(last) == len(records) - 1
    ids = [record.headers["Nats-Msg-Id"] for record in records]
    assert len(set(ids)) == len(ids)
