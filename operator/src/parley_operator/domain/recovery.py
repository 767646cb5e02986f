"""Losing a worker: what a loss is, whether the session goes on elsewhere, and until when a place is sought.

Pure rules over numbers and values; `decide` writes down what they give. A session whose recovery has begun is
marked in its status before anything else happens: `attempt` is raised above every attempt that was ever tried
and `worker` is taken away. From then on no older attempt counts, whoever speaks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parley_operator.api.conduct import FAIL, RESUME
from parley_operator.api.v1alpha1 import SessionSpec

from .model import Placement, Restore, RestoreMode, SessionReport, WorkerView
from .phases import EndReason, Phase
from .status import parse_timestamp, timestamp

# How often one session may be placed anew after losses.
MOST_RECOVERIES = 5
# A worker that dies this soon after it took a session over may have died of it.
SOON = 30.0
# So many such deaths in a row, and the session is taken for the cause.
MOST_SOON = 2
# Seconds before the next attempt after such a death.
PAUSES = (0.0, 2.0)
# What a worker gives its callers to come back, where the session does not say.
DEFAULT_REATTACH = 30.0
LOST = frozenset({EndReason.WORKER_LOST, EndReason.SHARD_LOST})


@dataclass(frozen=True, slots=True)
class Loss:
    """Why the place that a session had is no more."""

    reason: EndReason
    message: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the status says of a session's losses. `soon` counts the deaths in a row that came soon after the
    session was taken over; `lost` is the time of the last loss (unix seconds, 0 for none)."""

    count: int = 0
    soon: int = 0
    lost: float = 0.0
    reason: str = ""
    message: str = ""

    def status(self) -> dict[str, object]:
        return {
            "count": self.count,
            "soon": self.soon,
            "time": timestamp(self.lost),
            "reason": self.reason,
            "message": self.message[:1024],
        }


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker that has the session live, under an attempt that is not the one that counts."""

    worker: str
    attempt: int


def recovery_of(status: Mapping[str, object]) -> Recovery:
    found = status.get("recovery")
    if not isinstance(found, Mapping):
        return Recovery()
    count, soon = found.get("count"), found.get("soon")
    return Recovery(
        count if isinstance(count, int) else 0,
        soon if isinstance(soon, int) else 0,
        parse_timestamp(str(found.get("time", ""))),
        str(found.get("reason", "")),
        str(found.get("message", "")),
    )


def recovering(status: Mapping[str, object]) -> bool:
    """The session was lost and has no new place yet, or one that is not sure."""
    return status.get("phase") == Phase.RECOVERING.value


def attempt_floor(status: Mapping[str, object]) -> int:
    """Attempts below this one are over, whatever is heard of them."""
    written = status.get("attempt")
    return written if isinstance(written, int) else 0


def after_loss(
    spec: SessionSpec | None, status: Mapping[str, object], loss: Loss, bound_for: float, now: float
) -> Recovery | str:
    """The next recovery, or in words why there is none. `bound_for` is how long the lost place was held."""
    before = recovery_of(status)
    if spec is None or spec.recovery.policy == FAIL:
        return loss.message
    soon = before.soon + 1 if before.count and bound_for < SOON else 0
    if soon >= MOST_SOON:
        return (
            f"{loss.message}; it is the {_nth(soon)} loss in a row within {SOON:.0f} s of taking the session "
            "over, so the session may be the cause: see the worker's log"
        )
    if before.count >= MOST_RECOVERIES:
        return f"{loss.message}, and a session is placed anew at most {MOST_RECOVERIES} times"
    return Recovery(before.count + 1, soon, now, loss.reason.value, loss.message)


def pause_left(recovery: Recovery, now: float) -> float:
    """Seconds before the session is placed again."""
    pause = PAUSES[min(recovery.soon, len(PAUSES) - 1)]
    return max(0.0, recovery.lost + pause - now) if pause else 0.0


def recovery_deadline(spec: SessionSpec, status: Mapping[str, object]) -> float:
    """Until when a place is sought: as long as the caller may come back, and as long as any session waits."""
    patience = max(spec.limits.queue_timeout, spec.limits.reattach_timeout or DEFAULT_REATTACH)
    return recovery_of(status).lost + patience


def restore_of(
    spec: SessionSpec, status: Mapping[str, object], attempt: int, hand_over: str | None = None
) -> Restore | None:
    """How the worker is to take the session over; `None` for a first placement."""
    if attempt <= 1 and hand_over is None:
        return None
    found = status.get("journal")
    journal = found if isinstance(found, Mapping) else {}
    first, last = journal.get("first"), journal.get("last")
    return Restore(
        RestoreMode.RESUME if spec.recovery.policy == RESUME else RestoreMode.RESTART,
        str(journal.get("stream", "")),
        first if isinstance(first, int) else 0,
        last if isinstance(last, int) else 0,
        hand_over,
    )


def other_holders(views: Iterable[WorkerView], uid: str, keep: Placement | None) -> tuple[Holder, ...]:
    """Workers that can be told, with a live attempt of the session other than `keep`."""
    found = []
    for view in views:
        report = view.sessions.get(uid)
        if report is None or not (view.answers and report.live) or _same(view, report, keep):
            continue
        found.append(Holder(view.name, report.attempt))
    return tuple(found)


def _same(view: WorkerView, report: SessionReport, keep: Placement | None) -> bool:
    return keep is not None and (view.name, view.instance_id, report.attempt) == (
        keep.worker,
        keep.instance_id,
        keep.attempt,
    )


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
