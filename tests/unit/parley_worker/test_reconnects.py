"""What a session does while its provider's WebSocket is replaced, in virtual time."""

from __future__ import annotations

from dataclasses import replace

from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.conversation import ASKED_SECONDS
from parley_worker.core.model import EndReason, LimitsConfig, SessionState
from session_driver import Driver, sent, to_leg

LOST = ev.ProviderReconnecting("ProviderUnavailable", 1, 0.1)
QUOTA = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "check your plan"}


def test_a_caller_stays_attached_and_the_report_names_the_new_socket() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.feed(LOST)
    assert driver.session.state is SessionState.ACTIVE
    effects = driver.feed(ev.ProviderReconnected("ws_new", "lost", 0.4, 3))
    assert driver.session.report.web_socket_id == "ws_new"
    assert fx.StateChanged(SessionState.ACTIVE) in effects
    assert driver.facts()[-2:] == ["provider_reconnecting", "provider_reconnected"]


def test_an_answer_cut_in_the_middle_is_cleared_and_truncated_and_nothing_is_cancelled() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking(ms=1000, sent=500)
    effects = driver.feed(replace(LOST, cut=True))
    (clear,) = to_leg(effects, fx.Clear)
    assert clear.reason is fx.ClearReason.RECONNECT
    assert sent(effects, "response.cancel") == []
    later = driver.until(driver.now + 1)
    (truncate,) = sent(later, "conversation.item.truncate")
    assert 300 <= truncate["audio_end_ms"] <= 500
    assert "barge_in" not in driver.facts()


def test_an_answer_that_was_whole_plays_on() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking()
    effects = driver.feed(LOST)
    assert to_leg(effects, fx.Clear) == []


def test_a_greeting_is_not_said_again() -> None:
    driver = Driver(greet=True).ready()
    assert len(sent(driver.attach(), "response.create")) == 1
    effects = driver.feed(LOST)
    effects += driver.feed(ev.ProviderReconnected("ws_new", "lost", 0.4, 0))
    driver.feed(ev.LegLost("cancelled"))
    effects += driver.attach(ev.CredentialKind.RESUME)
    assert sent(effects, "response.create") == []


def test_a_request_that_is_never_taken_up_blocks_no_later_one() -> None:
    driver = Driver(greet=True).ready()
    driver.attach()
    talk = driver.session._talk
    assert not talk.free
    driver.until(driver.now + ASKED_SECONDS - 1)
    assert not talk.free
    driver.until(driver.now + 2)
    assert talk.free


def test_the_provider_may_be_changed_only_while_nobody_speaks_and_nothing_plays() -> None:
    driver = Driver().ready()
    driver.attach()
    assert not driver.session.quiet(driver.now)
    assert driver.session.quiet(driver.now + 1)
    driver.speaking(ms=1000, sent=1000)
    driver.provider("response.done", response={"id": "r", "status": "completed"})
    assert not driver.session.quiet(driver.now)
    assert driver.session.quiet(driver.now + 2)
    driver.provider("input_audio_buffer.speech_started", item_id="u", audio_start_ms=0)
    assert not driver.session.quiet(driver.now + 2)


def test_a_quota_that_is_used_up_ends_the_session_with_words_that_help() -> None:
    driver = Driver().ready()
    driver.attach()
    details = {"type": "failed", "error": QUOTA}
    driver.provider("response.done", response={"id": "r", "status": "failed", "status_details": details})
    report = driver.session.report
    assert report.end_reason is EndReason.PROVIDER_QUOTA
    assert "quota is used up" in report.end_message
    assert "check your plan" in report.end_message


def test_a_loss_that_could_not_be_mended_is_counted_as_one() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.feed(LOST)
    effects = driver.feed(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, "gone"))
    measured = [e.measure for e in effects if isinstance(e, fx.Observe)]
    assert fx.Measure.RECONNECT_FAILED in measured
    assert driver.session.state is SessionState.ENDED


def test_speech_that_the_new_provider_does_not_hear_holds_up_nobody() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.provider("session.updated", session={"turn_detection": {"type": "server_vad"}})
    driver.provider("input_audio_buffer.speech_started", item_id="u", audio_start_ms=0)
    driver.feed(LOST)
    driver.until(driver.now + 1)
    driver.feed(ev.ProviderReconnected("ws_new", "lost", 1.0, 0))
    assert not driver.session.quiet(driver.now)
    assert driver.session.quiet(driver.now + 5)


def test_speech_goes_on_over_a_rotation_at_a_quiet_moment() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.provider("input_audio_buffer.speech_started", item_id="u", audio_start_ms=0)
    driver.feed(ev.ProviderReconnected("ws_new", "rotation", 0.0, 0))
    assert not driver.session.quiet(driver.now + 5)


def test_a_gap_in_which_nobody_can_be_heard_is_no_idleness() -> None:
    driver = Driver(limits=LimitsConfig(3600, 30, 30, 20)).ready()
    driver.attach()
    for attempt in range(1, 5):
        driver.feed(replace(LOST, attempt=attempt))
        driver.until(driver.now + 20)
    driver.feed(ev.ProviderReconnected("ws_new", "lost", 80.0, 0))
    driver.until(driver.now + 20)
    assert driver.session.state is SessionState.ACTIVE
    driver.until(driver.now + 20)
    assert driver.session.report.end_reason is EndReason.IDLE_TIMEOUT


def test_a_request_that_waits_in_the_gap_is_not_given_up() -> None:
    driver = Driver(greet=True).ready()
    driver.attach()
    driver.feed(LOST)
    driver.until(driver.now + ASKED_SECONDS - 1)
    driver.feed(ev.ProviderReconnected("ws_new", "lost", 44.0, 0))
    driver.until(driver.now + 2)
    assert not driver.session._talk.free
