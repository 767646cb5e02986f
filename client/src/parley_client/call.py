"""A call: attached to a session, resumed when the stream is cut, over when the session is.

One supervisor task owns the stream; a reader, a writer and a ticker run for each leg. Queues are bounded:
a second of caller audio, 256 control messages, 4096 events.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from parley.media.v1 import media_pb2 as pb
from parley_opus import packet_samples

from . import codec
from .audio import BufferedPlayer
from .caller_tools import CallerTools
from .errors import (
    AttachRefused,
    CallLost,
    ConnectError,
    ParleyError,
    ProtocolError,
    SlowConsumer,
    StreamError,
    TlsError,
    UsageError,
)
from .events import (
    AgentAudio,
    Clear,
    ConversationEvent,
    Ended,
    Event,
    Heard,
    Mark,
    Moved,
    Reconnecting,
    Started,
)
from .formats import PCM16_24K, AudioFormat, Encoding
from .leg import AttachedLeg, Leg, LegOpener, is_resumable
from .options import PROGRESS_SECONDS, TICK_SECONDS, TRANSITIONS, CallOptions, CallState, CallStats, Playout
from .opus import CallCodecs, Packet
from .reattaching import FOLLOW_SECONDS, LOOK_SECONDS, TRY_SECONDS, Trail
from .resolving import Resolver
from .tape import SentAudio
from .target import Target
from .tool_handlers import Handler

AUDIO_QUEUE_FRAMES: Final = 50
CONTROL_QUEUE: Final = 256
EVENT_QUEUE: Final = 4096


def connect(
    target: Target,
    *,
    input_format: AudioFormat | str = PCM16_24K,
    output_format: AudioFormat | str | None = None,
    playout: Playout = Playout.REALTIME,
    player: BufferedPlayer | None = None,
    options: CallOptions | None = None,
    resolver: Resolver | None = None,
    open_leg: LegOpener = Leg.open,
) -> Call:
    """Return a call to use as `async with connect(target) as call`; entering it attaches.

    Args:
        target: from `resolve_cluster`, `resolve_address` or an embedded stack.
        input_format: caller audio, such as `pcm16@24000`, `g711_ulaw` or `opus@24000`: with Opus the call
            makes and reads the packets, its user gives and gets PCM16 at that rate.
        output_format: agent audio; the input format when not given.
        playout: REALTIME, or BURST for a player with a long buffer.
        player: hears the agent, such as a `WavRecorder`; a silent one on the call's clock if not given.
        options: everything else; its formats and playout are replaced by the arguments.
        resolver: asked where the session lives when its worker is lost; without one only that worker is
        tried.
        open_leg: how a stream is opened; `MediaGateway` gives another one.

    Raises:
        MissingProgram: a format is Opus and libopus is not installed.

    Raises (on entering):
        ConnectError, TlsError, AttachRefused, ProtocolError.
    """
    source = AudioFormat.parse(input_format) if isinstance(input_format, str) else input_format
    sink = AudioFormat.parse(output_format) if isinstance(output_format, str) else output_format or source
    chosen = replace(options or CallOptions(), input_format=source, output_format=sink, playout=playout)
    return Call(target, chosen, player or BufferedPlayer(), open_leg, resolver)


class Call:
    """A live call. Leaving the `async with` block hangs up.

    Iterate over it for its events until `Ended`. Take them promptly: when 4096 wait, the oldest audio is
    dropped, and without audio to drop the call fails with `SlowConsumer`. The player has had the audio before
    its event is seen.
    """

    def __init__(
        self,
        target: Target,
        options: CallOptions,
        player: BufferedPlayer,
        open_leg: LegOpener = Leg.open,
        resolver: Resolver | None = None,
    ) -> None:
        self.options = options
        self.player = player
        self.stats = CallStats()
        self.state = CallState.NEW
        self.started: Started | None = None
        self.ended: Ended | None = None
        self._error: ParleyError | None = None
        self._trail = Trail(target, resolver)
        self._moving: Moved | None = None
        self._sent = SentAudio(options.kept_frames)
        self._most_waiting = max(AUDIO_QUEUE_FRAMES, options.kept_frames)
        self._frame_number = 0
        self._media_bytes = 0
        self._audio: deque[bytes] = deque()
        self._rest = b""
        self._codecs = CallCodecs(options.input_format, options.output_format, options.opus)
        self._control: deque[pb.ConverseRequest] = deque()
        self._hangup: pb.ConverseRequest | None = None
        self._events: deque[Event] = deque()
        self._outgoing = asyncio.Event()
        self._incoming = asyncio.Event()
        self._over = asyncio.Event()
        self._tools = CallerTools(self.send_tool_output)
        self._open_leg = open_leg
        self._leg: AttachedLeg | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def target(self) -> Target:
        """Where the session was found last."""
        return self._trail.target

    async def __aenter__(self) -> Self:
        self._enter(CallState.ATTACHING)
        try:
            leg = await self._attach_first()
        except BaseException:
            self._enter(CallState.FAILED)
            raise
        self._supervisor = asyncio.create_task(self._supervise(leg), name="parley-call")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            await self.hang_up()
        await self.close()

    # What the caller does

    async def send_audio(self, pcm: bytes) -> None:
        """Send caller audio in the input format: whole samples, in real time (20 ms is usual).

        Of an Opus call these are PCM16, and what does not fill 20 ms is kept for the next call.
        Waits while a second of audio is queued on a live stream. While the stream is cut the oldest frames
        are dropped and counted. After the end of the session it does nothing.

        Raises:
            UsageError: not whole samples.
            ParleyError: the call has failed.
        """
        format = self.options.input_format
        if len(pcm) % format.sample_bytes:
            raise UsageError(f"{len(pcm)} bytes are not whole samples of {format}")
        self._raise_failure()
        if self._codecs.whole_frames:
            pcm = self._rest + pcm
            whole = len(pcm) // format.frame_bytes * format.frame_bytes
            self._rest, pcm = pcm[whole:], pcm[:whole]
        for start in range(0, len(pcm), format.frame_bytes):
            await self._queue(pcm[start : start + format.frame_bytes])

    async def send_packet(self, packet: bytes) -> None:
        """Send an Opus packet of the caller as it is, where the input format is Opus. Bounds as `send_audio`.

        A call takes samples or packets, not both by turns.

        Raises:
            UsageError: the input format is another one, or this is no packet of RFC 6716.
            ParleyError: the call has failed.
        """
        if not self._codecs.whole_frames:
            raise UsageError(f"a packet cannot be sent as {self.options.input_format}: use send_audio")
        if not packet_samples(packet):
            raise UsageError(f"these {len(packet)} bytes are no Opus packet")
        self._raise_failure()
        await self._queue(Packet(packet))

    async def _queue(self, frame: bytes) -> None:
        while len(self._audio) >= AUDIO_QUEUE_FRAMES and not self._over.is_set():
            if self.state is not CallState.ATTACHED:
                if len(self._audio) < self._most_waiting:
                    break
                self._audio.popleft()
                self.stats.frames_dropped += 1
                break
            await asyncio.sleep(TICK_SECONDS / 2)
        self._audio.append(frame)
        self._outgoing.set()

    async def send_dtmf(self, digit: str, duration_ms: int = 0) -> None:
        """Press a key: one of 0-9, *, #, A-D."""
        if len(digit) != 1 or digit.upper() not in "0123456789*#ABCD":
            raise UsageError(f"DTMF {digit!r}: one of 0-9, *, #, A-D")
        self._send(pb.ConverseRequest(dtmf=pb.Dtmf(digit=digit.upper(), duration_ms=duration_ms)))

    async def send_event(self, event: Mapping[str, Any]) -> None:
        """Send a Realtime client event (an object with its `type`), such as `response.create`."""
        if not isinstance(event.get("type"), str):
            raise UsageError("a client event needs a `type`, such as response.create")
        self._send(pb.ConverseRequest(client_event=pb.ClientEvent(event_json=json.dumps(dict(event)))))

    async def send_tool_output(self, call_id: str, output: str, *, respond: bool = True) -> None:
        """Answer a function call; the agent is asked to go on unless `respond` is False."""
        message = pb.ToolOutput(call_id=call_id, output=output, no_response=not respond)
        self._send(pb.ConverseRequest(tool_output=message))

    def on_tool(self, name: str, handler: Handler) -> None:
        """Answer the model's calls of a function by `handler(call)`, which gives the result: text, or what
        JSON can hold. See `parley_client.tools`.

        Calls run beside each other and beside the audio, until the session ends or gives them up. Register
        before entering the call, so that none is missed.

        Raises:
            UsageError: the function has a handler already.
        """
        self._tools.register(name, handler)

    async def clear(self) -> None:
        """Ask for silence: audio not yet heard is dropped, the answer being made is cancelled."""
        self._send(pb.ConverseRequest(clear=pb.ClearRequest()))

    async def hang_up(self, note: str = "") -> Ended | None:
        """End the session behind the audio already queued; wait for its last word.

        Waits `hangup_timeout` seconds at most. Idempotent. Returns None when the end was not confirmed.
        """
        if self.state in (CallState.ATTACHED, CallState.RESUMING):
            self._hangup = pb.ConverseRequest(hangup=pb.Hangup(note=note[:200]))
            self._outgoing.set()
            try:
                async with asyncio.timeout(self.options.hangup_timeout):
                    await self._over.wait()
            except TimeoutError:
                pass
        return self.ended

    async def close(self) -> None:
        """Drop the stream without a word: the session is held for its reattach timeout. Idempotent."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._supervisor = None
        await self._tools.wait()
        if self.state is not CallState.CLOSED:
            self.player.close(self._now())
            self._enter(CallState.CLOSED)
        self._over.set()
        self._incoming.set()

    async def wait_ended(self) -> Ended:
        """Wait for the end of the session (bounded by its own limits).

        Raises:
            ParleyError: the call failed first.
        """
        await self._over.wait()
        self._raise_failure()
        if self.ended is None:
            raise CallLost("the call was closed before the session ended")
        return self.ended

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._over.is_set():
                self._raise_failure()
                return
            self._incoming.clear()
            await self._incoming.wait()

    # The supervisor

    async def _attach_first(self) -> AttachedLeg:
        deadline = self._now() + self.options.attach_timeout
        attempt = 0
        while True:
            try:
                return await self._attach(pb.Start(ticket=self.target.ticket), deadline)
            except TlsError:
                raise
            except ConnectError:
                attempt += 1
                pause = self.options.backoff.delay(attempt, random.random)
                if self._now() + pause >= deadline:
                    raise
                await asyncio.sleep(pause)

    async def _supervise(self, leg: AttachedLeg) -> None:
        try:
            while True:
                try:
                    cause = await self._serve(leg)
                    followed = await self._follow() if self._moving is not None else None
                finally:
                    self._moving = None
                    await leg.close()
                if followed is not None:
                    leg = followed
                    continue
                self._leg = None
                if self.ended is not None:
                    self._enter(CallState.ENDED)
                    return
                if not self.options.resume:
                    raise CallLost(f"the stream was cut: {cause}")
                if self.state is not CallState.RESUMING:
                    self._enter(CallState.RESUMING)
                self._emit(Reconnecting(cause))
                leg = await self._resume(cause)
                self.stats.resumes += 1
        except ParleyError as error:
            self._error = error
            self._enter(CallState.FAILED)
        except Exception as error:  # noqa: BLE001 - the supervisor's border: players are user code
            self._error = ParleyError(f"the call failed: {type(error).__name__}: {error}")
            self._error.__cause__ = error
            self._enter(CallState.FAILED)
        finally:
            self._tools.stop()
            self._over.set()
            self._incoming.set()

    async def _follow(self) -> AttachedLeg | None:
        """Attach to the worker that this one names, while its stream is still there; None where that
        fails."""
        self._enter(CallState.RESUMING)
        try:
            leg = await self._attach(self._trail.start(again=0), self._now() + FOLLOW_SECONDS)
        except (ConnectError, AttachRefused):
            return None
        self.stats.moves += 1
        return leg

    async def _resume(self, cause: str) -> AttachedLeg:
        deadline = self._now() + self.options.resume_timeout
        attempt = 0
        while True:
            attempt += 1
            await asyncio.sleep(self.options.backoff.delay(attempt, random.random))
            try:
                await self._trail.look(min(LOOK_SECONDS, max(0.1, deadline - self._now())))
                start = self._trail.start(again=attempt)
                return await self._attach(start, min(deadline, self._now() + TRY_SECONDS))
            except (ConnectError, AttachRefused) as error:
                if isinstance(error, AttachRefused) and not self._trail.may_try_again(error):
                    raise
                if self._now() >= deadline:
                    waited = f"{self.options.resume_timeout:g} s"
                    raise CallLost(
                        f"the stream was cut ({cause}) and not resumed within {waited}: {error}"
                    ) from error

    async def _attach(self, start: pb.Start, deadline: float) -> AttachedLeg:
        options = self.options
        resumed = self.started is not None
        start.input_format.CopyFrom(codec.format_to_pb(options.input_format))
        start.output_format.CopyFrom(codec.format_to_pb(options.output_format))
        start.playout_mode = options.playout.value
        start.playout_buffer_ms = self.player.buffer_ms
        start.events.extend(options.events)
        if options.output_format.encoding is Encoding.OPUS:
            start.opus.bitrate_bps = options.opus.bitrate
            start.opus.expected_loss_percent = options.opus.expected_loss
        leg = await self._open_leg(self.target, start, max(0.1, deadline - self._now()))
        try:
            started = codec.started_from_pb(leg.started, resumed=resumed)
            if started.output_format != options.output_format or started.input_format != options.input_format:
                raise ProtocolError(
                    f"asked for {options.input_format} in and {options.output_format} out,"
                    f" the worker agreed to {started.input_format} and {started.output_format}"
                )
            self._codecs.attached()
            self.player.start(started.output_format, self._now())
        except BaseException:
            await leg.close()
            raise
        self._say_again(started)
        self._trail.attached(leg.started)
        self._frame_number = 0
        self.started = started
        self._leg = leg
        self._enter(CallState.ATTACHED)
        self._emit(started)
        return leg

    def _say_again(self, started: Started) -> None:
        """What an earlier worker did not pass on goes first."""
        if self._moving is not None:
            again = self._sent.take(self._moving.resend_from)
        elif self.started is not None and started.attempt != self.started.attempt:
            again = self._sent.take_turn()
        else:
            again = self._sent.take(0)
        self._audio.extendleft(reversed(again))
        self._media_bytes -= sum(self._codecs.length(frame) for frame in again)
        self.stats.frames_resent += len(again)
        said = self._trail.again(started.attempt, self._moving)
        self._control.extendleft(m for m in reversed(said) if m not in self._control)

    async def _serve(self, leg: AttachedLeg) -> str:
        """Run one leg to its end; return why it ended. Raises what must not be resumed."""
        tasks = [
            asyncio.create_task(self._read(leg), name="parley-call-read"),
            asyncio.create_task(self._write(leg), name="parley-call-write"),
            asyncio.create_task(self._tick(), name="parley-call-tick"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done() and not tasks[2].done():
                await asyncio.wait(tasks[:1], timeout=1.0)  # a failed write: the reader knows why
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                if isinstance(error, StreamError) and is_resumable(error):
                    return str(error)
                raise error
        return "the worker ended the stream" if tasks[0].cancelled() else tasks[0].result()

    async def _read(self, leg: AttachedLeg) -> str:
        while True:
            response = await leg.read()
            if response is None:
                return "the worker ended the stream without Ended"
            event = codec.event_from_pb(response)
            if event is not None and (cause := self._received(event)):
                return cause

    def _received(self, event: Event) -> str:
        """Act on an event and queue it for the user; return a cause when this leg is over."""
        now = self._now()
        match event:
            case AgentAudio():
                self.stats.bytes_received += len(event.payload)
                event = self._codecs.receive(event)
                seconds = self.options.output_format.seconds(len(event.payload))
                self.stats.frames_received += math.ceil(seconds / TICK_SECONDS - 1e-6)
                self._trail.heard(event, seconds)
                self.player.play(event, now)
            case Mark():
                self.player.mark(event, now)
            case Clear():
                self._codecs.cleared()
                heard = self.player.clear(event.epoch, now)
                self._answer_clear(event.epoch, heard)
                event = replace(event, heard=heard)
                self._trail.cut(heard)
            case ConversationEvent():
                missed = self._trail.event(event)
                if missed is None:
                    return ""
                self.stats.events_received += 1
                # The numbers of events that were not asked for are left out.
                self.stats.events_missed += 0 if self.options.events else missed
                self._sent.event(event.type)
                self._tools.follow(event, self.started)
            case Moved():
                self._trail.moved(event)
                self._moving = event
                self._emit(event)
                return f"the session moved to {event.endpoint}"
            case Ended():
                self.ended = event
                self._emit(event)
                return "ended"
        self._emit(event)
        return ""

    def _answer_clear(self, epoch: int, heard: Heard) -> None:
        cleared = pb.Cleared(
            epoch=epoch, item_id=heard.item_id, content_index=heard.content_index, played_ms=heard.played_ms
        )
        self._control.appendleft(pb.ConverseRequest(cleared=cleared))
        self._outgoing.set()

    async def _write(self, leg: AttachedLeg) -> str:
        said = False  # a hang-up that no Ended answered is said again on the next leg
        while True:
            while self._control or self._audio or (self._hangup is not None and not said):
                if self._control:
                    await self._write_control(leg)
                elif self._audio:
                    await leg.write(self._next_frame())
                    self.stats.frames_sent += 1
                elif self._hangup is not None:
                    self._trail.said(self._hangup)
                    await leg.write(self._hangup)
                    said = True
            self._outgoing.clear()
            await self._outgoing.wait()

    async def _write_control(self, leg: AttachedLeg) -> None:
        """Write one message; one that was not taken goes out first on the next leg."""
        request = self._control.popleft()
        try:
            self._trail.said(request)
            await leg.write(request)
        except BaseException:
            self._control.appendleft(request)
            raise

    def _next_frame(self) -> pb.ConverseRequest:
        payload = self._audio.popleft()
        self._frame_number += 1
        self._sent.sent(self._frame_number, payload)
        position = round(self.options.input_format.seconds(self._media_bytes) * 1000)
        self._media_bytes += self._codecs.length(payload)
        frame = pb.AudioFrame(
            payload=self._codecs.send(payload), sequence=self._frame_number, media_time_ms=position
        )
        return pb.ConverseRequest(audio=frame)

    async def _tick(self) -> str:
        """Let the player's time pass: answer marks as they are heard and report progress in BURST mode."""
        reported = Heard()
        due = self._now() + PROGRESS_SECONDS
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._now()
            for mark in self.player.tick(now):
                self._offer(pb.ConverseRequest(mark_played=pb.MarkPlayed(name=mark.name, epoch=mark.epoch)))
            if self.options.playout is Playout.BURST and now >= due:
                due = now + PROGRESS_SECONDS
                heard = self.player.heard(now)
                if heard != reported and heard.item_id:
                    reported = heard
                    self._offer(pb.ConverseRequest(progress=codec.progress_to_pb(heard)))

    # Small parts

    def _send(self, request: pb.ConverseRequest) -> None:
        self._raise_failure()
        if self.state not in (CallState.ATTACHED, CallState.RESUMING):
            raise CallLost(f"the call is {self.state.value}: nothing can be sent")
        if not self._offer(request):
            raise SlowConsumer(f"{CONTROL_QUEUE} messages wait to be sent; the stream is stuck or cut")

    def _offer(self, request: pb.ConverseRequest) -> bool:
        if len(self._control) >= CONTROL_QUEUE:
            return False
        self._control.append(request)
        self._outgoing.set()
        return True

    def _emit(self, event: Event) -> None:
        if len(self._events) >= EVENT_QUEUE:
            for index, waiting in enumerate(self._events):
                if isinstance(waiting, AgentAudio):
                    del self._events[index]
                    break
            else:
                raise SlowConsumer(f"{EVENT_QUEUE} events wait; iterate over the call and take them")
        self._events.append(event)
        self._incoming.set()

    def _enter(self, state: CallState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a call cannot go from {self.state.value} to {state.value}")
        self.state = state

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
