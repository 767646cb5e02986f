"""The session core in virtual time."""

from __future__ import annotations

import itertools
import json

import pytest
from parley_worker.codec import control_pb, media_pb
from parley_worker.codec.events_pb import encode
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.media_path import PlayoutMode
from parley_worker.core.model import (
    TRANSITIONS,
    EndReason,
    SessionState,
)
from session_driver import PCM24, Driver, sent, to_leg

S = SessionState


def test_every_edge_of_the_table_is_walked_and_no_other() -> None:
    walked = set()

    def watch(driver: Driver) -> None:
        states = [S.CONNECTING]
        states += [e.state for e in driver.effects if isinstance(e, fx.StateChanged)]
        walked.update((a, b) for a, b in itertools.pairwise(states) if a is not b)

    end = ev.TerminateRequested(EndReason.TERMINATED, "x")
    connecting, waiting, active, detached = Driver(), Driver().ready(), Driver().ready(), Driver().ready()
    active.attach()
    detached.attach()
    detached.feed(ev.LegLost("cancelled"))
    back = Driver().ready()
    back.attach()
    back.feed(ev.LegLost("cancelled"))
    back.attach(ev.CredentialKind.RESUME)
    for driver in (connecting, waiting, active, detached, back):
        driver.feed(end)
        watch(driver)
    assert walked == {(a, b) for a, following in TRANSITIONS.items() for b in following}


def test_configured_means_ready() -> None:
    driver = Driver()
    effects = driver.feed(ev.ProviderOpened("client", "socket"))
    assert sent(effects, "session.update")[0]["session"] == {"instructions": "x"}
    assert driver.session.state is S.CONNECTING
    driver.now += 0.25
    driver.provider("session.updated", session={"model": "m2"})
    report = driver.session.report
    assert (report.state, report.client_id, report.web_socket_id) == (S.READY, "client", "socket")
    assert report.ready_at == 1_000_000.25
    assert driver.facts() == ["admitted", "provider_connected"]


def test_a_refused_session_gives_way_to_the_close_that_follows() -> None:
    driver = Driver()
    driver.feed(ev.ProviderOpened("c", "s"))
    driver.provider("error", error={"code": "invalid_api_key", "message": "wrong sk-secret"})
    driver.feed(ev.ProviderLost(EndReason.PROVIDER_AUTH_FAILED, "wrong sk-secret", 3000))
    assert driver.session.report.end_reason is EndReason.PROVIDER_AUTH_FAILED
    assert driver.session.report.end_message == "wrong ***"
    alone = Driver()
    alone.feed(ev.ProviderOpened("c", "s"))
    alone.provider("error", error={"message": "bad voice"})
    alone.until(alone.now + 2)
    assert alone.session.report.end_reason is EndReason.INVALID_SPEC


@pytest.mark.parametrize(
    ("steps", "seconds", "reason"),
    [
        ("", 10, EndReason.PROVIDER_UNAVAILABLE),
        ("r", 30, EndReason.ATTACH_TIMEOUT),
        ("ra", 60, EndReason.IDLE_TIMEOUT),
        ("rad", 20, EndReason.REATTACH_TIMEOUT),
    ],
)
def test_waits_end_at_their_deadline(steps: str, seconds: float, reason: EndReason) -> None:
    driver = Driver()
    for step in steps:
        {"r": driver.ready, "a": driver.attach, "d": lambda: driver.feed(ev.LegLost("cancelled"))}[step]()
    assert driver.session.next_deadline() == driver.now + seconds
    driver.until(driver.now + seconds - 0.001)
    assert driver.session.state is not S.ENDED
    driver.until(driver.now + 0.002)
    assert driver.session.report.end_reason is reason
    assert driver.session.next_deadline() is None
    assert driver.feed(ev.DeadlineReached()) == []


