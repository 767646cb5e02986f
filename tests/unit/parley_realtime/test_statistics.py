"""What is counted and timed, with a clock of the tests' own."""

from __future__ import annotations

from typing import Any

import pytest
from parley_realtime import Statistics
from parley_realtime.client.statistics import Latency, Meter


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def done(status: str, **usage: int) -> dict[str, Any]:
    return event("response.done", response={"id": "r", "status": status, "usage": usage or None})


SPEAKS = event("input_audio_buffer.speech_started")
SILENT = event("input_audio_buffer.speech_stopped")
BEGUN = event("response.created", response={"id": "r"})


class TestLatency:
    def test_nothing_yet(self) -> None:
        latency = Latency()
        assert (latency.count, latency.mean, bool(latency)) == (0, 0, False)

    def test_several(self) -> None:
        latency = Latency()
        for seconds in (0.2, 0.1, 0.6):
            latency.add(seconds)
        assert (latency.count, latency.last, latency.least, latency.most) == (3, 600, 100, 600)
        assert latency.mean == pytest.approx(300)
        assert str(latency) == "300 ms (100 to 600, 3)"


class TestMeter:
    def setup_method(self) -> None:
        self.statistics = Statistics()
        self.meter = Meter(self.statistics)

    def test_first_audio_after_speech(self) -> None:
        self.meter.received(SPEAKS, 1.0)
        self.meter.received(SILENT, 2.0)
        self.meter.received(BEGUN, 2.1)
        self.meter.audio(0.5, 2.4)
        self.meter.audio(0.5, 2.5)
        assert self.statistics.first_audio_after_speech.last == 400
        assert self.statistics.first_audio_after_speech.count == 1
        assert self.statistics.first_audio_after_create.count == 0

    def test_first_audio_after_response_create(self) -> None:
        self.meter.sent("session.update", 1.0)
        self.meter.sent("response.create", 2.0)
        self.meter.audio(0.5, 2.25)
        assert self.statistics.first_audio_after_create.last == 250

    def test_a_caller_who_goes_on_speaking_is_not_waited_for(self) -> None:
        self.meter.received(SILENT, 2.0)
        self.meter.received(SPEAKS, 2.1)
        self.meter.audio(0.5, 5.0)
        assert self.statistics.first_audio_after_speech.count == 0

    def test_an_answer_in_writing_is_no_late_audio(self) -> None:
        self.meter.sent("response.create", 2.0)
        self.meter.received(BEGUN, 2.1)
        self.meter.received(done("completed"), 2.5)
        self.meter.audio(0.5, 9.0)
        assert self.statistics.first_audio_after_create.count == 0

    @pytest.mark.parametrize("status", ["completed", "cancelled", "failed", "incomplete"])
    def test_responses_by_how_they_ended(self, status: str) -> None:
        self.meter.received(BEGUN, 1.0)
        self.meter.received(done(status, input_tokens=10, output_tokens=4), 2.0)
        counts = {name: getattr(self.statistics, f"responses_{name}") for name in ("created", status)}
        assert counts == {"created": 1, status: 1}
        assert (self.statistics.input_tokens, self.statistics.output_tokens) == (10, 4)

    def test_an_interruption_while_the_response_is_made(self) -> None:
        self.meter.received(BEGUN, 1.0)
        self.meter.received(SPEAKS, 1.5)
        assert self.statistics.interruptions == 1

    def test_an_interruption_while_what_came_faster_still_plays(self) -> None:
        self.meter.received(BEGUN, 1.0)
        self.meter.audio(3.0, 1.1)
        self.meter.audio(2.0, 1.2)
        self.meter.received(done("completed"), 1.3)
        self.meter.received(SPEAKS, 6.0)
        self.meter.received(SPEAKS, 6.2)
        assert self.statistics.interruptions == 1

    def test_nothing_is_interrupted_after_a_clear(self) -> None:
        self.meter.audio(3.0, 1.0)
        self.meter.cleared(2.0)
        self.meter.received(SPEAKS, 2.5)
        assert self.statistics.interruptions == 0

    def test_a_response_that_a_lost_connection_cut_is_not_interrupted_for_ever(self) -> None:
        self.meter.sent("response.create", 0.5)
        self.meter.received(BEGUN, 1.0)
        self.meter.lost()
        self.meter.received(SPEAKS, 2.0)
        assert self.statistics.interruptions == 0
        self.meter.audio(0.5, 2.5)
        assert self.statistics.first_audio_after_create.last == 2000, "the gap is part of the wait"

    def test_errors(self) -> None:
        self.meter.received(event("error", error={}), 1.0)
        assert self.statistics.errors_received == 1

    @pytest.mark.parametrize(
        "response", [None, 7, {}, {"id": [], "status": 3, "usage": {"input_tokens": "x"}}]
    )
    def test_odd_events_are_counted_and_do_no_harm(self, response: object) -> None:
        self.meter.received(event("response.created", response=response), 1.0)
        self.meter.received(event("response.done", response=response), 2.0)
        assert self.statistics.responses_created == 1


def test_a_snapshot_stays_as_it_is() -> None:
    statistics = Statistics()
    before = statistics.snapshot()
    statistics.events_sent += 1
    statistics.connect.add(0.1)
    assert (before.events_sent, before.connect.count) == (0, 0)


def test_what_is_logged_is_what_is_not_zero() -> None:
    statistics = Statistics(events_sent=3)
    statistics.ping.add(0.02)
    assert str(statistics) == "events_sent=3, ping=20 ms (20 to 20, 1)"
