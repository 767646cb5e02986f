"""Sessions made and ended for callers of the session service, without its transport.

VoiceSessions are written through the same store as everything else. One that is made here is looked at at
once, without the round trip of a watch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.faults import Fault, FaultCode
from parley_operator.domain.phases import SERVING
from parley_operator.domain.requests import (
    Caller,
    CreateSession,
    check_repeated,
    derived_name,
    request_stamp,
    session_body,
)
from parley_operator.domain.subjects import subject_of
from parley_operator.ports import Conflict, Refused, StoreError

from .access import Gate
from .context import Context
from .line import with_standing
from .notices import Expectation, Facts
from .tickets import read_ticket
from .whereabouts import Connection, Whereabouts, over, read_session, refused, unavailable

Observe = Callable[[str, Body], None]


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """How many calls of CreateSession may be under way: in all, and of one caller."""

    creates: int = 1024
    creates_each: int = 512


@dataclass(frozen=True, slots=True)
class Created:
    """A session when the wait for it is over; `connection` and `ticket` once it has a place."""

    body: Body
    connection: Connection | None = None
    ticket: SecretText = field(default_factory=lambda: SecretText(""), repr=False)
    repeated: bool = False


class SessionDesk:
    """One while this replica leads.

    `observe` has the reconciler look at an object, `key` is known to the operators of this installation
    alone,
    `new_id` gives a part of a name that nobody has.
    """

    def __init__(
        self,
        context: Context,
        gate: Gate,
        where: Whereabouts,
        observe: Observe,
        key: bytes,
        new_id: Callable[[], str],
        settings: DeskSettings | None = None,
    ) -> None:
        self._context = context
        self._gate = gate
        self._where = where
        self._observe = observe
        self._key = key
        self._new_id = new_id
        self._settings = settings or DeskSettings()
        self._creating: Counter[str] = Counter()

    async def create(self, caller: Caller, request: CreateSession) -> Created:
        """Make the session and wait, `request.wait` seconds at most. Raises `Fault`."""
        await self._gate.require(caller, "create", request.namespace)
        name = request.name
        if not name:
            name = (
                derived_name(self._key, caller, request) if request.request_id else f"call-{self._new_id()}"
            )
        with (
            self._place(caller),
            self._context.notices.expect(request.namespace, name) as expected,
        ):
            body, repeated = await self._make(caller, request, name)
            uid = text_at(body, "metadata", "uid")
            self._observe(SESSION, body)
            facts = expected.of(uid)
            with_ticket = _has_ticket(body)
            await self._wait(expected, facts, uid, request)
            latest = facts.body or body
            connection = self._where.connection(uid, latest, facts.placement)
            ticket = SecretText("")
            if connection is not None and with_ticket:
                ticket = facts.ticket.text if facts.ticket else await self._read_ticket(latest)
                if not ticket:
                    connection = None
            if connection is None:
                latest = with_standing(self._context, latest)
            return Created(latest, connection, ticket, repeated)

    @contextmanager
    def _place(self, caller: Caller) -> Iterator[None]:
        bounds, mine = self._settings, self._creating[caller.username]
        if mine >= bounds.creates_each or self._creating.total() >= bounds.creates:
            raise Fault(
                FaultCode.EXHAUSTED,
                "too-many-creates",
                f"{mine} calls of CreateSession are under way for {caller.username!r} and "
                f"{self._creating.total()} in all; try again in a second, or give a shorter wait",
            )
        self._creating[caller.username] += 1
        try:
            yield
        finally:
            self._creating[caller.username] -= 1
            if not self._creating[caller.username]:
                del self._creating[caller.username]

    async def _make(self, caller: Caller, request: CreateSession, name: str) -> tuple[Body, bool]:
        stamp = request_stamp(self._key, caller, request, name)
        wanted = session_body(request, caller, name, stamp)
        try:
            return await self._context.store.create(SESSION, wanted), False
        except Conflict:
            pass
        except Refused as error:
            raise refused(error, request.namespace) from None
        except StoreError as error:
            # No answer, or one that says nothing: the object may be there or not.
            found = await read_session(self._context, request.namespace, name)
            if found is None or not request.request_id:
                raise unavailable(error) from None
        found = await read_session(self._context, request.namespace, name)
        if found is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "session-deleted",
                f"VoiceSession {request.namespace}/{name} was deleted just now; try again",
            )
        check_repeated(stamp, request, found)
        return found, True

    async def _wait(self, expected: Expectation, facts: Facts, uid: str, request: CreateSession) -> None:
        def done() -> bool:
            body = facts.body or {}
            phase = text_at(body, "status", "phase")
            if facts.deleted or over(body):
                return True
            if request.ready:
                return phase in SERVING
            return facts.placement is not None or self._where.placed(uid, body) is not None

        if request.wait > 0:
            await expected.wait(done, request.wait)
        if expected.closed:
            raise Fault(FaultCode.UNAVAILABLE, "not-leading", "this replica leads no more; try again")
        if facts.deleted:
            raise Fault(FaultCode.PRECONDITION, "session-deleted", "the VoiceSession was deleted meanwhile")

    async def _read_ticket(self, body: Body) -> SecretText:
        subject, _ = subject_of(body)
        try:
            ticket = await read_ticket(self._context.store, subject)
        except StoreError as error:
            raise unavailable(error) from None
        return ticket.text if ticket else SecretText("")

    async def end(self, caller: Caller, namespace: str, name: str, uid: str) -> bool:
        """Delete the session; false when there is none, or another one than `uid`. Raises `Fault`."""
        await self._gate.require(caller, "delete", namespace, name)
        body = await read_session(self._context, namespace, name)
        found = text_at(body, "metadata", "uid") if body else ""
        if not found or (uid and uid != found):
            return False
        try:
            await self._context.store.delete(SESSION, namespace, name, found)
        except StoreError as error:
            raise unavailable(error) from None
        return True


def _has_ticket(body: Body) -> bool:
    return map_at(body, "spec", "access").get("ticket") != "None"
