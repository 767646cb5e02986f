"""What is fuzzed: functions that take any bytes and raise only where something is wrong.

Texts are lines: a sequence of events is one line each, so that engines and people can cut and join them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError
from local_session import Harness
from parley.media.v1 import media_pb2
from parley_local.brains import BrainError
from parley_local.brains.chat import parse_answer
from parley_local.core.effects import Call, McpCall, Say
from parley_local.core.settings import Shape as LocalShape
from parley_opus import OpusError, packet_samples
from parley_realtime.errors import InvalidEventError, ProtocolError
from parley_realtime.formats import DEFAULT_FORMAT
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.core import AudioDelta, Malformed, ProtocolCore, ServerEvent
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.refusals import ErrorDetail
from parley_realtime.protocol.shape import ClientType
from parley_realtime.redaction import redact
from parley_realtime.units.raw_media import ReceivedStreams
from parley_worker.codec import command_pb, control_pb, events_pb, media_pb, scenario_json
from parley_worker.codec.media_json import CallerAudio
from parley_worker.codec.media_pb import StartMessage
from parley_worker.codec.opus import OpusInput
from parley_worker.codec.raw_media_json import RawMediaDialect
from parley_worker.codec.twilio_json import TwilioDialect
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.events import LegRefusal
from recorded_session import RecordingError, parse, replay
from worker_core import BEHAVIOUR, TOOLS, WorkerCore

Target = Callable[[bytes], None]
MAX_LINES = 200
HEARD = "my code is four seven one"


def lines(data: bytes) -> Iterator[str]:
    """At most 200 lines of text."""
    for line in data.split(b"\n")[:MAX_LINES]:
        yield line.decode("utf-8", "replace")


def core(beta: bool) -> ProtocolCore:
    return ProtocolCore(BETA if beta else GA, ClientType.REALTIME, DEFAULT_FORMAT, DEFAULT_FORMAT)


def server_frame(data: bytes) -> None:
    """A frame of the provider, as our client decodes it."""
    for beta in (False, True):
        incoming = core(beta).decode(data)
        assert repr(incoming) == repr(core(beta).decode_whole(data)), "cut out and parsed differ"
        match incoming:
            case AudioDelta(chunk):
                assert len(chunk.payload) <= len(data)
                assert len(chunk.payload) % 2 == 0
                chunk.item_id.encode()
            case Malformed(error):
                assert isinstance(error, ProtocolError)
                assert len(str(error)) < 400
            case ServerEvent(kind, name, payload):
                assert kind == payload["type"]
                assert name
                ErrorDetail.of(payload)
                json.dumps(redact(payload, ("sk-secret-value",)))


def client_event(data: bytes) -> None:
    """An event of our client's user: written, or refused by name."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(event, dict):
        return
    for beta in (False, True):
        try:
            text = core(beta).encode(event)
        except InvalidEventError:
            continue
        assert isinstance(json.loads(text), dict)


def local_session(data: bytes) -> None:
    """A client of the local provider: lines of JSON, `~` for time, `!` for finished work; `#` first: beta.

    Whatever comes, what is answered can be written as JSON, and responses begin and end as they should.
    """
    harness = Harness(LocalShape.BETA if data.startswith(b"#") else LocalShape.GA, pace=4.0)
    for line in lines(data.removeprefix(b"#")):
        if line.startswith("~"):
            harness.advance(min(len(line), 40) * 0.5)
        elif line.startswith("!"):
            harness.finish_work(lambda _: (Say("one two"), McpCall("s", "f"), Call("g", "[")), heard=HEARD)
        else:
            harness.raw(line)
    for event in harness.events:
        assert json.loads(json.dumps(event))["type"]
    check_responses(harness.events)


def check_responses(events: list[dict[str, Any]]) -> None:
    """Each response ends at most once, and nothing of it comes after its end."""
    open_: set[str] = set()
    done: set[str] = set()
    for event in events:
        kind = event["type"]
        if kind == "response.created":
            open_.add(event["response"]["id"])
        elif kind == "response.done":
            identity = event["response"]["id"]
            assert identity in open_ - done
            done.add(identity)
        elif kind.startswith("response.") and "response_id" in event:
            assert event["response_id"] in open_ - done


