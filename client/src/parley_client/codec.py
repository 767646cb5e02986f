"""Between `parley.media.v1` and this package's own values. The only module that knows both."""

from __future__ import annotations

import json
from typing import Final

from parley.media.v1 import media_pb2 as pb

from .errors import ProtocolError, UsageError
from .events import (
    AgentAudio,
    Clear,
    ClearReason,
    ConversationEvent,
    Draining,
    Ended,
    Event,
    Heard,
    Mark,
    Moved,
    Started,
    Transfer,
)
from .formats import AudioFormat, Encoding

_ENCODINGS: Final = {
    Encoding.PCM16: pb.AUDIO_ENCODING_PCM16,
    Encoding.G711_ULAW: pb.AUDIO_ENCODING_G711_ULAW,
    Encoding.G711_ALAW: pb.AUDIO_ENCODING_G711_ALAW,
    Encoding.OPUS: pb.AUDIO_ENCODING_OPUS,
}
_BY_NUMBER: Final = {number: encoding for encoding, number in _ENCODINGS.items()}
_REASONS: Final = {
    pb.CLEAR_REASON_BARGE_IN: ClearReason.BARGE_IN,
    pb.CLEAR_REASON_REQUESTED: ClearReason.REQUESTED,
    pb.CLEAR_REASON_OVERFLOW: ClearReason.OVERFLOW,
    pb.CLEAR_REASON_RECONNECT: ClearReason.RECONNECT,
}


def format_to_pb(format: AudioFormat) -> pb.AudioFormat:
    """Write a format."""
    return pb.AudioFormat(encoding=_ENCODINGS[format.encoding], sample_rate_hz=format.sample_rate_hz)


def format_from_pb(message: pb.AudioFormat) -> AudioFormat:
    """Read a format.

    Raises:
        ProtocolError: it is none that this package knows.
    """
    try:
        return AudioFormat(_BY_NUMBER[message.encoding], message.sample_rate_hz)
    except (KeyError, UsageError) as error:
        raise ProtocolError(
            f"the worker answered with an unknown audio format {message.encoding}@{message.sample_rate_hz}"
        ) from error


def started_from_pb(message: pb.Started, *, resumed: bool) -> Started:
    """Read the first response of a leg."""
    return Started(
        session_uid=message.session_uid,
        attempt=message.attempt,
        input_format=format_from_pb(message.input_format),
        output_format=format_from_pb(message.output_format),
        worker_instance_id=message.worker_instance_id,
        output_delay_ms=message.output_delay_ms,
        resumed=resumed,
    )


def progress_to_pb(heard: Heard) -> pb.PlaybackProgress:
    """Write how far an item was heard."""
    return pb.PlaybackProgress(
        item_id=heard.item_id, content_index=heard.content_index, played_ms=heard.played_ms, epoch=heard.epoch
    )


def event_from_pb(response: pb.ConverseResponse) -> Event | None:
    """Read any later response; None for one of a newer contract than this package knows.

    A Clear is read with an empty `heard`: only the player knows it.

    Raises:
        ProtocolError: a second Started, or a conversation event that is no JSON object.
    """
    kind = response.WhichOneof("message")
    match kind:
        case "audio":
            audio = response.audio
            return AgentAudio(
                audio.payload,
                audio.item_id,
                audio.content_index,
                audio.epoch,
                audio.sequence,
                audio.position_ms,
            )
        case "clear":
            reason = _REASONS.get(response.clear.reason, ClearReason.UNSPECIFIED)
            return Clear(response.clear.epoch, reason, Heard())
        case "mark":
            mark = response.mark
            return Mark(mark.name, mark.epoch, mark.item_id, mark.content_index, mark.position_ms)
        case "event":
            return _conversation_event(response.event)
        case "draining":
            return Draining(response.draining.deadline_time.ToNanoseconds() / 1e9)
        case "moved":
            moved = response.moved
            return Moved(
                moved.endpoint,
                moved.tls_server_name,
                moved.attempt,
                moved.resend_from,
                moved.resend_messages_from,
            )
        case "transfer":
            return Transfer(response.transfer.target, response.transfer.note)
        case "ended":
            return Ended(response.ended.reason, response.ended.message)
        case "started":
            raise ProtocolError("the worker sent Started twice on one stream")
    return None


def _conversation_event(message: pb.ConversationEvent) -> ConversationEvent:
    try:
        data = json.loads(message.event_json)
    except ValueError as error:
        raise ProtocolError(
            f"event {message.sequence} ({message.type}) of the worker is no JSON: {error}"
        ) from error
    if not isinstance(data, dict):
        raise ProtocolError(f"event {message.sequence} ({message.type}) of the worker is no JSON object")
    return ConversationEvent(message.sequence, message.attempt, message.type, data)
