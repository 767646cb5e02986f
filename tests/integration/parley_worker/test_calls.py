"""Calls through a worker: real gRPC on one side, a real WebSocket on the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pytest
from media_calls import PCM8, PCM24, RPCS, ULAW, calling, over, start, trailer, worker
from parley.media.v1 import media_pb2 as pb
from parley_worker.core import events as ev
from parley_worker.core.model import EndReason, SessionState
from provider_script import Socket, scripted

TONE = (np.sin(np.arange(24000) * 2 * np.pi * 440 / 24000) * 8000).astype("<i2").tobytes()


@pytest.fixture(params=RPCS, autouse=True)
def rpc(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every call here is made by each RPC."""
    with over(request.param):
        yield request.param


async def test_a_question_is_heard_and_the_answer_comes_back_untouched(rpc: str) -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(9600)
        await socket.send("input_audio_buffer.speech_started", item_id="item_u", audio_start_ms=0)
        await socket.send("input_audio_buffer.speech_stopped", item_id="item_u", audio_end_ms=200)
        await socket.say(TONE, "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        await host.state(config, SessionState.READY)
        async with calling(host, start(config)) as caller:
            started = await caller.expect("started")
            assert started.session_uid == config.key.uid
            assert started.output_delay_ms == 0
            for at in range(0, 9600, 960):
                await caller.speak(TONE[at : at + 960])
            mark = await caller.expect("mark")
            assert (await script.socket()).audio == TONE[:9600]
            assert caller.audio() == TONE
            frames = caller.of("audio")
            assert [f.sequence for f in frames] == list(range(1, len(frames) + 1))
            lengths = [len(f.payload) // 48 for f in frames]
            assert {20} <= {*lengths} <= ({20} if rpc == "ConverseMany" else {20, 40, 60, 80, 100})
            assert [f.position_ms for f in frames] == [*accumulate(lengths[:-1], initial=0)]
            assert mark.position_ms == 1000
            await caller.send(mark_played=pb.MarkPlayed(name=mark.name, epoch=mark.epoch))
            await caller.send(hangup=pb.Hangup(note="bye"))
            ended = await caller.expect("ended")
            assert ended.reason == EndReason.CALLER_HANGUP
            assert await caller.ended() is None
        report = await host.state(config, SessionState.ENDED)
        assert (report.usage.input_tokens, report.usage.output_tokens, report.usage.cached_tokens) == (
            10,
            20,
            3,
        )
        assert report.usage.input_audio_seconds == 0.2
        assert report.usage.output_audio_seconds == 1.0
        facts = host.facts(config)
        assert facts[0] == "admitted"
        assert facts[-1] == "ended"
        assert {"provider_connected", "leg_attached", "first_audio", "response_done"} <= set(facts)
        journal = [r.type for r in host.of(config, "journal")]
        saved = "checkpoint"
        content = [type for type in journal if type != saved]
        assert content == ["session_configured", "transcript", "item_done", "session_ended"]
        assert journal.count(saved) == 2
        await host.nothing_left()


@pytest.mark.parametrize(
    ("wanted", "told"), [(["none"], set()), (["response.done", "conversation.item.*"], {"response.done"})]
)
async def test_a_caller_is_told_the_events_it_asks_for_and_hears_everything(
    wanted: list[str], told: set[str]
) -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        await socket.say(TONE, "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        await host.state(config, SessionState.READY)
        async with calling(host, start(config, events=wanted)) as caller:
            await caller.expect("started")
            await caller.speak(TONE[:960])
            await caller.expect("mark")
            assert caller.audio() == TONE
            await caller.send(hangup=pb.Hangup())
            await caller.expect("ended")
            kinds = {event.type for event in caller.of("event")}
            assert {kind for kind in kinds if not kind.startswith("conversation.item.")} == told
        await host.state(config, SessionState.ENDED)
        assert "response_done" in host.facts(config)
        await host.nothing_left()


async def test_g711_passes_untouched_when_both_sides_speak_it() -> None:
    payload = bytes(range(256)) * 10

    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(1600)
        await socket.say(payload, "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url, provider_audio="g711_ulaw")
        first = start(config, input_format=ULAW, output_format=ULAW)
        async with calling(host, first) as caller:
            await caller.expect("started")
            for at in range(0, 1600, 160):
                await caller.speak(payload[at : at + 160])
            await caller.expect("mark")
            socket = await script.socket()
            assert socket.audio == payload[:1600]
            formats = socket.of("session.update")[0]["session"]["audio"]
            assert formats["input"]["format"] == {"type": "audio/pcmu"}
            assert caller.audio() == payload


async def test_resampled_audio_keeps_its_length_and_its_tone() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.say(TONE, "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        first = start(config, input_format=PCM8, output_format=PCM8, playout_mode=pb.PLAYOUT_MODE_BURST)
        async with calling(host, first) as caller:
            await caller.expect("started")
            await caller.expect("mark")
            heard = np.frombuffer(caller.audio(), dtype="<i2")
            assert abs(len(heard) - 8000) <= 8
            spectrum = np.abs(np.fft.rfft(heard[1000:7000]))
            assert round(int(np.argmax(spectrum)) * 8000 / 6000) == 440


async def test_barge_in_truncates_at_what_the_caller_heard() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.say(TONE * 3, "resp_1", "item_1", finish=False)
        await socket.expect_audio(960)
        await socket.send("input_audio_buffer.speech_started", item_id="item_u", audio_start_ms=0)
        await socket.finish("resp_1", "item_1", "cancelled")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("audio", 20)
            await caller.speak(TONE[:960])
            clear = await caller.expect("clear")
            assert clear.reason == pb.CLEAR_REASON_BARGE_IN
            sent = len(caller.audio()) / 48
            await caller.send(cleared=pb.Cleared(epoch=clear.epoch, item_id="item_1", played_ms=333))
            truncate = await (await script.socket()).expect("conversation.item.truncate")
            assert truncate["item_id"] == "item_1"
            assert truncate["audio_end_ms"] == 333 < sent
            await asyncio.sleep(0.1)
            assert len(caller.audio()) / 48 == sent
        (cut,) = [r for r in host.of(config, "event") if r.type == "barge_in"]
        assert dict(cut.fields) == {"item_id": "item_1", "played_ms": 333, "source": "cleared", "epoch": 1}


async def test_a_caller_comes_back_with_its_token_and_gets_what_it_missed() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        await socket.say(TONE, "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            token = (await caller.expect("started")).resume_token
            await caller.speak(TONE[:960])
            await caller.expect("audio", 10)
            seen = caller.of("event")[-1].sequence
            heard = caller.of("audio")[-1]
        await host.state(config, SessionState.DETACHED)
        await asyncio.sleep(0.1)
        first = start(resume_token=token, last_event_sequence=seen)
        async with calling(host, first) as back:
            started = await back.expect("started")
            assert started.resume_token != token
            await back.expect("mark")
            sequences = [event.sequence for event in back.of("event")]
            assert sequences == list(range(seen + 1, seen + 1 + len(sequences)))
            assert back.of("audio")[0].position_ms >= heard.position_ms
            async with calling(host, start(resume_token=started.resume_token)) as newer:
                await newer.expect("started")
                async with calling(host, start(resume_token=token)) as late:
                    assert trailer(await late.ended()) == "resume-token-unknown"
                error = await back.ended()
                assert error is not None
                assert error.code().name == "ABORTED"
                assert trailer(error) == "replaced"
        assert host.facts(config).count("leg_attached") == 3


async def test_a_beta_agent_that_may_not_be_interrupted_speaks_on() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        await socket.say(TONE[:9600], "resp_1", "item_1", finish=False)
        await socket.send("input_audio_buffer.speech_started", item_id="item_u", audio_start_ms=0)
        await socket.say(TONE[9600:], "resp_1", "item_1")

    turns = {"turn_detection": {"type": "server_vad", "interrupt_response": False}}
    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url, provider={"api_version": "beta"}, session=turns)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await caller.speak(bytes(960))
            await caller.expect("mark")
            assert caller.audio() == TONE
            assert caller.of("clear") == []


async def test_tool_calls_and_their_results() -> None:
    call = {"type": "function_call", "name": "weather", "call_id": "call_1", "arguments": "{}"}

    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.expect("response.create")
        await socket.send("response.created", response={"id": "r1"})
        await socket.send("response.output_item.done", response_id="r1", item=call)
        await socket.send("response.done", response={"id": "r1", "status": "completed"})
        output = await socket.expect("conversation.item.create")
        item = output["item"]
        assert (item["type"], item["call_id"], item["output"]) == ("function_call_output", "call_1", "sunny")
        await socket.expect("response.create", 2)

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url, greet=True)
        async with calling(host, start(config)) as caller:
            await caller.expect_event("response.done")
            await caller.send(tool_output=pb.ToolOutput(call_id="call_9", output="?"))
            refused = await caller.expect_event("parley.client_event_refused")
            assert "call_9" in json.loads(refused.event_json)["message"]
            await caller.send(tool_output=pb.ToolOutput(call_id="call_1", output="sunny"))
            await (await script.socket()).expect("response.create", 2)
        journal = {r.type: dict(r.fields) for r in host.of(config, "journal")}
        given = journal["tool_result"]
        assert (given["call_id"], given["output"], given["error_code"]) == ("call_1", "sunny", "")
        assert 0 <= int(str(given["duration_ms"])) < 20_000


async def test_client_events_are_filtered_and_dtmf_is_recorded() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            socket = await script.socket()
            append = json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA"})
            for text in (append, "{", "[]", '{"type": 1}'):
                await caller.send(client_event=pb.ClientEvent(event_json=text))
            await caller.send(dtmf=pb.Dtmf(digit="#", duration_ms=90))
            await caller.send(dtmf=pb.Dtmf(digit="x"))
            cancel = json.dumps({"type": "response.cancel"})
            await caller.send(client_event=pb.ClientEvent(event_json=cancel))
            await socket.expect("response.cancel")
            await caller.expect("event", 7)
            assert [e.type for e in caller.of("event")].count("parley.client_event_refused") == 5
        assert not socket.audio
        assert "dtmf_received" in host.facts(config)
        (key,) = [r for r in host.of(config, "journal") if r.type == "dtmf"]
        assert dict(key.fields) == {"digit": "#"}


async def test_privacy_writes_no_journal() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.say(TONE, "resp_1", "item_1")

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url, privacy=True)
        async with calling(host, start(config, output_format=PCM24)) as caller:
            await caller.expect("mark")
            await caller.send(hangup=pb.Hangup())
            await caller.ended()
        assert host.of(config, "journal") == []
        assert host.facts(config)[-1] == "ended"


async def test_command_drain_and_terminate_reach_the_caller() -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        await socket.say(TONE * 2, "resp_1", "item_1", finish=False)

    async with scripted(provider) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("audio", 5)
            registry = host.app.registry
            registry.command(config.key, ev.CommandReceived({"type": "input_audio_buffer.clear"}))
            registry.command(config.key, ev.CommandReceived(clear=True))
            socket = await script.socket()
            await socket.expect("input_audio_buffer.clear")
            await socket.expect("response.cancel")
            clear = await caller.expect("clear")
            assert clear.reason == pb.CLEAR_REASON_REQUESTED
            truncate = await socket.expect("conversation.item.truncate")
            assert 0 < truncate["audio_end_ms"] <= len(caller.audio()) / 48
            registry._runners[(config.key.uid, 1)].announce_drain(1_800_000_000)
            assert (await caller.expect("draining")).deadline_time.seconds == 1_800_000_000
            registry.terminate(config.key, EndReason.TERMINATED, "deleted")
            assert (await caller.expect("ended")).reason == "Terminated"
            assert await caller.ended() is None
        await host.nothing_left()
