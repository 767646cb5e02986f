"""Decoding and encoding without a socket, in both shapes."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_realtime import PCM16, PCMA, PCMU, ClientType, InvalidEventError
from parley_realtime.events import (
    AUDIO_DELTA_TYPES,
    BETA_NAMES,
    GA_NAMES,
    BetaRealtimeAPIEvents,
    RealtimeAPIEvents,
)
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.core import (
    AudioDelta,
    Incoming,
    Malformed,
    ProtocolCore,
    ServerEvent,
    encode_append,
)
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import Shape

SHAPES = pytest.mark.parametrize("shape", [GA, BETA], ids=["ga", "beta"])


def core(shape: Shape = GA, **changes: object) -> ProtocolCore:
    formats = {"inward": PCM16, "outward": PCM16, "kind": ClientType.REALTIME, **changes}
    return ProtocolCore(shape, formats["kind"], formats["inward"], formats["outward"])  # type: ignore[arg-type]


def decode(event: object, shape: Shape = GA, **changes: object) -> Incoming:
    return core(shape, **changes).decode(json.dumps(event))


def delta(payload: object, **fields: object) -> dict[str, object]:
    return {
        "type": "response.output_audio.delta",
        "response_id": "resp_1",
        "item_id": "item_1",
        "content_index": 0,
        "delta": payload,
        **fields,
    }


class TestNames:
    def test_counts(self) -> None:
        assert len(RealtimeAPIEvents) == 43
        assert len(BetaRealtimeAPIEvents) == 30

    def test_every_name_but_the_connectors_own_is_reached_from_exactly_one_type(self) -> None:
        own = {"Unknown", "HTTPResponse", "WebSocketError", "ConnectorInformation"}
        assert sorted(GA_NAMES.values()) == sorted(e.value for e in RealtimeAPIEvents if e.name not in own)
        once = [name for kind, name in BETA_NAMES.items() if not kind.startswith("transcription_session.")]
        assert sorted(once) == sorted(e.value for e in BetaRealtimeAPIEvents if e.name != "Unknown")

    def test_values_are_prefixed_names(self) -> None:
        assert all(e.value == f"OpenAI.RealtimeAPI.{e.name}" for e in RealtimeAPIEvents)
        assert all(e.value == f"OpenAI.Beta.RealtimeAPI.{e.name}" for e in BetaRealtimeAPIEvents)

    @pytest.mark.parametrize("names", [GA_NAMES, BETA_NAMES], ids=["ga", "beta"])
    def test_names_follow_from_types(self, names: dict[str, str]) -> None:
        for kind, name in names.items():
            words = kind.removeprefix("transcription_").replace("_", ".").split(".")
            spelled = "".join("MCP" if word == "mcp" else word.capitalize() for word in words)
            assert name.rsplit(".", 1)[1] == spelled, kind

    @pytest.mark.parametrize("names", [GA_NAMES, BETA_NAMES], ids=["ga", "beta"])
    def test_audio_deltas_have_no_name(self, names: dict[str, str]) -> None:
        assert not AUDIO_DELTA_TYPES & set(names)


class TestDecode:
    @SHAPES
    def test_every_type_gets_its_name_and_keeps_its_payload(self, shape: Shape) -> None:
        for kind, name in shape.names.items():
            event = {"type": kind, "event_id": "event_1", "anything": [1, None, {"a": "b"}]}
            assert decode(event, shape) == ServerEvent(kind, name, event)

    @SHAPES
    @pytest.mark.parametrize("kind", ["conversation.frobnicated", "output_audio_buffer.started"])
    def test_a_type_nobody_knows_is_unknown(self, shape: Shape, kind: str) -> None:
        event = {"type": kind, "x": 1}
        assert decode(event, shape) == ServerEvent(kind, shape.unknown_name, event)

    def test_a_name_of_the_other_shape_is_unknown(self) -> None:
        assert isinstance(got := decode({"type": "response.text.delta"}, GA), ServerEvent)
        assert got.name == RealtimeAPIEvents.Unknown
        assert isinstance(got := decode({"type": "response.output_text.delta"}, BETA), ServerEvent)
        assert got.name == BetaRealtimeAPIEvents.Unknown

    @SHAPES
    @pytest.mark.parametrize("kind", sorted(AUDIO_DELTA_TYPES))
    def test_audio_becomes_a_chunk(self, shape: Shape, kind: str) -> None:
        got = decode(delta(base64.b64encode(b"\x01\x02").decode(), type=kind), shape)
        assert isinstance(got, AudioDelta)
        assert got.chunk.payload == b"\x01\x02"
        assert (got.chunk.response_id, got.chunk.item_id, got.chunk.content_index) == ("resp_1", "item_1", 0)

    @pytest.mark.parametrize(
        "fields",
        [{"item_id": "\ud83d"}, {"response_id": "\udfff"}, {"content_index": 2**40}, {"content_index": -1}],
    )
    def test_ids_that_no_message_can_carry_are_no_protocol(self, fields: dict[str, object]) -> None:
        assert isinstance(decode(delta("AAA=", **fields)), Malformed)

    def test_an_empty_delta_is_an_empty_chunk(self) -> None:
        assert isinstance(got := decode(delta("")), AudioDelta)
        assert got.chunk.payload == b""

    def test_g711_may_be_odd(self) -> None:
        assert isinstance(decode(delta("AA=="), outward=PCMU), AudioDelta)

    @pytest.mark.parametrize(
        ("frame", "said"),
        [
            ("", "not JSON"),
            ("{", "not JSON"),
            (b"\xff\xfe\x00", "not JSON"),
            ('{"type":"error","x":NaN}', "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("[]", "not a JSON object"),
            ("7", "not a JSON object"),
            ("{}", "without a type"),
            ('{"type":null}', "without a type"),
            ('{"type":""}', "without a type"),
            (json.dumps(delta("AAA")), "not base64"),
            (json.dumps(delta("AA=A")), "not base64"),
            (json.dumps(delta("****")), "not base64"),
            (json.dumps(delta("é===")), "not base64"),
            (json.dumps(delta(None)), "not a string"),
            (json.dumps(delta({"a": 1})), "not a string"),
            (json.dumps(delta("AAA=", content_index="0")), "ids"),
            (json.dumps(delta("AAA=", response_id=5)), "ids"),
            (json.dumps(delta("AA==")), "whole number of pcm16"),
        ],
    )
    def test_what_is_broken_is_an_error_value_and_not_a_raise(self, frame: str | bytes, said: str) -> None:
        got = core().decode(frame)
        assert isinstance(got, Malformed)
        assert said in got.error.message
        assert got.error.reason == "ProviderProtocolError"
        assert not got.error.retryable

    @settings(deadline=None, max_examples=60)
    @given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
    def test_garbage_never_raises(self, frame: bytes | str) -> None:
        assert isinstance(core().decode(frame), Malformed | ServerEvent | AudioDelta)

    @settings(deadline=None, max_examples=60)
    @given(
        st.dictionaries(
            st.sampled_from(["delta", "response_id", "item_id", "content_index", "type", "error"]),
            st.one_of(st.none(), st.integers(), st.text(max_size=8), st.lists(st.integers(), max_size=2)),
        ),
        st.sampled_from(sorted(AUDIO_DELTA_TYPES)),
    )
    def test_audio_with_any_fields_never_raises_and_is_never_an_event(
        self, fields: dict[str, object], kind: str
    ) -> None:
        assert isinstance(decode({**fields, "type": kind}), Malformed | AudioDelta)


class TestFormats:
    def encode(self, event: dict[str, object], shape: Shape = GA, **changes: object) -> dict[str, object]:
        before = json.dumps(event)
        text = core(shape, **changes).encode(event)
        assert json.dumps(event) == before, "the caller's object is left alone"
        result: dict[str, object] = json.loads(text)
        return result

    def test_ga_session_update_gets_ours_whatever_the_user_says(self) -> None:
        theirs = {
            "instructions": "be brief",
            "input_audio_format": "g711_alaw",
            "output_audio_format": "g711_alaw",
            "audio": {
                "input": {"format": {"type": "audio/pcma"}, "transcription": {"model": "whisper-1"}},
                "output": {"format": {"type": "audio/pcma"}, "voice": "marin"},
            },
        }
        got = self.encode({"type": "session.update", "session": theirs}, inward=PCMU, outward=PCM16)
        assert got["session"] == {
            "type": "realtime",
            "instructions": "be brief",
            "audio": {
                "input": {"format": {"type": "audio/pcmu"}, "transcription": {"model": "whisper-1"}},
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
            },
        }

    def test_ga_transcription_has_no_output(self) -> None:
        got = self.encode({"type": "session.update", "session": {}}, kind=ClientType.TRANSCRIPTION)
        assert got["session"] == {
            "type": "transcription",
            "audio": {"input": {"format": {"type": "audio/pcm", "rate": 24000}}},
        }

    def test_ga_response_create(self) -> None:
        audio = {
            "input": {"format": {"type": "audio/pcma"}},
            "output": {"format": {"type": "audio/pcma"}, "voice": "cedar"},
        }
        response = {
            "input_audio_format": "x",
            "output_audio_format": "x",
            "audio": audio,
            "instructions": "hi",
        }
        got = self.encode({"type": "response.create", "response": response}, outward=PCMU)
        assert got["response"] == {
            "instructions": "hi",
            "audio": {"input": {}, "output": {"format": {"type": "audio/pcmu"}, "voice": "cedar"}},
        }

    def test_a_response_that_says_nothing_of_formats_is_sent_as_it_is(self) -> None:
        for shape in (GA, BETA):
            event = {"type": "response.create", "response": {"instructions": "hi"}}
            assert self.encode(event, shape) == event
            assert self.encode({"type": "response.create"}, shape) == {"type": "response.create"}

    def test_beta_session_update(self) -> None:
        session = {"voice": "alloy", "input_audio_format": "pcm16", "output_audio_format": "pcm16"}
        got = self.encode({"type": "session.update", "session": session}, BETA, inward=PCMU, outward=PCMA)
        assert got["session"] == {
            "voice": "alloy",
            "input_audio_format": "g711_ulaw",
            "output_audio_format": "g711_alaw",
        }

    def test_beta_response_create(self) -> None:
        response = {"input_audio_format": "g711_alaw", "output_audio_format": "g711_alaw", "voice": "echo"}
        got = self.encode({"type": "response.create", "response": response}, BETA)
        assert got["response"] == {"voice": "echo", "output_audio_format": "pcm16"}

    def test_other_events_keep_fields_of_that_name(self) -> None:
        event = {"type": "conversation.item.create", "item": {"input_audio_format": "x"}}
        assert self.encode(event) == event

    @SHAPES
    @pytest.mark.parametrize("session", ["text", 5, ["list"]])
    def test_a_session_that_is_no_object(self, shape: Shape, session: object) -> None:
        with pytest.raises(InvalidEventError, match=r"session\.update: 'session' must be an object"):
            core(shape).encode({"type": "session.update", "session": session})

    def test_other_formats_are_told_once_before_audio_or_a_response(self) -> None:
        c = core(GA, inward=PCMU, outward=PCMU)
        assert c.needed_before("conversation.item.create") is None
        first = c.needed_before("input_audio_buffer.append")
        assert first is not None
        assert json.loads(first)["session"]["audio"]["input"] == {"format": {"type": "audio/pcmu"}}
        assert c.needed_before("response.create") is None

    def test_the_users_own_update_tells_them(self) -> None:
        c = core(BETA, inward=PCMU, outward=PCMU)
        c.encode({"type": "session.update", "session": {}})
        assert c.needed_before("input_audio_buffer.append") is None

    def test_a_refused_update_has_not_told_them(self) -> None:
        c = core(GA, inward=PCMU, outward=PCMU)
        c.encode({"type": "session.update", "session": {"bogus": 1}})
        c.decode('{"type":"error","error":{"code":"unknown_parameter"}}')
        assert c.needed_before("input_audio_buffer.append") is not None
        c.decode('{"type":"session.updated","session":{}}')
        c.decode('{"type":"error","error":{"code":"response_cancel_not_active"}}')
        assert c.needed_before("input_audio_buffer.append") is None

    @SHAPES
    def test_the_default_formats_need_no_telling(self, shape: Shape) -> None:
        assert core(shape).needed_before("input_audio_buffer.append") is None


class TestEncode:
    @pytest.mark.parametrize(
        ("event", "said"),
        [
            ({}, "needs a 'type'"),
            ({"type": 5}, "needs a 'type'"),
            ({"type": "response.create", "event_id": ""}, "event_id"),
            ({"type": "response.create", "event_id": "x" * 513}, "512"),
            ({"type": "response.create", "event_id": 5}, "event_id"),
            ({"type": "response.create", "response": {"x": float("nan")}}, "cannot be written as JSON"),
            ({"type": "conversation.item.create", "item": object()}, "cannot be written as JSON"),
        ],
    )
    def test_what_cannot_be_sent(self, event: dict[str, object], said: str) -> None:
        with pytest.raises(InvalidEventError, match=said):
            core().encode(event)

    @settings(deadline=None, max_examples=60)
    @given(st.binary(max_size=2000))
    def test_append_is_what_json_would_write(self, audio: bytes) -> None:
        assert json.loads(encode_append(audio)) == {
            "type": "input_audio_buffer.append",
            "audio": base64.b64encode(audio).decode(),
        }
