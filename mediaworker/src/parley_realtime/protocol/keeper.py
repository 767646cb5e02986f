"""What a lost connection must not take with it, and what is to be done about it. Pure.

Joins the history, the client events that are not confirmed, the answers being made, and the caller's audio.
`now` is monotonic seconds.
"""

from __future__ import annotations

import binascii
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.held import PACKABLE
from parley_realtime.protocol.history import STREAMED, ConversationHistory, Item
from parley_realtime.protocol.outstanding import Answer, Outstanding, Sent, is_aside
from parley_realtime.protocol.restore import (
    EVENT_PREFIX,
    Refusal,
    RestorePlan,
    plan_restore,
    replacement,
)
from parley_realtime.protocol.tape import InputTape

Payload = Mapping[str, Any]
Event = dict[str, Any]
REJOINED_MS = 2_000
"""How much of the newest audio a rotation sends again: speech may have begun unnoticed in it."""
MAX_ASKED_IN_ROW = 8
"""A question that costs so many connections in a row, and gets no answer, is not asked again."""
MAX_MS = 2**31 - 1
_MAX_TURNS = 64
_MAX_GONE = 256
_ITEM_EVENTS = frozenset({"conversation.item.added", "conversation.item.created", "conversation.item.done"})
AT_ONCE = frozenset({"conversation.item.truncate", "conversation.item.delete"})


@dataclass(frozen=True, slots=True)
class Loss:
    """What the end of a connection means. `closings` are server events that tell users what is over now."""

    cut_items: tuple[str, ...]
    closings: tuple[Event, ...] = field(repr=False)


@dataclass(slots=True)
class _Turn:
    begin: int
    end: int | None = None


