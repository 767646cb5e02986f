"""Entries of ConverseMany: what parley.media.v1 wraps around the messages of one session."""

from __future__ import annotations

from typing import Final

from parley.media.v1 import media_pb2 as pb

from parley_worker.codec.media_pb import status_details
from parley_worker.core.events import LegRefusal, Status

MAX_CREDIT: Final = 2**31 - 1
ENTRY_BYTES: Final = 48
"""What an entry of agent audio takes beside its payload and its item, at most."""
AUDIO_MESSAGE: Final = "audio"


def write_failed(entry: pb.AgentEntry, handle: int, refusal: LegRefusal) -> None:
    """The last word to a leg whose session is not over."""
    code, message, _ = status_details(refusal)
    number: int = code.value[0]
    entry.handle = handle
    entry.failed.code = number
    entry.failed.reason = refusal.reason
    entry.failed.field = refusal.field
    entry.failed.message = message


def read_credit(credit: pb.Credit, left: int | None) -> int | LegRefusal:
    """Bytes of agent audio that the caller takes from now on; `left` from before, None without any."""
    total = credit.audio_bytes + max(left or 0, -MAX_CREDIT)
    if credit.audio_bytes < 0 or total > MAX_CREDIT:
        return LegRefusal(
            Status.INVALID_ARGUMENT,
            "credit-out-of-range",
            f"credit.audio_bytes is {credit.audio_bytes} with {left or 0} left; give 0 or more,"
            f" {MAX_CREDIT} in all at most",
            "credit.audio_bytes",
        )
    return total
