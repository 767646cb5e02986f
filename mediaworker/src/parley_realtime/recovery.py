"""How a client outlives its WebSocket: parameters, and the records that tell of it. Pure data."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

Cause = Literal["lost", "rotation"]


class RecoveryEvents(StrEnum):
    """What listeners of a client with `recovery` may register for; the payload has the record's fields."""

    Reconnecting = "Parley.Reconnecting"
    Reconnected = "Parley.Reconnected"
    RestoreRefused = "Parley.RestoreRefused"


RECOVERY_NAMES = frozenset(event.value for event in RecoveryEvents)


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The conversation moves to a new WebSocket; `attempt` counts from 1, `delay` is seconds until it.

    `reason` says what was wrong with the old one, `word` is its error's `reason`. `cut_items` are messages of
    the agent that were half made when it was lost: whoever knows how much of them was heard should truncate
    them now.
    """

    cause: Cause
    reason: str = field(repr=False)
    attempt: int
    delay: float
    cut_items: tuple[str, ...] = ()
    word: str = "ProviderUnavailable"


@dataclass(frozen=True, slots=True)
class Reconnected:
    """A new WebSocket holds the conversation. `gap` is seconds without one, `items` what was carried over.

    `forgotten` counts the oldest items that were let go because the conversation is too long.
    """

    web_socket_id: str
    cause: Cause
    gap: float
    items: int
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class RestoreRefused:
    """The conversation cannot be carried over: a rotation does not take place, a loss ends the client."""

    cause: Cause
    reason: str


class Fillable(Protocol):
    """A history that is still empty: see `protocol.history.ConversationHistory`."""

    def server(self, payload: Mapping[str, Any]) -> None: ...

    def given(self, item_body: Mapping[str, Any]) -> None: ...

    def audio(self, item_id: str, content_index: int, milliseconds: float) -> None: ...

    def truncate(self, item_id: str, content_index: object, audio_end_ms: object) -> None: ...


RecoveryRecord = Reconnecting | Reconnected | RestoreRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryParameters:
    """Times in seconds unless the name says otherwise; ValueError names the field that cannot work.

    connect_attempts: how often the first WebSocket is tried, within the client's `connect_timeout` and with
    the same back-off, as long as no upgrade has succeeded.
    attempts, deadline: how often and how long a lost connection is tried to be replaced; a new one that is
    lost again before the provider has said anything counts on.
    backoff_base, backoff_cap: the wait before try n is random in [0, min(cap, base * 2^(n-1))].
    attempt_timeout, restore_timeout: for one new WebSocket, and for carrying the conversation over to it.
    replay_ms: caller audio of turns under way that is sent again, the newest; quiet_replay_ms: the same while
    nobody is known to speak, it bounds how long a dead socket may go unnoticed without losing words.
    held_audio_ms: audio of turns whose transcript has not come, kept in its place, the newest. Where nobody
    transcribes and more was said, nothing can be carried over any more, and none of these three is held.
    rotate_after: seconds after which a WebSocket is replaced at a quiet moment; 0: the provider's
    `expires_at` less `rotate_margin` (a tenth of the whole time where that is shorter).
    progress_timeout: a provider that says nothing at all for so long, though something was asked of it, is
    gone. response_timeout: a response of which nothing comes for so long is cancelled, and the connection
    replaced if even that is not answered; a request for one that is not taken up for so long, too.
    truncate_grace: how long a restoration waits for `cut_items` to be truncated.
    keep_private: keep the conversation in memory in spite of the client's `privacy`; without it nothing is
    carried over then, and pings alone watch the connection.
    carry: fills an empty history with a conversation that another client held; the first WebSocket is given
    it before anything else, and what it echoes of it is told to nobody.
    replaces: False, and a lost WebSocket is the end all the same: for what `carry` alone is wanted.
    pace: asked before every try for seconds to wait beyond the back-off: many clients that lost a provider at
    once need not return to it at once.
    quiet: asked before a rotation; False while audio plays that this library does not know of.
    on_recovery: told every record, synchronously. random: numbers in [0, 1). wall: Unix seconds.
    """

    connect_attempts: int = 3
    attempts: int = 10
    deadline: float = 60.0
    backoff_base: float = 0.25
    backoff_cap: float = 8.0
    attempt_timeout: float = 10.0
    restore_timeout: float = 10.0
    replay_ms: int = 30_000
    quiet_replay_ms: int = 12_000
    held_audio_ms: int = 20_000
    rotate_after: float = 0.0
    rotate_margin: float = 120.0
    progress_timeout: float = 10.0
    response_timeout: float = 30.0
    truncate_grace: float = 0.3
    keep_private: bool = False
    carry: Callable[[Fillable], None] | None = None
    replaces: bool = True
    pace: Callable[[], float] | None = None
    quiet: Callable[[], bool] | None = None
    on_recovery: Callable[[RecoveryRecord], None] | None = None
    random: Callable[[], float] = random.random
    wall: Callable[[], float] = time.time  # noqa: TID251 - the default of an argument

    def __post_init__(self) -> None:
        for name in (
            "connect_attempts",
            "attempts",
            "deadline",
            "attempt_timeout",
            "restore_timeout",
            "replay_ms",
            "quiet_replay_ms",
            "held_audio_ms",
            "progress_timeout",
            "response_timeout",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"recovery.{name} must be greater than 0, got {getattr(self, name)!r}")
        for name in ("backoff_base", "backoff_cap", "rotate_after", "rotate_margin", "truncate_grace"):
            if getattr(self, name) < 0:
                raise ValueError(f"recovery.{name} must not be below 0, got {getattr(self, name)!r}")

    def delay(self, attempt: int) -> float:
        """The wait before try `attempt`, counted from 1."""
        ceiling = min(self.backoff_cap, self.backoff_base * 2.0 ** min(attempt - 1, 30))
        return ceiling * self.random()
