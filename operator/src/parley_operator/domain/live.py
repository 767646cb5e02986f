"""A VoiceSession whose spec changed while it runs: whether its worker must be told, and what the status says.

The worker reports the generation that it judged last and, where it refused one, why. So nothing need be
remembered here, and a decision lost in a crash is taken again.
"""

from __future__ import annotations

from collections.abc import Mapping

from .checks import Problem
from .model import SessionState
from .observation import Observation
from .status import condition, merge_conditions

# The worker answers by its report; without one it is told again after so many seconds.
TELL_AGAIN = 3.0
# A Secret that is missing may come.
CHECK_AGAIN = 5.0
UPDATED = "Updated"


def update_due(seen: Observation) -> bool:
    """The worker runs an older generation and can be told of this one. Workers of versions that report no
    generation cannot."""
    report = seen.report
    if report is None or not report.live or report.state is SessionState.CONNECTING:
        return False
    return 0 < report.origin.generation < seen.subject.generation


def update_conditions(seen: Observation) -> list[dict[str, object]]:
    """`Updated`, once a change was judged: by the worker, in the provider's words where it refused."""
    report = seen.report
    if report is None or not report.origin.generation or update_due(seen):
        return []
    generation = seen.generation
    if report.update_refused:
        return [condition(UPDATED, False, "Refused", report.update_refused, generation)]
    observed = seen.subject.status.get("observedGeneration")
    earlier = isinstance(observed, int) and 0 < observed < generation
    if earlier or has_condition(seen.subject.status, UPDATED):
        return [condition(UPDATED, True, "Applied", "", generation)]
    return []


def not_updated(seen: Observation, problem: Problem) -> dict[str, object]:
    """The status patch that says why a change is not even asked for; empty when it says so already."""
    wanted = condition(UPDATED, False, problem.reason, problem.message, seen.subject.generation)
    previous = seen.subject.status.get("conditions")
    merged = merge_conditions(previous, [wanted], seen.now)
    return {} if merged == previous else {"conditions": merged}


def over_again(seen: Observation) -> dict[str, object]:
    """The spec of a session that is over changed: its conditions hold for the new generation as well, so that
    nobody waits for a look that never comes."""
    generation, status = seen.subject.generation, seen.subject.status
    if status.get("observedGeneration") == generation:
        return {}
    found = status.get("conditions")
    conditions = [
        {**item, "observedGeneration": generation}
        for item in (found if isinstance(found, list) else [])
        if isinstance(item, Mapping) and item.get("type") in OWN_CONDITIONS
    ]
    merged = merge_conditions(found, conditions, seen.now)
    return {"observedGeneration": generation, "conditions": merged}


OWN_CONDITIONS = frozenset({"Accepted", "Placed", "Ready", "Ended", UPDATED, "RecoveryDegraded", "Draining"})
"""What the operator itself says of a session; others' conditions are kept as they are."""


def has_condition(status: Mapping[str, object], kind: str) -> bool:
    found = status.get("conditions")
    return isinstance(found, list) and any(isinstance(c, Mapping) and c.get("type") == kind for c in found)


def agent_status(seen: Observation) -> dict[str, object]:
    """Which state of which agent the session runs as; empty for an agent of its own."""
    report = seen.report
    if report is None or not report.origin.agent:
        return {}
    origin = report.origin
    found: dict[str, object] = {"name": origin.agent}
    if origin.agent_revision:
        found |= {"revision": origin.agent_revision, "generation": origin.agent_generation}
    return {"agent": found}
