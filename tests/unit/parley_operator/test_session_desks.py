"""The session service without its transport: what is made, told, refused and bounded."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from parley_operator.domain.faults import Fault
from parley_operator.domain.model import AdmitOutcome, AdmitVerdict, SessionState
from parley_operator.handlers.notices import Watcher
from parley_operator.handlers.queue import Key
from parley_operator.handlers.session_desk import DeskSettings
from parley_operator.handlers.session_views import ViewSettings
from parley_operator.ports import Conflict, StoreError
from parley_operator.serving import session_codec
from reconcile_plane import SECRET, SESSION
from session_desks import ALICE, BOB, SPEC, Desks, fault_of, until, virtual, wanted

# -- create


@virtual
async def test_create_answers_with_place_and_ticket_before_the_status_says_so() -> None:
    desks = Desks()
    where = {"tls_server_name": "pool.ns", "media_endpoint": "1.2.3.4:5", "telephony_endpoint": "wss://t"}
    desks.plane.links.add("w", **where)
    desks.plane.links.answer = lambda worker, request: AdmitOutcome(
        AdmitVerdict.ADMITTED, endpoint="1.2.3.4:5", tls_server_name="pool.ns", telephony_endpoint="wss://t"
    )
    async with desks.working():
        # Later than those whose Admit an earlier process may have sent.
        desks.plane.clock.at += 10
        made = await desks.create(labels={"team": "phones"})
        assert made.connection.endpoint == "1.2.3.4:5"
        assert made.connection.tls_server_name == "pool.ns"
        assert (made.connection.ca, made.connection.attempt) == (b"CA", 1)
        assert made.connection.telephony_endpoint == "wss://t"
        assert made.ticket.reveal() == "ticket-text"
        assert made.body["metadata"]["labels"] == {"team": "phones"}
        assert made.body["metadata"]["annotations"]["parley.dev/created-by"] == "alice"
        assert not made.repeated
        # The Secret was never read back: the notice brought the ticket.
        assert "parley-pool-default-tls" in desks.plane.store.reads
        assert not [name for name in desks.plane.store.reads if name.endswith("-ticket")]


@virtual
async def test_create_without_room_answers_with_the_place_in_the_queue() -> None:
    desks = Desks()
    desks.plane.links.add("w", capacity=0)
    async with desks.working():
        first = await desks.create(request_id="r-1", wait=0.5)
        second = await desks.create(request_id="r-2", wait=0.5)
        for place, made in ((1, first), (2, second)):
            answer = session_codec.created(made)
            assert (answer.session.queue.position, answer.session.queue.reason) == (place, "Full")
            assert f"number {place} of {place} in the queue" in answer.session.queue.message
        # The status itself is written later.
        body: Any = desks.plane.store.peek(SESSION, "default", first.body["metadata"]["name"])
        assert "queue" not in body.get("status", {})


@virtual
async def test_the_same_request_again_gives_the_same_session_and_ticket_also_after_a_failover() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        first = await desks.create()
        [(_, request)] = desks.plane.links.admits
        desks.plane.links.report("w", request, SessionState.READY)
        again = await desks.create()
        assert again.repeated
        assert again.body["metadata"]["uid"] == first.body["metadata"]["uid"]
        assert again.ticket == first.ticket
    await desks.plane.restart()
    desks.lead()
    async with desks.working():
        later = await desks.create()
        assert later.repeated
        assert later.body["metadata"]["uid"] == first.body["metadata"]["uid"]
        assert later.ticket == first.ticket
        assert later.connection == first.connection
    assert len(desks.plane.links.admits) == 1


@virtual
async def test_request_ids_are_scoped_to_caller_and_namespace() -> None:
    desks = Desks()
    desks.plane.links.add("w", capacity=10)
    async with desks.working():
        made = [
            await desks.create(),
            await desks.create(BOB),
            await desks.create(namespace="other"),
            await desks.create(request_id="r-2"),
            await desks.create(request_id=""),
            await desks.create(request_id=""),
        ]
    uids = {each.body["metadata"]["uid"] for each in made}
    assert len(uids) == 6
    assert not any(each.repeated for each in made)


@virtual
async def test_a_request_id_with_another_spec_or_labels_is_refused() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        await desks.create()
        spec = json.dumps({**SPEC, "privacy": True})
        for changes in ({"spec_json": spec}, {"labels": {"a": "b"}}):
            fault = await fault_of(desks.create(**changes))
            assert (fault.code, fault.reason, fault.field) == (
                "ALREADY_EXISTS", "request-id-reused", "request_id",
            )  # fmt: skip
        # How long is waited makes no other session.
        assert (await desks.create(wait=1.0, ready=False)).repeated


@virtual
async def test_nobody_else_gets_the_ticket_by_a_name_or_a_copied_annotation() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        made = await desks.create(name="mine")
        stolen = made.body["metadata"]["annotations"]
        for caller, request in ((BOB, "r-1"), (ALICE, "r-2"), (ALICE, "")):
            fault = await fault_of(desks.create(caller, name="mine", request_id=request))
            assert (fault.code, fault.reason) == ("ALREADY_EXISTS", "name-taken")
        body = {
            "apiVersion": "parley.dev/v1alpha1", "kind": SESSION, "spec": SPEC,
            "metadata": {"name": "theirs", "namespace": "default", "annotations": stolen},
        }  # fmt: skip
        await desks.plane.store.create(SESSION, body)
        assert (await fault_of(desks.create(name="theirs"))).reason == "name-taken"


@virtual
async def test_without_room_create_says_where_in_the_queue() -> None:
    desks = Desks()
    async with desks.working():
        begun = asyncio.get_running_loop().time()
        making = asyncio.create_task(desks.create(wait=3.0))
        await asyncio.sleep(0.1)
        desks.plane.clock.at += 2.0
        made = await making
        assert asyncio.get_running_loop().time() - begun == pytest.approx(3.0, abs=0.05)
    assert made.connection is None
    assert not made.ticket
    assert made.body["status"]["queue"]["position"] == 1


@virtual
async def test_the_workers_word_that_it_is_ready_is_not_held_up_by_the_write_of_the_status() -> None:
    desks, may_write = Desks(), asyncio.Event()
    desks.plane.links.add("w")
    write = desks.plane.store.patch_status

    async def slow(kind: str, seen: Any, status: Any) -> Any:
        if status.get("phase") == "Ready":
            await may_write.wait()
        return await write(kind, seen, status)

    desks.plane.store.patch_status = slow  # type: ignore[method-assign]
    async with desks.working():
        creating = asyncio.create_task(desks.create(ready=True))
        await until(lambda: desks.plane.links.admits)
        desks.report(SessionState.READY)
        made = await creating
        assert (made.body["status"]["phase"], made.ticket.reveal()) == ("Ready", "ticket-text")
        assert made.connection is not None
        name = made.body["metadata"]["name"]
        body: Any = desks.plane.store.peek(SESSION, "default", name)
        assert body.get("status", {}).get("phase") != "Ready"
        # What the caller was given is good at once.
        uid = made.body["metadata"]["uid"]
        found, _ = await desks.finder.by_ticket(uid, made.ticket.reveal(), "10.0.0.1")
        assert found == made.connection
        seen = await desks.views.get(ALICE, "default", name)
        assert seen["status"]["phase"] == "Ready"
        may_write.set()
        await until(lambda: desks.plane.status(name).get("phase") == "Ready")
        key = Key(SESSION, "default", name)
        await until(lambda: desks.plane.context.notices.coming(key) is None)


@virtual
async def test_wait_for_ready_and_no_wait_at_all() -> None:
    desks = Desks()
    desks.plane.links.add("w")

    async def report() -> None:
        await until(lambda: desks.plane.links.admits)
        await asyncio.sleep(0.5)
        desks.report(SessionState.READY)

    async with desks.working():
        reporting = asyncio.create_task(report())
        made = await desks.create(ready=True)
        await reporting
        assert made.body["status"]["phase"] == "Ready"
        assert made.connection is not None
        at_once = await desks.create(request_id="r-2", wait=0.0)
        assert at_once.connection is None
        assert "status" not in at_once.body


@virtual
async def test_a_session_that_fails_while_it_is_waited_for_is_told_as_it_is() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    desks.plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.INVALID, "tools[0]: no")
    async with desks.working():
        made = await desks.create()
    assert made.connection is None
    assert made.body["status"]["endReason"] == "InvalidSpec"
    assert made.body["status"]["endMessage"] == "tools[0]: no"


@virtual
async def test_a_session_without_a_ticket_needs_none() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        made = await desks.create(spec_json=json.dumps({**SPEC, "access": {"ticket": "None"}}))
    assert made.connection is not None
    assert not made.ticket


@virtual
async def test_a_create_without_an_answer_of_the_api_server_is_looked_for() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    real = desks.plane.store.create
    lost: list[str] = []

    async def loses_the_answer(kind: str, body: Any) -> Any:
        made = await real(kind, body)
        if kind == SESSION and not lost:
            lost.append(made["metadata"]["name"])
            raise StoreError("POST: TimeoutError")
        return made

    desks.plane.store.create = loses_the_answer  # type: ignore[method-assign]
    async with desks.working():
        made = await desks.create()
        assert made.body["metadata"]["name"] == lost[0]
        assert made.connection is not None


@virtual
async def test_creates_under_way_are_bounded_in_all_and_for_each_caller() -> None:
    desks = Desks(DeskSettings(creates=3, creates_each=2))
    async with desks.working():
        mine = [asyncio.create_task(desks.create(request_id=f"r-{n}", wait=2.0)) for n in range(2)]
        await asyncio.sleep(0.1)
        assert (await fault_of(desks.create(request_id="r-9"))).reason == "too-many-creates"
        theirs = asyncio.create_task(desks.create(BOB, wait=2.0))
        await asyncio.sleep(0.1)
        assert (await fault_of(desks.create(BOB, request_id="r-9"))).code == "RESOURCE_EXHAUSTED"
        await asyncio.gather(*mine, theirs)
        await desks.create(request_id="r-9", wait=0.0)


@virtual
async def test_a_deletion_and_a_lost_leadership_end_the_wait() -> None:
    desks = Desks()
    async with desks.working():
        making = asyncio.create_task(desks.create())
        await asyncio.sleep(0.1)
        [(key, body)] = desks.plane.context.cache.of_kind(SESSION)
        await desks.plane.store.delete(SESSION, key.namespace, key.name, "")
        desks.plane.reconciler.observe(SESSION, body, deleted=True)
        assert (await fault_of(making)).reason == "session-deleted"
        making = asyncio.create_task(desks.create(request_id="r-2"))
        await asyncio.sleep(0.1)
        desks.plane.context.notices.close()
        assert (await fault_of(making)).reason == "not-leading"


def test_conflicts_of_the_store_are_not_taken_for_the_callers_own_session() -> None:
    @virtual
    async def story() -> None:
        desks = Desks()
        async with desks.working():

            def gone(verb: str, kind: str) -> None:
                if (verb, kind) == ("create", SESSION):
                    raise Conflict("exists")

            desks.plane.store.before = gone
            assert (await fault_of(desks.create())).reason == "session-deleted"
            assert desks.plane.store.peek(SECRET, "default", "call-ticket") is None

    story()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"namespace": ""}, "namespace"),
        ({"namespace": "A"}, "namespace"),
        ({"name": "Upper"}, "name"),
        ({"name": "x" * 247}, "name"),
        ({"request_id": "with space"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"spec_json": ""}, "spec_json"),
        ({"spec_json": "[1]"}, "spec_json"),
        ({"spec_json": '{"a": "' + "x" * 300_000 + '"}'}, "spec_json"),
        ({"spec_json": "[" * 100_000}, "spec_json"),
        ({"labels": {"parley.dev/pool": "x"}}, "labels[parley.dev/pool]"),
        ({"labels": {"a b": "x"}}, "labels[a b]"),
        ({"labels": {"a": "no spaces"}}, "labels[a]"),
        ({"labels": {f"l{n}": "" for n in range(65)}}, "labels"),
        ({"wait": 61.0}, "wait"),
        ({"wait": -1.0}, "wait"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Fault) as caught:
        wanted(**changes)
    assert (caught.value.code, caught.value.field) == ("INVALID_ARGUMENT", field)
    assert str(caught.value).startswith(field)


# -- rights


@virtual
async def test_rights_are_asked_for_by_verb_and_remembered_briefly() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        for number in range(3):
            await desks.create(request_id=f"r-{number}", wait=0.0)
        assert desks.reviews.asked == ["create default/"]
        desks.plane.clock.at += 11
        await desks.create(request_id="r-4", wait=0.0)
        assert len(desks.reviews.asked) == 2
        desks.reviews.denied |= {("alice", verb) for verb in ("create", "get", "list", "watch", "delete")}
        desks.plane.clock.at += 11
        name = next(iter(desks.plane.context.cache.of_kind(SESSION)))[0].name
        watching = desks.views.watch(lambda: _caller(ALICE), Watcher("default"))
        refused: list[Coroutine[Any, Any, Any]] = [
            desks.create(request_id="r-5"),
            desks.views.get(ALICE, "default", name),
            desks.views.list(ALICE, ""),
            desks.desk.end(ALICE, "default", name, ""),
            anext(watching),  # type: ignore[list-item]
        ]
        for work in refused:
            fault = await fault_of(work)
            assert (fault.code, fault.reason) == ("PERMISSION_DENIED", "forbidden")
            assert "alice" in str(fault)


@virtual
async def test_rights_of_one_token_are_not_those_of_another() -> None:
    desks = Desks()
    narrow = replace(ALICE, extra={"scopes": ("user:info",)})
    await desks.gate.require(ALICE, "create", "default")
    desks.reviews.denied.add(("alice", "create"))
    await desks.gate.require(ALICE, "create", "default")
    assert (await fault_of(desks.gate.require(narrow, "create", "default"))).reason == "forbidden"


@virtual
async def test_resolve_tells_nobody_of_sessions_that_they_may_not_see() -> None:
    desks = Desks()
    desks.plane.links.add("w")
    async with desks.working():
        made = await desks.create()
        desks.reviews.denied.add(("bob", "get"))
        uid = made.body["metadata"]["uid"]
        there = await fault_of(desks.finder.by_token(uid, BOB))
        not_there = await fault_of(desks.finder.by_token("no-such-uid", BOB))
        assert there.reason == "forbidden"
        assert str(there) == str(not_there)


async def _caller(caller: Any) -> Any:
    return caller


@virtual
async def test_tokens_are_asked_about_once_at_a_time_and_bad_ones_are_counted() -> None:
    desks = Desks()
    desks.reviews.slow = 0.1
    callers = await asyncio.gather(*(desks.gate.caller("alice-token", "1.2.3.4") for _ in range(20)))
    assert set(callers) == {ALICE}
    assert desks.reviews.asked == ["identify"]
    reasons = set()
    for number in range(30):
        reasons.add((await fault_of(desks.gate.caller(f"guess-{number}", "6.6.6.6"))).reason)
    assert reasons == {"token-refused", "too-many-bad-tokens"}
    assert len(desks.reviews.asked) == 1 + 20
    # Who is known stays known behind the same address; who is not has to wait.
    assert await desks.gate.caller("alice-token", "6.6.6.6") == ALICE
    assert (await fault_of(desks.gate.caller("bob-token", "6.6.6.6"))).reason == "too-many-bad-tokens"
    assert await desks.gate.caller("bob-token", "1.2.3.4") == BOB
    assert (await fault_of(desks.gate.caller("", "1.2.3.4"))).reason == "token-missing"


@virtual
async def test_reviews_that_fail_are_not_remembered() -> None:
    desks = Desks()
    desks.reviews.fails = True
    asking = [asyncio.create_task(fault_of(desks.gate.caller("alice-token", "p"))) for _ in range(3)]
    assert {(await each).reason for each in asking} == {"api-server"}
    desks.reviews.fails = False
    assert await desks.gate.caller("alice-token", "p") == ALICE


# -- get, list, end, watch


@virtual
async def test_pages_hold_every_session_once_in_order() -> None:
    desks = Desks()
    async with desks.working():
        for number in range(7):
            labels = {"odd": str(number % 2)}
            namespace = "other" if number == 6 else "default"
            await desks.create(name=f"c{number}", namespace=namespace, labels=labels, wait=0.0)
        names, token = [], ""
        while True:
            page, token = await desks.views.list(ALICE, "", size=2, token=token)
            assert len(page) <= 2
            names += [body["metadata"]["name"] for body in page]  # type: ignore[index]
            if not token:
                break
        assert names == [f"c{number}" for number in range(7)]
        odd, _ = await desks.views.list(ALICE, "default", labels={"odd": "1"}, phases={"Pending"})
        assert [body["metadata"]["name"] for body in odd] == ["c1", "c3", "c5"]  # type: ignore[index]
        assert await desks.views.list(ALICE, "default", phases={"Active"}) == ([], "")
        for token in ("x", base64.urlsafe_b64encode(b"[1,2]").decode(), "%%%"):
            assert (await fault_of(desks.views.list(ALICE, "", token=token))).field == "page_token"
        assert (await fault_of(desks.views.list(ALICE, "", size=1001))).field == "page_size"
        assert (await fault_of(desks.views.get(ALICE, "default", "none"))).code == "NOT_FOUND"


@virtual
async def test_end_deletes_only_the_session_that_is_meant() -> None:
    desks = Desks()
    async with desks.working():
        made = await desks.create(name="call", wait=0.0)
        uid = made.body["metadata"]["uid"]
        assert not await desks.desk.end(ALICE, "default", "call", "another-uid")
        assert not await desks.desk.end(ALICE, "default", "no-call", "")
        assert await desks.desk.end(ALICE, "default", "call", uid)
        assert desks.plane.store.peek(SESSION, "default", "call") is None
        assert not await desks.desk.end(ALICE, "default", "call", uid)


@virtual
async def test_a_watch_has_a_snapshot_and_then_the_newest_of_what_changed() -> None:
    desks = Desks()
    async with desks.working():
        await desks.create(name="a", labels={"team": "x"}, wait=0.0)
        await desks.create(name="b", wait=0.0)
        watcher = Watcher("default", labels={"team": "x"})
        async with aclosing(desks.views.watch(lambda: _caller(ALICE), watcher)) as entries:
            first = await anext(entries)
            assert first.body is not None
            assert first.body["metadata"]["name"] == "a"  # type: ignore[index]
            assert (await anext(entries)).synced == 1
            await desks.create(name="c", labels={"team": "x"}, wait=0.0)
            body = desks.plane.store.peek(SESSION, "default", "c")
            assert body is not None
            for number in range(50):
                version = str(10_000 + number)
                body = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}  # type: ignore[dict-item]
                desks.plane.reconciler.observe(SESSION, body)
            news = await anext(entries)
            assert news.body is not None
            assert news.body["metadata"]["resourceVersion"] == "10049"  # type: ignore[index]
            # One that stops to fit is gone for this watcher; one that never fitted is not told of.
            bare = {**body, "metadata": {**body["metadata"], "labels": {}, "resourceVersion": "20000"}}  # type: ignore[dict-item]
            desks.plane.reconciler.observe(SESSION, bare)
            assert (await anext(entries)).gone
            deleted = desks.plane.store.peek(SESSION, "default", "a")
            assert deleted is not None
            desks.plane.reconciler.observe(SESSION, deleted, deleted=True)
            last = await anext(entries)
            assert last.gone
            assert last.body is not None
            assert last.body["metadata"]["name"] == "a"  # type: ignore[index]
        assert desks.plane.context.notices.watchers == 0


@virtual
async def test_watches_are_bounded_judged_again_and_end_with_the_leadership() -> None:
    desks = Desks(views=ViewSettings(watchers=2, watchers_each=1, recheck=5.0))
    async with desks.working():
        watching = desks.views.watch(lambda: _caller(ALICE), Watcher())
        assert (await anext(watching)).synced == 0
        second = desks.views.watch(lambda: _caller(ALICE), Watcher())
        assert (await fault_of(anext(second))).reason == "too-many-watches"  # type: ignore[arg-type]
        desks.reviews.denied.add(("alice", "watch"))
        waiting = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0.1)
        desks.plane.clock.at += 20
        await desks.create(name="wakes", wait=0.0)
        with pytest.raises(Fault) as caught:
            await waiting
        assert caught.value.reason == "forbidden"
        third = desks.views.watch(lambda: _caller(BOB), Watcher())
        while (await anext(third)).body is not None:
            pass
        desks.plane.context.notices.close()
        assert (await fault_of(anext(third))).reason == "not-leading"  # type: ignore[arg-type]
