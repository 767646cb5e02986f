"""What a call needs to know to go on with its session after its stream was cut, or its worker lost."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Final

from parley.media.v1 import media_pb2 as pb

from . import codec
from .errors import ParleyError, SessionNotFound, SessionNotReady, StreamError
from .events import AgentAudio, ConversationEvent, Heard, Moved
from .leg import is_elsewhere, is_resumable
from .resolving import Endpoint, Resolver
from .target import Target

FOLLOW_SECONDS: Final = 5.0
"""To attach to a worker that the present one names; then it is looked for as if that were lost."""
LOOK_SECONDS: Final = 5.0
TRY_SECONDS: Final = 5.0
"""One try to attach again: an address where nobody is does not always say so."""
MAX_OUTPUTS: Final = 64
MAX_AGAIN: Final = 256
"""Messages that may be under way while the worker says where the session went; of more the newest."""
AGAIN: Final = frozenset({"dtmf", "client_event", "tool_output", "clear"})
"""Not what was played and heard: that is told on attaching."""
FINISHED: Final = frozenset({"Completed", "Failed", "Cancelled"})


class Trail:
    """Of one call: where its session is, what shows that it is its own, and what it has seen and heard of
    it."""

    def __init__(self, target: Target, resolver: Resolver | None) -> None:
        self.target = target
        self._resolver = resolver
        self._uid = target.session_uid
        self._token = ""
        self._attempt = 0
        self._found_attempt = 0
        self._seen = (0, 0)
        self._reach = Heard()
        self._outputs: OrderedDict[str, pb.ConverseRequest] = OrderedDict()
        # Messages on the present stream: how many, and the newest of those that mean something elsewhere too.
        self._messages = 0
        self._newest: deque[tuple[int, pb.ConverseRequest]] = deque(maxlen=MAX_AGAIN)

    # What happens

    def said(self, request: pb.ConverseRequest) -> None:
        """A message goes out; results of functions are kept until the conversation shows them."""
        self._messages += 1
        if request.WhichOneof("message") in AGAIN:
            self._newest.append((self._messages, request))
        if request.HasField("tool_output"):
            self._outputs[request.tool_output.call_id] = request
            while len(self._outputs) > MAX_OUTPUTS:
                self._outputs.popitem(last=False)

    def again(self, attempt: int, moved: Moved | None) -> list[pb.ConverseRequest]:
        """What is to be said again to a worker of that attempt: results that nobody confirmed, of which none
        takes one twice, and what the worker that named this one did not take any more."""
        outputs = list(self._outputs.values()) if self._attempt not in (0, attempt) else []
        first = moved.resend_messages_from if moved is not None else 0
        lost = [request for number, request in self._newest if number >= first > 0]
        return [request for request in outputs if request not in lost] + lost

    def attached(self, started: pb.Started) -> None:
        """A stream is attached."""
        self._uid, self._attempt = started.session_uid, started.attempt
        self._token = started.resume_token
        self._messages = 0
        self._newest.clear()
        self._found_attempt = max(self._found_attempt, started.attempt)

    def event(self, event: ConversationEvent) -> int | None:
        """How many events are missing before this one; None for one that was seen already."""
        number = (event.attempt, event.sequence)
        if number <= self._seen:
            return None
        (attempt, sequence), self._seen = self._seen, number
        item = event.data.get("item")
        if isinstance(item, dict) and item.get("type") == "function_call_output":
            self._outputs.pop(str(item.get("call_id")), None)
        if not attempt:
            return 0
        return event.sequence - 1 - (sequence if event.attempt == attempt else 0)

    def heard(self, audio: AgentAudio, seconds: float) -> None:
        """A piece of the agent's audio came: it will be heard, whatever becomes of the worker."""
        if audio.item_id:
            end = audio.position_ms + round(seconds * 1000)
            self._reach = Heard(audio.item_id, audio.content_index, audio.epoch, end)

    def cut(self, heard: Heard) -> None:
        """Queued audio was thrown away."""
        if heard.item_id:
            self._reach = heard

    def moved(self, event: Moved) -> None:
        """The worker says where its session went."""
        self._go(Endpoint(event.endpoint, event.tls_server_name, event.attempt))

    def _go(self, endpoint: Endpoint) -> None:
        self.target = self.target.moved_to(endpoint.address, endpoint.tls_server_name)
        self._found_attempt = max(self._found_attempt, endpoint.attempt)

    # Finding it again

    async def look(self, timeout: float) -> None:
        """Ask where the session is now; what cannot be found out changes nothing.

        Raises:
            SessionNotFound, SessionNotReady: it is over.
        """
        if self._resolver is None:
            return
        try:
            async with asyncio.timeout(timeout):
                found = await self._resolver.resolve(self._uid, self.target.ticket)
        except SessionNotFound:
            raise
        except SessionNotReady as error:
            if error.phase in FINISHED:
                raise
        except (ParleyError, TimeoutError, OSError):
            return
        else:
            if not found.attempt or found.attempt >= self._found_attempt:
                self._go(found)

    def start(self, again: int) -> pb.Start:
        """What to show, on try number `again`. A worker that took the session over without its journal knows
        the ticket alone: every second try shows that."""
        attempt, sequence = self._seen
        start = pb.Start(last_event_sequence=sequence, last_event_attempt=attempt)
        if again % 2 == 0 and again and self.target.ticket and self._resolver is not None:
            start.ticket, start.session_uid = self.target.ticket, self._uid
        else:
            start.resume_token = self._token
        if self._reach.item_id:
            start.heard.CopyFrom(codec.progress_to_pb(self._reach))
        return start

    def may_try_again(self, error: StreamError) -> bool:
        """Whether a refused attach may go better later, or elsewhere."""
        return is_resumable(error) or (self._resolver is not None and is_elsewhere(error))
