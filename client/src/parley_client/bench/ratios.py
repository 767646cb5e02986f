"""Ratios of one run's rows against goals, each with what one side does that the other does not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from parley_client.bench.rows import Row
from parley_client.bench.systems import AUDIO_ONLY

BEST_PUBLISHED: Final = 190.0
"""Calls a core of the densest published voice bridge (siphon-ai, Rust, SIP to WebSocket): its own figure."""

WE_DO: Final = (
    "Parley checks tickets, sends conversation events to the caller, writes events and a journal to NATS"
    " JetStream, keeps metrics, marks and heard positions for barge-in, holds calls whose caller is lost and"
    " can restore a lost provider"
)
FLOOR: Final = f"The floor bridges audio and nothing else; {WE_DO}: it does none of this."
AUDIO: Final = "Callers ask for no conversation events here, as the floor's get none."
PIPECAT: Final = (
    "pipecat speaks Twilio's JSON, resamples 8 to 24 kHz both ways with a high-quality resampler, passes"
    " frames through a pipeline that users extend and keeps the conversation's context for other models;"
    f" Parley's rows carry {{frames}} without resampling. {WE_DO}: pipecat's pipeline does not."
)
LIVEKIT: Final = (
    "livekit-agents speaks WebRTC (Opus both ways, SRTP, jitter buffers), isolates each job in a process and"
    " runs its own turn handling; its server's CPU is not counted. Parley's rows carry {frames} without a"
    f" codec, and many calls share a process. {WE_DO}: livekit-agents does not."
)
FRAMES: Final = {"twilio": "mu-law by Twilio's JSON"}
PUBLISHED: Final = (
    "A published figure, not measured here: another machine and workload (SIP and RTP to WebSocket, G.711)."
    " It does SIP and RTP, which Parley does not; it does no conversation events, journal or tickets."
)
SELF: Final = "Beyond the process's base, at the knee; PSS where it can be read."


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line.

    Attributes:
        value: the ratio, or the figure itself where `goal` is absolute.
        goal: in words; met: whether it is.
        sentence: what the peer does that Parley does not, and the reverse.
    """

    name: str
    value: float
    goal: str
    met: bool
    sentence: str

    def shown(self) -> dict[str, Any]:
        return {**asdict(self), "value": round(self.value, 3)}


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """Every comparison that the rows allow."""
    ours = [row for row in rows if row["system"] == "parley"]
    found: list[Ratio] = []
    for row in ours:
        found += _against_floor(row, rows)
    for row in ours:
        found += _against_peers(row, rows)
    for row in ours:
        if row["mib_per_session"] is not None:
            value = row["mib_per_session"]
            name = f"MiB a session, {row['label']}"
            found.append(Ratio(name, value, "at most 0.5", value <= 0.5, SELF))
    return found


def _against_floor(row: Row, rows: Sequence[Row]) -> Iterator[Ratio]:
    for key, where in (
        ("cpu_s_per_session_s_common", f"at {row['common_sessions']} sessions"),
        ("cpu_s_per_session_s", "each at its knee"),
    ):
        for floor in _of(rows, "floor", row["transport"], row["tls"]):
            if row[key] and floor[key]:
                value = row[key] / floor[key]
                name = f"CPU of {row['label']} / {floor['label']}, {where}"
                sentence = f"{AUDIO} {FLOOR}" if row["flavour"] == AUDIO_ONLY else FLOOR
                yield Ratio(name, value, "at most 1.5", value <= 1.5, sentence)


def _against_peers(row: Row, rows: Sequence[Row]) -> Iterator[Ratio]:
    goals = {
        "converse": (("pipecat", 4.0, PIPECAT), ("livekit", 12.0, LIVEKIT)),
        "conversemany": (("pipecat", 15.0, PIPECAT),),
        "twilio": (("pipecat", 4.0, PIPECAT),),
    }
    frames = FRAMES.get(row["transport"], "24 kHz PCM by gRPC")
    for system, goal, sentence in goals.get(row["transport"], ()):
        peers = [peer for peer in rows if peer["system"] == system]
        # A peer that was measured in one way only is compared with both of ours.
        for peer in [p for p in peers if p["tls"] == row["tls"]] or peers:
            if peer["sessions_per_core"]:
                value = row["sessions_per_core"] / peer["sessions_per_core"]
                name = f"sessions a core, {row['label']} / {peer['label']}"
                yield Ratio(name, value, f"at least {goal:g}", value >= goal, sentence.format(frames=frames))
    if row["transport"] == "conversemany":
        value = row["sessions_per_core"] / BEST_PUBLISHED
        name = f"sessions a core, {row['label']} / best published figure ({BEST_PUBLISHED:g})"
        yield Ratio(name, value, "at least 1", value >= 1, PUBLISHED)


def _of(rows: Sequence[Row], system: str, transport: str, tls: bool) -> list[Row]:
    wanted = (system, transport, tls)
    return [row for row in rows if (row["system"], row["transport"], row["tls"]) == wanted]
