"""What one worker says of its sessions: each report costs the same, however many sessions there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from parley_operator.domain.model import SessionReport

# As many as the worker itself remembers.
ENDED_KEPT = 1024


class Reports:
    """The newest report of each session. Of those that are over the last `ENDED_KEPT` stay."""

    def __init__(self, reports: Iterable[SessionReport] = ()) -> None:
        self._reports: dict[str, SessionReport] = {}
        self._ended: dict[str, None] = {}
        # In the order of their ends, which is the order in which they are forgotten.
        for report in sorted(reports, key=lambda each: each.end_time):
            self.take(report)

    @property
    def by_uid(self) -> Mapping[str, SessionReport]:
        """Not a copy: it goes on following the worker until a snapshot makes a new one."""
        return self._reports

    def take(self, report: SessionReport) -> None:
        """This is the newest word on the session."""
        self._reports[report.uid] = report
        self._ended.pop(report.uid, None)
        if report.live:
            return
        self._ended[report.uid] = None
        if len(self._ended) > ENDED_KEPT:
            self.drop(next(iter(self._ended)))

    def drop(self, uid: str) -> None:
        """The worker does not know the session any more."""
        self._reports.pop(uid, None)
        self._ended.pop(uid, None)
