"""Underruns and who is to blame for them, against a playout clock in virtual time."""

from __future__ import annotations

import random

import pytest
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.media_path import OutFrame, OutputPath, PlayoutMode
from parley_worker.core.playout import AudioCounters, PlayoutLedger
from parley_worker.core.underruns import Lateness, UnderrunCause, UnderrunWatch

PCM24 = PROVIDER_FORMATS["pcm16"]
ROOM = 1 << 20
FRAME = bytes(960)


class Playing:
    """A path, its clock, what left and when, and the underruns that were told."""

    def __init__(self, mode: PlayoutMode = PlayoutMode.REALTIME, lead: int = 0) -> None:
        self.told: list[UnderrunCause] = []
        self.loop = Lateness()
        watch = UnderrunWatch(self.told.append, self.loop)
        self.path = OutputPath(PCM24, PlayoutLedger(), AudioCounters(), 1 << 22, watch, lead)
        self.path.attach(PCM24, mode)
        self.now = 10.0
        self.frames: list[tuple[float, OutFrame]] = []
        self.room = ROOM

    def push(self, frames: int, response: str = "r") -> None:
        self.path.push(FRAME * frames, response, f"item of {response}", 0, self.now)
        self._take()

    def done(self, response: str = "r") -> None:
        self.path.end_part(response, f"item of {response}", 0)
        self._take()

    def until(self, now: float) -> None:
        """Wake at every due time on the way, as a timer does."""
        while (due := self.path.next_due(self.now)) is not None and due <= now:
            self.now = max(self.now, due)
            self._take()
        self.now = now

    def stall(self, now: float) -> None:
        """The loop does nothing until then."""
        due = self.path.next_due(self.now)
        self.now = now
        self.loop.note(now - (due or now), now)
        self._take()

    def _take(self) -> None:
        taken = self.path.take(self.now, self.room)
        self.frames += [(self.now, out) for out in taken if isinstance(out, OutFrame)]


def test_audio_in_time_runs_never_dry_and_the_clock_does_not_drift() -> None:
    playing, chance = Playing(), random.Random(1)
    for _ in range(1000):
        playing.push(10)
        playing.until(playing.now + 0.2 + chance.uniform(-0.001, 0.0))
    playing.done()
    playing.until(playing.now + 1)
    assert playing.told == []
    assert len(playing.frames) == 10_000
    assert all(at == pytest.approx(10.0 + n * 0.02, abs=1e-6) for n, (at, _) in enumerate(playing.frames))


def test_a_late_delta_is_the_providers_underrun_and_no_lateness_of_ours() -> None:
    playing = Playing()
    playing.push(5)
    playing.until(10.25)
    playing.push(5)
    playing.until(11.0)
    assert playing.told == [UnderrunCause.PROVIDER_LATE]
    assert max(frame.late for _, frame in playing.frames) <= 0.02
    assert playing.frames[5][0] == pytest.approx(10.25)


def test_a_delta_within_a_frame_of_its_time_is_none() -> None:
    playing = Playing()
    playing.push(5)
    playing.until(10.115)
    playing.push(5)
    playing.until(11.0)
    assert playing.told == []


def test_the_end_of_an_answer_is_none_however_late_the_next_one_comes() -> None:
    playing = Playing()
    for number in range(5):
        playing.push(5, f"r{number}")
        playing.done(f"r{number}")
        playing.until(playing.now + 3.0)
    assert playing.told == []


def test_an_answer_that_is_said_to_be_done_late_is_none() -> None:
    playing = Playing()
    playing.push(5)
    playing.until(10.5)
    playing.done()
    playing.until(12.0)
    playing.push(5, "next")
    playing.until(13.0)
    assert playing.told == []


@pytest.mark.parametrize("stall", [0.03, 0.15, 0.5, 3.0])
def test_a_loop_that_stands_still_is_the_workers_underrun_once(stall: float) -> None:
    playing = Playing()
    playing.push(500)
    playing.until(10.2)
    playing.stall(10.2 + stall + 0.02)
    playing.until(15.0)
    assert playing.told == [UnderrunCause.WORKER_LATE]
    assert max(frame.late for _, frame in playing.frames) == pytest.approx(stall, abs=0.021)


def test_two_stalls_are_two_underruns() -> None:
    playing = Playing()
    playing.push(500)
    for at in (10.2, 12.2):
        playing.until(at)
        playing.stall(at + 0.1)
    playing.until(15.0)
    assert playing.told == [UnderrunCause.WORKER_LATE] * 2


def test_audio_that_waited_in_the_socket_while_the_loop_stood_still_is_ours() -> None:
    playing = Playing()
    playing.push(5)
    playing.until(10.09)
    playing.loop.note(0.2, 10.29)
    playing.now = 10.29
    playing.push(5)
    assert playing.told == [UnderrunCause.WORKER_LATE]


def test_a_caller_that_does_not_read_is_told_once_until_it_has_read() -> None:
    playing = Playing()
    playing.push(2000)
    for backlog in (0, 8_000, 12_000, 100_000, 12_000, 1_000, 12_000):
        playing.path.watch(backlog)
        playing.until(playing.now + 0.1)
    assert playing.told == [UnderrunCause.CALLER_SLOW] * 2


def test_a_caller_in_bursts_has_no_clock_to_miss() -> None:
    playing = Playing(PlayoutMode.BURST)
    playing.push(5)
    playing.until(10.5)
    playing.room = 100
    playing.push(5)
    playing.now = 20.0
    playing.push(5)
    assert playing.told == []


def test_what_is_cleared_or_left_was_not_late() -> None:
    playing = Playing()
    playing.push(5)
    playing.until(10.3)
    playing.path.clear(["r"])
    playing.now = 11.0
    playing.push(5, "next")
    playing.until(11.3)
    playing.path.detach()
    playing.now = 12.0
    playing.path.attach(PCM24, PlayoutMode.REALTIME)
    playing.push(5, "next")
    playing.until(13.0)
    assert playing.told == []


@pytest.mark.parametrize(("stalled", "told"), [(0.055, []), (0.065, [UnderrunCause.WORKER_LATE])])
def test_a_stall_within_what_the_caller_has_in_hand_is_no_underrun(
    stalled: float, told: list[UnderrunCause]
) -> None:
    playing = Playing(lead=2)
    playing.push(50)
    playing.until(10.2)
    due = playing.path.next_due(10.2)
    assert due is not None
    playing.stall(due + stalled)
    assert playing.told == told
    playing.until(12.0)
    assert len(playing.frames) == 50


@pytest.mark.parametrize(("paused", "told"), [(0.055, []), (0.065, [UnderrunCause.PROVIDER_LATE])])
def test_a_provider_that_is_late_by_less_than_the_caller_has_in_hand_left_no_gap(
    paused: float, told: list[UnderrunCause]
) -> None:
    playing = Playing(lead=2)
    playing.push(10)
    playing.until(10.16)  # when the eleventh frame is due
    assert len(playing.frames) == 10
    playing.until(10.16 + paused)
    playing.push(10)
    assert playing.told == told
