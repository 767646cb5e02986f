"""parley.media.v1 to core types and back, and the gRPC status of every refusal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from parley.media.v1 import media_pb2 as pb
from parley_opus import DEFAULT_BITRATE, OpusSettings

from parley_worker.core import effects as fx
from parley_worker.core import event_filter
from parley_worker.core import events as ev
from parley_worker.core.audio import AudioFormat, Encoding
from parley_worker.core.leg_codec import LegCodec, LegFormat, OpusFormat
from parley_worker.core.media_path import OutFrame, PlayoutMode
from parley_worker.core.restored import Reach

MAX_CLIENT_EVENT_BYTES = 256 * 1024
MAX_TOOL_OUTPUT_BYTES = 64 * 1024
MAX_NOTE = 200
AUDIO_BYTES = 64
"""What a frame of agent audio takes beside its payload and its item's id, at most."""
EVENT_BYTES = 48
"""What a conversation event takes beside its type and its JSON, at most."""
MAX_PLAYOUT_BUFFER_MS = 5000
MARK_INTERVAL_MS = (40, 5000)
REASON_KEY = "parley-reason"
FIELD_KEY = "parley-field"

_ENCODINGS = {
    pb.AUDIO_ENCODING_PCM16: Encoding.PCM16,
    pb.AUDIO_ENCODING_G711_ULAW: Encoding.G711_ULAW,
    pb.AUDIO_ENCODING_G711_ALAW: Encoding.G711_ALAW,
}
_ENCODING_VALUES = {core: wire for wire, core in _ENCODINGS.items()}
_MODES = {
    pb.PLAYOUT_MODE_UNSPECIFIED: PlayoutMode.REALTIME,
    pb.PLAYOUT_MODE_REALTIME: PlayoutMode.REALTIME,
    pb.PLAYOUT_MODE_BURST: PlayoutMode.BURST,
}
_CLEAR_REASONS = {
    fx.ClearReason.BARGE_IN: pb.CLEAR_REASON_BARGE_IN,
    fx.ClearReason.REQUESTED: pb.CLEAR_REASON_REQUESTED,
    fx.ClearReason.OVERFLOW: pb.CLEAR_REASON_OVERFLOW,
    fx.ClearReason.RECONNECT: pb.CLEAR_REASON_RECONNECT,
}

StatusDetails = tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class StartMessage:
    """A Start of good form and the credential in it (empty for none); `opus` is None where no side is it."""

    request: ev.AttachRequest
    credential: str = field(repr=False)
    opus: OpusSettings | None = None


def status_details(refusal: ev.LegRefusal) -> StatusDetails:
    """Status, text and trailing metadata (`parley-reason`, `parley-field`) of a refusal."""
    metadata: tuple[tuple[str, str], ...] = ((REASON_KEY, refusal.reason),)
    if refusal.field:
        metadata += ((FIELD_KEY, refusal.field),)
    return grpc.StatusCode[refusal.status.value], refusal.message, metadata


def read_start(message: pb.ConverseRequest) -> StartMessage | ev.LegRefusal:
    """The first message of a stream."""
    kind = message.WhichOneof("message")
    if kind != "start":
        return _invalid(
            "start-missing", f"the first message is {kind or 'empty'}; it must be start", "message"
        )
    start = message.start
    incoming = _format(start.input_format, "start.input_format")
    outgoing = _format(start.output_format, "start.output_format")
    for checked in (incoming, outgoing):
        if isinstance(checked, ev.LegRefusal):
            return checked
    mode = _MODES.get(start.playout_mode)
    if mode is None:
        return _invalid(
            "playout-mode-unknown",
            f"start.playout_mode is {start.playout_mode}; use REALTIME or BURST",
            "start.playout_mode",
        )
    if not 0 <= start.playout_buffer_ms <= MAX_PLAYOUT_BUFFER_MS:
        return _invalid(
            "playout-buffer-out-of-range",
            f"start.playout_buffer_ms is {start.playout_buffer_ms}; use 0 to {MAX_PLAYOUT_BUFFER_MS}",
            "start.playout_buffer_ms",
        )
    low, high = MARK_INTERVAL_MS
    if start.mark_interval_ms and not low <= start.mark_interval_ms <= high:
        return _invalid(
            "mark-interval-out-of-range",
            f"start.mark_interval_ms is {start.mark_interval_ms}; use {low} to {high}, or 0 for none",
            "start.mark_interval_ms",
        )
    if wrong := event_filter.objection(start.events):
        return _invalid("events-unknown", f"start.events {wrong}", "start.events")
    shown = start.WhichOneof("credential")
    credential = getattr(start, shown) if shown else ""
    if not credential and not start.session_uid:
        return ev.LegRefusal(
            ev.Status.UNAUTHENTICATED,
            "credential-missing",
            "start has no ticket and no resume token",
            "start.ticket",
        )
    assert not isinstance(incoming, ev.LegRefusal)
    assert not isinstance(outgoing, ev.LegRefusal)
    opus = _opus(start.opus)
    if isinstance(opus, ev.LegRefusal):
        return opus
    request = ev.AttachRequest(
        credential=ev.CredentialKind(shown) if shown and credential else ev.CredentialKind.NONE,
        input_format=_samples(incoming),
        output_format=_samples(outgoing),
        input_codec=_codec(incoming),
        output_codec=_codec(outgoing),
        mode=mode,
        playout_buffer_ms=start.playout_buffer_ms,
        mark_interval_ms=start.mark_interval_ms,
        last_event_sequence=max(0, start.last_event_sequence),
        last_event_attempt=max(0, start.last_event_attempt),
        heard=_reach(start.heard) if start.HasField("heard") else None,
        session_uid=start.session_uid,
        events=tuple(start.events),
    )
    spoken = request.input_codec is not None or request.output_codec is not None
    return StartMessage(request, credential, opus if spoken else None)


