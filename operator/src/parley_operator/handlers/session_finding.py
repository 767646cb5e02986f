"""Where a session is, for those who hold its ticket or may see it."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.v1alpha1 import text_at
from parley_operator.clock import Clock
from parley_operator.domain.faults import Fault, FaultCode, invalid
from parley_operator.domain.rate import Buckets
from parley_operator.domain.requests import MAX_WAIT, Caller

from .access import Gate
from .context import Context
from .queue import Key
from .whereabouts import Connection, Whereabouts, over

MAX_TICKET = 512
# Where the session is, `None` when it is over; and the session.
Found = tuple[Connection | None, Body]


@dataclass(frozen=True, slots=True)
class FindSettings:
    """Looks for one session, and tickets that fit nothing of one address: a second, and at once; and how many
    may wait."""

    rate: float = 5.0
    burst: float = 20.0
    bad_rate: float = 2.0
    bad_burst: float = 20.0
    waiting: int = 4096


class SessionFinder:
    """One while this replica leads. Whoever holds the ticket is told where its session is, and nobody learns
    from an answer whether a session exists that they hold no ticket of."""

    def __init__(
        self, context: Context, gate: Gate, where: Whereabouts, settings: FindSettings | None = None
    ) -> None:
        self._context = context
        self._gate = gate
        self._where = where
        self._settings = settings or FindSettings()
        self._rate = Buckets(self._settings.rate, self._settings.burst, keys=16_384)
        self._bad = Buckets(self._settings.bad_rate, self._settings.bad_burst)
        self._waiting = 0

    async def by_ticket(
        self, uid: str, ticket: str, peer: str, *, after: int = 0, wait: float = 0.0
    ) -> Found:
        """Raises `Fault`."""
        self._check(uid, after, wait)
        now = self._clock.monotonic()
        key, body = self._look(uid)
        wanted = self._where.ticket_hash(uid, body) if body else ""
        given = sha256(ticket[:MAX_TICKET].encode(errors="replace")).hexdigest()
        # One comparison, whatever is there, in the same time.
        fits = hmac.compare_digest(given, wanted or "0" * 64)
        if key is None or body is None or not wanted or not fits:
            # Only those who guess are slowed down: many callers may share one address.
            if not self._bad.take(peer, now):
                words = "too many tickets that fit nothing came from this address; try again in a second"
                raise Fault(FaultCode.EXHAUSTED, "too-many-bad-tickets", words)
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "ticket-unknown",
                "ticket: fits no session of this session_uid; it is the one that CreateSession or the ticket "
                "Secret gave",
                "ticket",
            )
        return await self._find(key, uid, after, wait)

    async def by_token(self, uid: str, caller: Caller, *, after: int = 0, wait: float = 0.0) -> Found:
        """Raises `Fault`."""
        self._check(uid, after, wait)
        key, _ = self._look(uid)
        if key is None:
            await self._gate.require(caller, "get", "")
            raise _unknown(uid)
        try:
            await self._gate.require(caller, "get", key.namespace, key.name)
        except Fault as fault:
            if fault.code is FaultCode.DENIED:
                # In the words for one that does not exist: where it is must not be learned from them.
                await self._gate.require(caller, "get", "")
            raise
        return await self._find(key, uid, after, wait)

    @property
    def _clock(self) -> Clock:
        return self._context.clock

    def _check(self, uid: str, after: int, wait: float) -> None:
        if not 0 < len(uid) <= 64:
            raise invalid("session_uid", f"is {len(uid)} characters long; give the uid of the VoiceSession")
        if after < 0:
            raise invalid("after_attempt", f"{after}: give the attempt that is known, or 0")
        if not 0 <= wait <= MAX_WAIT:
            raise invalid("wait", f"{wait:g} s: give 0 to {MAX_WAIT:g} seconds")

    def _look(self, uid: str) -> tuple[Key | None, Body | None]:
        key = self._context.notices.key_of(uid)
        body = self._context.cache.get(SESSION, key.namespace, key.name) if key else None
        if body is None or text_at(body, "metadata", "uid") != uid:
            return None, None
        return key, body

    async def _find(self, key: Key, uid: str, after: int, wait: float) -> Found:
        if not self._rate.take(uid, self._clock.monotonic()):
            words = f"session_uid: {uid} is asked for too often; wait a second, or give `wait`"
            raise Fault(FaultCode.EXHAUSTED, "too-many-resolves", words, "session_uid")
        found = self._now(uid, after)
        if found is None and wait > 0:
            found = await self._await(key, uid, after, wait)
        if found is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "no-place-yet",
                f"the session has no place{f' newer than attempt {after}' if after else ''} "
                "yet; ask again with `wait`",
            )
        return found

    async def _await(self, key: Key, uid: str, after: int, wait: float) -> Found | None:
        if self._waiting >= self._settings.waiting:
            words = f"{self._waiting} callers wait for sessions already; ask again in a second"
            raise Fault(FaultCode.EXHAUSTED, "too-many-waits", words)
        found: Found | None = None

        def arrived() -> bool:
            nonlocal found
            found = self._now(uid, after)
            return found is not None

        self._waiting += 1
        try:
            with self._context.notices.expect(key.namespace, key.name) as expected:
                await expected.wait(arrived, wait)
                if expected.closed:
                    words = "this replica leads no more; ask again"
                    raise Fault(FaultCode.UNAVAILABLE, "not-leading", words)
        finally:
            self._waiting -= 1
        return found

    def _now(self, uid: str, after: int) -> Found | None:
        """Where it is, when that is newer than `after`, or that it is over. Raises `Fault` when it is
        gone."""
        _, body = self._look(uid)
        if body is None:
            raise _unknown(uid)
        if over(body):
            return None, body
        found = self._where.connection(uid, body)
        return (found, body) if found is not None and found.attempt > after else None


def _unknown(uid: str) -> Fault:
    words = f"session_uid: there is no session {uid} (any more)"
    return Fault(FaultCode.NOT_FOUND, "session-unknown", words, "session_uid")
