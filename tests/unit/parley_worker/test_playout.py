"""The ledger of what was heard, and its promise: never past what was sent, never less than acknowledged."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from parley_realtime.formats import FRAME_MS
from parley_worker.core.playout import Cut, Heard, PlayoutLedger

KEY = ("item_1", 0)
NEXT = ("item_2", 0)


def spoken(ms: int, *, sent: int, at: float = 100.0, burst: bool = False) -> PlayoutLedger:
    """A ledger with one part of `ms`, of which `sent` went out from `at` on in 20 ms frames."""
    ledger = PlayoutLedger()
    ledger.received(KEY, 1, ms, at)
    for position in range(0, sent, 20):
        ledger.sent(KEY, position, 20, at if burst else at + position / 1000)
    return ledger


def test_the_callers_word_wins() -> None:
    ledger = spoken(1000, sent=500)
    ledger.acknowledge(KEY, 100, "progress", 100.1)
    assert ledger.cut(1, Heard("item_1", 0, 320), 100.6) == [Cut("item_1", 0, 320, "cleared", 1)]


def test_the_callers_word_is_held_to_what_was_sent_and_acknowledged() -> None:
    assert spoken(1000, sent=500).cut(1, Heard("item_1", 0, 9000), 101)[0].audio_end_ms == 500
    ledger = spoken(1000, sent=500)
    ledger.acknowledge(KEY, 300, "mark", 100.3)
    assert ledger.cut(1, Heard("item_1", 0, 10), 101)[0].audio_end_ms == 300


def test_without_a_word_the_last_acknowledgement_counts() -> None:
    ledger = spoken(1000, sent=500)
    ledger.acknowledge(KEY, 240, "progress", 100.24)
    assert ledger.cut(1, None, 101) == [Cut("item_1", 0, 240, "progress", 1)]


def test_without_any_the_clock_less_the_buffer_counts() -> None:
    ledger = PlayoutLedger()
    ledger.buffer_ms = 200
    ledger.received(KEY, 1, 1000, 100)
    for position in range(0, 500, 20):
        ledger.sent(KEY, position, 20, 100 + position / 1000)
    assert ledger.cut(1, None, 100.5) == [Cut("item_1", 0, 300, "clock", 1)]


def test_a_burst_is_heard_in_real_time() -> None:
    ledger = spoken(5000, sent=5000, burst=True)
    assert ledger.unheard(104)
    assert ledger.cut(1, None, 101.25) == [Cut("item_1", 0, 1250, "clock", 1)]


def test_zero_is_never_said_of_audio_that_was_sent() -> None:
    ledger = PlayoutLedger()
    ledger.buffer_ms = 1000
    ledger.received(KEY, 1, 1000, 100)
    ledger.sent(KEY, 0, 20, 100)
    assert ledger.cut(1, Heard("", 0, 0), 100.01)[0].audio_end_ms == FRAME_MS


def test_zero_is_said_where_nothing_was_sent() -> None:
    ledger = spoken(1000, sent=1000)
    ledger.done(KEY)
    ledger.received(NEXT, 1, 400, 101)
    cuts = ledger.cut(1, None, 101.1)
    assert cuts == [Cut("item_2", 0, 0, "clock", 1)]


def test_parts_after_the_one_that_the_caller_names_were_not_heard() -> None:
    ledger = spoken(1000, sent=1000, burst=True)
    ledger.done(KEY)
    ledger.received(NEXT, 1, 400, 100)
    ledger.sent(NEXT, 0, 400, 100)
    cuts = ledger.cut(1, Heard("item_1", 0, 500), 101.2)
    assert [(c.item_id, c.audio_end_ms) for c in cuts] == [("item_1", 500), ("item_2", 0)]


def test_parts_before_it_were_heard_to_their_end() -> None:
    ledger = spoken(200, sent=200, burst=True)
    ledger.done(KEY)
    ledger.received(NEXT, 1, 400, 100)
    ledger.sent(NEXT, 0, 400, 100)
    assert ledger.cut(1, Heard("item_2", 0, 100), 100.1) == [Cut("item_2", 0, 100, "cleared", 1)]


def test_what_was_heard_in_full_is_not_cut_and_newer_epochs_stay() -> None:
    ledger = spoken(200, sent=200)
    ledger.done(KEY)
    ledger.received(NEXT, 2, 400, 100)
    assert ledger.cut(1, None, 101) == []
    assert ledger.unheard(101)
    assert ledger.cut(2, None, 101)[0].item_id == "item_2"
    assert not ledger.unheard(101)


def test_an_old_acknowledgement_does_not_cut_what_was_heard_long_ago() -> None:
    ledger = spoken(1000, sent=1000)
    ledger.done(KEY)
    ledger.acknowledge(KEY, 500, "progress", 100.5)
    assert ledger.cut(1, None, 200) == []


class Ledger(RuleBasedStateMachine):
    """Any order of receiving, sending, acknowledging and cutting."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = PlayoutLedger()
        self.now = 100.0
        self.epoch = 1
        self.item = 0
        self.received: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.acked: dict[str, int] = {}

    @property
    def current(self) -> str:
        return f"i{self.item}"

    @rule(ms=st.integers(1, 400))
    def receive(self, ms: int) -> None:
        if self.item == 0:
            self.item = 1
        self.ledger.received((self.current, 0), self.epoch, ms, self.now)
        self.received[self.current] = self.received.get(self.current, 0) + ms

    @rule()
    def next_item(self) -> None:
        self.ledger.done((self.current, 0))
        self.item += 1

    @rule()
    def next_response(self) -> None:
        self.next_item()
        self.epoch += 1

    @rule(ms=st.integers(1, 20))
    def send(self, ms: int) -> None:
        for item in list(self.received):
            left = self.received[item] - self.sent.get(item, 0)
            if left > 0:
                position = self.sent.get(item, 0)
                self.ledger.sent((item, 0), position, min(ms, left), self.now)
                self.sent[item] = position + min(ms, left)
                return

    @rule(ms=st.integers(0, 1000), source=st.sampled_from(["mark", "progress"]))
    def acknowledge(self, ms: int, source: str) -> None:
        for item in reversed(list(self.sent)):
            if item in self.received:
                self.ledger.acknowledge((item, 0), ms, source, self.now)  # type: ignore[arg-type]
                self.acked[item] = max(self.acked.get(item, 0), min(ms, self.sent[item]))
                return

    @rule(ms=st.integers(0, 400))
    def throw_away(self, ms: int) -> None:
        for item in reversed(list(self.sent)):
            self.ledger.unsent((item, 0), ms)
            self.sent[item] = min(self.sent[item], ms)
            self.acked[item] = min(self.acked.get(item, 0), ms)
            return

    @rule()
    def stop(self) -> None:
        self.ledger.stop(self.now)

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(buffer=st.integers(0, 5000))
    def attach(self, buffer: int) -> None:
        self.ledger.buffer_ms = buffer

    @rule(ms=st.integers(0, 2000), answer=st.sampled_from(["none", "empty", "known", "unknown"]))
    def cut(self, ms: int, answer: str) -> None:
        named = next(iter(self.received), "i0") if answer == "known" else "nobody"
        heard = {"none": None, "empty": Heard("", 0, 0)}.get(answer, Heard(named, 0, ms))
        for cut in self.ledger.cut(self.epoch, heard, self.now):
            sent = self.sent.get(cut.item_id, 0)
            assert cut.audio_end_ms <= sent
            assert cut.audio_end_ms >= self.acked.get(cut.item_id, 0)
            assert cut.audio_end_ms <= self.received[cut.item_id]
            if sent > 0 and answer != "known" and not self.acked:
                assert cut.audio_end_ms > 0
        self.received.clear()
        self.sent.clear()
        self.acked.clear()
        self.next_response()

    @invariant()
    def nothing_unheard_without_audio(self) -> None:
        if not self.received:
            assert not self.ledger.unheard(self.now)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_answer_that_begins_before_the_word_on_the_last_one_keeps_its_clock() -> None:
    ledger = spoken(30_000, sent=30_000, burst=True)
    ledger.done(KEY)
    ledger.stop(102)
    ledger.received(NEXT, 2, 5000, 102.05)
    ledger.sent(NEXT, 0, 5000, 102.05)
    assert [c.audio_end_ms for c in ledger.cut(1, None, 102)] == [2000]
    assert ledger.playing_until() == 107.05
    (cut,) = ledger.cut(2, None, 104.05)
    assert (cut.item_id, cut.audio_end_ms) == ("item_2", 2000)


def test_what_was_thrown_away_before_it_left_was_not_sent() -> None:
    ledger = spoken(5000, sent=5000, burst=True)
    ledger.acknowledge(KEY, 4000, "progress", 104)
    ledger.unsent(KEY, 300)
    ledger.unsent(("another", 0), 0)
    assert ledger.cut(1, Heard("item_1", 0, 4000), 110)[0].audio_end_ms == 300


def test_less_than_a_resamplers_rounding_is_not_unheard() -> None:
    ledger = spoken(1000, sent=980)
    ledger.done(KEY)
    ledger.sent(KEY, 980, 19.5, 100.98)
    assert not ledger.unheard(101.5)


def test_the_epoch_is_the_latest_of_those_that_speak_by_turns() -> None:
    ledger = PlayoutLedger()
    ledger.received(KEY, 2, 20, 100)
    ledger.received(NEXT, 1, 20, 100)
    assert ledger.epoch == 2
