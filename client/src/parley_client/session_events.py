"""Reading a session's events from NATS (`parley.events.v1`, stream PARLEY_EVENTS)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from .errors import ConnectError, SessionNotFound

STREAM: Final = "PARLEY_EVENTS"
JOURNAL: Final = "PARLEY_JOURNAL"
CONNECT_TIMEOUT: Final = 5.0
# What becomes of a recording is told when its file is complete: after the session has ended.
RECORDED: Final = frozenset({"recording-finished", "recording-failed"})
FETCH_SECONDS: Final = 1.0
_COMMON: Final = frozenset(
    {"namespace", "name", "sessionUid", "attempt", "sequence", "occurTime", "worker", "workerInstanceId"}
)


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One fact about a session."""

    namespace: str
    name: str
    session_uid: str
    attempt: int
    sequence: int
    occur_time: str
    """RFC 3339, UTC."""
    type: str
    """Last part of the subject, such as `provider-connected`."""
    fields: Mapping[str, Any]
    raw: Mapping[str, Any]
    """The event as published."""

    @property
    def summary(self) -> str:
        """The fields of the fact on one line."""
        return " ".join(f"{name}={_shown(value)}" for name, value in self.fields.items())


def parse_event(subject: str, payload: bytes) -> SessionEvent | None:
    """Read a message; None when it is no event of the contract."""
    try:
        raw = json.loads(payload)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    fact = next((value for key, value in raw.items() if key not in _COMMON and isinstance(value, dict)), {})
    try:
        return SessionEvent(
            namespace=str(raw.get("namespace", "")),
            name=str(raw.get("name", "")),
            session_uid=str(raw.get("sessionUid", "")),
            attempt=int(raw.get("attempt", 0)),
            sequence=int(raw.get("sequence", 0)),
            occur_time=str(raw.get("occurTime", "")),
            type=subject.rpartition(".")[2],
            fields=fact,
            raw=raw,
        )
    except (TypeError, ValueError):
        return None


async def read_events(
    url: str,
    namespace: str,
    uid: str,
    *,
    from_start: bool = True,
    follow: bool = True,
    idle_timeout: float | None = None,
    recorded: float = 0.0,
) -> AsyncIterator[SessionEvent]:
    """Give out a session's events in order, until `ended` unless `follow` goes on without it.

    `attempt-lost` is no end: what the next worker tells comes after it.

    Args:
        url: NATS server, such as `nats://127.0.0.1:4222`; credentials may be in it.
        namespace: of the VoiceSession.
        uid: of the VoiceSession.
        from_start: False for new events only.
        follow: False to stop at the last event that the stream holds now.
        idle_timeout: stop when nothing came for so many seconds.
        recorded: wait so many seconds after `ended` for what became of the recording.

    Raises:
        ConnectError: NATS cannot be reached.
        SessionNotFound: there is no stream of events there.
    """
    client = await _connect(url)
    try:
        subscription = await _subscribe(client, url, f"parley.events.{namespace}.{uid}.>", from_start)
        quiet, over, told = 0.0, False, False
        while not (over and (told or quiet >= recorded)):
            try:
                messages = await subscription.fetch(64, timeout=FETCH_SECONDS)
            except nats.errors.TimeoutError:
                quiet += FETCH_SECONDS
                if not follow or (idle_timeout is not None and quiet >= idle_timeout):
                    return
                continue
            except (nats.errors.Error, nats.js.errors.Error) as error:
                raise ConnectError(f"NATS at {_safe(url)} stopped answering: {error}") from error
            quiet = 0.0
            for message in messages:
                event = parse_event(message.subject, message.data)
                if event is None:
                    continue
                yield event
                told = told or event.type in RECORDED
                over = over or event.type == "ended"
                if over and (told or not recorded):
                    return
    finally:
        await client.close()


async def read_scenario_log(url: str, namespace: str, uid: str) -> AsyncIterator[tuple[str, str]]:
    """Give out level and text of what a session's scenario logs, from its first line on, until cancelled.

    Raises:
        ConnectError: NATS cannot be reached, or stopped answering.
        SessionNotFound: there is no journal there.
    """
    client = await _connect(url)
    try:
        subscription = await _subscribe(client, url, f"parley.journal.{namespace}.{uid}", True, JOURNAL)
        while True:
            try:
                messages = await subscription.fetch(64, timeout=FETCH_SECONDS)
            except nats.errors.TimeoutError:
                continue
            except (nats.errors.Error, nats.js.errors.Error) as error:
                raise ConnectError(f"NATS at {_safe(url)} stopped answering: {error}") from error
            for message in messages:
                if (line := parse_scenario_log(message.data)) is not None:
                    yield line
    finally:
        await client.close()


def parse_scenario_log(payload: bytes) -> tuple[str, str] | None:
    """Level and text of a line that a scenario logged; None for every other record of the journal."""
    try:
        line = json.loads(payload)["scenarioLog"]
        return str(line["level"]), str(line.get("text", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


async def _subscribe(
    client: Client, url: str, subject: str, from_start: bool, stream: str = STREAM
) -> JetStreamContext.PullSubscription:
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.ALL if from_start else DeliverPolicy.NEW,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=60,
    )
    try:
        return await client.jetstream().pull_subscribe(subject, stream=stream, config=config)
    except nats.js.errors.NotFoundError as error:
        raise SessionNotFound(f"{_safe(url)} has no stream {stream}: no worker has written there") from error
    except (nats.js.errors.ServiceUnavailableError, nats.errors.NoRespondersError) as error:
        raise ConnectError(f"{_safe(url)} has no JetStream") from error
    except (nats.errors.Error, nats.js.errors.Error) as error:
        raise ConnectError(f"NATS at {_safe(url)} refused: {error}") from error


async def _connect(url: str) -> Client:
    problems: list[str] = []

    async def note(error: Exception) -> None:
        problems.append(str(error) or type(error).__name__)

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await nats.connect(
                url, error_cb=note, connect_timeout=3, allow_reconnect=True, max_reconnect_attempts=3
            )
    except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
        why = str(error) or (problems[-1] if problems else "no answer")
        raise ConnectError(f"NATS at {_safe(url)} cannot be reached: {why}") from error


def _safe(url: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text) if " " in text else text
