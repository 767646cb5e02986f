"""Twilio Media Streams, bidirectional: connected, start, media, mark, clear, dtmf, stop. Pure.

Twilio returns a mark when all audio sent before it was played, and, after a clear, at once those of the audio
that it threw away. It never says how far it played: the marks within the audio tell.
"""

from __future__ import annotations

from typing import Any

from parley_worker.codec import media_json
from parley_worker.codec.media_json import CallerAudio, Frame, invalid
from parley_worker.codec.media_pb import MAX_NOTE, StartMessage
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.audio import AudioFormat, Encoding
from parley_worker.core.fields import object_of, text_of
from parley_worker.core.media_path import OutFrame, PlayoutMode

FORMAT = AudioFormat(Encoding.G711_ULAW, 8000)
MARK_INTERVAL_MS = 100
MAX_STREAM_SID = 100


class TwilioDialect:
    """One stream; `path_ticket` is the ticket of the URL, if it has one. See Dialect."""

    def __init__(self, path_ticket: str = "") -> None:
        self._path_ticket = path_ticket
        self._stream = ""

    def begin(self, text: str) -> StartMessage | ev.LegRefusal | None:
        """`connected`, then `start`."""
        frame = media_json.parse(text)
        if isinstance(frame, ev.LegRefusal):
            return frame
        match frame["event"]:
            case "connected":
                return None
            case "start":
                return self._start(object_of(frame, "start"), text_of(frame, "streamSid"))
            case kind:
                return invalid(
                    "start-missing", f"the first event is {kind[:40]!r}; it must be start", "event"
                )

    def _start(self, start: Any, stream: str) -> StartMessage | ev.LegRefusal:
        stream = stream or text_of(start, "streamSid")
        if not stream or len(stream) > MAX_STREAM_SID:
            return invalid("stream-missing", "start.streamSid is missing or too long", "start.streamSid")
        audio = object_of(start, "mediaFormat")
        given = (
            audio.get("encoding"),
            media_json.whole(audio, "sampleRate"),
            media_json.whole(audio, "channels"),
        )
        if given != ("audio/x-mulaw", 8000, 1):
            return invalid(
                "format-unsupported",
                "start.mediaFormat is not audio/x-mulaw with sampleRate 8000 and channels 1",
                "start.mediaFormat",
            )
        parameters = object_of(start, "customParameters")
        ticket = media_json.ticket(self._path_ticket, parameters)
        if isinstance(ticket, ev.LegRefusal):
            return ticket
        self._stream = stream
        request = ev.AttachRequest(
            ev.CredentialKind.TICKET,
            FORMAT,
            FORMAT,
            PlayoutMode.REALTIME,
            playout_buffer_ms=media_json.PLAYOUT_BUFFER_MS,
            session_uid=text_of(parameters, "session"),
            mark_interval_ms=MARK_INTERVAL_MS,
            answers_clear=False,
            moves_calls=False,
            follows_moves=False,
        )
        return StartMessage(request, ticket)

    def read(self, text: str) -> CallerAudio | ev.LegCommand | ev.LegRefusal | None:
        """`media`, `mark`, `dtmf` or `stop`; events that are not known mean nothing."""
        frame = media_json.parse(text)
        if isinstance(frame, ev.LegRefusal):
            return frame
        stream = text_of(frame, "streamSid")
        if stream and stream != self._stream:
            return invalid("stream-other", "streamSid is not the one of start", "streamSid")
        match frame["event"]:
            case "media":
                media = object_of(frame, "media")
                if media.get("track", "inbound") != "inbound":
                    return None
                return media_json.caller_audio(media)
            case "mark":
                name, _, number = text_of(object_of(frame, "mark"), "name").rpartition(".")
                epoch = media_json.whole({"epoch": number}, "epoch")
                return ev.MarkPlayed(name, epoch) if name and epoch is not None else None
            case "dtmf":
                digit = text_of(object_of(frame, "dtmf"), "digit")
                if digit not in ev.DTMF_DIGITS:
                    return ev.ClientEventInvalid(f"dtmf.digit is {digit[:8]!r}; use one of 0-9, *, #, A-D")
                return ev.Dtmf(digit)
            case "stop":
                return ev.Hangup("the telephony stream stopped"[:MAX_NOTE])
            case "start" | "connected" as kind:
                return invalid(f"{kind}-repeated", f"{kind} may only come once, at the beginning", "event")
            case _:
                return None

    def write(self, message: fx.ToLeg) -> Frame | None:
        """`clear` and `mark`; Twilio is told nothing else."""
        match message:
            case fx.Clear():
                return {"event": "clear", "streamSid": self._stream}
            case fx.Mark(name, epoch):
                return {"event": "mark", "streamSid": self._stream, "mark": {"name": f"{name}.{epoch}"}}
            case _:
                return None

    def write_audio(self, frame: OutFrame, sequence: int) -> Frame:
        """`media`; audio for Twilio has no number."""
        payload = media_json.audio_text(frame.payload)
        return {"event": "media", "streamSid": self._stream, "media": {"payload": payload}}

    def size(self, message: Frame) -> int:
        """See Wire."""
        return media_json.FRAME_BYTES

    def audio_size(self, frame: OutFrame) -> int:
        """See Wire."""
        return media_json.audio_size(frame)

    def closed(self, code: int | None) -> ev.LegCommand | None:
        """A call that ends sends `stop` before; without it the caller was lost."""
        return None

    def last(self) -> Frame | None:
        """The close is enough: Twilio goes on after `<Connect>`."""
        return None
