"""Windows of measurement: what one holds, when it does not count, what a point makes of them. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parley_client.bench.histogram import Histogram
from parley_client.bench.scenario import Knee, Slo, Windows

WAYS = ("up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the callers and the provider saw in a window. Histograms in milliseconds, pieces of 20 ms.

    Attributes:
        up: a caller's frame, from its sending until the provider has all of it.
        first: a response's first audio, from the provider to the caller.
        down: each piece of an answer behind real-time playout that began with its first.
        lag: the load program's own lateness.
        stall: how late real-time threads on the CPUs of worker and load program woke that wait for no other;
            empty where there are none.
        starved: answers that ended in the window and had an underrun, in it or before.
        rx: received audio of finished responses as a share of what was sent; None when not known.
    """

    sessions: int
    up: Histogram = field(default_factory=Histogram)
    first: Histogram = field(default_factory=Histogram)
    down: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    stall: Histogram = field(default_factory=Histogram)
    frames_sent: int = 0
    frames_due: int = 0
    frames_received: int = 0
    drops_up: int = 0
    drops_down: int = 0
    underruns: int = 0
    starved: int = 0
    responses: int = 0
    responses_complete: int = 0
    events: int = 0

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> Traffic:
        """Of the load program's `window` event."""

        def number(name: str) -> int:
            return int(report.get(name) or 0)

        return cls(
            sessions=number("sessions"),
            frames_sent=number("frames_sent"),
            frames_due=number("frames_due"),
            frames_received=number("frames_received"),
            drops_up=number("drops_up"),
            drops_down=number("drops_down"),
            underruns=number("underruns"),
            starved=number("starved_responses"),
            responses=number("responses"),
            responses_complete=number("responses_complete"),
            events=number("events_received"),
            up=Histogram.read(report.get("up")),
            first=Histogram.read(report.get("first")),
            down=Histogram.read(report.get("down")),
            lag=Histogram.read(report.get("loadgen_lag")),
            stall=Histogram.read(report.get("stall")),
        )

    @classmethod
    def merge(cls, parts: Sequence[Traffic]) -> Traffic:
        def total(name: str) -> int:
            return sum(int(getattr(part, name)) for part in parts)

        def joined(name: str) -> Histogram:
            return Histogram.merge(getattr(part, name) for part in parts)

        return cls(
            sessions=max((part.sessions for part in parts), default=0),
            up=joined("up"),
            first=joined("first"),
            down=joined("down"),
            lag=joined("lag"),
            stall=joined("stall"),
            frames_sent=total("frames_sent"),
            frames_due=total("frames_due"),
            frames_received=total("frames_received"),
            drops_up=total("drops_up"),
            drops_down=total("drops_down"),
            underruns=total("underruns"),
            starved=total("starved"),
            responses=total("responses"),
            responses_complete=total("responses_complete"),
            events=total("events"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the machine did in a window. Shares are of one CPU; None where it cannot be known.

    Attributes:
        cpu_s: CPU seconds of the worker's tree; `helpers_cpu_s` of the services that belong to the system
            (NATS).
        underruns_told: how often the worker itself has seen audio run dry, since it began.
        steal: what the hypervisor took, on the CPUs in use.
        steal_ms: the most that it took at once, in milliseconds.
        others: what other processes took.
        load: what the load program took.
    """

    seconds: float
    cpu_s: float | None = None
    user_s: float | None = None
    system_s: float | None = None
    helpers_cpu_s: float = 0.0
    run_delay: float | None = None
    memory_mib: float | None = None
    fds: int | None = None
    threads: int | None = None
    processes: int | None = None
    tasks: int | None = None
    underruns_told: int | None = None
    steal: float = 0.0
    steal_ms: float = 0.0
    others: float = 0.0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    traffic: Traffic
    machine: Machine


class Thefts:
    """The most CPU time that was taken at once, of readings of a growing total."""

    TOGETHER_S = 0.15

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque()
        self.most_s = 0.0

    def read(self, at: float, stolen_s: float) -> None:
        """`stolen_s` seconds were taken until `at`. Readings further apart than `TOGETHER_S` are one
        slice."""
        readings = self._readings
        while len(readings) > 1 and at - readings[0][0] > self.TOGETHER_S:
            readings.popleft()
        if readings:
            self.most_s = max(self.most_s, stolen_s - readings[0][1])
        readings.append((at, stolen_s))


def marks(window: Window, rules: Windows) -> tuple[str, ...]:
    """Why a window does not count; empty when it does."""
    machine = window.machine
    found = []
    if machine.steal > rules.steal or machine.steal_ms > rules.steal_ms:
        found.append("steal")
    if machine.others > rules.others:
        found.append("others")
    lag = window.traffic.lag.quantile(0.99)
    if lag is not None and lag > rules.lag_ms:
        found.append("load program late")
    stall = window.traffic.stall.quantile(1.0)
    if stall is not None and stall > rules.stall_ms:
        found.append("standstill")
    return tuple(found)


def disturbance(window: Window) -> float:
    """How much others took of the machine, with the load program's lateness in seconds beside it."""
    lag = window.traffic.lag.quantile(0.99) or 0.0
    return window.machine.steal + window.machine.others + lag / 1000


@dataclass(frozen=True, slots=True)
class Point:
    """A number of sessions, measured.

    Attributes:
        sessions: how many were talking.
        windows: those that count, or the least disturbed one where none does (`clean` is then False).
        left_out: how often windows were left out, by reason.
        failed: calls that were refused or ended by themselves.
        cpus: CPUs that the worker may use.
    """

    sessions: int
    windows: tuple[Window, ...]
    clean: bool
    left_out: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    cpus: int = 1

    @classmethod
    def of(
        cls, sessions: int, measured: Iterable[tuple[Window, tuple[str, ...]]], failed: int, cpus: int
    ) -> Point:
        """Of the windows with their marks, in the order of measuring."""
        every = list(measured)
        good = tuple(window for window, why in every if not why)
        reasons = Counter(word for _, why in every for word in why)
        kept = good or tuple(sorted((window for window, _ in every), key=disturbance)[:1])
        return cls(sessions, kept, bool(good), dict(reasons), failed, cpus)

    @property
    def traffic(self) -> Traffic:
        return Traffic.merge([window.traffic for window in self.windows])

    @property
    def seconds(self) -> float:
        return sum(window.machine.seconds for window in self.windows)

    @property
    def cores(self) -> float | None:
        """CPUs that the worker's tree took."""
        used = [window.machine.cpu_s for window in self.windows]
        return None if None in used or not used else sum(u or 0.0 for u in used) / self.seconds

    @property
    def cpu_s_per_session_s(self) -> float | None:
        cores = self.cores
        return None if cores is None or not self.sessions else cores / self.sessions

    def last(self, name: str) -> Any:
        """A figure of the last window's machine."""
        return getattr(self.windows[-1].machine, name) if self.windows else None

    def mean(self, name: str) -> float | None:
        values = [getattr(window.machine, name) for window in self.windows]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def starved(self, plan: Knee, times: float = 1.0) -> bool:
        """Whether calls failed, or more than `times` the plan's share of the audio came late, or never."""
        traffic = self.traffic
        late_down = traffic.down.above(plan.starved_ms) / max(1, traffic.down.count)
        late_up = traffic.up.above(plan.starved_up_ms) / max(1, traffic.up.count)
        lost_down = traffic.drops_down / max(1, traffic.frames_due)
        lost_up = traffic.drops_up / max(1, traffic.frames_sent)
        silent = self.sessions > 0 and not traffic.down.count
        worst = max(late_down, late_up, lost_down, lost_up)
        return self.failed > 0 or silent or worst > plan.starved_share * times

    def misses(self, slo: Slo) -> tuple[str, ...]:
        """What of the SLO it misses, in words; empty when it passes.

        A first piece may wait for the next frame's turn: it has `frame_ms` more.
        """
        traffic = self.traffic
        found = []
        bounds = (
            ("up", traffic.up, slo.added_p99_ms),
            ("down", traffic.down, slo.added_p99_ms),
            ("first", traffic.first, slo.added_p99_ms + slo.frame_ms),
        )
        for name, histogram, bound in bounds:
            p99 = histogram.quantile(0.99)
            if p99 is not None and p99 > bound:
                found.append(f"{name} p99 {p99:.1f} ms > {bound:g}")
        if not traffic.down.count:
            found.append("no audio came down")
        if traffic.underruns > slo.underruns:
            found.append(f"{traffic.underruns} underruns")
        drops = traffic.drops_up + traffic.drops_down
        if drops > slo.drops:
            found.append(f"{drops} drops")
        if self.failed:
            found.append(f"{self.failed} calls failed")
        return tuple(found)

    def meets(self, slo: Slo) -> bool:
        """Whether it was measured, and misses nothing of the SLO."""
        return bool(self.windows) and not self.misses(slo)

    def shown(self, slo: Slo) -> dict[str, Any]:
        """As the results hold it."""
        traffic = self.traffic
        cost = self.cpu_s_per_session_s
        cores = self.cores
        misses = self.misses(slo)
        return {
            "sessions": self.sessions,
            "cpu_s_per_session_s": None if cost is None else round(cost, 6),
            "cores": None if cores is None else round(cores, 4),
            "helpers_cores": round(sum(w.machine.helpers_cpu_s for w in self.windows) / self.seconds, 4)
            if self.windows
            else None,
            "run_delay": _rounded(self.mean("run_delay")),
            "load_cores": _rounded(self.mean("load")),
            "others_cores": _rounded(self.mean("others")),
            "steal_cores": _rounded(self.mean("steal")),
            "memory_mib": _rounded(self.last("memory_mib")),
            "fds": self.last("fds"),
            "threads": self.last("threads"),
            "processes": self.last("processes"),
            "tasks": self.last("tasks"),
            "added_ms": {"up": traffic.up.shown(), "down": traffic.down.shown()},
            "first_ms": traffic.first.shown(),
            "load_lag_ms": traffic.lag.shown(),
            "underruns": traffic.underruns,
            "drops": traffic.drops_up + traffic.drops_down,
            "drops_up": traffic.drops_up,
            "drops_down": traffic.drops_down,
            "responses": traffic.responses,
            "failed_calls": self.failed,
            "slo": "pass" if not misses else "fail",
            "slo_misses": list(misses),
            "windows": {
                "counted": len(self.windows),
                "clean": self.clean,
                "left_out": dict(self.left_out),
                "seconds": round(self.seconds, 2),
            },
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
