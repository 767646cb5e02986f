"""The SDK against a scripted media server on loopback, faults included."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from media_server_double import CuttableProxy, DoubleLeg, make_certificate, media_server
from parley.media.v1 import media_pb2 as pb
from parley_client import (
    AgentAudio,
    AttachRefused,
    Call,
    CallLost,
    CallOptions,
    CallState,
    Clear,
    ClearReason,
    ConnectError,
    ConversationEvent,
    Ended,
    Moved,
    Playout,
    ProtocolError,
    Reconnecting,
    SlowConsumer,
    Started,
    StreamError,
    Target,
    TlsError,
    UsageError,
    connect,
    read_wav,
    resolve_address,
    write_wav,
)
from parley_client.backoff import Backoff
from parley_client.leg import Leg

TICKET = "ticket-of-the-test-4711"
QUICK = CallOptions(
    attach_timeout=3, resume_timeout=3, hangup_timeout=3, backoff=Backoff(first=0.05, highest=0.1, floor=0.01)
)
FRAME = bytes(960)


def target(address: str) -> Target:
    return resolve_address(address, TICKET)


async def events_of(call: Call) -> list[object]:
    async with asyncio.timeout(10):
        return [event async for event in call]


async def test_a_call_from_start_to_hangup() -> None:
    async def script(leg: DoubleLeg) -> None:
        assert leg.start.ticket == TICKET
        assert leg.start.playout_buffer_ms == 60
        assert leg.start.input_format.sample_rate_hz == 24000
        await leg.started()
        await leg.event(1, "session.updated", json.dumps({"type": "session.updated", "session": {}}))
        dtmf = await leg.expect("dtmf")
        assert (dtmf.dtmf.digit, dtmf.dtmf.duration_ms) == ("#", 120)
        event = await leg.expect("client_event")
        assert json.loads(event.client_event.event_json) == {"type": "response.create"}
        output = await leg.expect("tool_output")
        assert (output.tool_output.call_id, output.tool_output.no_response) == ("c1", True)
        await leg.agent_audio(FRAME * 2 + FRAME[:480])
        hangup = await leg.expect("hangup")
        assert hangup.hangup.note == "bye"
        assert [frame.sequence for frame in leg.audio_frames] == [1, 2, 3]
        assert [frame.media_time_ms for frame in leg.audio_frames] == [0, 20, 40]
        await leg.ended("CallerHangup", "the caller hung up")

    async with media_server(script) as server:
        async with connect(target(server.address), options=QUICK) as call:
            events = aiter(call)
            await call.send_audio(FRAME * 3)
            await call.send_dtmf("#", 120)
            await call.send_event({"type": "response.create"})
            await call.send_tool_output("c1", "{}", respond=False)
            seen = [await anext(events), await anext(events), await anext(events)]
            ended = await call.hang_up("bye")
            assert ended == Ended("CallerHangup", "the caller hung up")
            seen += [event async for event in events]
            assert [type(e) for e in seen] == [Started, ConversationEvent, AgentAudio, Ended]
            assert (call.stats.frames_received, call.stats.bytes_received) == (3, 2400)
            assert call.state is CallState.ENDED
        assert call.state is CallState.CLOSED


async def test_a_clear_is_answered_with_what_was_heard() -> None:
    answers: list[pb.Cleared] = []

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        for index in range(100):
            await leg.agent_audio(FRAME, epoch=4, position_ms=20 * index, item="spoken")
        await asyncio.sleep(0.5)
        await leg.send(clear=pb.Clear(epoch=4, reason=pb.CLEAR_REASON_BARGE_IN))
        answers.append((await leg.expect("cleared")).cleared)
        await leg.ended()

    async with (
        media_server(script) as server,
        connect(target(server.address), playout=Playout.BURST, options=QUICK) as call,
    ):
        seen = await events_of(call)
    [cleared] = answers
    assert (cleared.epoch, cleared.item_id) == (4, "spoken")
    assert 200 < cleared.played_ms < 1800
    [clear] = [e for e in seen if isinstance(e, Clear)]
    assert (clear.reason, clear.heard.played_ms) == (ClearReason.BARGE_IN, cleared.played_ms)


async def test_marks_are_answered_when_heard_and_burst_reports_progress() -> None:
    order: list[str] = []

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        for index in range(25):
            await leg.agent_audio(FRAME, position_ms=20 * index)
        await leg.send(mark=pb.Mark(name="m1", epoch=1, item_id="i1", position_ms=500))
        while True:
            request = await asyncio.wait_for(leg.requests.get(), 5)
            assert request is not None
            kind = request.WhichOneof("message")
            order.append(str(kind))
            if kind == "progress":
                assert 0 < request.progress.played_ms <= 500
            if kind == "mark_played":
                assert request.mark_played.name == "m1"
                break
        await leg.ended()

    async with (
        media_server(script) as server,
        connect(target(server.address), playout=Playout.BURST, options=QUICK) as call,
    ):
        await events_of(call)
    assert order[-1] == "mark_played"
    assert "progress" in order


async def test_a_cut_connection_is_resumed_with_the_token_and_the_last_event() -> None:
    starts: list[pb.Start] = []

    async def first(leg: DoubleLeg) -> None:
        starts.append(leg.start)
        await leg.started()
        await leg.event(1, "a")
        await leg.event(2, "b")
        await leg.until_left()

    async def second(leg: DoubleLeg) -> None:
        starts.append(leg.start)
        await leg.started()
        await leg.event(2, "b")
        await leg.event(3, "c")
        frame = await leg.expect("audio")
        assert frame.audio.sequence == 1
        await leg.until_hangup()

    async with media_server(first, second) as server, CuttableProxy(server.address) as proxy:
        async with connect(target(proxy.address), options=QUICK) as call:
            seen: list[object] = []
            async for event in call:
                seen.append(event)
                if isinstance(event, ConversationEvent) and event.type == "b":
                    await call.send_audio(FRAME)
                    proxy.refuse = True
                    proxy.cut()
                if isinstance(event, Reconnecting):
                    await call.send_audio(FRAME * 450)
                    await asyncio.sleep(0.2)
                    proxy.refuse = False
                if isinstance(event, ConversationEvent) and event.type == "c":
                    break
            assert call.stats.resumes == 1
            assert call.stats.frames_dropped >= 30
        assert call.ended is not None
    assert starts[0].ticket == TICKET
    assert (starts[1].resume_token, starts[1].last_event_sequence) == ("resume-1", 2)
    assert [e.type for e in seen if isinstance(e, ConversationEvent)] == ["a", "b", "c"]
    assert [e.resumed for e in seen if isinstance(e, Started)] == [False, True]


async def test_a_session_that_moved_is_followed() -> None:
    async def there(leg: DoubleLeg) -> None:
        assert leg.start.resume_token == "resume-1"
        await leg.started()
        await leg.until_hangup()

    async with media_server(there) as new:

        async def here(leg: DoubleLeg) -> None:
            await leg.started()
            await leg.send(moved=pb.Moved(endpoint=new.address, attempt=2))
            await leg.until_left()

        async with media_server(here) as old:
            async with connect(target(old.address), options=QUICK) as call:
                async for event in call:
                    if isinstance(event, Started) and event.resumed:
                        break
                    assert isinstance(event, Started | Moved | Reconnecting)
            assert call.target.address == new.address
            assert call.ended is not None


async def test_a_stream_that_never_comes_back_fails_the_call_in_bounded_time() -> None:
    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        await asyncio.sleep(30)

    quick = CallOptions(attach_timeout=2, resume_timeout=0.5, hangup_timeout=0.5, backoff=QUICK.backoff)
    async with media_server(script) as server, CuttableProxy(server.address) as proxy:
        async with connect(target(proxy.address), options=quick) as call:
            proxy.refuse = True
            proxy.cut()
            with pytest.raises(CallLost, match="not resumed within"):
                await events_of(call)
            with pytest.raises(CallLost):
                await call.send_audio(FRAME)
        assert call.ended is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "ticket-expired"),
        (grpc.StatusCode.PERMISSION_DENIED, "ticket-used"),
        (grpc.StatusCode.INVALID_ARGUMENT, "unsupported-format"),
        (grpc.StatusCode.UNAVAILABLE, "draining"),
    ],
)
async def test_a_refused_attach_is_typed_and_keeps_the_ticket_out_of_its_text(
    code: grpc.StatusCode, reason: str
) -> None:
    async def script(leg: DoubleLeg) -> None:
        await leg.refuse(code, reason, "because the test says so")

    async with media_server(script) as server:
        with pytest.raises(AttachRefused, match="because the test says so") as caught:
            async with connect(target(server.address), options=QUICK):
                pytest.fail("attached")
        assert len(server.legs) == 1
    assert (caught.value.status, caught.value.reason) == (code.name, reason)
    assert TICKET not in str(caught.value)
    assert TICKET not in repr(target(server.address))


async def test_a_hang_up_that_was_lost_with_its_stream_is_said_again() -> None:
    async def first(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.expect("hangup")
        await leg.refuse(grpc.StatusCode.UNAVAILABLE, "session-moved", "elsewhere")

    async def second(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.until_hangup()

    async with media_server(first, second) as server, connect(target(server.address), options=QUICK) as call:
        ended = await call.hang_up()
        assert ended is not None
        assert ended.reason == "CallerHangup"
    assert len(server.legs) == 2


async def test_a_leg_that_was_replaced_is_not_resumed() -> None:
    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.refuse(grpc.StatusCode.ABORTED, "replaced", "a newer leg attached")

    async with (
        media_server(script) as server,
        connect(target(server.address), options=QUICK) as call,
    ):
        with pytest.raises(StreamError, match="a newer leg attached"):
            await events_of(call)
    assert call.stats.resumes == 0


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1 "):
        async with connect(target("127.0.0.1:1"), options=CallOptions(attach_timeout=0.5)):
            pytest.fail("attached")


@asynccontextmanager
async def tcp_server(answer: bytes | None) -> AsyncIterator[str]:
    """Accepts; sends `answer` and closes, or says nothing at all."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        over.set()
        server.close()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\n\r\nhello", b"\x00" * 4096])
