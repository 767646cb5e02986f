"""Frames between the supervisor of a worker and a shard: a kind, a number that pairs answers, a body."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from parley_worker.codec.control_pb import Endpoint

MAX_BODY = 8 << 20
_HEADER = struct.Struct("!IBI")
HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    """What a frame is. Requests carry a number above 0, and ANSWER or ABORT the number of their request."""

    BOOT = 1
    """Supervisor, once and first: Boot as JSON."""
    READY = 2
    """Shard, once it serves: Ready as JSON."""
    FAILED = 3
    """Shard that cannot start: why, as text."""
    BEAT = 4
    """Shard, several times a second: Beat as JSON."""
    REPORT = 5
    """Shard: a control.v1 SessionReport."""
    ANSWER = 6
    """Shard: the response of a request."""
    ABORT = 7
    """Shard: name of a gRPC status, a line end, and a message."""
    DRAIN = 8
    """Supervisor: seconds that sessions may go on, as text."""
    HURRY = 9
    """Supervisor: the drain's deadline is now."""
    DEPARTED = 10
    """Shard: the last control.v1 SessionReport of a session that lives elsewhere now."""
    ADMIT = 16
    """control.v1 AdmitRequest and AdmitResponse."""
    TERMINATE = 17
    """control.v1 TerminateRequest and TerminateResponse."""
    COMMAND = 18
    """control.v1 CommandRequest and CommandResponse."""
    METRICS = 19
    """Nothing; the text exposition of the shard's metrics."""
    MIGRATE = 20
    """control.v1 MigrateRequest and MigrateResponse; others are served meanwhile."""
    MOVED = 21
    """control.v1 MovedRequest and MovedResponse."""


class FrameError(ValueError):
    """Bytes that are no frame."""


def encode(kind: Kind, number: int, body: bytes) -> bytes:
    """The bytes of a frame; FrameError when the body is too long for one."""
    if len(body) > MAX_BODY:
        raise FrameError(f"{kind.name}: {len(body)} bytes; a frame holds {MAX_BODY} at most")
    return _HEADER.pack(len(body), kind, number) + body


def parse_header(header: bytes) -> tuple[int, Kind, int]:
    """Length of the body, kind and number."""
    length, kind, number = _HEADER.unpack(header)
    if length > MAX_BODY:
        raise FrameError(f"a body of {length} bytes; a frame holds {MAX_BODY} at most")
    try:
        return length, Kind(kind), number
    except ValueError:
        raise FrameError(f"no such kind of frame: {kind}") from None


@dataclass(frozen=True, slots=True)
class Boot:
    """What a shard is to be. `settings` are variables, secrets included: never on a command line."""

    shard: int
    instance: str
    supervisor_pid: int
    core: int | None
    settings: dict[str, str]

    def encode(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Boot:
        return cls(**_object(body))


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a shard listens, and where callers are told to attach."""

    media: str
    telephony: str
    endpoint: Endpoint

    def encode(self) -> bytes:
        told = self.endpoint
        return json.dumps(
            {
                "media": self.media,
                "telephony": self.telephony,
                "endpoint": [told.address, told.tls_server_name, told.telephony],
            }
        ).encode()

    @classmethod
    def decode(cls, body: bytes) -> Ready:
        fields = _object(body)
        return cls(fields["media"], fields["telephony"], Endpoint(*fields["endpoint"]))


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life.

    `overloaded` names what is short there (empty: nothing); `degraded`: records for NATS are late or lost.
    """

    overloaded: str = ""
    degraded: bool = False

    def encode(self) -> bytes:
        return json.dumps([self.overloaded, self.degraded]).encode()

    @classmethod
    def decode(cls, body: bytes) -> Beat:
        overloaded, degraded = json.loads(body)
        return cls(overloaded, degraded)


def _object(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise FrameError("the body is no JSON object")
    return found
