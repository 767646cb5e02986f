"""Our client's protocol core as a machine: formats are told before they are needed, whatever is refused."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.core import AudioDelta, Malformed, ProtocolCore, ServerEvent
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import ClientType, Shape

NEEDS = st.sampled_from(["response.create", "input_audio_buffer.append"])
FRAMES = st.sampled_from(
    ["", "{", "[]", '{"type": 5}', '{"type": "error"}', '{"type": "session.updated"}', '{"type": "new"}',
     '{"type": "response.output_audio.delta", "delta": "AAAA", "item_id": "i", "response_id": "r"}',
     '{"type": "response.output_audio.delta", "delta": "A"}']
)  # fmt: skip


class ProtocolMachine(RuleBasedStateMachine):
    """A user's events and a provider's frames; the model is what the provider has been told."""

    @initialize(shape=st.sampled_from([GA, BETA]), name=st.sampled_from(["pcm16", "pcmu", "pcma"]))
    def connect(self, shape: Shape, name: str) -> None:
        audio = AudioFormat.named(name)
        self.core = ProtocolCore(shape, ClientType.REALTIME, audio, audio)
        self.told = self.in_force = name == "pcm16"

    def update(self, session: dict[str, Any]) -> None:
        sent = json.loads(self.core.encode({"type": "session.update", "session": session}))
        self.told = True
        kept = {k: v for k, v in sent["session"].items() if k in session and k != "audio"}
        assert kept == {k: v for k, v in session.items() if k != "audio"}

    @rule(instructions=st.text(max_size=5))
    def user_updates(self, instructions: str) -> None:
        self.update({"instructions": instructions})

    @rule(kind=NEEDS)
    def user_needs_formats(self, kind: str) -> None:
        first = self.core.needed_before(kind)
        assert (first is None) == self.told
        if first is not None:
            assert json.loads(first)["type"] == "session.update"
            self.told = True
        assert self.core.needed_before(kind) is None

    @rule()
    def provider_accepts(self) -> None:
        assert isinstance(self.core.decode('{"type": "session.updated", "session": {}}'), ServerEvent)
        self.in_force = self.told

    @rule()
    def provider_refuses(self) -> None:
        self.core.decode('{"type": "error", "error": {"message": "no"}}')
        if not self.in_force:
            self.told = False

    @rule(frame=FRAMES | st.text(max_size=20) | st.binary(max_size=20))
    def provider_says_anything(self, frame: str | bytes) -> None:
        incoming = self.core.decode(frame)
        assert isinstance(incoming, ServerEvent | AudioDelta | Malformed)
        kind = incoming.type if isinstance(incoming, ServerEvent) else ""
        if kind == "session.updated":
            self.in_force = self.told
        elif kind == "error" and not self.in_force:
            self.told = False

    @invariant()
    def other_events_need_nothing(self) -> None:
        if hasattr(self, "core"):
            assert self.core.needed_before("response.cancel") is None


TestProtocol = ProtocolMachine.TestCase
TestProtocol.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
