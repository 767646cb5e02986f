"""Marks, interruptions that come one upon another, and the words that were heard; in virtual time."""

from __future__ import annotations

import pytest
from parley_worker.codec.events_pb import encode
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.media_path import OutMark, OutputPath, PlayoutMode
from parley_worker.core.playout import AudioCounters, Cut, Heard, PlayoutLedger
from session_driver import PCM24, Driver, sent, to_leg

KEY, NEXT = ("item_1", 0), ("item_2", 0)
SPEECH = "input_audio_buffer.speech_started"


def playing(*lengths: int, marks: int = 200, buffer_ms: int = 0) -> PlayoutLedger:
    """Parts of these lengths, all sent at 100 s; the caller promised to return marks."""
    ledger = PlayoutLedger()
    ledger.attached(buffer_ms, marking=True)
    for number, length in enumerate(lengths, 1):
        key = (f"item_{number}", 0)
        ledger.received(key, 1, length, 100)
        ledger.sent(key, 0, length, 100)
        ledger.done(key)
        for position in [*range(marks, length, marks), length]:
            ledger.marked(key, position)
    return ledger


def test_between_two_marks_the_player_goes_on_and_never_past_the_next() -> None:
    for now, heard in ((100.55, 400), (100.65, 500), (100.8, 600), (102.5, 600)):
        ledger = playing(1000)
        ledger.acknowledge(KEY, 200, "mark", 100.3)
        ledger.acknowledge(KEY, 400, "mark", 100.55)
        assert ledger.cut(1, None, now) == [Cut("item_1", 0, heard, "mark", 1)]


def test_before_the_first_mark_the_clock_counts_and_the_mark_holds_it() -> None:
    assert playing(1000).cut(1, None, 100.15) == [Cut("item_1", 0, 150, "clock", 1)]
    assert playing(1000).cut(1, None, 100.9) == [Cut("item_1", 0, 200, "mark", 1)]
    assert playing(1000, 500).cut(1, None, 101.3) == [
        Cut("item_1", 0, 200, "mark", 1),
        Cut("item_2", 0, 0, "mark", 1),
    ]


def test_a_mark_at_the_end_of_a_part_holds_nobody_up_in_the_next() -> None:
    ledger = playing(300, 1000)
    ledger.acknowledge(KEY, 200, "mark", 100.2)
    assert ledger.cut(1, None, 100.38) == [Cut("item_2", 0, 80, "mark", 1)]
    ledger = playing(300, 1000)
    ledger.acknowledge(KEY, 300, "mark", 100.3)
    assert ledger.cut(1, None, 100.42) == [Cut("item_2", 0, 120, "clock", 1)]


def test_what_is_marked_and_not_returned_is_unheard_whatever_the_clock_says() -> None:
    ledger = playing(1000)
    ledger.acknowledge(KEY, 800, "mark", 101.4)
    assert ledger.unheard(101.5)
    ledger.acknowledge(KEY, 1000, "mark", 101.6)
    assert not ledger.unheard(101.6)


def test_marks_of_a_player_that_is_gone_hold_nobody() -> None:
    ledger = playing(1000)
    ledger.attached(0, marking=False)
    assert ledger.cut(1, None, 100.9)[0].audio_end_ms == 900


def test_a_part_that_the_caller_names_with_nothing_heard_keeps_one_frame() -> None:
    assert playing(500, 500).cut(1, Heard("item_1", 0, 0), 100.4) == [
        Cut("item_1", 0, 20, "cleared", 1),
        Cut("item_2", 0, 0, "cleared", 1),
    ]


def test_marks_stand_within_the_audio_where_they_were_asked_for() -> None:
    for mode, spacing in ((PlayoutMode.REALTIME, 200), (PlayoutMode.BURST, 200)):
        path = OutputPath(PROVIDER_FORMATS["pcm16"], PlayoutLedger(), AudioCounters(), 1 << 20)
        path.attach(PCM24, mode, spacing)
        path.push(bytes(48 * 700), "r", "i", 0, 100.0)
        path.end_part("r", "i", 0)
        now, marks = 100.0, []
        for _ in range(60):
            marks += [out.position_ms for out in path.take(now, 1 << 20) if isinstance(out, OutMark)]
            now += 0.02
        assert marks == [200, 400, 600, 700]


def test_a_second_interruption_does_not_end_the_wait_of_the_first() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking(1000, 500)
    driver.provider(SPEECH)
    driver.now += 0.05
    again = driver.provider(SPEECH)
    assert to_leg(again, fx.Clear) == []
    assert sent(again, "conversation.item.truncate") == []
    said = driver.said(ev.Cleared(1, "i", 0, 260))
    assert [t["audio_end_ms"] for t in sent(said, "conversation.item.truncate")] == [260]