class ConversationKeeper:
    """See the module. `answers`: the provider gives responses; without, it only transcribes."""

    def __init__(
        self,
        *,
        ga: bool,
        answers: bool = True,
        audio: AudioFormat,
        outward: AudioFormat,
        replay_ms: int,
        quiet_ms: int,
        held_ms: int,
        limit: int,
    ) -> None:
        self.history = ConversationHistory(
            max_held=int(audio.bytes_per_second * held_ms / 1000), packs=audio.samples == PACKABLE
        )
        self.outstanding = Outstanding(limit)
        self.tape = InputTape(audio, replay_ms, quiet_ms)
        self._ga = ga
        self._answers = answers
        self._inward, self._outward = audio, outward
        self._turns: OrderedDict[str, _Turn] = OrderedDict()
        self._owed = False
        self._asks: list[Event] = []
        self._asked_in_row = 0
        self._taken_back: list[bytes] = []
        self._gone: list[str] = []
        self._replacing: dict[str, int] = {}
        self._restored: set[str] = set()
        self._number = 0

    # What the session is

    @property
    def _input(self) -> Payload:
        session = self.history.session
        audio = session.get("audio")
        inner = audio.get("input") if isinstance(audio, Mapping) else None
        return inner if isinstance(inner, Mapping) else {}

    @property
    def _turn_detection(self) -> Payload | None:
        """None when turns are the client's; a provider that says nothing of it detects them."""
        for holder in (self._input, self.history.session):
            if "turn_detection" in holder:
                value = holder["turn_detection"]
                return value if isinstance(value, Mapping) else None
        return {}

    @property
    def _answers_turns(self) -> bool:
        turns = self._turn_detection
        return self._answers and turns is not None and turns.get("create_response") is not False

    @property
    def transcribes(self) -> bool:
        """Whether what the caller says is transcribed."""
        old = self.history.session.get("input_audio_transcription")
        return isinstance(self._input.get("transcription"), Mapping) or isinstance(old, Mapping)

    @property
    def speaking(self) -> bool:
        """Whether the caller is known to speak."""
        return any(turn.end is None for turn in self._turns.values())

    @property
    def settled(self) -> bool:
        """Whether nothing is under way: no answer, no speech, nothing unconfirmed, no transcript to come."""
        awaited = self.transcribes and any(item.transcript_comes for item in self.history)
        busy = self.outstanding.answers or len(self.outstanding) or self.speaking or self._owed
        return not (busy or awaited or (self._turn_detection is None and self.tape.torn))

    @property
    def unsettled_ms(self) -> float:
        """How much of the latest audio a provider that goes on with the conversation has to hear: what is of
        no turn yet, and of that no more than speech can have begun in unnoticed."""
        held = self.tape.unsettled * 1000 / self._inward.bytes_per_second
        return held if self._turn_detection is None else min(held, REJOINED_MS)

    # Fed

    def client(self, event: Payload, queued_bytes: int, now: float) -> None:
        """A client event is on its way behind `queued_bytes` of audio that are not on the tape yet."""
        self.history.client(event)
        self.outstanding.put(event, self.tape.end + queued_bytes, now)

    def audio(self, response_id: str, item_id: str, content_index: int, size: int, now: float) -> None:
        """An audio delta of `size` bytes came."""
        self.history.audio(item_id, content_index, self._outward.seconds(size) * 1000)
        self.outstanding.audio(response_id, item_id, content_index, now)

    def server(self, payload: Payload, now: float) -> bool:
        """A server event came; False: it is an echo of ours and nobody else's business."""
        kind = payload.get("type")
        if isinstance(kind, str) and kind in STREAMED:
            self.outstanding.goes_on(payload.get("response_id"), now)
            self.history.server(payload)
            return True
        if self._hides(payload):
            return False
        confirmed = self.outstanding.server(payload, now)
        if confirmed is not None and confirmed.event.get("previous_item_id") == "root":
            payload = {**payload, "previous_item_id": "root"}
        self.history.server(payload)
        made = None if confirmed is None or kind == "error" else confirmed.event.get("item")
        if isinstance(made, Mapping):
            self.history.given(made)
        self._follow_turns(kind, payload, confirmed)
        return True

    def _hides(self, payload: Payload) -> bool:
        kind = payload.get("type")
        if kind in _ITEM_EVENTS:
            item = payload.get("item")
            item_id = item.get("id") if isinstance(item, Mapping) else None
            return isinstance(item_id, str) and (item_id in self._restored or item_id in self._replacing)
        if kind == "conversation.item.deleted":
            item_id = str(payload.get("item_id"))
            if self._replacing.get(item_id, 0) > 0:
                self._replacing[item_id] -= 1
                return True
            self._restored.discard(item_id)
            self._replacing.pop(item_id, None)
        if kind == "error":
            error = payload.get("error")
            event_id = error.get("event_id") if isinstance(error, Mapping) else None
            return isinstance(event_id, str) and event_id.startswith(EVENT_PREFIX)
        return False

    def _follow_turns(self, kind: object, payload: Payload, confirmed: Sent | None) -> None:
        item_id = str(payload.get("item_id"))
        match kind:
            case "session.updated" | "session.created" | "transcription_session.updated":
                self.tape.speaking = self._turn_detection is None or self.speaking
                self._hold_what_helps()
            case "conversation.item.deleted":
                self._hold_what_helps()
            case "input_audio_buffer.speech_started":
                self._turns[item_id] = _Turn(self.tape.position(_ms(payload, "audio_start_ms")))
                self.tape.speaking = True
                if (self._turn_detection or {}).get("interrupt_response") is not False:
                    self.outstanding.talked_over()
                while len(self._turns) > _MAX_TURNS:
                    self._turns.popitem(last=False)
            case "input_audio_buffer.speech_stopped":
                if (turn := self._turns.get(item_id)) is not None:
                    turn.end = self.tape.position(_ms(payload, "audio_end_ms"))
            case "input_audio_buffer.committed":
                self._committed(item_id, confirmed)
            case "input_audio_buffer.cleared":
                self.tape.settle(self.tape.end if confirmed is None else confirmed.at)
                self._turns.clear()
            case "response.created":
                response = payload.get("response")
                if isinstance(response, Mapping) and response.get("conversation_id", "") is not None:
                    self._owed = False
            case "response.done":
                self._asked_in_row = 0

    def _committed(self, item_id: str, confirmed: Sent | None) -> None:
        turn = self._turns.pop(item_id, None)
        begin, end = None, self.tape.end
        if confirmed is not None:
            end = confirmed.at
        elif turn is not None and turn.end is not None:
            begin, end = turn.begin, turn.end
        self.history.hold(item_id, self.tape.turn(begin, end), awaited=self.transcribes)
        self.tape.settle(end)
        self._hold_what_helps()
        self.tape.speaking = self._turn_detection is None or self.speaking
        if confirmed is None:
            self._owed = self._answers_turns

    def _hold_what_helps(self) -> None:
        """No audio while the conversation cannot be carried over anyway: nobody transcribes, and of one of
        its turns nothing is held any more."""
        helps = self.transcribes or not self._answers or not self.history.mute
        if not helps:
            self.history.let_all_go()
        self.tape.hold(helps)

    # The connection is lost

    def lost(self, unsent_audio: bytes, event_id: str) -> Loss:
        """The connection is gone; `unsent_audio` was still queued. Decides what is asked again."""
        self.tape.append(unsent_audio)
        closings: list[Event] = []
        answers = list(self.outstanding.answers.values())
        unheard = [a for a in answers if a.bound and not a.open and not a.finished and not a.unwanted]
        cut_items, gone = self.history.cut_off()
        back = self._take_turns_back() if not self._answers else self._take_turn_back(answers, unheard)
        if back:
            answers = [a for a in answers if not a.bound]
        elif self._owed:
            self._ask({"type": "response.create"})
        for answer in answers:
            if not answer.unwanted and (answer.open or not answer.finished) and not answer.calls:
                self._ask(answer.request or {"type": "response.create"})
        for answer in self.outstanding.answers.values():
            closings += _closings(answer, self._ga, event_id)
        self.outstanding.answers.clear()
        self._owed = False
        self._asked_in_row += bool(self._asks or self._taken_back)
        if self._asked_in_row > MAX_ASKED_IN_ROW:
            self._asks = []
        elif self.speaking:
            self._asks = [ask for ask in self._asks if is_aside(ask)]
        self._turns.clear()
        self._gone = [*self._gone, *gone, *back][-_MAX_GONE:]
        closings += [_deleted(item_id, event_id) for item_id in (*gone, *back)]
        closings += self._apply_now(event_id)
        return Loss(cut_items, tuple(closings))

    def _ask(self, request: Payload) -> None:
        event = {name: value for name, value in request.items() if name != "event_id"}
        if is_aside(event) or event not in self._asks:
            self._asks.append(event)

    def _take_turns_back(self) -> tuple[str, ...]:
        """Let a provider that only transcribes hear again what it has not transcribed."""
        if self._asked_in_row > MAX_ASKED_IN_ROW:
            return ()
        waiting = [item for item in self.history if item.transcript_comes and not item.left_out]
        held = [(item.id, item.audio) for item in waiting]
        back = tuple(item_id for item_id, audio in held if audio)
        self._taken_back += [audio for _, audio in held if audio]
        for item_id in back:
            self.history.delete(item_id)
        return back

    def _take_turn_back(self, answers: list[Answer], unheard: list[Answer]) -> tuple[str, ...]:
        """Let the provider hear the last turn again when its words are not known.

        Either it answers by itself, or nothing was asked yet and its transcript is still to come: audio that
        is carried over is not transcribed any more.
        """
        last = self.history.last
        if last is None or not last.awaits_words() or self._turn_detection is None:
            return ()
        if self._asked_in_row > MAX_ASKED_IN_ROW:
            return ()
        audio = last.audio
        bound = [a for a in answers if a.bound]
        if not audio or len(bound) != len(unheard) or any(a.request is not None for a in unheard):
            return ()
        if self._answers_turns:
            if not (self._owed or unheard):
                return ()
        elif not (self.transcribes and last.transcript_comes) or bound or self._asking:
            return ()
        self.history.delete(last.id)
        self._taken_back.append(audio)
        return (last.id,)

    @property
    def _asking(self) -> bool:
        """Whether an answer in the conversation was asked for that has not begun."""
        return any(s.type == "response.create" and not is_aside(s.event) for s in self.outstanding.peek())

    def _apply_now(self, event_id: str) -> list[Event]:
        """Truncations and deletions that were not confirmed are done in the history, before it is carried."""
        words: list[Event] = []
        for sent in self.outstanding.take_all():
            if sent.type in AT_ONCE and self.history.get(sent.item_id) is not None:
                words.append(self.apply(sent.event, event_id))
            elif sent.type != "response.cancel":
                self.outstanding.put(sent.event, sent.at, sent.since)
        return words

    def apply(self, event: Payload, event_id: str) -> Event:
        """Truncate or delete in the history at once; gives the server's word on it."""
        item_id = str(event.get("item_id"))
        if event.get("type") == "conversation.item.delete":
            self.history.delete(item_id)
            self._hold_what_helps()
            return _deleted(item_id, event_id)
        index, end = event.get("content_index", 0), event.get("audio_end_ms")
        self.history.truncate(item_id, index, end)
        return {
            "type": "conversation.item.truncated",
            "event_id": event_id,
            "item_id": item_id,
            "content_index": index,
            "audio_end_ms": end,
        }

    # Carried over

    def plan(self) -> RestorePlan | Refusal:
        """How a new connection gets what the old one held; a transcription has no items that matter."""
        self._number += 1
        return plan_restore(
            self.history,
            ga=self._ga,
            transcription=self.transcribes,
            audio_base64=lambda audio: binascii.b2a_base64(audio, newline=False).decode(),
            number=self._number,
            items=self._answers,
        )

    def carried(self, plan: RestorePlan, *, rotation: bool) -> list[bytes | Event]:
        """A new connection holds the plan: what it is sent next, audio and events in their old order."""
        self._restored = set(plan.ids)
        for item in self.history:
            item.as_text = item.as_text or item.id in self._restored
            item.left_out = item.id not in self._restored
        by_hand = self._turn_detection is None
        back, self._taken_back = self._taken_back, []
        newest = self.tape.newest_bytes(REJOINED_MS) if rotation and not back and not by_hand else None
        audio = self.tape.rewind(b"".join(back), newest)
        start, done = self.tape.origin, 0
        waiting = self.outstanding.take_all()
        if any(sent.type == "response.create" and not is_aside(sent.event) for sent in waiting):
            self._asks = [ask for ask in self._asks if is_aside(ask)]
        result: list[bytes | Event] = [*self._asks]
        self._asks = []
        for turn in back if by_hand else ():
            result += [turn, {"type": "input_audio_buffer.commit"}]
            done += len(turn)
        known = {"root", *self._restored}
        for sent in waiting:
            upto = min(max(sent.at - start, done), len(audio))
            if upto > done:
                result.append(audio[done:upto])
                done = upto
            self.history.drop_update(str(sent.event.get("event_id") or ""))
            known.add(sent.item_id)
            result.append(_placed(sent.event, known))
        if done < len(audio):
            result.append(audio[done:])
        return result

    def corrections(self, plan: RestorePlan) -> list[Event]:
        """What is to be sent for items that were truncated or deleted while a connection took the plan."""
        self._replacing.clear()
        events: list[Event] = []
        for create in plan.creates:
            item_id = str(create["item"]["id"])
            item = self.history.get(item_id)
            if item is None:
                self._replacing[item_id] = 1
                number = f"{EVENT_PREFIX}{self._number}_{len(events)}_gone"
                events.append({"type": "conversation.item.delete", "event_id": number, "item_id": item_id})
            elif item.canonical() != plan.canonical[item_id]:
                events += self._replace(item)
        return events

    def _replace(self, item: Item) -> list[Event]:
        self._number += 1
        self._replacing[item.id] = self._replacing.get(item.id, 0) + 1
        number = f"{EVENT_PREFIX}{self._number}_shorten"
        return replacement(self.history, item, ga=self._ga, event_id=number)

    def shorten(self, event: Payload, event_id: str) -> tuple[Event, list[Event]] | None:
        """What the provider cannot do as it is asked: the server's word, and what to send instead.

        That is the truncation of an item that it holds as text, and both that and the deletion of one which
        it does not hold.
        """
        if event.get("type") in AT_ONCE and self.is_here_only(str(event.get("item_id"))):
            return self.apply(event, event_id), []
        item = self._text_item(event)
        if item is None:
            return None
        before = item.canonical()
        word = self.apply(event, event_id)
        if item.canonical() == before:
            return word, []
        return word, self._replace(item)

    def is_here_only(self, item_id: str) -> bool:
        """Whether users know of an item that the provider does not hold any more."""
        item = self.history.get(item_id)
        return item_id in self._gone if item is None else item.left_out

    def _text_item(self, event: Payload) -> Item | None:
        if event.get("type") != "conversation.item.truncate":
            return None
        item = self.history.get(str(event.get("item_id")))
        return item if item is not None and item.as_text else None


