"""Real workers, nats-server and a provider that remembers, with callers of the SDK that lose their worker."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats_reader import events_of, journal_of
from nats_server import NatsServer
from parley.control.v1 import control_pb2 as pb
from parley_client import (
    AgentAudio,
    Call,
    CallOptions,
    ConversationEvent,
    Endpoint,
    Event,
    MediaGateway,
    Playout,
    StaticResolver,
    Target,
    connect,
    resolve_address,
)
from parley_client.backoff import Backoff
from parley_local.server import LocalProvider
from recall import Held, recalling, spoken
from shards import Watch
from surviving import GA
from worker_process import Control, WorkerProcess, control, worker_process

WORDS = "response.output_audio_transcript.done"


@dataclass
class Host:
    """One worker, and the operator's side of it."""

    worker: WorkerProcess
    operator: Control
    watch: Watch

    def signal(self, number: signal.Signals) -> None:
        """To every process of the worker that runs sessions."""
        for shard in self.worker.ready.get("shards", [{"pid": self.worker.process.pid}]):
            os.kill(shard["pid"], number)

    def state(self, uid: str, attempt: int) -> int:
        """The last state that was told of a placement."""
        told = [r for r in self.watch.of(uid) if r.session.attempt == attempt]
        return told[-1].state if told else 0

    def report(self, uid: str) -> pb.SessionReport:
        return self.watch.of(uid)[-1]


@dataclass
class Fleet:
    """Workers that share a provider and NATS."""

    hosts: list[Host]
    nats: NatsServer
    local: LocalProvider
    held: Held
    resolver: StaticResolver = field(default_factory=StaticResolver)
    tickets: dict[str, str] = field(default_factory=dict)

    async def admit(
        self, host: Host, uid: str, attempt: int = 1, restore: pb.Restore | None = None, **config: Any
    ) -> pb.Admitted:
        """Place the session there, wait until it is ready, and let the resolver know."""
        ticket = self.tickets.setdefault(uid, f"ticket-of-{uid}")
        request = host.operator.request(
            self.local.url,
            uid,
            attempt=attempt,
            ticket_sha256=hashlib.sha256(ticket.encode()).digest(),
            **config,
        )
        request.config.session_json = json.dumps(GA)
        if restore is not None:
            request.config.restore.CopyFrom(restore)
        answer = await host.operator.admit(request)
        assert answer.HasField("admitted"), answer
        await host.watch.until(lambda: host.state(uid, attempt) >= pb.SESSION_STATE_READY)
        told = Endpoint(answer.admitted.endpoint, answer.admitted.tls_server_name, attempt)
        self.resolver.set(uid, told)
        return answer.admitted

    async def freeze(
        self, host: Host, uid: str, attempt: int = 1, patience: float = 10
    ) -> pb.MigrateResponse:
        """Ask the session to hold still."""
        request = pb.MigrateRequest(session=reference(uid, attempt), fence=host.operator.fence())
        request.patience.FromSeconds(round(patience))
        answer: pb.MigrateResponse = await host.operator.stub.Migrate(request, timeout=patience + 10)
        return answer

    async def moved(self, host: Host, uid: str, attempt: int, place: pb.Admitted) -> bool:
        """Tell the old worker where its session is now."""
        request = pb.MovedRequest(
            session=reference(uid, attempt),
            fence=host.operator.fence(),
            endpoint=place.endpoint,
            tls_server_name=place.tls_server_name,
            attempt=attempt + 1,
        )
        answer: pb.MovedResponse = await host.operator.stub.Moved(request, timeout=5)
        return answer.found

    async def migrate(self, old: Host, new: Host, uid: str, attempt: int = 1) -> None:
        """All that the operator does."""
        given = await self.freeze(old, uid, attempt)
        assert given.ready, given.message
        place = await self.admit(new, uid, attempt + 1, resume(given.hand_over))
        assert await self.moved(old, uid, attempt, place)

    async def settled(self, uid: str) -> None:
        """Wait until no more of the session's journal is on its way: what is stored later may be lost."""
        before, now = -1, len(await journal_of(self.nats.url, "default", uid))
        while before != now:
            await asyncio.sleep(0.5)
            before, now = now, len(await journal_of(self.nats.url, "default", uid))

    async def facts(self, uid: str, last: str = "ended") -> list[str]:
        """The session's events, once the last one is stored."""
        deadline = asyncio.get_running_loop().time() + 15
        while True:
            facts = [record.kind for record in await events_of(self.nats.url, "default", uid)]
            if facts[-1:] == [last]:
                return facts
            assert asyncio.get_running_loop().time() < deadline, facts
            await asyncio.sleep(0.1)

    def _how(self, uid: str, place: pb.Admitted, how: dict[str, Any]) -> tuple[Target, dict[str, Any]]:
        options = CallOptions(backoff=Backoff(first=0.1, highest=0.5))
        chosen = {"options": options, "resolver": self.resolver, "playout": Playout.BURST, **how}
        return resolve_address(place.endpoint, self.tickets[uid]), chosen

    @asynccontextmanager
    async def call(self, uid: str, place: pb.Admitted, **how: Any) -> AsyncIterator[Guest]:
        """A caller of the SDK that is attached there."""
        target, chosen = self._how(uid, place, how)
        async with connect(target, **chosen) as call:
            guest = Guest(call)
            try:
                yield guest
            finally:
                await guest.leave()

    async def through(self, gateway: MediaGateway, uid: str, place: pb.Admitted) -> Guest:
        """One that a gateway carries; it must `leave`."""
        target, chosen = self._how(uid, place, {})
        return Guest(await gateway.attach(target, **chosen))