def test_two_answers_cut_in_a_row_each_end_where_the_caller_says() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.speaking(1000, 500)
    driver.provider(SPEECH)
    driver.now += 0.05
    driver.session.ledger.received(("j", 0), 2, 600, driver.now)
    driver.session.ledger.sent(("j", 0), 0, 100, driver.now)
    (clear,) = to_leg(driver.provider(SPEECH), fx.Clear)
    assert clear.epoch == 2
    first = driver.said(ev.Cleared(1, "i", 0, 300))
    second = driver.said(ev.Cleared(2, "j", 0, 40))
    cuts = [(t["item_id"], t["audio_end_ms"]) for t in sent(first + second, "conversation.item.truncate")]
    assert cuts == [("i", 300), ("j", 40)]
    driver.provider("response.done", response={"id": "r", "status": "cancelled"})
    assert driver.session._talk.next_deadline() is None


def test_a_caller_that_never_answers_clear_is_not_waited_for() -> None:
    driver = Driver().ready()
    request = ev.AttachRequest(
        ev.CredentialKind.TICKET,
        PCM24,
        PCM24,
        PlayoutMode.REALTIME,
        mark_interval_ms=100,
        answers_clear=False,
    )
    driver.feed(ev.LegAttached(request, "token"))
    driver.speaking(1000, 500)
    driver.provider(SPEECH)
    assert driver.session.next_deadline() == driver.now
    fired = driver.until(driver.now)
    assert [t["audio_end_ms"] for t in sent(fired, "conversation.item.truncate")] == [500]


def test_the_journal_says_what_was_made_and_what_was_heard_of_it() -> None:
    words = ("one ", "two ", "three ", "four ", "five")
    for late in (True, False):
        driver = Driver().ready()
        driver.attach()
        driver.provider("response.created", response={"id": "r"})
        for position, word in enumerate(words):
            driver.provider(
                "response.output_audio_transcript.delta", item_id="i", content_index=0, delta=word
            )
            driver.session.ledger.received(("i", 0), 1, 200, driver.now)
            driver.session.ledger.sent(("i", 0), position * 200, 200, driver.now)
        text = "".join(words)
        done = {"item_id": "i", "content_index": 0, "transcript": text}
        if late:
            driver.provider("response.output_audio_transcript.done", **done)
        driver.now += 0.45
        driver.provider(SPEECH)
        driver.said(ev.Cleared(1, "i", 0, 450))
        if not late:
            driver.provider("response.output_audio_transcript.done", **done)
        records = [fields for kind, fields in driver.journal() if kind == "transcript"]
        whole = {"item_id": "i", "content_index": 0, "role": "assistant", "text": text, "audio_ms": 1000}
        cut = {**whole, "heard_text": "one two", "truncated": True}
        assert records == ([whole, cut] if late else [cut])
        *_, last = [e.record for e in driver.effects if isinstance(e, fx.Publish)]
        if not late:
            assert '"one two"' in encode(last, "worker", "instance").payload.decode()


@pytest.mark.parametrize("interrupted", [True, False])
def test_the_journal_says_what_was_heard_of_an_answer_that_the_end_of_the_call_cut(interrupted: bool) -> None:
    """Also when the provider never came to say all of its words, and when a Clear was not answered yet."""
    driver = Driver().ready()
    driver.attach()
    driver.provider("response.created", response={"id": "r"})
    for position, word in enumerate(("one ", "two ", "three ", "four ", "five")):
        driver.provider("response.output_audio_transcript.delta", item_id="i", content_index=0, delta=word)
        driver.session.ledger.received(("i", 0), 1, 200, driver.now)
        driver.session.ledger.sent(("i", 0), position * 200, 200, driver.now)
    driver.now += 0.55
    if interrupted:
        driver.provider(SPEECH)
    ended = driver.said(ev.Hangup())
    records = [fields for kind, fields in driver.journal() if kind == "transcript"]
    whole = {"item_id": "i", "content_index": 0, "role": "assistant", "text": "one two three four five"}
    whole["audio_ms"] = 1000
    assert records == [{**whole, "heard_text": "one two", "truncated": True}]
    assert driver.journal()[-1][0] == "session_ended"
    assert not sent(ended, "conversation.item.truncate")


def test_an_answer_that_was_heard_to_its_end_is_not_told_as_cut() -> None:
    driver = Driver().ready()
    driver.attach()
    driver.provider("response.output_audio_transcript.done", item_id="i", content_index=0, transcript="one")
    driver.speaking(500, 500)
    driver.session.ledger.done(("i", 0))
    driver.now += 0.2
    driver.said(ev.Hangup())
    assert [f.get("truncated", False) for kind, f in driver.journal() if kind == "transcript"] == [False]


def test_privacy_keeps_the_heard_words_to_itself() -> None:
    driver = Driver(privacy=True).ready()
    driver.attach()
    driver.speaking(1000, 500)
    driver.provider(
        "response.output_audio_transcript.delta", item_id="i", content_index=0, delta="secret words"
    )
    driver.provider(SPEECH)
    driver.until(driver.now + 1)
    driver.said(ev.Hangup())
    assert driver.journal() == []
    assert "secret words" not in repr(driver.effects)
