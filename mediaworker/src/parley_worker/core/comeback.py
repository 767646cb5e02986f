"""A session that was placed before: what it goes on with, and what its caller is told of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.protocol.history import merged

from parley_worker.core.effects import ConversationEvent, Effect, SendProvider
from parley_worker.core.events import AttachRequest, CredentialKind, LegRefusal, Status
from parley_worker.core.model import RestoreConfig, SessionConfig, SessionKey
from parley_worker.core.playout import AudioCounters
from parley_worker.core.recorder import Recorder
from parley_worker.core.replay import Replay
from parley_worker.core.restored import Restored, unheard
from parley_worker.core.saved import LateEvent, SavedState
from parley_worker.core.tool_desk import ToolDesk

EPOCHS = 1_000_000
"""Epochs of an attempt begin above all that the one before can have used: a player may have been told of
those."""
MAX_LATE_EVENTS, MAX_LATE_BYTES = 64, 64 * 1024
"""Of the last conversation events, for a caller that has not seen them when it comes elsewhere."""
MOVED = LegRefusal(
    Status.UNAVAILABLE,
    "session-moved",
    "the session was placed on another worker: ask where it is and attach there with the resume token",
)
_CREDENTIALS = ("authorization", "headers")


def first_epoch(key: SessionKey) -> int:
    """The epoch before the first answer of this attempt."""
    return (key.attempt - 1) * EPOCHS


def movable(config: SessionConfig) -> bool:
    """Whether a session can be moved elsewhere unheard: a program or a recording cannot come along."""
    kept = config.recovery.restore and (config.recovery.keep_private or not config.privacy)
    return kept and config.scenario is None and config.recording is None


def late_events(replay: Replay) -> tuple[LateEvent, ...]:
    """The last conversation events, for the next worker."""
    newest = replay.newest(MAX_LATE_EVENTS, MAX_LATE_BYTES)
    return tuple(LateEvent(e.attempt, e.sequence, e.type, e.event_json) for e in newest)


class Comeback:
    """Of one session; `restored` is what there was, once that is known. Methods return effects."""

    def __init__(self, config: RestoreConfig | None, recorder: Recorder) -> None:
        self._config = config
        self._recorder = recorder
        self._pending: Restored | None = None
        self.state = SavedState()
        self.degraded = False

    @property
    def returning(self) -> bool:
        """A caller was attached before."""
        return bool(self.state.resume_sha256)

    def begin(
        self, restored: Restored, desk: ToolDesk, replay: Replay, counters: AudioCounters, now: float
    ) -> list[Effect]:
        """Take what there is, before the provider is connected."""
        assert self._config is not None
        self._pending, self.state = restored, restored.state
        self.degraded = bool(restored.degraded)
        counters.input_ms = restored.state.usage.input_audio_seconds * 1000
        counters.output_ms = restored.state.usage.output_audio_seconds * 1000
        desk.restore(restored.calls, now)
        for late in restored.late:
            replay.carry(ConversationEvent(late.sequence, late.attempt, late.type, late.event_json))
        effects: list[Effect] = []
        if restored.taken_over:
            self._recorder.journal_last = 1
        else:
            effects += self._recorder.journal(
                "takeover", now, from_attempt=restored.from_attempt, mode=str(self._config.mode)
            )
        if restored.from_attempt and (restored.items or restored.handed_over):
            fact = self._recorder.event(
                "session_restored",
                now,
                from_attempt=restored.from_attempt,
                source=restored.source,
                items=len(restored.items),
            )
            effects.append(fact)
        if restored.degraded:
            effects.append(self._recorder.event("recovery_degraded", now, reason=restored.degraded))
        return effects

    def session(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """The session to ask the provider for: as admitted, with what was changed since the first attempt."""
        if self._pending is None or not self._pending.changes.session:
            return asked
        return _with_credentials(merged(asked, self._pending.changes.session), asked.get("tools"))

    def attached(self, request: AttachRequest, desk: ToolDesk, replay: Replay) -> list[Effect]:
        """The first caller of this attempt is there: it is told what it missed, and owed answers are asked
        for."""
        restored, self._pending = self._pending, None
        if restored is None:
            return []
        for told in _missed(restored, request):
            replay.add(told)
        left = unheard(restored, request.heard)
        effects: list[Effect] = []
        for item_id, index, end in left.cuts:
            cut = {"item_id": item_id, "content_index": index, "audio_end_ms": end}
            effects.append(SendProvider({"type": "conversation.item.truncate", **cut}))
        for item_id in left.gone:
            effects.append(SendProvider({"type": "conversation.item.delete", "item_id": item_id}))
        if left.asks:
            desk.ledger.want_answer()
        return effects

    def since(self, request: AttachRequest, attempt: int) -> tuple[int, int]:
        """The last event that the caller knows, as attempt and sequence."""
        if not request.last_event_attempt and attempt > 1 and self._pending is not None:
            return attempt, 0
        return request.last_event_attempt or attempt, request.last_event_sequence


def _missed(restored: Restored, request: AttachRequest) -> list[Mapping[str, Any]]:
    if not request.last_event_attempt and request.credential is not CredentialKind.RESUME:
        return []
    seen = (request.last_event_attempt or restored.from_attempt, request.last_event_sequence)
    return [told.payload for told in restored.told if (told.attempt, told.sequence) > seen]


def _with_credentials(session: Mapping[str, Any], tools: object) -> Mapping[str, Any]:
    """Tools that an update named are written down without how they are reached: take that from the Admit."""
    wanted = session.get("tools")
    if not isinstance(wanted, list) or not isinstance(tools, list):
        return session
    known = {_name(tool): tool for tool in tools if isinstance(tool, Mapping)}
    kept = []
    for tool in wanted:
        own = known.get(_name(tool)) if isinstance(tool, Mapping) else None
        secrets = {name: own[name] for name in _CREDENTIALS if own is not None and name in own}
        kept.append({**tool, **secrets} if secrets and isinstance(tool, Mapping) else tool)
    return {**session, "tools": kept}


def _name(tool: Mapping[str, Any]) -> tuple[str, str]:
    return str(tool.get("type")), str(tool.get("server_label") or tool.get("name"))
