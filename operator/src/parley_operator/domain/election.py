"""Who leads: a state machine over one Lease.

Time is this process's own monotonic clock alone. A holder may act until `renew` seconds after it began its
last successful write; a candidate takes the lease only when it saw the same record for `duration` seconds. It
saw the record after it was written, so that the holder has stopped by then, however both clocks are set, as
long as they run at rates that differ by less than `duration` to `renew`. The lease's own timestamps are for
people.

The epoch is `spec.leaseTransitions`: it rises with every time the lease is taken, in the same
compare-and-swap.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Standing(Enum):
    """What this process is."""

    FOLLOWING = "following"
    LEADING = "leading"
    RESIGNED = "resigned"


# From RESIGNED there is no way back: the process is about to end.
_MOVES = {
    Standing.FOLLOWING: {Standing.LEADING, Standing.RESIGNED},
    Standing.LEADING: {Standing.FOLLOWING, Standing.RESIGNED},
    Standing.RESIGNED: set[Standing](),
}


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. Raises `ValueError` unless `retry` < `renew` < `duration`."""

    duration: float = 5.0
    renew: float = 3.0
    retry: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew < self.duration:
            raise ValueError(
                f"retry {self.retry:g}, renew deadline {self.renew:g}, duration {self.duration:g}: each must "
                "be longer than the one before"
            )


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as read. `version` differs after every write; `holder` is empty once it was given up."""

    version: str
    holder: str = ""
    epoch: int = 0
    duration: float = 0.0
    address: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A write to be tried: over the record of `version`, or a new Lease where that is empty."""

    version: str
    epoch: int
    # Taking the lease, not keeping it.
    taking: bool


class Elector:
    """One candidate. `name` is unique for the life of the process."""

    def __init__(self, name: str, times: LeaseTimes) -> None:
        self.name = name
        self.times = times
        self.standing = Standing.FOLLOWING
        self.epoch = 0
        # What was read last, `None` for no Lease at all, and since when it has been so.
        self.seen: LeaseRecord | None = None
        self._seen_since: float | None = None
        self._until = 0.0

    # -- what is known

    def leads(self, now: float) -> bool:
        """Whether this process may act as the leader at this very moment."""
        return self.standing is Standing.LEADING and now < self._until

    def left(self, now: float) -> float:
        """Seconds until it may not act any more; 0 for a follower."""
        return max(0.0, self._until - now) if self.standing is Standing.LEADING else 0.0

    # -- what happens

    def read(self, record: LeaseRecord | None, now: float) -> None:
        """The lease was read; `now` is after the answer."""
        before = self.seen.version if self.seen is not None else ""
        version = record.version if record is not None else ""
        if self._seen_since is None or before != version:
            self._seen_since = now
        self.seen = record
        if self.standing is Standing.LEADING and (record is None or record.holder != self.name):
            self._move(Standing.FOLLOWING)

    def claim(self, now: float, floor: int) -> Claim | None:
        """The write to be tried now; `None` while somebody else may lead, or when resigned.

        `floor` is the highest epoch known from elsewhere: a Lease that was deleted starts to count anew.
        """
        if self.standing is Standing.RESIGNED or self._seen_since is None:
            return None
        if self.standing is Standing.LEADING:
            return Claim(self.seen.version, self.epoch, taking=False) if self.seen is not None else None
        version = self.seen.version if self.seen is not None else ""
        epoch = max(self.seen.epoch if self.seen is not None else 0, floor) + 1
        return Claim(version, epoch, taking=True) if self._vacant(now, floor) else None

    def _vacant(self, now: float, floor: int) -> bool:
        since = self._seen_since if self._seen_since is not None else now
        if self.seen is None:
            # Nobody ever led here; or somebody deleted the Lease of one who may lead still.
            return floor == 0 or now - since >= self.times.duration
        if self.seen.holder in ("", self.name):
            return True
        return now - since >= max(self.times.duration, self.seen.duration)

    def written(self, claim: Claim, record: LeaseRecord, begun: float) -> None:
        """The claim was carried out; `begun` is from before the request was sent."""
        if self.standing is Standing.RESIGNED:
            return
        self.seen, self._seen_since = record, begun
        if self.standing is Standing.FOLLOWING and not claim.taking:
            # Stepped down while the renewal was under way: the next term needs an epoch of its own.
            return
        self.epoch = claim.epoch
        self._until = begun + self.times.renew
        if self.standing is Standing.FOLLOWING:
            self._move(Standing.LEADING)

    def expire(self, now: float) -> bool:
        """Step down when the time is over; returns whether this process follows now."""
        if self.standing is Standing.LEADING and now >= self._until:
            self._move(Standing.FOLLOWING)
        return self.standing is Standing.FOLLOWING

    def step_down(self) -> None:
        """A newer leader was met, or the term failed: follow, and compete again later."""
        if self.standing is Standing.LEADING:
            self._move(Standing.FOLLOWING)

    def resign(self) -> Claim | None:
        """Lead no more, for good; the write that tells it, or `None` where nothing is held."""
        held = self.standing is Standing.LEADING and self.seen is not None
        version = self.seen.version if self.seen is not None else ""
        if self.standing is not Standing.RESIGNED:
            self._move(Standing.RESIGNED)
        return Claim(version, self.epoch, taking=False) if held else None

    def _move(self, standing: Standing) -> None:
        if standing not in _MOVES[self.standing]:
            raise RuntimeError(f"from {self.standing.value} to {standing.value}: no such move")
        self.standing = standing
