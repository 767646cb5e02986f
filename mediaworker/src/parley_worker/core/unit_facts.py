"""What is told of media units: paths, URLs of players and texts of errors stay out of it. Pure."""

from __future__ import annotations

from parley_worker.core.effects import Effect, Measure, Observe
from parley_worker.core.events import UnitEvent
from parley_worker.core.recorder import Recorder
from parley_worker.core.units import UnitEventKind


def unit_facts(event: UnitEvent, recorder: Recorder, *, ended: bool, now: float) -> list[Effect]:
    """Events and numbers about a unit; of a session that has `ended` only what became of a recording."""
    kind, note = event.kind, recorder.event
    match kind:
        case UnitEventKind.RECORDING_FINISHED:
            size, length = event.size, event.duration_ms
            done = note("recording_finished", now, url=event.url, duration_ms=length, bytes=size)
            return [done, Observe(Measure.RECORDING, 1, "finished")]
        case UnitEventKind.RECORDING_FAILED:
            failed = note("recording_failed", now, url=event.url, message=event.message)
            return [failed, Observe(Measure.RECORDING, 1, "failed")]
    if ended:
        return []
    match kind:
        case UnitEventKind.STARTED:
            return [note("media_started", now, unit=event.unit, tag=event.tag)]
        case UnitEventKind.ENDED:
            length = event.duration_ms
            return [note("media_ended", now, unit=event.unit, tag=event.tag, duration_ms=length)]
    return []
