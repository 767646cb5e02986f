"""Records to NATS messages, and control messages to and from the core."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from parley.control.v1 import control_pb2
from parley.events.v1 import events_pb2
from parley_worker.codec import control_pb, events_json, events_pb
from parley_worker.core.admission import Refusal, RefusalReason, WorkerState
from parley_worker.core.model import (
    EndReason,
    LimitsConfig,
    SessionKey,
    SessionReport,
    SessionState,
    Usage,
)
from parley_worker.core.records import EventRecord, RecordKind
from parley_worker.telemetry.memory import own_memory

KEY = SessionKey("ns", "call", "uid-1", 2)
DEFAULTS = LimitsConfig(3600, 300, 60, 30)


def sample(field: FieldDescriptor) -> object:
    if field.message_type is not None:
        return 1_790_000_000.25
    kinds = {FieldDescriptor.CPPTYPE_STRING: "x", FieldDescriptor.CPPTYPE_BOOL: True}
    return kinds.get(field.cpp_type, 3)


def types(message: type, oneof: str) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "type_"),
    [("event", t) for t in types(events_pb2.SessionEvent, "fact")]
    + [("journal", t) for t in types(events_pb2.JournalEntry, "content")],
)
def test_every_type_of_record_survives_the_journey(kind: RecordKind, type_: str) -> None:
    message = events_pb2.SessionEvent() if kind == "event" else events_pb2.JournalEntry()
    part = message.DESCRIPTOR.fields_by_name[type_].message_type
    fields = {field.name: sample(field) for field in part.fields}
    encoded = events_pb.encode(EventRecord(kind, KEY, 7, 1_790_000_000.25, type_, fields), "w", "i")
    parsed = json_format.Parse(encoded.payload, message)
    assert getattr(parsed, type_).ListFields()
    assert (parsed.session_uid, parsed.attempt, parsed.sequence) == ("uid-1", 2, 7)
    assert parsed.occur_time.ToMilliseconds() == 1_790_000_000_250
    assert encoded.headers["Nats-Msg-Id"] == encoded.msg_id == f"uid-1.2.{'e' if kind == 'event' else ''}7"
    dashed = type_.replace("_", "-")
    subjects = {"event": f"parley.events.ns.uid-1.{dashed}", "journal": "parley.journal.ns.uid-1"}
    assert encoded.subject == subjects[kind]


VALUES: dict[int, st.SearchStrategy[object]] = {
    FieldDescriptor.CPPTYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
}
MOMENTS = st.floats(0, 4_000_000_000)
WRITTEN = [("event", t) for t in events_json._FORMS["event"]] + [
    ("journal", t) for t in events_json._FORMS["journal"]
]


@given(data=st.data(), at=MOMENTS)
@settings(max_examples=300, deadline=None)
def test_json_is_written_as_protobuf_writes_it(data: st.DataObject, at: float) -> None:
    kind, type_ = data.draw(st.sampled_from(WRITTEN))
    holder = events_pb2.SessionEvent if kind == "event" else events_pb2.JournalEntry
    part = holder.DESCRIPTOR.fields_by_name[type_].message_type
    fields = {
        field.name: data.draw(MOMENTS if field.message_type is not None else VALUES[field.cpp_type])
        for field in part.fields
    }
    record = EventRecord(kind, KEY, 7, at, type_, fields)
    written = events_json.write(record, "w", "i")
    assert written is not None
    assert json.loads(written) == json.loads(events_pb._by_protobuf(record, "w", "i"))


def test_every_type_of_record_is_written_without_protobuf() -> None:
    told = types(events_pb2.SessionEvent, "fact"), types(events_pb2.JournalEntry, "content")
    assert [list(events_json._FORMS[kind]) for kind in ("event", "journal")] == [list(each) for each in told]


def test_a_fact_without_fields_is_still_told() -> None:
    encoded = events_pb.encode(EventRecord("event", KEY, 1, 0.0, "admitted"), "w", "i")
    assert json.loads(encoded.payload)["admitted"] == {}


@pytest.mark.parametrize(
    ("type_", "fields", "words"),
    [
        ("nonsense", {}, "nonsense"),
        ("occur_time", {}, "occur_time"),
        ("sequence", {}, "sequence"),
        ("first_audio", {"loudness": 1}, "loudness"),
        ("first_audio", {"latency_ms": "soon and secret"}, "latency_ms"),
        ("drain_announced", {"deadline_time": "soon and secret"}, "deadline_time"),
    ],
)
def test_records_that_do_not_fit_are_named_without_content(
    type_: str, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(events_pb.RecordError, match=words) as caught:
        events_pb.encode(EventRecord("event", KEY, 1, 0.0, type_, fields), "w", "i")
    assert "secret" not in str(caught.value)


def test_journal_ids_are_read_back() -> None:
    assert events_pb.parse_journal_id("uid.with.dots.3.14") == (3, 14)
    for text in ("", "uid", "uid.1", "uid.1.e5", "uid.x.5"):
        assert events_pb.parse_journal_id(text) is None


def request() -> control_pb2.AdmitRequest:
    return control_pb2.AdmitRequest(
        session=control_pb2.SessionRef(namespace="ns", name="call", session_uid="uid-1", attempt=2),
        config=control_pb2.SessionConfig(
            provider=control_pb2.Provider(
                url="wss://api.example.com/v1", api_version="ga", model="m", api_key="sk-hidden"
            ),
            session_json='{"voice": "x"}',
            greet=True,
        ),
    )


def test_an_admit_becomes_a_session_with_default_limits() -> None:
    asked = request()
    asked.config.limits.idle_timeout.FromMilliseconds(1500)
    asked.config.access.ticket_sha256 = b"x" * 32
    asked.config.access.ticket_expire_time.FromMilliseconds(5500)
    config = control_pb.session_config(asked, DEFAULTS)
    assert config.key == KEY
    assert config.limits == LimitsConfig(3600, 1.5, 60, 30)
    assert config.access.ticket_expires_at == 5.5
    assert config.provider.api_key.reveal() == "sk-hidden"
    assert "sk-hidden" not in repr(config)
    assert config.session == {"voice": "x"}


@pytest.mark.parametrize("url", ["", "wss://", "ftp://x", "wss://x:99999", "//x", "wss://[::1"])
def test_urls_that_cannot_be_are_refused_without_repeating_them(url: str) -> None:
    asked = request()
    asked.config.provider.url = url
    with pytest.raises(control_pb.InvalidRequest, match=r"config\.provider\.url"):
        control_pb.session_config(asked, DEFAULTS)


@pytest.mark.parametrize("value", ["kl\u00fcchen", "two\r\nlines", "null\0", "tab\there"])
def test_what_cannot_go_into_a_header_is_refused_without_repeating_it(value: str) -> None:
    for key, headers, field in (
        (value, {}, r"config\.provider\.api_key"),
        ("k", {"X-Own": value}, r"config\.provider\.headers is 'X-Own'"),
    ):
        asked = request()
        asked.config.provider.api_key = key
        asked.config.provider.headers.update(headers)
        with pytest.raises(control_pb.InvalidRequest, match=field) as caught:
            control_pb.session_config(asked, DEFAULTS)
        assert value not in str(caught.value)


def test_deeply_nested_json_is_refused() -> None:
    asked = request()
    asked.config.session_json = '{"a":' + "[" * 100_000
    with pytest.raises(control_pb.InvalidRequest, match="session_json"):
        control_pb.session_config(asked, DEFAULTS)


def test_a_report_keeps_everything() -> None:
    report = SessionReport(
        key=KEY,
        state=SessionState.ENDED,
        end_reason=EndReason.CALLER_HANGUP,
        client_id="c",
        ready_at=1.5,
        ended_at=9.0,
        usage=Usage(1, 2, 3, 4.5, 5.5),
        journal_first=1,
        journal_last=8,
    )
    message = control_pb.session_report(report, control_pb.Endpoint("h:1", "name"))
    assert message.session.attempt == 2
    assert message.end_reason == "CallerHangup"
    assert not message.HasField("start_time")
    assert message.ready_time.ToMilliseconds() == 1500
    assert message.usage.output_audio_seconds == 5.5
    assert (message.journal.stream, message.journal.last) == ("PARLEY_JOURNAL", 8)


def test_every_word_of_the_core_has_its_number() -> None:
    reasons = {control_pb.refused(Refusal(reason, "m")).reason for reason in RefusalReason}
    assert reasons == set(control_pb2.RefusalReason.values()) - {0}
    states = {
        control_pb.session_report(SessionReport(KEY, s), control_pb.Endpoint("")).state for s in SessionState
    }
    assert states == set(control_pb2.SessionState.values()) - {0}
    workers = {
        control_pb.worker_report(
            name="w", pod_uid="", version="", state=s, capacity=1, sessions=0, journal_degraded=False
        ).state
        for s in WorkerState
    }
    assert workers == set(control_pb2.WorkerState.values()) - {0}


def test_a_worker_says_how_it_is() -> None:
    report = control_pb.worker_report(
        name="w", pod_uid="u", version="1", state=WorkerState.DRAINING, capacity=4, sessions=1,
        journal_degraded=False, revision="r1", started=1.5, sessions_total=9, memory=1 << 20,
        drain_deadline=3.0,
    )  # fmt: skip
    assert (report.revision, report.sessions_total, report.memory_bytes) == ("r1", 9, 1 << 20)
    assert report.start_time.ToMilliseconds() == 1500
    assert report.drain_deadline_time.ToMilliseconds() == 3000


def test_memory_is_that_of_the_processes_that_live() -> None:
    mine = own_memory()
    assert mine > 1 << 20
    assert own_memory(0, 1 << 30) <= mine * 2


def test_end_reasons_are_a_closed_list() -> None:
    assert control_pb.end_reason("") is EndReason.TERMINATED
    assert control_pb.end_reason("QuotaExceeded") is EndReason.QUOTA_EXCEEDED
    with pytest.raises(control_pb.InvalidRequest, match="Bored"):
        control_pb.end_reason("Bored")