def test_the_longest_call_ends_too_however_lively() -> None:
    driver = Driver().ready()
    driver.attach()
    for _ in range(100):
        driver.until(driver.now + 50)
        driver.provider("input_audio_buffer.speech_started")
        driver.provider("input_audio_buffer.speech_stopped")
    assert driver.session.report.end_reason is EndReason.MAX_DURATION


def test_idle_does_not_run_while_somebody_speaks_or_audio_is_heard() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.provider("input_audio_buffer.speech_started")
    driver.until(driver.now + 300)
    assert driver.session.state is S.ACTIVE
    driver.provider("input_audio_buffer.speech_stopped")
    driver.session.ledger.received(("i", 0), 1, 100_000, driver.now)
    driver.session.ledger.sent(("i", 0), 0, 100_000, driver.now)
    driver.until(driver.now + 150)
    assert driver.session.state is S.ACTIVE
    driver.until(driver.now + 15)
    assert driver.session.report.end_reason is EndReason.IDLE_TIMEOUT


def test_speech_that_never_stops_and_an_answer_that_never_ends_hold_idleness_off_for_a_bounded_time() -> None:
    driver = Driver().ready()
    driver.attach()
    begun = driver.now
    driver.provider("input_audio_buffer.speech_started")
    driver.until(begun + 359)
    assert driver.session.state is S.ACTIVE
    driver.until(begun + 361)
    assert driver.session.report.end_reason is EndReason.IDLE_TIMEOUT

    driver = Driver().ready()
    driver.attach()
    driver.provider("response.created", response={"id": "r"})
    for _ in range(10):
        driver.until(driver.now + 40)
        driver.provider("response.output_text.delta", response_id="r", delta="still there")
    driver.until(driver.now + 59)
    assert driver.session.state is S.ACTIVE
    driver.until(driver.now + 2)
    assert driver.session.report.end_reason is EndReason.PROVIDER_UNAVAILABLE


def test_latency_belongs_to_the_response_that_was_asked_for() -> None:
    def latencies() -> list[float]:
        measured = [e for e in driver.effects if isinstance(e, fx.Observe)]
        return [round(e.value, 3) for e in measured if e.measure is fx.Measure.FIRST_AUDIO]

    driver = Driver().ready()
    driver.attach()
    driver.provider("input_audio_buffer.speech_stopped")
    driver.now += 0.3
    driver.provider("response.created", response={"id": "r1"})
    driver.provider("response.done", response={"id": "r1"})
    driver.now += 0.2
    driver.feed(ev.FirstFrame("r1"))
    assert latencies() == [0.5]
    driver.feed(ev.FirstFrame("never announced"))
    assert latencies() == [0.5]
    assert driver.facts().count("first_audio") == 2


def test_only_speech_over_the_agent_counts_as_barge_in() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking()
    driver.said(ev.ClearRequest())
    measured = [e.measure for e in driver.effects if isinstance(e, fx.Observe)]
    assert fx.Measure.BARGE_IN not in measured


def test_what_a_provider_sends_fits_the_messages_that_carry_it() -> None:
    driver = Driver().ready()
    driver.attach()
    usage = {"input_tokens": 10**30, "output_tokens": -5, "input_token_details": {"cached_tokens": True}}
    driver.provider("response.done", response={"id": "r", "usage": usage})
    half = "half of a pair: \ud83d"
    driver.provider("conversation.item.input_audio_transcription.completed", item_id=half, transcript=half)
    driver.provider("error", error={"type": half, "code": "x" * 1000, "message": half})
    driver.feed(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, half))
    for record in (e.record for e in driver.effects if isinstance(e, fx.Publish)):
        encode(record, "worker", "instance")
    for effect in driver.effects:
        if isinstance(effect, fx.SendLeg):
            media_pb.write(effect.message, "instance")
    report = control_pb.session_report(driver.session.report, control_pb.Endpoint("host:1"))
    assert (report.usage.input_tokens, report.usage.output_tokens) == (2**31 - 1, 0)
    (failure,) = [
        e.record for e in driver.effects if isinstance(e, fx.Publish) and e.record.type == "provider_error"
    ]
    assert len(str(failure.fields["code"])) == 100


