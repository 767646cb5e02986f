"""A telephone call with real speech: digits that the caller says come back in the agent's voice."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from media_calls import Worker, worker
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_local.speech import digits
from parley_worker.codec.twilio_json import MARK_INTERVAL_MS
from parley_worker.config import Address
from parley_worker.core.audio import Encoding, decode, encode
from parley_worker.core.model import EndReason, SessionConfig, SessionState
from speech import code_phrase, random_code, recognize_digits, synthesize
from twilio_side import TwilioCall

LOCAL = LocalProviderConfig(port=0, voice="flite", recognizer="whisper", detector="silero")
SESSION = {
    "type": "realtime",
    "instructions": "say it back",
    "output_modalities": ["audio"],
    "audio": {"input": {"transcription": {"model": "whisper-1"}}},
}
RATE = 8000
QUIET = 0.8


def spoken(text: str) -> bytes:
    """Speech as Twilio carries it."""
    return encode(np.frombuffer(synthesize(text, RATE), dtype="<i2"), Encoding.G711_ULAW)


def digits_in(ulaw: bytes) -> str:
    """The digits that are heard in it."""
    return recognize_digits(decode(ulaw, Encoding.G711_ULAW).astype("<i2").tobytes(), RATE)


def count(host: Worker, config: SessionConfig, fact: str) -> int:
    return host.facts(config).count(fact)


async def say(phone: TwilioCall, code: str) -> None:
    phone.say(await asyncio.to_thread(spoken, code_phrase(code)))


async def listen(phone: TwilioCall, host: Worker, config: SessionConfig, answers: int) -> bytes:
    """The whole next answer: what is heard until nothing more comes."""
    begun = len(phone.heard)
    await phone.until(lambda: count(host, config, "response_done") >= answers, 60)
    await phone.until(lambda: len(phone.heard) > begun and phone.quiet_for > QUIET, 60)
    return bytes(phone.heard[begun:])


@pytest.mark.timeout(150)
async def test_digits_are_understood_both_ways_and_an_interruption_ends_what_was_heard() -> None:
    first, second = random_code(), random_code()
    print(f"codes {first} {second}")
    async with serve(LOCAL) as local, worker(telephony_address=Address("127.0.0.1", 0)) as host:
        config = host.admit(
            local.url, provider={"model": "local"}, session=SESSION, provider_audio="g711_ulaw"
        )
        ticket = {"ticket": f"ticket-{config.key.uid}"}
        async with TwilioCall(host.app.endpoint.telephony, parameters=ticket) as phone:
            await say(phone, first)
            interruption = await asyncio.to_thread(spoken, code_phrase(second))
            await phone.until(lambda: len(phone.heard) > RATE * 0.8, 60)
            phone.say(interruption)
            await phone.until(lambda: ("clear",) in phone.events, 60)
            heard = len(phone.heard) / RATE * 1000
            assert digits_in(await listen(phone, host, config, 2)) == second

            cleared = phone.events.index(("clear",))
            before, after = phone.events[:cleared], phone.events[cleared + 1 :]
            sent = [event[1] for event in before if event[0] == "mark"]
            played = [event[1] for event in before if event[0] == "played"]
            flushed = [event[1] for event in after if event[0] == "flushed"]
            assert played + flushed == sent
            assert [event[0] for event in after[: len(flushed)]] == ["flushed"] * len(flushed)
            await phone.stop()
            assert (await phone.closed())[0] == 1000
        report = await host.state(config, SessionState.ENDED)
        assert report.end_reason is EndReason.CALLER_HANGUP
        journal = host.of(config, "journal")
        (cut,) = [dict(record.fields) for record in journal if record.type == "item_truncated"]
        assert abs(int(str(cut["audio_end_ms"])) - heard) <= MARK_INTERVAL_MS
        texts = [str(r.fields["text"]) for r in journal if r.fields.get("role") == "user"]
        said = [dict(r.fields) for r in journal if r.type == "transcript" and r.fields.get("truncated")]
        assert said[-1]["item_id"] == cut["item_id"]
        words, kept = str(said[-1]["text"]), str(said[-1]["heard_text"])
        assert first.startswith(digits.extract(kept))
        heard_codes = [digits.extract(text) for text in texts]
        assert heard_codes == [first, second]
        assert words.startswith(kept)
        assert 0 < len(kept) < len(words)
        await host.nothing_left()
