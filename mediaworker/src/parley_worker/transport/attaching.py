"""From a caller's Start to its session, whatever the stream is made of."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from parley_worker.codec.media_pb import StartMessage
from parley_worker.core.events import CredentialKind, LegRefusal, Status
from parley_worker.transport.opus_leg import with_opus
from parley_worker.transport.ports import LegPort, SessionDirectory, SessionPort


class NewLeg(LegPort, Protocol):
    """A leg that tells its session when its queue overflows, and when it has room again."""

    on_slow: Callable[[], None]
    on_room: Callable[[], None]


def find_session(directory: SessionDirectory, start: StartMessage) -> SessionPort | LegRefusal:
    """The session that the credential belongs to, or that needs none; behind codecs where a leg has some."""
    digest = _digest(start)
    match start.request.credential:
        case CredentialKind.TICKET:
            found = directory.find_by_ticket(digest)
            reason, name = "ticket-unknown", "start.ticket"
            text = "no session of this worker has this ticket"
        case CredentialKind.RESUME:
            found = directory.find_by_resume(digest)
            reason, name = "resume-token-unknown", "start.resume_token"
            text = "no session of this worker has this resume token: use the one of the last Started"
        case CredentialKind.NONE:
            found = directory.find_by_uid(start.request.session_uid)
            reason, name = "session-unknown", "start.session_uid"
            text = "no session of this worker has this uid and asks for no ticket"
    if found is None:
        return LegRefusal(Status.UNAUTHENTICATED, reason, text, name)
    return found if start.opus is None else with_opus(found, start.request, start.opus)


async def attach(
    session: SessionPort, start: StartMessage, leg: NewLeg, ready_timeout: float
) -> LegRefusal | None:
    """Give the leg to the session, `ready_timeout` seconds from now at the latest; or why it is not taken."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ready_timeout):
            await session.wait_ready()
    return attach_now(session, start, leg)


def attach_now(session: SessionPort, start: StartMessage, leg: NewLeg) -> LegRefusal | None:
    """Give the leg to the session as it is; or why it is not taken."""
    leg.on_slow = lambda: session.leg_lost(leg, "slow-reader")
    leg.on_room = lambda: session.leg_room(leg)
    return session.attach(replace(start.request, credential_sha256=_digest(start)), leg)


def _digest(start: StartMessage) -> bytes:
    return hashlib.sha256(start.credential.encode(errors="replace")).digest()