def worker_session(data: bytes) -> None:
    """The worker's session core: lines `p<JSON>` of the provider, `c<JSON>` of the caller, `~` for time.

    With `#` first the agent has tools, lines and rules of its own.
    """
    more: dict[str, Any] = {"behaviour": BEHAVIOUR, "tools": TOOLS} if data.startswith(b"#") else {}
    worker = WorkerCore(**more).ready().attached()
    for line in lines(data.removeprefix(b"#")):
        kind, text = line[:1], line[1:]
        if kind == "~":
            worker.advance(min(len(text), 60) * 0.5)
            continue
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(event, dict):
            continue
        if kind == "c":
            worker.feed(ev.LegSaid(ev.ClientEvent(event)))
        elif isinstance(event.get("type"), str):
            worker.feed(ev.ProviderMessage(event))
    for effect in worker.effects:
        if isinstance(effect, fx.SendLeg):
            media_pb.write(effect.message, "worker").SerializeToString()
        elif isinstance(effect, fx.Publish):
            events_pb.encode(effect.record, "worker", "instance")


def caller_message(data: bytes) -> None:
    """A message of a caller's stream, as protobuf and as the JSON inside it."""
    try:
        message = media_pb2.ConverseRequest.FromString(data)
    except DecodeError:
        return
    media_pb.read_start(message)
    media_pb.read_command(message)
    text = data.decode("utf-8", "replace")
    command = media_pb.read_command(
        media_pb2.ConverseRequest(client_event=media_pb2.ClientEvent(event_json=text))
    )
    assert isinstance(command, ev.ClientEvent | ev.ClientEventInvalid | LegRefusal)


def operator_event(data: bytes) -> None:
    """An event the operator sends for a session."""
    try:
        event = command_pb.client_event(data.decode("utf-8", "replace"))
    except control_pb.InvalidRequest:
        return
    assert isinstance(event["type"], str)


def media_streams(data: bytes) -> None:
    """Frames of telephony: Twilio's and raw media, each line a frame, the first until a start is taken."""
    for make in (TwilioDialect, RawMediaDialect):
        dialect = make("ticket")
        begun: object = None
        for line in lines(data):
            if not isinstance(begun, StartMessage):
                begun = dialect.begin(line)
                if isinstance(begun, LegRefusal):
                    assert begun.reason
                    break
                continue
            read = dialect.read(line)
            if isinstance(read, LegRefusal):
                assert read.field
                break
            if isinstance(read, CallerAudio):
                assert len(read.payload) <= len(line)
        last = dialect.last()
        assert last is None or json.dumps(last)


def received_media(data: bytes) -> None:
    """What a media WebSocket sends to our client's unit: a stream's audio is bounded, whatever is claimed."""
    streams = ReceivedStreams()
    now = 100.0
    for line in lines(data):
        streams.take(line, now)
        for due in streams.due(now):
            assert due.tag is not None
        now += 0.02
    assert streams.invalid <= MAX_LINES


def scenario_frame(data: bytes) -> None:
    """A frame of a scenario's process."""
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(frame, dict):
        try:
            scenario_json.command_of(frame)
        except scenario_json.BadFrame:
            return


def chat_answer(data: bytes) -> None:
    """What a chat service answered."""
    try:
        reply = parse_answer(data)
    except BrainError:
        return
    assert reply
    for part in reply:
        assert isinstance(part, Say | Call)


def recorded(data: bytes) -> None:
    """A recorded session, read and replayed."""
    try:
        session = parse(data.decode("utf-8", "replace").split("\n"))
    except RecordingError:
        return
    replay(session)


class PacketDouble:
    """Decodes whatever has a length, unless its last byte is odd; no sample of a lost one is too many."""

    def decode(self, packet: bytes) -> bytes:
        if packet[-1] & 1:
            raise OpusError("corrupted stream")
        return bytes(packet_samples(packet))

    def conceal(self, samples: int, following: bytes | None = None) -> bytes:
        assert 60 <= samples <= 120 * 24
        assert samples % 60 == 0
        if following is not None and following[-1] & 1:
            raise OpusError("corrupted stream")
        return bytes(2 * samples)

    def reset(self) -> None: ...


def opus_packets(data: bytes) -> None:
    """A caller's Opus frames: each a step of the sequence, a size, and so many bytes."""
    packets, sequence = OpusInput(PacketDouble(), 24_000, lambda cause, count: None), 0
    while len(data) > 2:
        sequence += data[0] - 8
        packet, data = data[2 : 2 + data[1]], data[2 + data[1] :]
        heard = packets.accept(packet, sequence)
        if isinstance(heard, LegRefusal):
            return
        assert len(heard) <= 2 * 24 * (60 + 120)
        assert (len(heard) > 0) == (len(packet) > 0)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        server_frame,
        client_event,
        local_session,
        worker_session,
        caller_message,
        operator_event,
        media_streams,
        received_media,
        scenario_frame,
        chat_answer,
        recorded,
        opus_packets,
    )
}
