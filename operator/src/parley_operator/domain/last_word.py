"""The end of a session that no worker wrote down: it was lost, or moved and never visited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .model import LastWord, SessionReport, Usage, WorkerView
from .observation import Subject
from .phases import EndReason, end_reason
from .recovery import LOST, attempt_floor, recovering, recovery_of
from .status import parse_timestamp

# Seconds after the end in which it is seen to; a worker that is asked twice writes it once.
WITHIN = 120.0
# Seconds until workers are asked again, when none took it.
AGAIN = 2.0
# So many workers are asked at a time.
ASKED = 3
_LOST = frozenset(reason.value for reason in LOST)


def last_word(subject: Subject, reports: Iterable[SessionReport], now: float) -> LastWord | None:
    """What is to be written down of a session that is over; `None` where its worker did, or long ago.

    `reports` are what workers say of it.
    """
    status = subject.status
    reason, attempt = str(status.get("endReason", "")), attempt_floor(status)
    ended = parse_timestamp(str(status.get("endTime", "")))
    untold = any(report.end_untold and report.attempt == attempt for report in reports)
    placeless = bool(recovery_of(status).count) and not status.get("worker")
    owed = reason in _LOST or placeless or untold
    if not (subject.over and owed) or attempt < 1 or now - ended > WITHIN:
        return None
    return _word(subject, end_reason(reason), str(status.get("endMessage", "")), ended)


def word_of_deleted(
    subject: Subject, reports: Iterable[SessionReport], lost: bool, deleted: float
) -> LastWord | None:
    """What is to be written down of a session that was deleted at `deleted` (unix seconds) before it was
    over, once nobody is to end it any more; `None` where its worker tells.

    No worker tells where the session was between two attempts, where the end was kept to itself, and where
    `lost` says that the worker is gone.
    """
    ended = [report for report in _counting(subject, reports) if not report.live]
    if subject.over or any(not report.end_untold for report in ended):
        return None
    if attempt_floor(subject.status) < 1 or not (recovering(subject.status) or lost or ended):
        return None
    return _word(subject, EndReason.TERMINATED, "the VoiceSession was deleted", deleted)


def may_stay_untold(subject: Subject, reports: Iterable[SessionReport]) -> bool:
    """Whether a session that was deleted still lives where its end may not be told: on a worker that took it
    over."""
    return attempt_floor(subject.status) > 1 and any(report.live for report in _counting(subject, reports))


def _counting(subject: Subject, reports: Iterable[SessionReport]) -> list[SessionReport]:
    floor = attempt_floor(subject.status)
    return [report for report in reports if report.attempt >= floor]


def _word(subject: Subject, reason: EndReason, message: str, ended: float) -> LastWord:
    return LastWord(
        subject.namespace,
        subject.name,
        subject.uid,
        attempt_floor(subject.status),
        reason.value,
        message,
        subject.spec is None or subject.spec.privacy,
        ended,
        _usage(subject.status),
    )


def scribes(views: Iterable[WorkerView], pool: str) -> list[str]:
    """Workers to ask, the session's own pool first."""
    able = [view for view in views if view.answers]
    able.sort(key=lambda view: (view.pool != pool, view.leaving, view.name))
    return [view.name for view in able[:ASKED]]


def _usage(status: Mapping[str, object]) -> Usage:
    found = status.get("usage")
    used = found if isinstance(found, Mapping) else {}
    tokens = (used.get(key) for key in ("inputTokens", "outputTokens", "cachedTokens"))
    seconds = (used.get(key) for key in ("inputAudioSeconds", "outputAudioSeconds"))
    told, said, cached = (number if isinstance(number, int) else 0 for number in tokens)
    heard, spoken = (float(number) if isinstance(number, int | float) else 0.0 for number in seconds)
    return Usage(told, said, cached, heard, spoken)
