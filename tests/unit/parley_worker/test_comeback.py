"""A session that was placed before goes on where it was, and one that moves leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from parley_worker.codec import control_pb
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.agent import Behaviour, Line, ScenarioConfig, ToolRoute, ToolRouteKind
from parley_worker.core.changes import Changes
from parley_worker.core.comeback import EPOCHS
from parley_worker.core.media_path import PlayoutMode
from parley_worker.core.model import EndReason, RestoreConfig, RestoreMode, SessionState
from parley_worker.core.restored import KnownCall, Reach, Restored, Told, Words
from parley_worker.core.saved import HandOver, SavedState
from parley_worker.core.usage import Usage
from session_driver import KEY, PCM24, Driver, sent, to_leg

AGAIN = replace(KEY, attempt=2)
TOKEN = b"r" * 32
STATE = SavedState(Usage(10, 20, 5, 1.5, 2.5), 1_000_500.0, True, (TOKEN,))
USER = {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]}
AGENT = {"id": "a", "type": "message", "role": "assistant", "content": [{"type": "output_audio"}]}
GREETING = Behaviour(greeting=Line(text="hello"))
TALKED = Restored(
    1, items=(USER, AGENT), words={("a", 0): Words("one two", 1000)}, state=STATE, taken_over=True
)


def resumed(restored: Restored, given: HandOver | None = None, **changes: Any) -> Driver:
    restore = RestoreConfig(RestoreMode.RESUME, hand_over=given)
    driver = Driver(key=AGAIN, restore=restore, **changes)
    driver.feed(ev.ConversationRestored(restored))
    return driver.ready()


def come(driver: Driver, **how: Any) -> list[fx.Effect]:
    request = ev.AttachRequest(ev.CredentialKind.RESUME, PCM24, PCM24, PlayoutMode.REALTIME, **how)
    return driver.feed(ev.LegAttached(request, "token", (b"n" * 32, TOKEN)))


def saved(driver: Driver) -> SavedState:
    """The last checkpoint."""
    records = [e.record for e in driver.effects if isinstance(e, fx.Publish)]
    states = [r.fields["state_json"] for r in records if r.type == "checkpoint"]
    return SavedState.read(json.loads(str(states[-1])))


def test_a_conversation_goes_on_without_a_second_greeting() -> None:
    driver = resumed(TALKED, behaviour=GREETING)
    effects = come(driver)
    driver.until(driver.now + 2)
    assert sent(driver.effects, "response.create") == []
    assert to_leg(effects, fx.Started)[0].attempt == 2
    assert "session_restored" in driver.facts()
    assert driver.session.report.usage == Usage(10, 20, 5, 1.5, 2.5)


def test_a_greeting_that_nobody_can_have_heard_is_said_again() -> None:
    driver = resumed(Restored(1, state=STATE, taken_over=True), behaviour=GREETING)
    come(driver)
    assert len(sent(driver.effects, "response.create")) == 1


def test_a_question_that_waits_is_answered_once_the_caller_is_there() -> None:
    driver = resumed(replace(TALKED, items=(USER,)))
    assert sent(driver.effects, "response.create") == []
    come(driver)
    assert len(sent(driver.effects, "response.create")) == 1


def test_an_answer_is_cut_at_what_was_heard_and_asked_for_again() -> None:
    driver = resumed(TALKED)
    effects = come(driver, heard=Reach("a", 0, 400))
    (cut,) = sent(effects, "conversation.item.truncate")
    assert (cut["item_id"], cut["audio_end_ms"]) == ("a", 400)
    assert len(sent(effects, "response.create")) == 1


def test_epochs_go_on_above_those_that_a_player_may_know() -> None:
    assert resumed(TALKED).session.ledger.epoch == EPOCHS


def test_the_time_that_is_left_is_not_made_longer() -> None:
    driver = resumed(TALKED)
    come(driver)
    driver.provider("response.created", response={"id": "r"})
    driver.provider("response.done", response={"id": "r"})
    assert saved(driver).expires_unix == 1_000_500.0


def test_calls_of_services_are_given_up_and_those_of_the_caller_wait() -> None:
    calls = (KnownCall("c1", "mine", "{}", False), KnownCall("c2", "theirs", "{}", False))
    routes = (ToolRoute("mine"), ToolRoute("theirs", kind=ToolRouteKind.NATS))
    driver = resumed(replace(TALKED, calls=(*calls, KnownCall("c0", "mine", "{}", True))), tools=routes)
    (result,) = sent(driver.effects, "conversation.item.create")
    assert result["item"]["call_id"] == "c2"
    assert "not known" in result["item"]["output"]
    come(driver)
    assert sent(driver.said(ev.ToolOutput("c1", "fine")), "conversation.item.create")
    refused = to_leg(driver.said(ev.ToolOutput("c0", "again")), fx.ConversationEvent)
    assert "already" in json.loads(refused[-1].event_json)["message"]


def test_a_caller_is_told_what_it_missed_and_nothing_twice() -> None:
    told = tuple(Told(1, n, {"type": f"t{n}", "event_id": str(n)}) for n in (3, 4, 5))
    driver = resumed(replace(TALKED, told=told))
    effects = come(driver, last_event_sequence=4, last_event_attempt=1)
    events = to_leg(effects, fx.ConversationEvent)
    assert [e.type for e in events] == ["session.updated", "t5"]
    assert [(e.attempt, e.sequence) for e in events] == [(2, 1), (2, 2)]
    driver.feed(ev.LegLost("cancelled"))
    again = to_leg(come(driver, last_event_sequence=2, last_event_attempt=2), fx.ConversationEvent)
    assert again == []


def test_a_ticket_is_good_again_and_expires_no_more() -> None:
    driver = resumed(TALKED)
    driver.now += 1000
    request = ev.AttachRequest(ev.CredentialKind.TICKET, PCM24, PCM24, PlayoutMode.REALTIME)
    assert driver.session.check_attach(request, driver.now) is None


def test_a_ticket_that_nobody_used_expires_on_any_worker() -> None:
    """Expiry limits the first attach, wherever that is; who cannot tell whether it was takes the ticket."""
    request = ev.AttachRequest(ev.CredentialKind.TICKET, PCM24, PCM24, PlayoutMode.REALTIME)
    found = []
    for restored in (
        Restored(1),
        Restored(1).fresh(),
        Restored(degraded="x"),
        Restored(degraded="x").fresh(),
    ):
        driver = resumed(restored)
        assert driver.session.check_attach(request, driver.now) is None
        refused = driver.session.check_attach(request, driver.now + 1000)
        found.append(refused.reason if refused else "")
    assert found == ["ticket-expired", "ticket-expired", "", ""]


def test_a_moved_session_that_nobody_came_to_says_that_its_end_is_not_written() -> None:
    driver = resumed(replace(TALKED, source="hand-over", taken_over=False), HandOver(1, STATE))
    assert not driver.session.report.untold
    driver.until(driver.now + 25)
    report = driver.session.report
    assert (report.end_reason, report.untold) == (EndReason.REATTACH_TIMEOUT, True)
    body = control_pb.session_report(report, control_pb.Endpoint("h:1")).SerializeToString()
    assert control_pb.read_session_report(body).untold
    visited = resumed(replace(TALKED, source="hand-over", taken_over=False), HandOver(1, STATE))
    come(visited)
    visited.feed(ev.TerminateRequested(EndReason.TERMINATED, "over"))
    assert not visited.session.report.untold


def test_nobody_comes_back() -> None:
    driver = resumed(TALKED)
    driver.until(driver.now + 25)
    assert driver.session.report.end_reason is EndReason.REATTACH_TIMEOUT


def test_what_was_changed_since_the_first_attempt_is_asked_for_again() -> None:
    driver = Driver(key=AGAIN, restore=RestoreConfig(RestoreMode.RESUME))
    change = {"instructions": "y", "tools": [{"type": "mcp", "server_label": "s"}]}
    driver.session.config = replace(
        driver.session.config,
        session={"voice": "v", "tools": [{"type": "mcp", "server_label": "s", "authorization": "k"}]},
    )
    driver.feed(ev.ConversationRestored(replace(TALKED, changes=Changes(change))))
    (update,) = sent(driver.feed(ev.ProviderOpened("client", "socket")), "session.update")
    tools = [{"type": "mcp", "server_label": "s", "authorization": "k"}]
    assert update["session"] == {"voice": "v", "instructions": "y", "tools": tools}


def test_changes_are_written_once_the_provider_has_taken_them() -> None:
    driver = Driver().ready()
    driver.attach()
    for voice in ("bad", "good"):
        driver.said(
            ev.ClientEvent({"type": "session.update", "session": {"voice": voice}, "event_id": voice})
        )
    driver.provider("error", error={"event_id": "bad", "message": "no"})
    driver.provider("session.updated", session={})
    changed = [fields for type, fields in driver.journal() if type == "session_updated"]
    assert changed == [{"session_json": '{"voice":"good"}', "under_json": '{"voice":""}'}]


def test_a_handed_over_session_writes_nothing_before_its_caller_is_there() -> None:
    given = HandOver(1, STATE, (USER, AGENT))
    handed = replace(TALKED, source="hand-over", taken_over=False)
    driver = resumed(handed, given)
    assert not [e for e in driver.effects if isinstance(e, fx.Publish)]
    records = [e.record for e in come(driver) if isinstance(e, fx.Publish)]
    journal = [r for r in records if r.kind == "journal"]
    assert [r.type for r in journal] == ["takeover", "session_configured", "checkpoint"]
    assert [r.sequence for r in journal] == [1, 2, 3]
    assert [r.type for r in records if r.kind == "event"][:2] == ["admitted", "session_restored"]


def test_a_handed_over_session_that_nobody_came_to_leaves_no_trace() -> None:
    driver = resumed(replace(TALKED, source="hand-over", taken_over=False), HandOver(1, STATE))
    driver.feed(ev.TerminateRequested(EndReason.TERMINATED, "not moved after all"))
    assert driver.session.state is SessionState.ENDED
    assert not [e for e in driver.effects if isinstance(e, fx.Publish)]


@pytest.mark.parametrize("told", [True, False])
def test_a_session_that_lives_elsewhere_ends_without_a_word(told: bool) -> None:
    driver = Driver().ready()
    driver.attach()
    if told:
        where = ev.MovedAway("h:1", "", 2)
        assert to_leg(driver.feed(where), ev.MovedAway) == [where]
    effects = driver.feed(ev.Departed("moved" if told else "stale"))
    assert to_leg(effects, fx.Ended) == []
    assert driver.journal() == [("session_configured", {"session_json": "{}"})]
    assert driver.facts()[-1] == "session_moved"
    assert driver.session.report.departed
    (drop,) = [e for e in effects if isinstance(e, fx.DropLeg)]
    assert (drop.refusal is None) == told


def test_whatever_happens_to_a_session_that_was_sent_on_is_no_end_of_it() -> None:
    lost = ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, "gone", 1006)
    for event in (ev.TerminateRequested(EndReason.DRAIN_DEADLINE, "the worker went away"), lost):
        driver = Driver().ready()
        driver.attach()
        driver.feed(ev.MovedAway("h:1", "", 2))
        effects = driver.feed(event)
        assert to_leg(effects, fx.Ended) == []
        assert "session_ended" not in [kind for kind, _ in driver.journal()]
        assert driver.session.report.departed
        assert driver.session.report.end_reason is None


def test_a_moment_is_quiet_when_nothing_is_under_way() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.now += 1
    assert driver.session.settled(driver.now)
    assert driver.session.report.migratable
    driver.provider("input_audio_buffer.speech_started", item_id="u")
    assert not driver.session.settled(driver.now + 1)
    driver.provider("input_audio_buffer.speech_stopped", item_id="u")
    driver.provider("response.created", response={"id": "r"})
    assert not driver.session.settled(driver.now + 5)
    driver.provider("response.done", response={"id": "r"})
    assert driver.session.settled(driver.now + 5)
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    driver.provider("response.output_item.done", response_id="r", item=item)
    assert not driver.session.settled(driver.now + 5)


def test_a_program_or_a_private_call_stays_where_it_is() -> None:
    program = ScenarioConfig(entry_point="a:b")
    assert not Driver(scenario=program).session.report.migratable
    assert not Driver(privacy=True).session.report.migratable


def test_a_hand_over_holds_what_the_next_worker_needs() -> None:
    driver = Driver().ready()
    come(driver)
    given = driver.session.hand_over((USER,), driver.now)
    assert given.attempt == 1
    assert given.items == (USER,)
    assert given.state.resume_sha256 == (b"n" * 32, TOKEN)
    assert [(e.attempt, e.sequence, e.type) for e in given.events] == [(1, 1, "session.updated")]
    assert not driver.session.hand_over(None, driver.now).whole
