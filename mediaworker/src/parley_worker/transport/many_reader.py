"""Takes what came in one request of a stream of many: each frame goes straight to its leg."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from parley.media.v1 import media_pb2 as pb

from parley_worker.core.events import LegRefusal, Status
from parley_worker.transport.many_leg import ManyLeg

log = logging.getLogger(__name__)

BROKEN = LegRefusal(Status.INTERNAL, "internal", "an error inside the worker: attach again")


def take_entries(
    entries: Iterable[pb.CallerEntry],
    legs: Mapping[int, ManyLeg],
    other: Callable[[ManyLeg | None, pb.CallerEntry], None],
    fail: Callable[[ManyLeg, LegRefusal], None],
) -> None:
    """`other` gets each entry that is no frame of a leg in use, `fail` ends a leg and not its session."""
    find = legs.get
    for entry in entries:
        leg = find(entry.handle)
        try:
            payload = entry.audio
            if leg is not None and payload:
                refusal = leg.hear(leg, payload, entry.sequence, entry.media_time_ms)
                if refusal is not None:
                    fail(leg, refusal)
            else:
                other(leg, entry)
        except Exception as exc:
            leg = find(entry.handle)
            if leg is None:
                raise
            # One session's error must not stop the others of the stream. Its text may hold content.
            log.error("a leg of many failed: %s", type(exc).__name__)
            fail(leg, BROKEN)
