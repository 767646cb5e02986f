"""What is told about the transcript of what a caller said."""

from __future__ import annotations

from .checks import Json
from .emitter import Emitter
from .items import Item, Part
from .responses import TOKEN_MS_IN, count_text_tokens
from .settings import Shape

KIND = "conversation.item.input_audio_transcription"


def announce_transcript(emitter: Emitter, item: Item, text: str | None, transcription: Json | None) -> None:
    """The transcription events of `item`; `text` None where recognition failed."""
    where = {"item_id": item.id, "content_index": 0}
    part = item.content[0]
    if text is None:
        error = {
            "type": "server_error",
            "code": "audio_unintelligible",
            "message": "Recognition failed.",
            "param": None,
        }
        emitter.emit(f"{KIND}.failed", **where, error=error)
        return
    if text:
        emitter.emit(f"{KIND}.delta", **where, delta=text)
        if emitter.shape is Shape.GA and _diarizes(transcription):
            seconds = round(part.duration_ms / 1000, 3)
            segment = {"id": emitter.new_id("seg_"), "speaker": "A", "start": 0.0, "end": seconds}
            emitter.emit(f"{KIND}.segment", **where, **segment, text=text)
    usage = transcription_usage(transcription, part, text)
    emitter.emit(f"{KIND}.completed", **where, transcript=text, usage=usage)


def _diarizes(transcription: Json | None) -> bool:
    """Whether the model tells speakers apart. This server hears one: the caller."""
    return str((transcription or {}).get("model", "")).endswith("-diarize")


def transcription_usage(transcription: Json | None, part: Part, text: str) -> Json:
    """Usage of one transcription: tokens for the gpt-4o models, seconds for all others."""
    model = str((transcription or {}).get("model", ""))
    if not model.startswith("gpt-4o"):
        return {"type": "duration", "seconds": round(part.duration_ms / 1000, 2)}
    spoken, written = int(part.duration_ms // TOKEN_MS_IN), count_text_tokens(text)
    return {
        "type": "tokens",
        "total_tokens": spoken + written,
        "input_tokens": spoken,
        "output_tokens": written,
        "input_token_details": {"text_tokens": 0, "audio_tokens": spoken},
    }