async def test_a_server_that_talks_nonsense_or_says_nothing(answer: bytes | None) -> None:
    async with tcp_server(answer) as address:
        with pytest.raises(ConnectError):
            async with connect(target(address), options=CallOptions(attach_timeout=1)):
                pytest.fail("attached")


async def test_a_worker_that_breaks_the_contract() -> None:
    async def no_started(leg: DoubleLeg) -> None:
        await leg.agent_audio(FRAME)

    async def broken_event(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.event(1, "session.updated", "{not json")
        await leg.until_left()

    async def ended_at_once(leg: DoubleLeg) -> None:
        return

    async with media_server(no_started) as server:
        with pytest.raises(ProtocolError, match="answered Start with audio"):
            async with connect(target(server.address), options=QUICK):
                pytest.fail("attached")
    async with media_server(ended_at_once) as server:
        with pytest.raises(ProtocolError, match="without an answer"):
            async with connect(target(server.address), options=QUICK):
                pytest.fail("attached")
    async with media_server(broken_event) as server, connect(target(server.address), options=QUICK) as call:
        with pytest.raises(ProtocolError, match="no JSON"):
            await events_of(call)


async def test_tls_by_the_sessions_own_authority_and_name() -> None:
    certificate = make_certificate("worker-0.pool.example")

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.until_hangup()

    async with media_server(script, credentials=certificate.credentials) as server:
        right = resolve_address(
            server.address,
            TICKET,
            ca_pem=certificate.certificate_pem,
            tls_server_name="worker-0.pool.example",
        )
        async with connect(right, options=QUICK) as call:
            assert call.state is CallState.ATTACHED
        wrong_name = resolve_address(
            server.address, TICKET, ca_pem=certificate.certificate_pem, tls_server_name="elsewhere.example"
        )
        other = make_certificate("worker-0.pool.example").certificate_pem
        wrong_ca = resolve_address(
            server.address, TICKET, ca_pem=other, tls_server_name="worker-0.pool.example"
        )
        for wrong in (wrong_name, wrong_ca):
            with pytest.raises(TlsError):
                async with connect(wrong, options=QUICK):
                    pytest.fail("attached")


async def test_plain_text_to_a_worker_that_serves_tls_says_what_is_missing() -> None:
    async def script(leg: DoubleLeg) -> None:
        raise AssertionError("nobody attaches")

    async with media_server(script, credentials=make_certificate("worker.example").credentials) as server:
        with pytest.raises(ConnectError, match="give its CA"):
            async with connect(target(server.address), options=QUICK):
                pytest.fail("attached")


@pytest.mark.parametrize("address", ["10.0.0.7:8443", "worker.example:8443"])
def test_plain_text_outside_loopback_is_refused_unless_asked_for(address: str) -> None:
    with pytest.raises(UsageError, match="TLS is required"):
        Target(address, TICKET)
    assert resolve_address(address, TICKET).tls
    assert not resolve_address(address, TICKET, insecure=True).tls


async def test_a_user_that_takes_no_events_gets_a_typed_failure() -> None:
    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        for index in range(5000):
            await leg.event(index + 1, "a")
        await leg.until_left()

    async with media_server(script) as server, connect(target(server.address), options=QUICK) as call:
        with pytest.raises(SlowConsumer):
            await call.wait_ended()


async def test_bad_arguments() -> None:
    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.until_hangup()

    async with media_server(script) as server, connect(target(server.address), options=QUICK) as call:
        with pytest.raises(UsageError, match="whole samples"):
            await call.send_audio(b"odd")
        with pytest.raises(UsageError, match="DTMF"):
            await call.send_dtmf("12")
        with pytest.raises(UsageError, match="type"):
            await call.send_event({"name": "x"})
    with pytest.raises(UsageError, match="host:port"):
        resolve_address("nowhere", TICKET)
    with pytest.raises(UsageError, match="ticket is empty"):
        resolve_address("127.0.0.1:1", " ")


async def test_the_example_program(tmp_path: Path) -> None:
    async def script(leg: DoubleLeg) -> None:
        assert leg.start.ticket == TICKET
        await leg.started()
        for _ in range(10):
            await leg.expect("audio")
        said = {"type": "response.output_audio_transcript.done", "transcript": "Hello."}
        await leg.event(1, said["type"], json.dumps(said))
        await leg.ended()

    question, answer = tmp_path / "q.wav", tmp_path / "a.wav"
    write_wav(question, np.ones(16000, dtype=np.int16), 16000)
    program = Path(__file__).parents[3] / "examples" / "call.py"
    certificate = make_certificate("worker.parley.local")
    ca = tmp_path / "ca.crt"
    ca.write_text(certificate.certificate_pem)
    access = {"PARLEY_TICKET": TICKET, "PARLEY_CA": str(ca), "PARLEY_TLS_NAME": "worker.parley.local"}
    async with media_server(script, credentials=certificate.credentials) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *map(str, (program, server.address, question, answer)),
            env={**os.environ, **access},
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().splitlines() == ["assistant: Hello.", "over: CallerHangup"]
    assert read_wav(answer, 24000).size


async def test_what_came_before_the_end_is_read_though_a_write_failed_meanwhile() -> None:
    """A worker ends a session while the caller speaks: the write fails, and Ended is still to be read."""

    async def script(leg: DoubleLeg) -> None:
        await leg.started()
        await leg.event(1, "response.done")
        await leg.ended("ScenarioFailed", "survey.py:38: KeyError: 'questions'")

    async def speak(leg: Leg) -> None:
        while True:
            await leg.write(pb.ConverseRequest(audio=pb.AudioFrame(payload=FRAME)))

    async with media_server(script) as server:
        leg = await Leg.open(target(server.address), pb.Start(ticket=TICKET), 3)
        try:
            with pytest.raises(StreamError):
                await asyncio.wait_for(speak(leg), 5)
            responses = [await leg.read(), await leg.read()]
        finally:
            await leg.close()
    assert [r and r.WhichOneof("message") for r in responses] == ["event", "ended"]