def longest_silence(guest: Guest, hop: float = 0.02) -> float:
    """Seconds between two pieces of the agent's audio, by their content and as they came."""
    loud = [at for at, audio in guest.audio() if any(audio.payload)]
    return max((later - at for at, later in itertools.pairwise(loud)), default=0.0) - hop


def in_order(numbers: list[tuple[int, int]]) -> None:
    """Every event once, and in order."""
    assert numbers == sorted(set(numbers)), "an event came twice, or out of order"


def resume(given: pb.HandOver | None = None) -> pb.Restore:
    return pb.Restore(mode=pb.Restore.MODE_RESUME, hand_over=given)


def reference(uid: str, attempt: int) -> pb.SessionRef:
    return pb.SessionRef(namespace="default", name=f"call-{uid}", session_uid=uid, attempt=attempt)


class Guest:
    """Asks in text, answers no tool by itself, and keeps all that it sees and when."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.seen: list[tuple[float, Event]] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self.read())

    async def leave(self) -> None:
        """Hang up and see the end."""
        await self.call.hang_up()
        await asyncio.wait({self._reading}, timeout=5)
        self._reading.cancel()
        await self.call.close()

    async def read(self) -> None:
        now = asyncio.get_running_loop().time
        async for event in self.call:
            async with self._news:
                self.seen.append((now(), event))
                self._news.notify_all()

    def events(self, *types: str) -> list[dict[str, Any]]:
        return [
            dict(e.data)
            for _, e in self.seen
            if isinstance(e, ConversationEvent) and (not types or e.type in types)
        ]

    def of(self, kind: type) -> list[Any]:
        return [event for _, event in self.seen if isinstance(event, kind)]

    def numbers(self) -> list[tuple[int, int]]:
        """Attempt and sequence of every conversation event."""
        return [(e.attempt, e.sequence) for e in self.of(ConversationEvent)]

    async def until(self, test: Callable[[], bool], timeout: float = 30) -> None:
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(test)

    async def ask(self, text: str) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.call.send_event({"type": "conversation.item.create", "item": item})
        await self.call.send_event({"type": "response.create"})

    def answers(self) -> list[str]:
        return [e["transcript"] for e in self.events(WORDS)]

    async def remember(self, word: str = "alpha") -> None:
        """The first question of a conversation: a word that can be asked for later."""
        await self.ask(f"q1 remember {word}")
        await self.answered("a1")
        await self.calm()

    async def answered(self, head: str) -> str:
        """The answer that begins with this word."""
        await self.until(lambda: any(words.split()[:1] == [head] for words in self.answers()))
        return next(words for words in self.answers() if words.split()[:1] == [head])

    async def calm(self) -> None:
        """Until the response that was made last is complete."""
        await self.until(lambda: len(self.events("response.created")) == len(self.events("response.done")))

    async def say(self, numbers: list[int]) -> None:
        """Speak in real time, with a second of silence before and behind."""
        audio = bytes(48_000) + spoken(numbers, silence_ms=1000)
        began, now = asyncio.get_running_loop().time(), asyncio.get_running_loop().time
        for number, at in enumerate(range(0, len(audio), 960)):
            await self.call.send_audio(audio[at : at + 960])
            await asyncio.sleep(max(0.0, began + number * 0.02 - now()))

    def audio(self) -> list[tuple[float, AgentAudio]]:
        return [(at, e) for at, e in self.seen if isinstance(e, AgentAudio)]


@asynccontextmanager
async def fleet(
    tmp_path: Path, *, workers: int = 2, shards: int = 0, audio_speed: float = 0.0, **settings: str
) -> AsyncIterator[Fleet]:
    """That many workers; `shards` 0 for everything in one process."""
    nats = NatsServer(tmp_path / "nats")
    await nats.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(nats.kill)
        local, held = await stack.enter_async_context(recalling(audio_speed=audio_speed))
        hosts = []
        for number in range(workers):
            worker = await stack.enter_async_context(
                worker_process(
                    name=f"worker-{number}",
                    nats_url=nats.url,
                    shards=str(shards),
                    watch_heartbeat="0.5",
                    **settings,
                )
            )
            operator = await stack.enter_async_context(control(worker.ready["control"], worker.instance))
            watch = Watch(operator.stub.Watch(pb.WatchRequest(fence=operator.fence())))
            stack.push_async_callback(watch.close)
            hosts.append(Host(worker, operator, watch))
        yield Fleet(hosts, nats, local, held)
