"""media.v1 to core types and back."""

from __future__ import annotations

import json

import grpc
import pytest
from parley.media.v1 import media_pb2 as pb
from parley_worker.codec import media_pb
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.audio import AudioFormat, Encoding
from parley_worker.core.media_path import OutFrame, PlayoutMode
from parley_worker.core.model import EndReason

R = pb.ConverseRequest


def test_start_is_read_in_full() -> None:
    start = pb.Start(
        resume_token="secret-token",
        input_format=pb.AudioFormat(encoding=pb.AUDIO_ENCODING_G711_ALAW, sample_rate_hz=8000),
        output_format=pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=48000),
        playout_mode=pb.PLAYOUT_MODE_BURST,
        playout_buffer_ms=250,
        last_event_sequence=7,
        session_uid="u",
    )
    read = media_pb.read_start(R(start=start))
    assert isinstance(read, media_pb.StartMessage)
    assert read.credential == "secret-token"
    assert read.request == ev.AttachRequest(
        ev.CredentialKind.RESUME,
        AudioFormat(Encoding.G711_ALAW, 8000),
        AudioFormat(Encoding.PCM16, 48000),
        PlayoutMode.BURST,
        250,
        7,
        "u",
    )
    assert "secret-token" not in repr(read)


@pytest.mark.parametrize(
    ("message", "command"),
    [
        (R(dtmf=pb.Dtmf(digit="#", duration_ms=80)), ev.Dtmf("#", 80)),
        (R(progress=pb.PlaybackProgress(item_id="i", played_ms=-5, epoch=2)), ev.Progress("i", 0, 0, 2)),
        (R(mark_played=pb.MarkPlayed(name="m1", epoch=2)), ev.MarkPlayed("m1", 2)),
        (R(cleared=pb.Cleared(epoch=2, item_id="i", played_ms=9)), ev.Cleared(2, "i", 0, 9)),
        (R(clear=pb.ClearRequest()), ev.ClearRequest()),
        (R(hangup=pb.Hangup(note="x" * 300)), ev.Hangup("x" * 200)),
        (R(tool_output=pb.ToolOutput(call_id="c", output="o")), ev.ToolOutput("c", "o", False)),
        (R(client_event=pb.ClientEvent(event_json='{"type": "t"}')), ev.ClientEvent({"type": "t"})),
    ],
)
def test_commands(message: pb.ConverseRequest, command: ev.LegCommand) -> None:
    assert media_pb.read_command(message) == command


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (R(), "empty"),
        (R(dtmf=pb.Dtmf(digit="11")), "dtmf.digit"),
        (R(client_event=pb.ClientEvent(event_json="{")), "not JSON"),
        (R(client_event=pb.ClientEvent(event_json="[" * 100_000)), "not JSON"),
        (R(client_event=pb.ClientEvent(event_json="1")), "not a JSON object"),
        (R(client_event=pb.ClientEvent(event_json=json.dumps({"x": "y" * 262_144}))), "at most 262144"),
        (R(tool_output=pb.ToolOutput(call_id="c", output="é" * 32_769)), "at most 65536"),
    ],
)
def test_what_cannot_be_taken_says_why(message: pb.ConverseRequest, words: str) -> None:
    command = media_pb.read_command(message)
    assert isinstance(command, ev.ClientEventInvalid)
    assert words in command.message


@pytest.mark.parametrize("status", list(ev.Status))
def test_every_status_is_one_of_grpc(status: ev.Status) -> None:
    code, details, metadata = media_pb.status_details(ev.LegRefusal(status, "why", "words", "start.ticket"))
    assert isinstance(code, grpc.StatusCode)
    assert details == "words"
    assert metadata == (("parley-reason", "why"), ("parley-field", "start.ticket"))


def test_messages_to_the_caller() -> None:
    ulaw = AudioFormat(Encoding.G711_ULAW, 8000)
    started = fx.Started("u", 3, "token", ulaw, ulaw, PlayoutMode.REALTIME, 40.0)
    wire = media_pb.write(started, "instance").started
    assert (wire.attempt, wire.resume_token, wire.worker_instance_id) == (3, "token", "instance")
    assert (wire.output_format.encoding, wire.output_delay_ms) == (pb.AUDIO_ENCODING_G711_ULAW, 40.0)
    clear = media_pb.write(fx.Clear(4, fx.ClearReason.OVERFLOW), "").clear
    assert (clear.epoch, clear.reason) == (4, pb.CLEAR_REASON_OVERFLOW)
    mark = media_pb.write(fx.Mark("m", 1, "i", 2, 60), "").mark
    assert (mark.name, mark.content_index, mark.position_ms) == ("m", 2, 60)
    event = media_pb.write(fx.ConversationEvent(9, 3, "t", "{}"), "").event
    assert (event.sequence, event.attempt, event.type, event.event_json) == (9, 3, "t", "{}")
    assert media_pb.write(fx.Draining(12.5), "").draining.deadline_time.nanos == 500_000_000
    assert media_pb.write(fx.Ended(EndReason.TERMINATED, "x"), "").ended.reason == "Terminated"
    audio = media_pb.write_audio(OutFrame(b"ab", "i", 1, 2, 39.9), 5).audio
    assert (audio.payload, audio.epoch, audio.sequence, audio.position_ms) == (b"ab", 2, 5, 39)
