"""The line of a pool: turns between namespaces, first come first served within one."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from parley_operator.domain.placement.demand import Choice, Choices, Need, Request
from parley_operator.domain.placement.queue import Line

ANY = (Choice(("ns", "p")),)
GPU = (Choice(("ns", "p"), Need((("gpu", "true"),))),)
ENOUGH = 1_000_000
Mark = tuple[float, int, str]


class Waiters:
    """A line with what stands in it."""

    def __init__(self, weights: dict[str, int] | None = None) -> None:
        self.weights = weights or {}
        self.line = Line(lambda namespace: self.weights.get(namespace, 1))
        self.inside: dict[str, tuple[Request, Mark]] = {}
        self.numbers = itertools.count()

    def join(self, namespace: str, choices: Choices = ANY, created: float = 0.0, urgent: bool = False) -> str:
        number = next(self.numbers)
        uid = f"{namespace}-{number}"
        request = Request(uid, namespace, uid, created, choices, urgent)
        mark = (created, number, uid)
        self.line.join(request, mark)
        self.inside[uid] = (request, mark)
        return uid

    def leave(self, uid: str) -> None:
        self.line.leave(*self.inside.pop(uid))

    def position(self, uid: str, left: dict[str, int] | None = None) -> int:
        return self.line.ahead(*self.inside[uid], lambda namespace: (left or {}).get(namespace, ENOUGH)) + 1

    def serve(self, places: int, closed: frozenset[Choices] = frozenset()) -> list[str]:
        served: list[str] = []

        def place(uid: str, choices: Choices) -> bool:
            if choices in closed or len(served) == places:
                return False
            self.leave(uid)
            served.append(uid)
            return True

        self.line.serve(place)
        return served


def namespaces(served: list[str]) -> str:
    return "".join(uid[0] for uid in served)


def test_namespaces_take_turns() -> None:
    waiters = Waiters()
    for _ in range(5):
        waiters.join("a")
    for _ in range(2):
        waiters.join("b")
    assert namespaces(waiters.serve(7)) == "ababaaa"
    assert len(waiters.line) == 0


def test_the_oldest_of_a_namespace_comes_first_whenever_it_joined() -> None:
    waiters = Waiters()
    late = waiters.join("a", created=9.0)
    early = waiters.join("a", created=2.0)
    other_wish = waiters.join("a", GPU, created=5.0)
    assert waiters.serve(3) == [early, other_wish, late]


def test_who_comes_one_at_a_time_gets_no_more_turns_than_others() -> None:
    waiters = Waiters()
    for _ in range(20):
        waiters.join("a")
    got: Counter[str] = Counter()
    for _ in range(20):
        if not any(uid.startswith("b") for uid in waiters.inside):
            waiters.join("b")
        [uid] = waiters.serve(1)
        got[uid[0]] += 1
    assert got == {"a": 10, "b": 10}


def test_turns_are_not_saved_up() -> None:
    waiters = Waiters()
    for _ in range(30):
        waiters.join("a")
        waiters.join("b", GPU)
    assert namespaces(waiters.serve(20, frozenset({GPU}))) == "a" * 20
    # Workers for b come up: it gets its turns from now on, not those of before.
    assert namespaces(waiters.serve(8)) in ("abababab", "babababa")


def test_a_wish_that_cannot_be_met_holds_nobody_up() -> None:
    waiters = Waiters()
    first = waiters.join("a", GPU)
    second = waiters.join("a")
    assert waiters.serve(2, frozenset({GPU})) == [second]
    assert waiters.position(first) == 1


def test_who_lost_a_place_comes_before_all() -> None:
    waiters = Waiters()
    others = [waiters.join("a") for _ in range(3)]
    urgent = [waiters.join("b", urgent=True), waiters.join("a", urgent=True)]
    assert [waiters.position(uid) for uid in (*urgent, *others)] == [1, 2, 3, 4, 5]
    assert waiters.serve(3) == [*urgent, others[0]]


def test_those_over_their_quota_are_not_waited_for() -> None:
    waiters = Waiters()
    for _ in range(5):
        waiters.join("a")
    mine = [waiters.join("b") for _ in range(3)]
    assert [waiters.position(uid) for uid in mine] == [2, 4, 6]
    assert [waiters.position(uid, {"a": 1}) for uid in mine] == [2, 3, 4]
    assert [waiters.position(uid, {"a": 0}) for uid in mine] == [1, 2, 3]


def test_a_change_of_weight_counts_from_the_next_turn() -> None:
    waiters = Waiters()
    for _ in range(12):
        waiters.join("a")
        waiters.join("b")
    waiters.serve(4)
    waiters.weights["b"] = 3
    waiters.line.reweigh()
    assert Counter(namespaces(waiters.serve(8))) == {"a": 2, "b": 6}


WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 7), min_size=2, max_size=5)
MOVES = st.lists(
    st.tuples(st.sampled_from(["join", "join", "urgent", "leave", "serve"]), st.integers(0, 99)), max_size=80
)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, st.integers(1, 60))
def test_the_share_of_each_follows_its_weight(weights: dict[str, int], places: int) -> None:
    waiters = Waiters(weights)
    for namespace in weights:
        for _ in range(places):
            waiters.join(namespace)
    got = Counter(namespaces(waiters.serve(places)))
    for one, other in itertools.combinations(weights, 2):
        # The bound of start-time fair queueing: no two are ever further apart than one turn of each.
        apart = abs(got[one] / weights[one] - got[other] / weights[other])
        assert apart <= 1 / weights[one] + 1 / weights[other] + 1e-9


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, MOVES)
def test_the_position_is_the_order_in_which_they_are_served(
    weights: dict[str, int], moves: list[tuple[str, int]]
) -> None:
    waiters = Waiters(weights)
    names = sorted(weights)
    for move, number in moves:
        if move in ("join", "urgent"):
            waiters.join(names[number % len(names)], created=number % 7, urgent=move == "urgent")
        elif move == "leave" and waiters.inside:
            waiters.leave(sorted(waiters.inside)[number % len(waiters.inside)])
        elif move == "serve":
            waiters.serve(number % 4)
    assert len(waiters.line) == len(waiters.inside)
    foreseen = sorted(waiters.inside, key=waiters.position)
    assert [waiters.position(uid) for uid in foreseen] == list(range(1, len(foreseen) + 1))
    assert waiters.serve(ENOUGH) == foreseen


def test_turns_of_those_who_left_are_not_kept_for_ever() -> None:
    waiters = Waiters()
    for number in range(2000):
        waiters.join(f"n{number}")
        waiters.serve(1)
    assert len(waiters.line._turns) < 200
