"""Between `parley.sessions.v1` and what the handlers speak of. Raises `Fault` for what no caller may send."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from parley.sessions.v1 import sessions_pb2 as pb

from parley_operator.api.constants import Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.faults import Fault, invalid
from parley_operator.domain.requests import (
    DEFAULT_WAIT,
    CreateSession,
    check_create,
    check_labels,
    check_name,
    check_namespace,
)
from parley_operator.domain.status import parse_timestamp
from parley_operator.handlers.notices import Watcher
from parley_operator.handlers.session_desk import Created
from parley_operator.handlers.session_views import Entry
from parley_operator.handlers.whereabouts import Connection

REASON_KEY, FIELD_KEY = "parley-reason", "parley-field"
Metadata = tuple[tuple[str, str], ...]
_PHASES = {name.removeprefix("PHASE_").title(): number for name, number in pb.Phase.items() if number}
_WORDS = {number: word for word, number in _PHASES.items()}
_READY = {pb.WAIT_FOR_UNSPECIFIED: False, pb.WAIT_FOR_PLACE: False, pb.WAIT_FOR_READY: True}


def status_details(fault: Fault) -> tuple[grpc.StatusCode, str, Metadata]:
    """Status, words and trailing metadata (`parley-reason`, `parley-field`) of a fault."""
    metadata: Metadata = ((REASON_KEY, fault.reason),)
    field = "".join(letter for letter in fault.field[:256] if " " <= letter <= "~")
    if field:
        metadata += ((FIELD_KEY, field),)
    return grpc.StatusCode[fault.code.value], str(fault), metadata


# -- requests


def create_request(message: pb.CreateSessionRequest) -> CreateSession:
    if message.wait_for not in _READY:
        raise invalid("wait_for", f"{message.wait_for} is not known; use WAIT_FOR_PLACE or WAIT_FOR_READY")
    return check_create(
        message.namespace,
        message.name,
        message.request_id,
        message.spec_json,
        dict(message.labels),
        seconds(message.wait) if message.HasField("wait") else DEFAULT_WAIT,
        _READY[message.wait_for],
    )


def named(namespace: str, name: str) -> tuple[str, str]:
    """A session by its name."""
    check_namespace(namespace)
    check_name(name)
    return namespace, name


def phases(wanted: pb.ListSessionsRequest) -> set[str]:
    found = set()
    for number in wanted.phases:
        if number not in _WORDS:
            raise invalid("phases", f"{number} is no phase; leave `phases` empty for all")
        found.add(_WORDS[number])
    return found


def watcher(message: pb.WatchSessionsRequest) -> Watcher:
    check_namespace(message.namespace, may_be_empty=True)
    labels = dict(message.labels)
    check_labels(labels, own=False)
    if message.name:
        check_name(message.name)
        if not message.namespace:
            raise invalid("name", f"{message.name!r} says one session: give its namespace too")
    return Watcher(message.namespace, message.name, labels)


def seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


# -- answers


def created(made: Created) -> pb.CreateSessionResponse:
    answer = pb.CreateSessionResponse(
        session=session(made.body), ticket=made.ticket.reveal(), repeated=made.repeated
    )
    if made.connection is not None:
        answer.connection.CopyFrom(connection(made.connection))
        # What was decided is known before the status says so.
        answer.session.attempt = max(answer.session.attempt, made.connection.attempt)
        answer.session.ClearField("queue")
    return answer


def connection(where: Connection) -> pb.Connection:
    return pb.Connection(
        endpoint=where.endpoint,
        tls_server_name=where.tls_server_name,
        ca_pem=where.ca.decode(),
        attempt=where.attempt,
        telephony_endpoint=where.telephony_endpoint,
    )


def resolved(where: Connection | None, body: Body) -> pb.ResolveSessionResponse:
    answer = pb.ResolveSessionResponse(
        phase=phase(body),  # type: ignore[arg-type]
        end_reason=text_at(body, "status", "endReason"),
    )
    if where is not None:
        answer.connection.CopyFrom(connection(where))
    return answer


def entry(item: Entry) -> pb.WatchSessionsResponse:
    if item.body is None:
        return pb.WatchSessionsResponse(synced=pb.Synced(sessions=item.synced))
    if item.gone:
        return pb.WatchSessionsResponse(deleted=session(item.body))
    return pb.WatchSessionsResponse(session=session(item.body))


def phase(body: Body) -> int:
    return _PHASES.get(text_at(body, "status", "phase") or "Pending", pb.PHASE_UNSPECIFIED)


def session(body: Body) -> pb.Session:
    """A VoiceSession as callers see it."""
    status = map_at(body, "status")
    attempt = status.get("attempt")
    found = pb.Session(
        namespace=text_at(body, "metadata", "namespace"),
        name=text_at(body, "metadata", "name"),
        uid=text_at(body, "metadata", "uid"),
        phase=phase(body),  # type: ignore[arg-type]
        labels={key: str(value) for key, value in map_at(body, "metadata", "labels").items()},
        attempt=attempt if isinstance(attempt, int) else 0,
        worker=text_at(status, "worker", "name"),
        endpoint=text_at(status, "worker", "endpoint"),
        tls_server_name=text_at(status, "worker", "tlsServerName"),
        telephony_endpoint=text_at(status, "telephonyEndpoint"),
        end_reason=text_at(status, "endReason"),
        message=text_at(status, "endMessage"),
        create_time=_time(text_at(body, "metadata", "creationTimestamp")),
        start_time=_time(text_at(status, "startTime")),
        end_time=_time(text_at(status, "endTime")),
    )
    if not found.end_reason:
        _waiting(found, status)
    return found


def _waiting(found: pb.Session, status: Mapping[str, object]) -> None:
    """Where it waits and why, from the conditions that do not hold."""
    conditions = status.get("conditions")
    unhappy: dict[str, tuple[str, str]] = {
        text_at(c, "type"): (text_at(c, "reason"), text_at(c, "message"))
        for c in (conditions if isinstance(conditions, list) else [])
        if isinstance(c, Mapping) and c.get("status") == "False"
    }
    if found.phase == pb.PHASE_PENDING and not found.endpoint:
        reason, message = unhappy.get("Accepted") or unhappy.get("Placed") or ("Queued", "")
        position = map_at(status, "queue").get("position")
        found.queue.CopyFrom(
            pb.Queue(position=position if isinstance(position, int) else 0, reason=reason, message=message)
        )
    found.message = next((message for _, message in unhappy.values() if message), "")


def _time(text: str) -> Timestamp | None:
    at = parse_timestamp(text) if text else 0.0
    return Timestamp(seconds=int(at)) if at else None
