"""Live migration: which session is to leave its worker, where to, and when it is tried again."""

from __future__ import annotations

from collections.abc import Iterable

from parley_operator.api.conduct import RESUME
from parley_operator.api.v1alpha1 import SessionSpec

from .model import Placement, SessionReport, SessionState, WorkerView
from .placement.choose import best
from .placement.demand import Choices
from .placement.desk import Desk
from .placement.ledger import Row

# How long a quiet moment is waited for at a time.
PATIENCE = 20.0
# Within this long of its standstill the session must be told to go: it goes on by itself after 10 s.
READY_WITHIN = 6.0
# A move that begins later than this before the worker's deadline would not be done in time.
LEAST_LEFT = 3.0
# So many sessions of one worker stand still, or wait for a quiet moment, at a time.
AT_ONCE = 4
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0


def is_to_move(
    spec: SessionSpec | None,
    placement: Placement | None,
    report: SessionReport | None,
    view: WorkerView | None,
    now: float,
) -> bool:
    """The worker goes away, the session may leave it, and there is time to."""
    if spec is None or spec.recovery.policy != RESUME or placement is None or not placement.confirmed:
        return False
    if report is None or not report.live or report.attempt != placement.attempt:
        return False
    if not report.migratable or report.state is SessionState.CONNECTING:
        return False
    if view is None or not (view.leaving and view.answers) or view.instance_id != placement.instance_id:
        return False
    return not view.drain_deadline or view.drain_deadline - now >= LEAST_LEFT


def patience_of(view: WorkerView, now: float) -> float:
    """Seconds for which a quiet moment may be waited for."""
    left = view.drain_deadline - now - LEAST_LEFT if view.drain_deadline else PATIENCE
    return max(0.0, min(PATIENCE, left))


def pause_after(failures: int) -> float:
    """Seconds before a move is tried again."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** max(0, failures - 1))


def new_home(desk: Desk, choices: Choices, leaves: str, now: float) -> Row | None:
    """The best worker with room for a session that leaves `leaves`."""
    for choice in choices:
        fitting: Iterable[Row] = (
            row
            for row in desk.ledger.roomy(choice.pool, now)
            if row.worker != leaves and choice.need.met_by(row.labels, row.zone)
        )
        row = best(fitting, desk.rules(choice.pool))
        if row is not None:
            return row
    return None
