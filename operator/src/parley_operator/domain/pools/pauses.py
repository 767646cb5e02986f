"""How long no pod is made after pods failed or were refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

# After the API server refused a pod.
REFUSED_PAUSE = 10.0
# The longest pause between pods that fail.
FAILED_MOST = 60.0


@dataclass(frozen=True, slots=True)
class Hold:
    """No pods are made before `until` (monotonic).

    `failures` pods failed without the pool ever being whole, the last one for `failed`; `refused` is what the
    API server objected to.
    """

    until: float = 0.0
    failures: int = 0
    failed: str = ""
    refused: str = ""


def next_hold(before: Hold, *, whole: bool, failed: str | None, now: float) -> Hold:
    """Pods that fail one after the other are replaced ever more slowly, the first one at once.

    `failed` says why pods failed since; `None` when none did.
    """
    hold = Hold() if whole else before
    if failed is not None:
        pause = min(FAILED_MOST, 2.0**hold.failures) if hold.failures else 0.0
        hold = replace(
            hold, until=max(hold.until, now + pause), failures=min(hold.failures + 1, 32), failed=failed
        )
    if hold.refused and now >= hold.until:
        hold = replace(hold, refused="")
    return hold


def refuse(before: Hold, words: str, now: float) -> Hold:
    """The API server would not take a pod."""
    return replace(before, until=now + REFUSED_PAUSE, refused=words)
