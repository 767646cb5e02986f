"""The status of a VoiceSession: built whole, written only where it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import cast

from .model import Placement, SessionReport
from .phases import EndReason


def timestamp(at: float) -> str:
    """RFC 3339 in UTC with seconds."""
    return _second(int(at))


@lru_cache(256)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> float:
    """Unix seconds; 0 for what is no timestamp."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0


def condition(
    kind: str, status: bool | None, reason: str, message: str, generation: int
) -> dict[str, object]:
    word = "Unknown" if status is None else str(status)
    return {
        "type": kind,
        "status": word,
        "reason": reason,
        "message": message[:1024],
        "observedGeneration": generation,
    }


def find_condition(status: Mapping[str, object], kind: str) -> Mapping[str, object] | None:
    found = status.get("conditions")
    items = found if isinstance(found, list) else []
    return next((item for item in items if isinstance(item, Mapping) and item.get("type") == kind), None)


def merge_conditions(
    previous: object, wanted: Sequence[Mapping[str, object]], now: float
) -> list[dict[str, object]]:
    """`wanted` over `previous`; `lastTransitionTime` moves only when the status of a condition does."""
    old = {
        str(item.get("type")): dict(item)
        for item in (cast("list[object]", previous) if isinstance(previous, list) else [])
        if isinstance(item, Mapping)
    }
    for item in wanted:
        kind = str(item["type"])
        before = old.get(kind)
        same = before is not None and before.get("status") == item["status"]
        since = before.get("lastTransitionTime") if same and before is not None else None
        old[kind] = {**item, "lastTransitionTime": since or timestamp(now)}
    return list(old.values())


def difference(previous: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """The merge patch that turns `previous` into `wanted` for the keys of `wanted`; empty when nothing
    changes."""
    patch: dict[str, object] = {}
    for key, value in wanted.items():
        present = previous.get(key)
        if value is None:
            if present is not None:
                patch[key] = None
        elif isinstance(value, Mapping) and isinstance(present, Mapping):
            inner = difference(present, value)
            if inner:
                patch[key] = inner
        elif present != value:
            patch[key] = value
    return patch


def worker_status(placement: Placement, report: SessionReport | None, node: str) -> dict[str, object]:
    namespace, _, name = placement.worker.rpartition("/")
    found: dict[str, object] = {
        "name": name,
        "instanceId": placement.instance_id,
        "shard": report.shard if report else placement.shard,
        "endpoint": (report.endpoint if report else "") or placement.endpoint,
        "tlsServerName": (report.tls_server_name if report else "") or placement.tls_server_name,
    }
    if namespace:
        found["namespace"] = namespace
    if node:
        found["node"] = node
    return found


def report_status(report: SessionReport) -> dict[str, object]:
    """What a worker's report adds to the status."""
    found: dict[str, object] = {}
    if report.client_id:
        found["clientId"] = report.client_id
    if report.web_socket_id:
        found["webSocketId"] = report.web_socket_id
    if report.start_time:
        found["startTime"] = timestamp(report.start_time)
    if not report.live:
        found["usage"] = {
            "inputTokens": report.usage.input_tokens,
            "outputTokens": report.usage.output_tokens,
            "cachedTokens": report.usage.cached_tokens,
            "inputAudioSeconds": round(report.usage.input_audio_seconds, 3),
            "outputAudioSeconds": round(report.usage.output_audio_seconds, 3),
        }
    if report.journal_stream:
        journal: dict[str, object] = {"stream": report.journal_stream, "first": report.journal_first}
        # While the session goes on the last number grows all the time: no reason to write.
        found["journal"] = journal if report.live else {**journal, "last": report.journal_last}
    return found


def end_status(reason: EndReason, message: str, at: float) -> dict[str, object]:
    found: dict[str, object] = {"endReason": reason.value, "endTime": timestamp(at)}
    if message:
        found["endMessage"] = message[:1024]
    return found
