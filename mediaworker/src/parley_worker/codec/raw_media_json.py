"""VoxEngine's raw media stream over a WebSocket: start, media, stop, in both directions. Pure.

The other side may start and stop as often as it likes, in one format; closing the connection in good order
hangs up. Audio goes out in real time, so nothing is held back there that a Clear had to throw away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.formats import ENCODINGS

from parley_worker.codec import media_json
from parley_worker.codec.media_json import CallerAudio, Frame, invalid
from parley_worker.codec.media_pb import StartMessage
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.audio import AudioFormat
from parley_worker.core.fields import object_of, text_of
from parley_worker.core.media_path import OutFrame, PlayoutMode

FORMATS: Mapping[str, AudioFormat] = {str(name): samples for name, samples in ENCODINGS.items()}
GOOD_CLOSES = frozenset({1000, 1001, 1005})


class RawMediaDialect:
    """One stream; `path_ticket` is the ticket of the URL, if it has one. See Dialect."""

    def __init__(self, path_ticket: str = "") -> None:
        self._path_ticket = path_ticket
        self._encoding = ""
        self._format: AudioFormat | None = None
        self._base = self._highest = 0
        self._sent_ms = self._sent_bytes = 0

    def begin(self, text: str) -> StartMessage | ev.LegRefusal | None:
        """`start` with the format of both directions."""
        frame = media_json.parse(text)
        if isinstance(frame, ev.LegRefusal):
            return frame
        if frame["event"] != "start":
            kind = frame["event"][:40]
            return invalid("start-missing", f"the first event is {kind!r}; it must be start", "event")
        start = object_of(frame, "start")
        audio = self._read_format(start)
        if isinstance(audio, ev.LegRefusal):
            return audio
        parameters = object_of(start, "customParameters")
        ticket = media_json.ticket(self._path_ticket, parameters)
        if isinstance(ticket, ev.LegRefusal):
            return ticket
        self._format = audio
        request = ev.AttachRequest(
            ev.CredentialKind.TICKET,
            audio,
            audio,
            PlayoutMode.REALTIME,
            playout_buffer_ms=media_json.PLAYOUT_BUFFER_MS,
            session_uid=text_of(parameters, "session"),
            answers_clear=False,
            moves_calls=False,
            follows_moves=False,
        )
        return StartMessage(request, ticket)

    def _read_format(self, start: Mapping[str, Any]) -> AudioFormat | ev.LegRefusal:
        wanted = object_of(start, "mediaFormat")
        name = text_of(wanted, "encoding")
        audio = FORMATS.get(name)
        if audio is None:
            words = ", ".join(FORMATS)
            text = f"start.mediaFormat.encoding is {name[:20]!r}; use one of {words}"
            return invalid("format-unsupported", text, "start.mediaFormat.encoding")
        for field, value in (("sampleRate", audio.rate), ("channels", 1)):
            if field in wanted and media_json.whole(wanted, field) != value:
                text = f"start.mediaFormat.{field} does not fit {name}; use {value} or leave it out"
                return invalid("format-unsupported", text, f"start.mediaFormat.{field}")
        self._encoding = name
        return audio

    def read(self, text: str) -> CallerAudio | ev.LegCommand | ev.LegRefusal | None:
        """`media`; a `start` after a `stop` counts chunks anew."""
        frame = media_json.parse(text)
        if isinstance(frame, ev.LegRefusal):
            return frame
        match frame["event"]:
            case "media":
                audio = media_json.caller_audio(object_of(frame, "media"))
                if isinstance(audio, CallerAudio):
                    audio = CallerAudio(audio.payload, self._base + audio.sequence, audio.media_time_ms)
                    self._highest = max(self._highest, audio.sequence)
                return audio
            case "start":
                encoding = self._encoding
                found = self._read_format(object_of(frame, "start"))
                if isinstance(found, ev.LegRefusal) or found == self._format:
                    self._base = self._highest
                    return found if isinstance(found, ev.LegRefusal) else None
                text = f"the stream began with {encoding}; connect anew to speak {self._encoding}"
                return invalid("format-changed", text, "start.mediaFormat.encoding")
            case _:
                return None

    def write(self, message: fx.ToLeg) -> Frame | None:
        """`start`, once the leg is attached."""
        if not isinstance(message, fx.Started) or self._format is None:
            return None
        audio = {"encoding": self._encoding, "sampleRate": self._format.rate, "channels": 1}
        return {
            "event": "start",
            "sequenceNumber": 0,
            "start": {"mediaFormat": audio, "customParameters": {}},
        }

    def write_audio(self, frame: OutFrame, sequence: int) -> Frame:
        """`media` with its chunk, and where it stands in the stream: the timestamp counts the audio sent."""
        assert self._format is not None
        media = {
            "payload": media_json.audio_text(frame.payload),
            "chunk": sequence,
            "timestamp": self._sent_ms,
        }
        self._sent_bytes += len(frame.payload)
        self._sent_ms += round(self._format.ms(len(frame.payload)))
        return {"event": "media", "media": media, "sequenceNumber": sequence}

    def size(self, message: Frame) -> int:
        """See Wire."""
        return media_json.FRAME_BYTES

    def audio_size(self, frame: OutFrame) -> int:
        """See Wire."""
        return media_json.audio_size(frame)

    def closed(self, code: int | None) -> ev.LegCommand | None:
        """A close in good order hangs up."""
        return ev.Hangup("the media stream was closed") if code in GOOD_CLOSES else None

    def last(self) -> Frame | None:
        """`stop` with what was sent."""
        info = {"bytesSent": self._sent_bytes, "duration": self._sent_ms}
        return {"event": "stop", "stop": {"mediaInfo": info}}