def test_the_greeting_is_asked_for_once() -> None:
    driver = Driver(greet=True).ready()
    assert sent(driver.effects, "response.create") == []
    assert len(sent(driver.attach(), "response.create")) == 1
    driver.feed(ev.LegLost("cancelled"))
    assert sent(driver.attach(ev.CredentialKind.RESUME), "response.create") == []


def test_who_may_attach() -> None:
    def reason(driver: Driver, kind: ev.CredentialKind, uid: str = "") -> str:
        request = ev.AttachRequest(kind, PCM24, PCM24, PlayoutMode.REALTIME, session_uid=uid)
        refusal = driver.session.check_attach(request, driver.now)
        return refusal.reason if refusal else ""

    kinds = ev.CredentialKind
    assert reason(Driver(), kinds.TICKET) == "session-not-ready"
    driver = Driver().ready()
    assert reason(driver, kinds.TICKET) == ""
    assert reason(driver, kinds.NONE) == "credential-missing"
    assert reason(driver, kinds.TICKET, uid="other") == "other-session"
    driver.now += 50
    assert reason(driver, kinds.TICKET) == "ticket-expired"
    driver.attach()
    assert reason(driver, kinds.TICKET) == "ticket-used"
    assert reason(driver, kinds.RESUME) == ""
    driver.said(ev.Hangup())
    assert reason(driver, kinds.RESUME) == "session-ended"


def test_barge_in_waits_200_ms_for_the_caller_and_then_takes_the_clock_less_the_buffer() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking(1000, 500)
    effects = driver.provider("input_audio_buffer.speech_started", item_id="u", audio_start_ms=5)
    assert to_leg(effects, fx.Clear) == [fx.Clear(1, fx.ClearReason.BARGE_IN)]
    assert [e for e in effects if isinstance(e, fx.ClearMedia)] == [fx.ClearMedia(("r",))]
    assert sent(effects, "response.cancel") == []
    assert driver.session.next_deadline() == driver.now + 0.2
    fired = driver.until(driver.now + 0.2)
    (truncate,) = sent(fired, "conversation.item.truncate")
    assert (truncate["item_id"], truncate["audio_end_ms"]) == ("i", 400)
    (event,) = [e.record for e in fired if isinstance(e, fx.Publish)]
    assert (event.type, event.fields["source"]) == ("barge_in", "clock")


@pytest.mark.parametrize("source", ["cleared", "mark", "progress"])
def test_barge_in_prefers_the_callers_word(source: str) -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking(1000, 500)
    if source == "mark":
        (mark,) = to_leg(driver.feed(ev.PartSent("i", 0, 1, 240)), fx.Mark)
        driver.said(ev.MarkPlayed(mark.name, 1))
    driver.said(ev.Progress("i", 0, 240 if source == "progress" else 10, 1))
    effects = driver.provider("input_audio_buffer.speech_started")
    if source == "cleared":
        effects = driver.said(ev.Cleared(9, "i", 0, 1)) + driver.said(ev.Cleared(1, "i", 0, 240))
    effects += driver.until(driver.now + 1)
    assert [t["audio_end_ms"] for t in sent(effects, "conversation.item.truncate")] == [240]
    cuts = [
        e.record.fields["source"]
        for e in effects
        if isinstance(e, fx.Publish) and "source" in e.record.fields
    ]
    assert cuts == [source]


def test_speech_over_silence_is_no_barge_in() -> None:
    driver = Driver().ready()
    driver.attach()
    effects = driver.provider("input_audio_buffer.speech_started")
    assert to_leg(effects, fx.Clear) == []
    assert "barge_in" not in driver.facts()


def test_an_agent_that_may_not_be_interrupted_speaks_on() -> None:
    turn = {"type": "server_vad", "interrupt_response": False}
    driver = Driver().ready(audio={"input": {"turn_detection": turn}})
    driver.attach()
    driver.speaking()
    assert to_leg(driver.provider("input_audio_buffer.speech_started"), fx.Clear) == []


