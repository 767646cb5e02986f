"""When a waiting session's place in the queue is written down, and in which words.

Every note is a write to the API server: the longer the queue, the rarer they are, so that `RATE` notes a
second are not exceeded however many wait.
"""

from __future__ import annotations

from zlib import crc32

from .desk import Standing, WaitReason

FIRST_AFTER = 1.0
EVERY = 10.0
RATE = 40.0

_WORDS = {
    WaitReason.FULL: "waits for a free place",
    WaitReason.OVER_QUOTA: "waits because the namespace has its quota of the pool's sessions",
    WaitReason.NO_MATCH: "no worker that answers has the labels and the zone of spec.selectors",
    WaitReason.NO_WORKER: "no worker of the pool answers yet",
}


def next_note(uid: str, created: float, last: float, waiting: int) -> float:
    """When the next note is due, on the clock of `created`; `last` is when one was written, 0 for never."""
    if last:
        return last + max(EVERY, waiting / RATE)
    # First notes of many that came at once are spread evenly; the share depends on the uid alone.
    return created + FIRST_AFTER + crc32(uid.encode()) / 2**32 * waiting / RATE


def wait_words(standing: Standing, refusals: str) -> str:
    """For the condition `Placed`."""
    found = f"{_WORDS[standing.reason]}; number {standing.position} of {standing.length} in the queue"
    return f"{found}; {refusals}" if refusals else found
