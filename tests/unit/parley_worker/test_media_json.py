"""Frames of Twilio's and of raw media streams: what is read, what is written, and that no text breaks it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_worker.codec.media_json import CallerAudio, Dialect
from parley_worker.codec.media_pb import StartMessage
from parley_worker.codec.raw_media_json import RawMediaDialect
from parley_worker.codec.twilio_json import FORMAT, TwilioDialect
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.media_path import OutFrame, PlayoutMode
from parley_worker.core.model import EndReason

MULAW = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
FRAME = OutFrame(b"\xff" * 160, "i", 0, 3, 0.0)


def twilio(path_ticket: str = "", **parameters: Any) -> tuple[TwilioDialect, Any]:
    dialect = TwilioDialect(path_ticket)
    assert dialect.begin('{"event": "connected", "protocol": "Call", "version": "1.0.0"}') is None
    start = {"streamSid": "MZ1", "mediaFormat": MULAW, "customParameters": parameters}
    return dialect, dialect.begin(json.dumps({"event": "start", "streamSid": "MZ1", "start": start}))


def raw() -> RawMediaDialect:
    dialect = RawMediaDialect("a-ticket")
    start = {"event": "start", "start": {"mediaFormat": {"encoding": "PCM16"}}}
    assert isinstance(dialect.begin(json.dumps(start)), StartMessage)
    return dialect


def test_a_twilio_start_asks_for_marks_and_promises_no_cleared() -> None:
    _, start = twilio(ticket="secret-ticket", session="uid-1")
    assert start.credential == "secret-ticket"
    request = start.request
    assert (request.input_format, request.output_format, request.mode) == (
        FORMAT,
        FORMAT,
        PlayoutMode.REALTIME,
    )
    assert (request.mark_interval_ms, request.answers_clear, request.session_uid) == (100, False, "uid-1")
    assert not request.moves_calls
    assert "secret-ticket" not in repr(start)


@pytest.mark.parametrize(
    ("path", "parameters", "reason"),
    [
        ("a", {"ticket": "b"}, "ticket-ambiguous"),
        ("", {}, "credential-missing"),
        ("", {"ticket": 5}, "credential-missing"),
        ("", {"ticket": "x" * 600}, "credential-missing"),
    ],
)
def test_tickets_that_cannot_be_taken(path: str, parameters: dict[str, Any], reason: str) -> None:
    _, refusal = twilio(path, **parameters)
    assert isinstance(refusal, ev.LegRefusal)
    assert refusal.reason == reason
    assert "xxx" not in refusal.message


def test_path_and_parameter_may_agree() -> None:
    assert isinstance(twilio("a", ticket="a")[1], StartMessage)
    assert isinstance(twilio("a")[1], StartMessage)


@pytest.mark.parametrize(
    ("frame", "read"),
    [
        (
            {
                "event": "media",
                "media": {"track": "inbound", "chunk": "7", "timestamp": "140", "payload": "//8="},
            },
            CallerAudio(b"\xff\xff", 7, 140),
        ),
        ({"event": "media", "media": {"track": "outbound", "chunk": "7", "payload": "//8="}}, None),
        ({"event": "mark", "mark": {"name": "m12.3"}}, ev.MarkPlayed("m12", 3)),
        ({"event": "mark", "mark": {"name": "somebody's own"}}, None),
        ({"event": "mark", "mark": {"name": "m1.²"}}, None),
        ({"event": "dtmf", "dtmf": {"digit": "#"}}, ev.Dtmf("#")),
        ({"event": "stop", "stop": {}}, ev.Hangup("the telephony stream stopped")),
        ({"event": "something new"}, None),
    ],
)
def test_what_twilio_says(frame: dict[str, Any], read: object) -> None:
    assert twilio(ticket="t")[0].read(json.dumps(frame)) == read


def test_a_key_that_is_none_is_refused_and_costs_no_call() -> None:
    read = twilio(ticket="t")[0].read('{"event": "dtmf", "dtmf": {"digit": "E"}}')
    assert isinstance(read, ev.ClientEventInvalid)


def test_what_twilio_is_told() -> None:
    dialect, _ = twilio(ticket="t")
    assert dialect.write(fx.Clear(3, fx.ClearReason.BARGE_IN)) == {"event": "clear", "streamSid": "MZ1"}
    mark = dialect.write(fx.Mark("m12", 3, "i", 0, 200))
    assert mark == {"event": "mark", "streamSid": "MZ1", "mark": {"name": "m12.3"}}
    assert dialect.read(json.dumps(mark)) == ev.MarkPlayed("m12", 3)
    media = dialect.write_audio(FRAME, 1)
    assert base64.b64decode(media["media"]["payload"]) == FRAME.payload
    assert len(json.dumps(media)) <= dialect.audio_size(FRAME)
    for silent in (fx.Draining(1.0), fx.Ended(EndReason.TERMINATED, "x"), fx.Transfer("sip:a", "b")):
        assert dialect.write(silent) is None
    assert dialect.last() is None
    assert dialect.closed(1000) is None


def test_chunks_of_a_raw_stream_go_on_behind_a_new_start() -> None:
    dialect = raw()
    media = '{"event": "media", "media": {"chunk": 2, "timestamp": 20, "payload": "AAA="}}'
    assert dialect.read(media) == CallerAudio(b"\0\0", 2, 20)
    assert dialect.read('{"event": "stop"}') is None
    assert dialect.read('{"event": "start", "start": {"mediaFormat": {"encoding": "PCM16"}}}') is None
    assert dialect.read(media) == CallerAudio(b"\0\0", 4, 20)
    assert dialect.closed(1000) == ev.Hangup("the media stream was closed")
    assert dialect.closed(1006) is None


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_events = st.sampled_from(["connected", "start", "media", "mark", "dtmf", "stop", "clear", ""])
_names = st.sampled_from(["event", "media", "start", "mark", "dtmf", "streamSid", "chunk", "payload", "name"])
_frames = st.builds(
    lambda event, fields, inner: json.dumps({**fields, event: inner, "event": event}),
    _events,
    st.dictionaries(_names, _values, max_size=4),
    st.dictionaries(_names, _values, max_size=4) | _values,
)


@settings(max_examples=120, deadline=None)
@given(texts=st.lists(_frames | st.text(max_size=40), max_size=6), kind=st.sampled_from([TwilioDialect, raw]))
def test_no_text_breaks_a_dialect(texts: list[str], kind: Any) -> None:
    for dialect in (kind(), TwilioDialect("t"), RawMediaDialect("t"), twilio(ticket="t")[0]):
        _feed(dialect, texts)


def _feed(dialect: Dialect, texts: list[str]) -> None:
    for text in texts:
        begun = dialect.begin(text)
        assert begun is None or isinstance(begun, StartMessage | ev.LegRefusal)
        read = dialect.read(text)
        if isinstance(read, CallerAudio):
            assert read.sequence >= 1
            assert read.media_time_ms >= 0
        if isinstance(read, ev.LegRefusal):
            assert len(read.message) < 300
