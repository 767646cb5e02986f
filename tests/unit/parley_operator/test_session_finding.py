"""Where a session is, told to those who hold its ticket or may see it."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

from parley_operator.domain.model import SessionState
from parley_operator.handlers.queue import Key
from parley_operator.handlers.session_finding import FindSettings
from reconcile_plane import SESSION
from session_desks import ALICE, Desks, fault_of, until, virtual


@virtual
async def test_who_holds_the_ticket_is_told_where_the_session_is() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        made = await desks.create()
        uid, name = made.body["metadata"]["uid"], made.body["metadata"]["name"]
        desks.report(SessionState.READY)
        await until(lambda: "ticketHash" in desks.plane.status(name))
        where, _ = await desks.finder.by_ticket(uid, "ticket-text", "p")
        assert (where.endpoint, where.attempt) == ("1.2.3.4:5", 1)
        for wrong_uid, ticket in ((uid, "guess"), ("no-such-uid", "ticket-text"), (uid, "")):
            fault = await fault_of(desks.finder.by_ticket(wrong_uid, ticket, "p"))
            assert (fault.code, fault.reason) == ("UNAUTHENTICATED", "ticket-unknown")
            assert "guess" not in str(fault)
        where, _ = await desks.finder.by_token(uid, ALICE)
        assert where.endpoint == "1.2.3.4:5"
        assert (await fault_of(desks.finder.by_token("no-such-uid", ALICE))).code == "NOT_FOUND"


@virtual
async def test_resolve_waits_for_a_newer_attempt() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        made = await desks.create()
        uid, name = made.body["metadata"]["uid"], made.body["metadata"]["name"]
        assert (await fault_of(desks.finder.by_token(uid, ALICE, after=1))).reason == "no-place-yet"
        waiting = asyncio.create_task(desks.finder.by_token(uid, ALICE, after=1, wait=5.0))
        await asyncio.sleep(0.5)
        book = desks.plane.reconciler.sessions.book
        old = book.get(uid)
        assert old is not None
        moved = replace(old, attempt=2, endpoint="5.6.7.8:9")
        key = Key(SESSION, "default", name)
        book.remember(key, uid, moved)
        desks.plane.context.notices.placed(key, uid, moved)
        where, _ = await waiting
        assert (where.endpoint, where.attempt) == ("5.6.7.8:9", 2)


@virtual
async def test_resolve_of_a_session_that_is_over_says_so() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        made = await desks.create()
        uid = made.body["metadata"]["uid"]
        desks.report(SessionState.ENDED, end_reason="CallerHangup")
        where, body = await desks.finder.by_token(uid, ALICE, after=1, wait=5.0)
        assert where is None
        assert body["status"]["endReason"] == "CallerHangup"  # type: ignore[index]


@virtual
async def test_guesses_and_impatience_are_slowed_down() -> None:
    desks = Desks(find=FindSettings(rate=1.0, burst=3.0, bad_rate=1.0, bad_burst=5.0))
    desks.plane.links.add("w")
    async with desks.working():
        made = await desks.create()
        uid = made.body["metadata"]["uid"]
        guesses = [(await fault_of(desks.finder.by_ticket(uid, f"g{n}", "evil"))).reason for n in range(8)]
        assert guesses == ["ticket-unknown"] * 5 + ["too-many-bad-tickets"] * 3
        # Whoever has a ticket is not held up by that, whatever the address, and time forgives.
        status = {"ticketHash": hashlib.sha256(b"ticket-text").hexdigest()}
        [(_, body)] = desks.plane.context.cache.of_kind(SESSION)
        written = await desks.plane.store.patch_status(SESSION, body, status)
        desks.plane.reconciler.observe(SESSION, written)
        where, _ = await desks.finder.by_ticket(uid, "ticket-text", "evil")
        assert where.endpoint == "1.2.3.4:5"
        desks.plane.clock.at += 0.5
        assert (await fault_of(desks.finder.by_ticket(uid, "x", "good"))).reason == "ticket-unknown"
        desks.plane.clock.at += 1
        assert (await fault_of(desks.finder.by_ticket(uid, "x", "evil"))).reason == "ticket-unknown"
        for _ in range(3):
            await desks.finder.by_token(uid, ALICE)
        assert (await fault_of(desks.finder.by_token(uid, ALICE))).reason == "too-many-resolves"
