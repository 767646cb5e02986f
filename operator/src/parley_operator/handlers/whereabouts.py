"""Where a session can be attached to, and the faults that all parts of the session service have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.faults import Fault, FaultCode
from parley_operator.domain.model import Placement
from parley_operator.domain.phases import TERMINAL
from parley_operator.domain.subjects import bound_placement
from parley_operator.ports import Refused, StoreError

from .context import Context

PlacementOf = Callable[[str], Placement | None]
# SHA-256 of the ticket of a session by uid; empty where none is known.
DigestOf = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Connection:
    """Where to attach. `ca` is empty without TLS."""

    endpoint: str
    tls_server_name: str
    ca: bytes
    attempt: int
    telephony_endpoint: str = ""


class Whereabouts:
    """Reads the reconciler's knowledge first and the status second, which is written later."""

    def __init__(self, context: Context, placement_of: PlacementOf, digest_of: DigestOf) -> None:
        self._context = context
        self._placement_of = placement_of
        self._digest_of = digest_of

    def ticket_hash(self, uid: str, body: Body) -> str:
        """Of the ticket that fits the session, in hex; empty where it has none."""
        return self._digest_of(uid).hex() or text_at(body, "status", "ticketHash")

    def placed(self, uid: str, body: Body) -> Placement | None:
        """The confirmed placement of the session, where there is one."""
        known = self._placement_of(uid) or bound_placement(map_at(body, "status"))
        return known if known is not None and known.confirmed and known.endpoint else None

    def connection(self, uid: str, body: Body, told: Placement | None = None) -> Connection | None:
        """`None` for a session that is over or has no place. `told` is used where nothing newer is known."""
        if over(body):
            return None
        found = self.placed(uid, body) or told
        if found is None or not found.endpoint:
            return None
        ca = self._context.control_ca() if found.tls_server_name else b""
        return Connection(found.endpoint, found.tls_server_name, ca, found.attempt, found.telephony_endpoint)


def over(body: Body) -> bool:
    return text_at(body, "status", "phase") in TERMINAL


async def read_session(context: Context, namespace: str, name: str) -> Body | None:
    """The object as the API server has it. Raises `Fault`."""
    try:
        return await context.store.get(SESSION, namespace, name)
    except StoreError as error:
        raise unavailable(error) from None


def not_found(namespace: str, name: str) -> Fault:
    return Fault(
        FaultCode.NOT_FOUND, "session-unknown", f"name: there is no VoiceSession {namespace}/{name}", "name"
    )


def unavailable(error: StoreError) -> Fault:
    answer = f"HTTP {error.code}" if error.code else "no answer"
    if error.code == 403:
        words = "the operator itself may not do this; see the chart's value sessions.enabled and its rights"
        return Fault(FaultCode.PRECONDITION, "operator-forbidden", words)
    return Fault(FaultCode.UNAVAILABLE, "api-server", f"the API server did not do it: {answer}; try again")


def refused(error: Refused, namespace: str) -> Fault:
    """What the API server says of an object that it does not take, in its words, with the field that it
    names."""
    words = error.words or "the API server refuses the VoiceSession"
    if error.code == 404:
        return Fault(
            FaultCode.NOT_FOUND, "namespace-unknown", f"namespace: {namespace!r}: {words}", "namespace"
        )
    if error.code == 403 and "exceeded quota" in words:
        return Fault(FaultCode.EXHAUSTED, "quota-exceeded", words)
    if error.code == 403:
        return Fault(FaultCode.PRECONDITION, "api-server-forbids", words)
    field = next((field for field, _ in error.causes if field), "spec_json")
    return Fault(FaultCode.INVALID, "spec-invalid", words, field)
