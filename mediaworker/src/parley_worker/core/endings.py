"""How a session's stay begins for a caller, and how it ends in the records. Pure."""

from __future__ import annotations

from parley_worker.core.audio import AudioFormat, delay_ms
from parley_worker.core.effects import Publish, Started
from parley_worker.core.events import LegAttached
from parley_worker.core.model import SessionKey, SessionReport, Usage
from parley_worker.core.recorder import Recorder, well_formed
from parley_worker.core.secret import Secret

MAX_ERROR_CHARACTERS = 500


def started_of(key: SessionKey, event: LegAttached, provider: AudioFormat) -> Started:
    """What a caller is told that attached; `provider` is the format towards the provider."""
    request = event.request
    delay = delay_ms(provider, request.output_format) + request.output_codec_delay_ms
    return Started(
        key.uid,
        key.attempt,
        event.resume_token,
        request.input_carried,
        request.output_carried,
        request.mode,
        delay,
    )


def end_records(
    recorder: Recorder, report: SessionReport, usage: Usage, note: str, privacy: bool, now: float
) -> list[Publish]:
    """The last records of a session that ended as the report says, journal first."""
    reason = str(report.end_reason)
    journal = recorder.journal("session_ended", now, reason=reason, note=note)
    ended = recorder.event(
        "ended",
        now,
        reason=reason,
        message="" if privacy else report.end_message,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        input_audio_seconds=usage.input_audio_seconds,
        output_audio_seconds=usage.output_audio_seconds,
    )
    return [*journal, ended]


def redacted(message: str, secret: Secret) -> str:
    """An error's text, fit to be shown."""
    hidden = secret.reveal()
    text = message.replace(hidden, "***") if hidden else message
    return str(well_formed(text[:MAX_ERROR_CHARACTERS]))
