"""What an agent does beside conversing: scenario, declared behaviour, tools, recording, recovery. Pure data.

Times are seconds, sizes bytes. Whoever builds these has checked them; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from parley_worker.core.secret import Secret


class ToolRouteKind(StrEnum):
    """Who answers a function call."""

    CALLER = "caller"
    """The attached gRPC caller, by a tool output."""
    NATS = "nats"
    """Request-reply on `parley.tools.<name>`."""
    WEBHOOK = "webhook"
    """A signed HTTP POST."""
    SCENARIO = "scenario"
    """A handler of the session's scenario."""


@dataclass(frozen=True, slots=True)
class ToolRoute:
    """Where calls of the function `name` go. `url`, `headers` and `signing_key` are for webhooks."""

    name: str
    kind: ToolRouteKind = ToolRouteKind.CALLER
    timeout: float = 10.0
    url: str = ""
    signing_key: Secret = field(default_factory=lambda: Secret(""), repr=False)
    ca_pem: str = field(default="", repr=False)
    retries: int = 2
    max_output_bytes: int = 64 * 1024
    cancel_on_barge_in: bool = False


@dataclass(frozen=True, slots=True)
class ScenarioLimits:
    """Bounds of user code. `memory_bytes` is the address space beyond what the bare host needs."""

    handler_timeout: float = 1.0
    async_handler_timeout: float = 10.0
    max_timers: int = 100
    memory_bytes: int = 256 * 1024 * 1024
    events_per_second: int = 200
    http_requests: int = 3
    http_response_bytes: int = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ScenarioConfig:
    """User code to run: an entry point `package.module:function` of the image, or source text.

    Exactly one of `entry_point` and `source` is set; with `source`, `function` names what is called and
    `file_name` is shown in errors. `parameters` is the user's JSON object, handed to the scenario.
    """

    entry_point: str = ""
    source: str = field(default="", repr=False)
    file_name: str = "scenario.py"
    function: str = "main"
    parameters: Mapping[str, object] = field(default_factory=dict, repr=False)
    limits: ScenarioLimits = ScenarioLimits()


@dataclass(frozen=True, slots=True)
class Line:
    """Something the agent says: `text` word for word, or what `instructions` ask for. Both empty: nothing."""

    text: str = ""
    instructions: str = ""

    def __bool__(self) -> bool:
        return bool(self.text or self.instructions)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The declarative scenario. Zero seconds and empty lines switch a rule off.

    greeting: said when the first caller attaches. hang_up_tool: a function `hang_up` is offered to the model.
    hang_up_phrases: a transcript of the caller that holds one ends the call after `farewell`.
    idle_after: without speech of either side, `idle_lines` are said one by one; after the last one and
    another `idle_after` the call ends (when `idle_hang_up`). goodbye_before: `goodbye` is said that long
    before the maximum duration.
    """

    greeting: Line = Line()
    hang_up_tool: bool = False
    hang_up_phrases: tuple[str, ...] = ()
    farewell: Line = Line()
    idle_after: float = 0.0
    idle_lines: tuple[Line, ...] = ()
    idle_hang_up: bool = True
    goodbye_before: float = 0.0
    goodbye: Line = Line()


@dataclass(frozen=True, slots=True)
class RecordingConfig:
    """A stereo recording, caller left and agent right.

    `directory` is a folder of a volume; `s3_url` (`s3://bucket/prefix`) an S3-compatible store. Exactly one
    is set. `format` is "wav" or "opus".
    """

    format: str = "wav"
    directory: str = ""
    s3_url: str = ""
    s3_endpoint: str = ""
    s3_region: str = ""
    s3_access_key: Secret = field(default_factory=lambda: Secret(""), repr=False)
    s3_secret_key: Secret = field(default_factory=lambda: Secret(""), repr=False)


@dataclass(frozen=True, slots=True)
class RecoveryConfig:
    """What happens when the provider's WebSocket is lost or reaches its time limit.

    restore: open a new one and carry the conversation over; else the session ends.
    keep_private: under privacy the conversation may be kept in memory (and nowhere else) so that it can be
    carried over; without it privacy refuses to restore. rotate_after: seconds after which the socket is
    replaced at a quiet moment; 0 takes the provider's own limit less a margin. outlives_worker: the session
    goes on elsewhere when its worker or shard is lost.
    """

    restore: bool = True
    keep_private: bool = False
    rotate_after: float = 0.0
    outlives_worker: bool = False


@dataclass(frozen=True, slots=True)
class MediaAccess:
    """What scenarios may open: hosts of players' URLs and of `http`, folders of players' files."""

    hosts: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