@pytest.mark.parametrize("event", [ev.LegSaid(ev.ClearRequest()), ev.OutputOverflow()])
def test_silence_on_request_and_overflow_cancel_the_answer(event: ev.Event) -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking()
    effects = driver.feed(event)
    assert len(sent(effects, "response.cancel")) == 1
    assert len(to_leg(effects, fx.Clear)) == 1
    driver.provider("response.done", response={"id": "r", "status": "cancelled"})
    assert driver.until(driver.now + 1)
    assert "barge_in" not in driver.facts()


def test_a_caller_lost_while_its_word_is_awaited_still_gets_its_history_cut() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking()
    driver.provider("input_audio_buffer.speech_started")
    effects = driver.feed(ev.LegLost("cancelled"))
    assert len(sent(effects, "conversation.item.truncate")) == 1


def test_tool_results_are_answered_once_all_are_there() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.provider("response.created", response={"id": "r"})
    for call in ("c1", "c2"):
        item = {"type": "function_call", "call_id": call, "name": "f", "arguments": "{}"}
        driver.provider("response.output_item.done", response_id="r", item=item)
    assert sent(driver.said(ev.ToolOutput("c1", "1")), "response.create") == []
    assert sent(driver.said(ev.ToolOutput("c2", "2")), "response.create") == []
    done = driver.provider("response.done", response={"id": "r", "status": "completed"})
    assert len(sent(done, "response.create")) == 1
    refused = to_leg(driver.said(ev.ToolOutput("c1", "again")), fx.ConversationEvent)
    assert "already" in json.loads(refused[0].event_json)["message"]
    types = [type_ for type_, _ in driver.journal()]
    assert types == ["session_configured", "tool_call", "tool_call", "tool_result", "tool_result"]


def test_missed_events_come_again_within_bounds() -> None:
    driver = Driver().ready()
    for n in range(600):
        driver.provider("rate_limits.updated", n=n)
    replayed = to_leg(driver.attach(), fx.ConversationEvent)
    assert [e.sequence for e in replayed] == list(range(90, 602))
    driver.feed(ev.LegLost("cancelled"))
    driver.provider("rate_limits.updated")
    again = driver.attach(ev.CredentialKind.RESUME, last=601)
    assert [e.sequence for e in to_leg(again, fx.ConversationEvent)] == [602]


def test_records_are_gapless_and_privacy_keeps_content_out() -> None:
    for privacy in (False, True):
        driver = Driver(privacy=privacy).ready()
        driver.attach()
        driver.said(ev.Dtmf("5"))
        item = {"id": "i", "content": [{"type": "input_audio", "audio": "AAAA", "transcript": "t"}]}
        driver.provider("conversation.item.done", item=item)
        driver.said(ev.Hangup("bye"))
        for kind in ("event", "journal"):
            records = [e.record for e in driver.effects if isinstance(e, fx.Publish)]
            sequences = [r.sequence for r in records if r.kind == kind]
            assert sequences == list(range(1, len(sequences) + 1))
        assert driver.facts()[-1] == "ended"
        if privacy:
            assert driver.journal() == []
        else:
            journal = dict(driver.journal())
            assert "AAAA" not in str(journal["item_done"]["item_json"])
            assert journal["session_ended"] == {"reason": "CallerHangup", "note": "bye"}
            assert driver.session.report.journal_last == sequences[-1]


def test_beta_items_are_journalled_once() -> None:
    driver = Driver(api_version="beta").ready()
    driver.provider("conversation.item.created", item={"id": "u", "role": "user"}, previous_item_id="p")
    driver.provider("conversation.item.created", item={"id": "a", "role": "assistant"})
    driver.provider("response.output_item.done", item={"id": "a", "role": "assistant"})
    items = [json.loads(str(f["item_json"]))["id"] for t, f in driver.journal() if t == "item_done"]
    assert items == ["u", "a"]


