"""How the provider fares: replaced connections, rate limits that run out, a quota that is used up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.protocol.refusals import OUT_OF_QUOTA

from parley_worker.core.effects import Effect, Measure, Observe
from parley_worker.core.events import ProviderReconnected, ProviderReconnecting, RestoreRefused
from parley_worker.core.fields import int_of, object_of, text_of
from parley_worker.core.recorder import Recorder

Payload = Mapping[str, Any]
LOW_SHARE, WELL_SHARE = 0.05, 0.10
"""A limit is told of when no more than this share is left, and again only after more than that was."""
LIMIT_NAMES = frozenset({"requests", "tokens"})
MAX_REASON_CHARACTERS = 300


class ProviderHealth:
    """Facts and numbers about one session's provider. Methods give effects."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._low: set[str] = set()
        self.reconnecting = False

    def on_reconnecting(self, event: ProviderReconnecting, now: float) -> list[Effect]:
        """A new WebSocket is tried."""
        self.reconnecting = True
        delay = round(event.delay * 1000)
        fields: dict[str, object] = {"reason": event.reason, "try": event.attempt, "delay_ms": delay}
        return [self._recorder.event("provider_reconnecting", now, **fields)]

    def on_reconnected(self, event: ProviderReconnected, now: float) -> list[Effect]:
        """A new WebSocket holds the conversation."""
        self.reconnecting = False
        return [
            self._recorder.event(
                "provider_reconnected",
                now,
                web_socket_id=event.web_socket_id,
                cause=event.cause,
                gap_ms=round(event.gap * 1000),
                items=event.items,
            ),
            Observe(Measure.RECONNECTED, event.gap, event.cause),
        ]

    def on_refused(self, event: RestoreRefused, now: float) -> list[Effect]:
        """The conversation cannot be carried over."""
        self.reconnecting = False
        reason = event.reason[:MAX_REASON_CHARACTERS]
        return [
            self._recorder.event("restore_refused", now, reason=reason),
            Observe(Measure.RESTORE_REFUSED, 1, event.cause),
        ]

    def on_lost(self) -> list[Effect]:
        """The provider is gone for good."""
        if not self.reconnecting:
            return []
        self.reconnecting = False
        return [Observe(Measure.RECONNECT_FAILED, 1, "lost")]

    def on_rate_limits(self, payload: Payload, now: float) -> list[Effect]:
        """`rate_limits.updated`: tell of limits that are nearly used up, once."""
        limits = payload.get("rate_limits")
        effects: list[Effect] = []
        for each in limits if isinstance(limits, list) else ():
            if not isinstance(each, Mapping):
                continue
            name, limit, remaining = text_of(each, "name"), int_of(each, "limit"), int_of(each, "remaining")
            if name not in LIMIT_NAMES or limit <= 0:
                continue
            effects.append(Observe(Measure.RATE_LIMIT_LEFT, remaining / limit, name))
            if remaining > limit * WELL_SHARE:
                self._low.discard(name)
            elif remaining <= limit * LOW_SHARE and name not in self._low:
                self._low.add(name)
                reset = each.get("reset_seconds")
                seconds = float(reset) if isinstance(reset, int | float) else 0.0
                effects.append(
                    self._recorder.event(
                        "rate_limited",
                        now,
                        name=name,
                        remaining=remaining,
                        limit=limit,
                        reset_seconds=seconds,
                    )
                )
        return effects

    @staticmethod
    def quota_used_up(payload: Payload) -> str:
        """The end's message when the provider says that the account is out of quota; else empty."""
        kind = payload.get("type")
        if kind == "response.done":
            error = object_of(object_of(object_of(payload, "response"), "status_details"), "error")
        elif kind == "error":
            error = object_of(payload, "error")
        else:
            return ""
        words = {text_of(error, "code"), text_of(error, "type")}
        if not words & OUT_OF_QUOTA:
            return ""
        said = text_of(error, "message")
        return "the provider's quota is used up: raise it with the provider, then start the session again" + (
            f" ({said})" if said else ""
        )
