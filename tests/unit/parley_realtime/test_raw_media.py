"""Raw media streams in virtual time: what is sent, what is heard, what is discarded."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_realtime.units.raw_media import (
    MAX_STREAMS,
    Begun,
    Frame,
    Received,
    ReceivedStreams,
    SentStream,
    Silent,
    Sounding,
)

FRAME = 640
"""20 ms of PCM16 at 16 kHz."""


def start(tag: str = "", encoding: str = "PCM16", **audio: Any) -> str:
    body = {"mediaFormat": {"encoding": encoding, **audio}, "customParameters": {"a": "b"}}
    return json.dumps({"event": "start", "start": {**body, **({"tag": tag} if tag else {})}})


def media(payload: bytes, tag: str = "") -> str:
    body = {"chunk": 1, "timestamp": 0, "payload": base64.b64encode(payload).decode()}
    return json.dumps({"event": "media", "media": {**body, **({"tag": tag} if tag else {})}})


def stop(tag: str = "") -> str:
    return json.dumps({"event": "stop", "stop": {"tag": tag}})


def run(streams: ReceivedStreams, until: float) -> list[tuple[float, Received]]:
    out: list[tuple[float, Received]] = []
    while (due := streams.deadline()) is not None and due <= until:
        out += [(round(due, 3), item) for item in streams.due(due)]
    return out


def test_a_stream_is_sent_as_start_media_stop() -> None:
    stream = SentStream("pcmu", "left", {"who": "caller"})
    events = [
        json.loads(text) for text in (stream.start(), stream.media(b"x" * 160), stream.media(b"y" * 80))
    ]
    events.append(json.loads(stream.stop()))
    assert events[0] == {
        "event": "start",
        "sequenceNumber": 0,
        "start": {
            "tag": "left",
            "mediaFormat": {"encoding": "ULAW", "sampleRate": 8000, "channels": 1},
            "customParameters": {"who": "caller"},
        },
    }
    assert [event["sequenceNumber"] for event in events] == [0, 1, 2, 3]
    assert [event["media"]["timestamp"] for event in events[1:3]] == [0, 20]
    assert [event["media"]["chunk"] for event in events[1:3]] == [1, 2]
    assert base64.b64decode(events[1]["media"]["payload"]) == b"x" * 160
    assert events[3]["stop"] == {"tag": "left", "mediaInfo": {"bytesSent": 240, "duration": 30}}


def test_a_provider_rate_has_no_place_on_the_wire() -> None:
    with pytest.raises(ValueError, match="use one of PCM8, PCM16, ALAW, ULAW"):
        SentStream("pcm16", None, {})


def test_audio_sent_at_once_is_heard_in_its_own_time() -> None:
    streams = ReceivedStreams()
    begun = streams.take(start(), 0.0)
    assert isinstance(begun, Begun)
    assert (begun.encoding, begun.audio.rate, begun.custom_parameters) == ("PCM16", 16000, {"a": "b"})
    streams.take(media(bytes(FRAME * 50)), 5.0)
    out = run(streams, 20.0)
    assert out[0] == (5.0, Sounding(""))
    assert [at for at, item in out if isinstance(item, Frame)] == [round(5 + n * 0.02, 3) for n in range(50)]
    assert out[-1] == (7.0, Silent("", 1000))


def test_a_stop_ends_it_when_all_was_heard() -> None:
    streams = ReceivedStreams()
    streams.take(start(), 0.0)
    streams.take(media(bytes(FRAME * 5)), 0.0)
    streams.take(stop(), 0.0)
    assert run(streams, 20.0)[-1] == (pytest.approx(0.1), Silent("", 100))
    streams.take(media(bytes(FRAME)), 1.0)
    assert streams.invalid == 1


def test_more_than_ten_seconds_are_discarded() -> None:
    streams = ReceivedStreams()
    streams.take(start(), 0.0)
    for _ in range(12):
        streams.take(media(bytes(FRAME * 50)), 0.0)
    assert streams.discarded_ms == 2000
    heard = [item for _, item in run(streams, 60.0) if isinstance(item, Frame)]
    assert len(heard) == 500


def test_streams_of_different_tags_do_not_mix_and_their_number_is_bounded() -> None:
    streams = ReceivedStreams()
    for tag in ("one", "two"):
        streams.take(start(tag, "ULAW"), 0.0)
        streams.take(media(tag.encode() * 320, tag), 0.0)
    heard = {item.tag: item.payload[:3] for _, item in run(streams, 0.0) if isinstance(item, Frame)}
    assert heard == {"one": b"one", "two": b"two"}
    for n in range(MAX_STREAMS):
        streams.take(start(f"more{n}"), 0.0)
    assert streams.invalid == 2


def test_another_format_begins_anew() -> None:
    streams = ReceivedStreams()
    streams.take(start(), 0.0)
    streams.take(media(bytes(FRAME * 50)), 0.0)
    begun = streams.take(start(encoding="PCM8", sampleRate=8000), 0.5)
    assert isinstance(begun, Begun)
    assert begun.audio.rate == 8000
    assert run(streams, 0.5) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"start"',
        "{}",
        '{"event": "start"}',
        '{"event": "start", "start": []}',
        '{"event": "media", "media": {"payload": "AAAA"}}',
        '{"event": "stop", "stop": {"tag": "unknown"}}',
        '{"event": ["start"]}',
        start(encoding="OPUS"),
        start(sampleRate=44100),
        start(channels=2),
        "[" * 100_000,
    ],
)
def test_what_makes_no_sense_is_counted_and_ignored(text: str) -> None:
    streams = ReceivedStreams()
    assert streams.take(text, 0.0) is None
    assert streams.invalid == 1
    assert streams.deadline() is None


@given(st.text(max_size=60) | st.sampled_from([start(), media(b"abc"), media(bytes(1280)), stop()]))
def test_no_message_raises(text: str) -> None:
    streams = ReceivedStreams()
    streams.take(start(), 0.0)
    streams.take(text, 0.0)
    streams.due(0.0)
