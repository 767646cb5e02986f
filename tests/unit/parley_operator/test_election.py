"""The elector alone: what it may claim, and that no two ever lead, whatever clocks and networks do."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_operator.domain.election import Claim, Elector, LeaseRecord, LeaseTimes, Standing

TIMES = LeaseTimes()


def record(version: str, holder: str = "other", epoch: int = 3, duration: float = 5.0) -> LeaseRecord:
    return LeaseRecord(version, holder, epoch, duration)


def leading(name: str = "me", at: float = 100.0) -> Elector:
    elector = Elector(name, TIMES)
    elector.read(record("1", ""), at)
    claim = elector.claim(at, 0)
    assert claim is not None
    elector.written(claim, record("2", name, claim.epoch), at)
    return elector


@pytest.mark.parametrize("times", [(5, 5, 1), (5, 3, 3), (5, 3, 0), (3, 5, 1)])
def test_times_that_do_not_follow_each_other_are_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="longer than the one before"):
        LeaseTimes(*times)


def test_before_the_first_reading_nothing_is_claimed() -> None:
    assert Elector("me", TIMES).claim(1e9, 0) is None


def test_where_nobody_ever_led_the_lease_is_made_at_once() -> None:
    elector = Elector("me", TIMES)
    elector.read(None, 10.0)
    assert elector.claim(10.0, 0) == Claim("", 1, taking=True)


def test_a_lease_that_was_deleted_is_made_anew_when_its_leader_has_surely_stopped() -> None:
    elector = Elector("me", TIMES)
    elector.read(record("7"), 10.0)
    elector.read(None, 14.0)
    assert elector.claim(18.9, 41) is None
    assert elector.claim(19.0, 41) == Claim("", 42, taking=True)


def test_a_held_lease_is_taken_only_when_its_record_stood_still() -> None:
    elector = Elector("me", TIMES)
    elector.read(record("1"), 10.0)
    elector.read(record("2"), 14.0)
    elector.read(record("2"), 18.9)
    assert elector.claim(18.9, 0) is None
    assert elector.claim(19.0, 0) == Claim("2", 4, taking=True)


def test_a_longer_duration_of_the_holder_is_honoured() -> None:
    elector = Elector("me", TIMES)
    elector.read(record("1", duration=30.0), 10.0)
    assert elector.claim(39.9, 0) is None
    assert elector.claim(40.0, 0) is not None


@pytest.mark.parametrize("holder", ["", "me"])
def test_a_lease_given_up_or_left_by_ourselves_is_taken_at_once(holder: str) -> None:
    elector = Elector("me", TIMES)
    elector.read(record("1", holder), 10.0)
    assert elector.claim(10.0, 9) == Claim("1", 10, taking=True)


def test_a_leader_may_act_from_the_beginning_of_its_write_until_the_deadline() -> None:
    elector = leading(at=100.0)
    assert elector.leads(102.99)
    assert not elector.leads(103.0)
    assert elector.expire(103.0)
    assert elector.standing is Standing.FOLLOWING


def test_a_renewal_counts_from_when_it_was_sent_and_keeps_the_epoch() -> None:
    elector = leading(at=100.0)
    claim = elector.claim(101.0, 99)
    assert claim == Claim("2", 4, taking=False)
    elector.written(claim, record("3", "me", 4), 101.0)
    assert elector.left(103.5) == pytest.approx(0.5)


def test_a_leader_that_reads_another_holder_or_none_follows() -> None:
    for found in (record("9", "other"), record("9", ""), None):
        elector = leading()
        elector.read(found, 101.0)
        assert elector.standing is Standing.FOLLOWING
        assert not elector.leads(101.0)


def test_a_leader_that_finds_its_own_write_goes_on_but_no_longer() -> None:
    elector = leading(at=100.0)
    elector.read(record("5", "me", 4), 102.0)
    assert elector.claim(102.0, 0) == Claim("5", 4, taking=False)
    assert elector.left(102.0) == pytest.approx(1.0)


def test_a_renewal_under_way_does_not_undo_stepping_down() -> None:
    elector = leading(at=100.0)
    claim = elector.claim(101.0, 0)
    assert claim is not None
    elector.step_down()
    elector.written(claim, record("3", "me", 4), 101.0)
    assert not elector.leads(101.1)
    assert elector.claim(101.2, 0) == Claim("3", 5, taking=True)


def test_who_resigned_claims_nothing_any_more() -> None:
    elector = leading()
    assert elector.resign() == Claim("2", 4, taking=False)
    elector.read(record("3", ""), 101.0)
    assert elector.claim(1000.0, 0) is None
    assert Elector("x", TIMES).resign() is None


# -- two and more candidates over one compare-and-swap register


@dataclass
class Server:
    """The Lease: every write compares the version."""

    held: LeaseRecord | None = None
    versions: count[int] = field(default_factory=lambda: count(1))
    taken: list[int] = field(default_factory=list)

    def write(self, name: str, claim: Claim) -> LeaseRecord | None:
        if (self.held.version if self.held else "") != claim.version:
            return None
        self.held = LeaseRecord(str(next(self.versions)), name, claim.epoch, TIMES.duration)
        if claim.taking:
            self.taken.append(claim.epoch)
        return self.held


@dataclass
class Candidate:
    """A process with a clock of its own, which runs at `rate` and began anywhere."""

    elector: Elector
    rate: float
    offset: float

    def clock(self, at: float) -> float:
        return self.offset + at * self.rate


Steps = st.lists(
    st.tuples(
        st.integers(0, 2),
        # Seconds: the pause before, the request on its way, the answer on its way.
        st.sampled_from([0.0, 0.1, 1.0, 4.0, 20.0]),
        st.sampled_from([0.0, 0.05, 0.5, 2.9, 6.0, 30.0]),
        st.sampled_from([0.0, 0.05, 0.5, 2.9, 6.0]),
        st.sampled_from(["answered", "answered", "answered", "answer lost", "request lost"]),
    ),
    max_size=120,
)
Clocks = st.lists(st.tuples(st.floats(0.9, 1.1), st.floats(0, 1e6)), min_size=3, max_size=3)


class World:
    """Real time; each candidate reads, then writes what its elector claims, with delays and losses."""

    def __init__(self, clocks: list[tuple[float, float]]) -> None:
        self.server = Server()
        self.candidates = [
            Candidate(Elector(f"c{number}", TIMES), rate, offset)
            for number, (rate, offset) in enumerate(clocks)
        ]
        self.events: list[tuple[float, int, object]] = []
        self.order = count()

    def at(self, when: float, what: object) -> None:
        heapq.heappush(self.events, (when, next(self.order), what))

    def turn(self, who: int, start: float, there: float, back: float, fate: str) -> None:
        one = self.candidates[who]

        def read() -> None:
            seen = self.server.held
            self.at(start + there + back, lambda: answered(seen))

        def answered(seen: LeaseRecord | None) -> None:
            now = start + there + back
            local = one.clock(now)
            one.elector.read(seen, local)
            one.elector.expire(local)
            claim = one.elector.claim(local, 0)
            if claim is not None and fate != "request lost":
                self.at(now + there, lambda: write(claim, local, now + there + back))

        def write(claim: Claim, begun: float, heard_at: float) -> None:
            done = self.server.write(one.elector.name, claim)
            if done is not None and fate == "answered":
                self.at(heard_at, lambda: one.elector.written(claim, done, begun))

        self.at(start + there, read)

    def run(self) -> None:
        while self.events:
            now, _, what = heapq.heappop(self.events)
            self.check(now)
            what()  # type: ignore[operator]
            self.check(now)

    def check(self, now: float) -> None:
        leaders = [c.elector for c in self.candidates if c.elector.leads(c.clock(now))]
        assert len(leaders) <= 1, f"at {now}: {[(e.name, e.epoch) for e in leaders]}"


@settings(max_examples=300, deadline=None)
@given(Clocks, Steps)
def test_no_two_ever_lead_and_epochs_only_rise(
    clocks: list[tuple[float, float]], steps: list[tuple[int, float, float, float, str]]
) -> None:
    world, now = World(clocks), [0.0, 0.0, 0.0]
    for who, pause, there, back, fate in steps:
        start = now[who] + pause
        world.turn(who, start, there, back, fate)
        # One request of a candidate at a time.
        now[who] = start + 2 * (there + back)
    world.run()
    taken = world.server.taken
    assert taken == sorted(set(taken))


def test_the_checker_notices_two_leaders() -> None:
    world = World([(1.0, 0.0)] * 3)
    for one in world.candidates[:2]:
        one.elector.read(None, 0.0)
        one.elector.written(Claim("", 1, taking=True), record("1", one.elector.name, 1), 0.0)
    with pytest.raises(AssertionError, match=r"c0.*c1"):
        world.check(1.0)