def _closings(answer: Answer, ga: bool, event_id: str) -> list[Event]:
    """What a provider would have said at the end of an answer that ends here."""
    audio_done = "response.output_audio.done" if ga else "response.audio.done"
    events: list[Event] = [
        {
            "type": audio_done,
            "event_id": event_id,
            "response_id": answer.id,
            "item_id": item_id,
            "output_index": 0,
            "content_index": index,
        }
        for item_id, index in answer.sounding
    ]
    whole = answer.finished > 0 and not answer.open
    status = "cancelled" if answer.unwanted else "completed" if whole else "incomplete"
    details = None if status == "completed" else {"type": status, "reason": "connection_lost"}
    response: Event = {
        "id": answer.id,
        "object": "realtime.response",
        "status": status,
        "status_details": details,
        "output": [],
        "metadata": None,
        "usage": None,
    }
    if not answer.bound:
        response["conversation_id"] = None
    return [*events, {"type": "response.done", "event_id": event_id, "response": response}]


def _placed(event: Payload, known: set[str]) -> Event:
    """The event; without the place it names when that is gone."""
    placed = dict(event)
    if placed.get("previous_item_id") not in known:
        placed.pop("previous_item_id", None)
    return placed


def _deleted(item_id: str, event_id: str) -> Event:
    return {"type": "conversation.item.deleted", "event_id": event_id, "item_id": item_id}


def _ms(payload: Payload, name: str) -> float:
    value = payload.get(name)
    return float(min(value, MAX_MS)) if isinstance(value, int | float) and value > 0 else 0.0