def _reach(wire: pb.PlaybackProgress) -> Reach:
    return Reach(wire.item_id, max(0, wire.content_index), max(0, wire.played_ms))


def _samples(carried: LegFormat) -> AudioFormat:
    return carried if isinstance(carried, AudioFormat) else AudioFormat(Encoding.PCM16, carried.rate)


def _codec(carried: LegFormat) -> LegCodec | None:
    return None if isinstance(carried, AudioFormat) else LegCodec(carried)


def _opus(wire: pb.OpusSettings) -> OpusSettings | ev.LegRefusal:
    try:
        return OpusSettings(wire.bitrate_bps or DEFAULT_BITRATE, wire.expected_loss_percent)
    except ValueError as exc:
        text = f"start.opus.{exc}"
        return _invalid("opus-setting-out-of-range", text, text.partition(" ")[0])


def _format(wire: pb.AudioFormat, name: str) -> LegFormat | ev.LegRefusal:
    encoding = _ENCODINGS.get(wire.encoding)
    if encoding is None and wire.encoding != pb.AUDIO_ENCODING_OPUS:
        words = "not given" if wire.encoding == pb.AUDIO_ENCODING_UNSPECIFIED else f"{wire.encoding}, unknown"
        return _invalid(
            "format-unsupported",
            f"{name}.encoding is {words}; use PCM16, G711_ULAW, G711_ALAW or OPUS",
            f"{name}.encoding",
        )
    try:
        return (
            OpusFormat(wire.sample_rate_hz)
            if encoding is None
            else AudioFormat(encoding, wire.sample_rate_hz)
        )
    except ValueError as exc:
        return _invalid("format-unsupported", f"{name}.{exc}", f"{name}.sample_rate_hz")


def _invalid(reason: str, message: str, name: str) -> ev.LegRefusal:
    return ev.LegRefusal(ev.Status.INVALID_ARGUMENT, reason, message, name)


def read_command(message: pb.ConverseRequest) -> ev.LegCommand | ev.LegRefusal:
    """Any message after the first but audio. What ends the leg is a refusal; what does not is invalid."""
    kind = message.WhichOneof("message")
    match kind:
        case "start":
            return _invalid("start-repeated", "start may only be the first message of a stream", "start")
        case "dtmf":
            return _dtmf(message.dtmf)
        case "progress":
            p = message.progress
            return ev.Progress(p.item_id, p.content_index, max(0, p.played_ms), p.epoch)
        case "mark_played":
            return ev.MarkPlayed(message.mark_played.name, message.mark_played.epoch)
        case "cleared":
            c = message.cleared
            return ev.Cleared(c.epoch, c.item_id, c.content_index, max(0, c.played_ms))
        case "client_event":
            return _client_event(message.client_event.event_json)
        case "tool_output":
            return _tool_output(message.tool_output)
        case "clear":
            return ev.ClearRequest()
        case "hangup":
            return ev.Hangup(message.hangup.note[:MAX_NOTE])
        case _:
            return ev.ClientEventInvalid("the message is empty or of a kind that this worker does not know")


def _dtmf(wire: pb.Dtmf) -> ev.LegCommand:
    if wire.digit not in ev.DTMF_DIGITS:
        return ev.ClientEventInvalid(f"dtmf.digit is {wire.digit[:8]!r}; use one of 0-9, *, #, A-D")
    return ev.Dtmf(wire.digit, max(0, wire.duration_ms))