def test_usage_adds_up() -> None:
    driver = Driver().ready()
    usage = {"input_tokens": 5, "output_tokens": 7, "input_token_details": {"cached_tokens": 2}}
    for _ in range(2):
        driver.provider("response.done", response={"id": "r", "status": "completed", "usage": usage})
    driver.session.counters.output_ms = 1500
    report = driver.session.report.usage
    assert (report.input_tokens, report.output_tokens, report.cached_tokens) == (10, 14, 4)
    assert report.output_audio_seconds == 1.5


def test_first_audio_is_measured_from_the_end_of_speech() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.provider("input_audio_buffer.speech_stopped")
    driver.now += 0.3
    driver.provider("response.created", response={"id": "r"})
    driver.now += 0.12
    (publish, observe) = driver.feed(ev.FirstFrame("r"))
    assert isinstance(publish, fx.Publish)
    assert publish.record.fields["latency_ms"] == 420
    assert isinstance(observe, fx.Observe)
    assert observe.value == pytest.approx(0.42)


def test_no_secret_in_any_repr_or_event() -> None:
    driver = Driver()
    driver.feed(ev.ProviderOpened("c", "s"))
    driver.ready()
    driver.attach()
    driver.provider("error", error={"message": "Incorrect key sk-secret"})
    driver.feed(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, "lost sk-secret"))
    everything = repr(driver.effects) + repr(driver.session.config) + repr(driver.session.report)
    texts = [m.event_json for m in to_leg(driver.effects, fx.ConversationEvent)]
    assert "sk-secret" not in everything + "".join(texts)
    assert "token" not in repr(to_leg(driver.effects, fx.Started))


def test_a_mark_that_comes_back_after_a_clear_proves_nothing() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking(1000, 500)
    (mark,) = to_leg(driver.feed(ev.PartSent("i", 0, 1, 500)), fx.Mark)
    driver.provider("input_audio_buffer.speech_started")
    driver.said(ev.MarkPlayed(mark.name, 1))
    fired = driver.until(driver.now + 1)
    assert [t["audio_end_ms"] for t in sent(fired, "conversation.item.truncate")] == [400]


def test_under_privacy_the_event_of_the_end_has_no_words_of_others() -> None:
    for privacy, message in ((True, ""), (False, "the instructions were: be kind")):
        driver = Driver(privacy=privacy).ready()
        driver.feed(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, "the instructions were: be kind"))
        (end,) = [e.record for e in driver.effects if isinstance(e, fx.Publish) and e.record.type == "ended"]
        assert end.fields["message"] == message
        assert driver.session.report.end_message == "the instructions were: be kind"


def test_conversation_events_have_no_audio_no_credential_of_a_tool_and_a_bounded_size() -> None:
    driver = Driver().ready()
    driver.attach()
    tool = {"type": "mcp", "server_label": "s", "authorization": "token-of-a-tool", "headers": {"X": "y"}}
    content = [{"type": "audio", "audio": "AAAA", "transcript": "hi"}]
    effects = driver.provider("session.updated", session={"tools": [tool, 7]})
    effects += driver.provider("conversation.item.retrieved", item={"id": "i", "content": content})
    effects += driver.provider("a.new.event", event_id="e", text="\u00e4" * 600_000)
    shown = [json.loads(m.event_json) for m in to_leg(effects, fx.ConversationEvent)]
    assert shown[0]["session"]["tools"] == [{"type": "mcp", "server_label": "s"}, 7]
    assert shown[1]["item"]["content"] == [{"type": "audio", "transcript": "hi"}]
    assert shown[2]["type"] == "a.new.event"
    assert shown[2]["parley_omitted_bytes"] > 1_200_000
    assert "token-of-a-tool" not in str(driver.journal())
    driver.feed(ev.LegLost("cancelled"))
    replayed = to_leg(driver.attach(ev.CredentialKind.RESUME, last=1), fx.ConversationEvent)
    assert [event.sequence for event in replayed] == [2, 3, 4]
