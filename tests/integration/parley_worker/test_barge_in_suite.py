"""Two hundred interruptions at random points: the history ends where each caller's own player stood.

Callers of three kinds share one worker. Bounds: 20 ms where the caller acknowledges, the spacing of the marks
where it returns marks, its declared buffer and 20 ms where only the clock is known.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from heard_callers import HeardCaller
from media_calls import PCM8, PCM24, ULAW, worker
from parley_worker.core.model import EndReason
from provider_script import Socket, scripted

SEED = int(os.environ.get("PARLEY_TEST_SEED", "") or secrets.randbits(32))
ROUNDS = 25
CALLS = 12
MARK_MS = 200
DECLARED_MS = 100
BOUND_MS = {"cleared": 20.0, "marks": float(MARK_MS), "clock": DECLARED_MS + 20.0}
SOURCES = {"cleared": {"cleared", "clock"}, "marks": {"mark", "clock"}, "clock": {"clock"}}
WIRES = [(PCM24, 48), (PCM8, 16), (ULAW, 8)]
LATE = b"\x01" * 4800


@dataclass
class Script:
    """What the provider did in one call: items with the milliseconds that it sent before the cut."""

    chance: random.Random
    said: dict[str, float] = field(default_factory=dict)
    cut_in: set[str] = field(default_factory=set)
    rounds: int = 0

    async def run(self, socket: Socket) -> None:
        await socket.expect_audio(1)
        for number in range(ROUNDS):
            await self._round(socket, f"r{number}", list(self._answers(number)))
            self.rounds += 1
        await asyncio.sleep(0.3)

    def _answers(self, number: int) -> Iterator[tuple[str, int]]:
        for part in range(self.chance.choice((1, 1, 2, 4))):
            yield f"i{number}.{part}", self.chance.randrange(100, 1600, 20)

    async def _round(self, socket: Socket, response: str, items: list[tuple[str, int]]) -> None:
        """An answer of some parts, at once as providers send it, and speech in the middle of it."""
        chance = self.chance
        where = chance.choice(("anywhere", "anywhere", "anywhere", "first frame", "after the end"))
        total = sum(length for _, length in items) / 1000
        pause = {
            "anywhere": chance.uniform(0.02, min(total * 0.95, 1.6)),
            "first frame": chance.uniform(0.0, 0.02),
            "after the end": total + 0.6,
        }[where]
        if where == "after the end":
            items[:] = [(item, min(length, 400)) for item, length in items[:1]]
            pause = items[0][1] / 1000 + 0.6
        for item, length in items:
            await socket.say(bytes(48 * length), response, item, finish=False)
            self.said[item] = length
            if item != items[-1][0]:
                ids = {"response_id": response, "item_id": item, "output_index": 0}
                await socket.send("response.output_audio.done", **ids, content_index=0)
        whole = chance.random() < 0.3 or where == "after the end"
        if whole:
            await socket.finish(response, items[-1][0])
        await asyncio.sleep(pause)
        if where != "after the end":
            self.cut_in.add(response)
        await socket.send("input_audio_buffer.speech_started", item_id="u", audio_start_ms=0)
        if not whole:
            await socket.say(LATE, response, items[-1][0], finish=False)
            await socket.finish(response, items[-1][0], "cancelled")
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0, 0.1))
            await socket.send("input_audio_buffer.speech_started", item_id="u2", audio_start_ms=9)
        await asyncio.sleep(chance.choice((0.05, 0.3)))


def cuts(socket: Socket) -> dict[str, int]:
    """Where the worker truncated each item; no item twice."""
    found = [(e["item_id"], e["audio_end_ms"]) for e in socket.of("conversation.item.truncate")]
    assert len(dict(found)) == len(found), "an item was truncated twice"
    return dict(found)


def errors(caller: HeardCaller, script: Script, truncated: dict[str, int]) -> list[float]:
    """The errors of the items that were truncated, in milliseconds; asserts what holds for every item."""
    assert not caller.player.too_late, f"audio of a cut answer came: {caller.player.too_late[:3]}"
    found = []
    for item, said in script.said.items():
        heard, got = caller.player.heard.get(item, 0.0), caller.player.got.get(item, 0.0)
        kept = truncated.get(item, said)
        what = f"{caller.kind}, {item}: {kept} ms kept of {said}, {heard:.1f} ms heard of {got:.1f}"
        if item in truncated:
            assert kept <= min(got, said) + 1, f"past what was sent: {what}"
            assert kept > 0 or heard <= BOUND_MS[caller.kind] / 2, f"0 by mistake: {what}"
        error = abs(kept - min(heard, said))
        assert error <= BOUND_MS[caller.kind], what
        if item in truncated:
            found.append(error)
    return found


@pytest.mark.timeout(150)
async def test_two_hundred_interruptions_end_the_history_at_what_was_heard() -> None:
    scripts = {str(n): Script(random.Random(f"{SEED}.{n}")) for n in range(CALLS)}
    sockets: dict[str, Socket] = {}
    callers: list[HeardCaller] = []

    async def provider(socket: Socket) -> None:
        await socket.greet()
        name = socket.of("session.update")[0]["session"]["instructions"]
        sockets[name] = socket
        await scripts[name].run(socket)
        host.app.registry.terminate(configs[name].key, EndReason.TERMINATED, "the script is over")

    async with scripted(provider) as service, worker(capacity=CALLS) as host:
        configs = {
            n: host.admit(service.url, session={"type": "realtime", "instructions": n}) for n in scripts
        }
        for number, (name, config) in enumerate(configs.items()):
            kind = ("cleared", "marks", "clock")[number % 3]
            wire, size = WIRES[number // 3 % 3]
            callers.append(
                HeardCaller(
                    host,
                    config,
                    kind,
                    wire,
                    size,
                    random.Random(f"{SEED}.caller.{name}"),
                    hold=DECLARED_MS / 1000 if kind == "clock" else 0.06,
                    jitter=0.05 if number // 3 == 1 else 0.0,
                    burst=number // 3 == 3,
                    declared_ms=DECLARED_MS if kind == "clock" else 0,
                    mark_ms=MARK_MS if kind == "marks" else 0,
                )
            )
        print(f"seed {SEED}")
        await asyncio.gather(*(caller.run() for caller in callers))
        await host.nothing_left()
    worst: dict[str, list[float]] = {}
    for caller, (name, script) in zip(callers, scripts.items(), strict=True):
        assert script.rounds == ROUNDS
        worst.setdefault(caller.kind, []).extend(errors(caller, script, cuts(sockets[name])))
        facts = host.of(configs[name], "event")
        sources = {str(fact.fields["source"]) for fact in facts if fact.type == "barge_in"}
        assert sources <= SOURCES[caller.kind]
        assert SOURCES[caller.kind] & sources - {"clock"} or caller.kind == "clock"
    for kind, found in worst.items():
        found.sort()
        middle, high = found[len(found) // 2], found[-1]
        print(f"{kind}: {len(found)} items cut, error median {middle:.1f} ms, worst {high:.1f} ms")
    interruptions = sum(len(script.cut_in) for script in scripts.values())
    clears = sum(caller.clears for caller in callers)
    print(f"{ROUNDS * CALLS} interruptions, {interruptions} over audio, {clears} clears")
    assert interruptions >= 200
    assert clears >= interruptions * 0.9