def _client_event(text: str) -> ev.LegCommand:
    size = len(text.encode())
    if size > MAX_CLIENT_EVENT_BYTES:
        return ev.ClientEventInvalid(
            f"client_event.event_json has {size} bytes; at most {MAX_CLIENT_EVENT_BYTES} are taken"
        )
    try:
        event: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ev.ClientEventInvalid("client_event.event_json is not JSON")
    if not isinstance(event, dict):
        return ev.ClientEventInvalid("client_event.event_json is not a JSON object")
    return ev.ClientEvent(event)


def _tool_output(wire: pb.ToolOutput) -> ev.LegCommand:
    size = len(wire.output.encode())
    if size > MAX_TOOL_OUTPUT_BYTES:
        return ev.ClientEventInvalid(
            f"tool_output.output has {size} bytes; at most {MAX_TOOL_OUTPUT_BYTES} are taken"
        )
    return ev.ToolOutput(wire.call_id, wire.output, wire.no_response)


def write_event(message: fx.ConversationEvent, response: pb.ConverseResponse) -> None:
    """Into an empty response, where it will leave: these are most of what is no audio."""
    event = response.event
    event.sequence = message.sequence
    event.attempt = message.attempt
    event.type = message.type
    event.event_json = message.event_json


def event_size(message: fx.ConversationEvent) -> int:
    """Bytes that the event takes as a response, about and not less."""
    text = message.event_json
    return EVENT_BYTES + len(message.type.encode()) + (len(text) if text.isascii() else len(text.encode()))


def write(message: fx.ToLeg, worker_instance_id: str) -> pb.ConverseResponse:
    """A message for the caller."""
    match message:
        case fx.ConversationEvent():
            response = pb.ConverseResponse()
            write_event(message, response)
            return response
        case fx.Mark():
            mark = pb.Mark(
                name=message.name,
                epoch=message.epoch,
                item_id=message.item_id,
                content_index=message.content_index,
                position_ms=message.position_ms,
            )
            return pb.ConverseResponse(mark=mark)
        case fx.Clear():
            return pb.ConverseResponse(
                clear=pb.Clear(epoch=message.epoch, reason=_CLEAR_REASONS[message.reason])
            )
        case fx.Started():
            return pb.ConverseResponse(started=_started(message, worker_instance_id))
        case fx.Draining():
            deadline = Timestamp()
            deadline.FromNanoseconds(int(message.deadline_unix * 1e9))
            return pb.ConverseResponse(draining=pb.Draining(deadline_time=deadline))
        case ev.MovedAway():
            moved = pb.Moved(
                endpoint=message.endpoint,
                tls_server_name=message.tls_server_name,
                attempt=message.attempt,
                resend_from=message.resend_from,
                resend_messages_from=message.resend_messages_from,
            )
            return pb.ConverseResponse(moved=moved)
        case fx.Transfer(target, note):
            return pb.ConverseResponse(transfer=pb.Transfer(target=target, note=note))
        case fx.Ended():
            return pb.ConverseResponse(ended=pb.Ended(reason=str(message.reason), message=message.message))


def _started(message: fx.Started, worker_instance_id: str) -> pb.Started:
    burst = message.mode is PlayoutMode.BURST
    return pb.Started(
        session_uid=message.session_uid,
        attempt=message.attempt,
        resume_token=message.resume_token,
        input_format=_wire_format(message.input_format),
        output_format=_wire_format(message.output_format),
        playout_mode=pb.PLAYOUT_MODE_BURST if burst else pb.PLAYOUT_MODE_REALTIME,
        worker_instance_id=worker_instance_id,
        output_delay_ms=message.output_delay_ms,
    )


def _wire_format(audio: LegFormat) -> pb.AudioFormat:
    if isinstance(audio, OpusFormat):
        return pb.AudioFormat(encoding=pb.AUDIO_ENCODING_OPUS, sample_rate_hz=audio.rate)
    return pb.AudioFormat(encoding=_ENCODING_VALUES[audio.encoding], sample_rate_hz=audio.rate)


def write_audio(frame: OutFrame, sequence: int) -> pb.ConverseResponse:
    """A frame of agent audio."""
    message = pb.ConverseResponse()
    # Set one by one: half the cost of keyword arguments.
    audio = message.audio
    audio.payload = frame.payload
    audio.item_id = frame.item_id
    audio.epoch = frame.epoch
    audio.sequence = sequence
    audio.position_ms = int(frame.position_ms)
    if frame.content_index:
        audio.content_index = frame.content_index
    return message
