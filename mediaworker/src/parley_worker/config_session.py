"""Settings of what each session may take, and of how sessions are set up: `PARLEY_WORKER_SESSION_*` and
`PARLEY_WORKER_SETUP_*`."""

from __future__ import annotations

from dataclasses import dataclass

from parley_worker.config_fields import integer, number, seconds, setting
from parley_worker.core.session_budget import BURST_SECONDS, CPU_WINDOW, BudgetLimits

_LIMITS = BudgetLimits()
_BURST = f"{BURST_SECONDS:g} s of it may come at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """One session's waits and bounds, and the pace of new ones."""

    session_connect_timeout: float = setting(
        seconds(0.1, 600), "seconds to connect and configure the provider, once it is a session's turn", 10.0
    )
    session_close_timeout: float = setting(
        seconds(0.1, 60), "seconds for the provider's goodbye at the end of a session", 2.0
    )
    session_cleared_timeout: float = setting(
        seconds(0.01, 10), "seconds that a caller may take to say what it had played", 0.2
    )
    session_output_bytes: int = setting(
        integer(64 << 10, 1 << 30), "bytes of agent audio that may wait; more cancels the answer", 8 << 20
    )
    session_playout_lead_ms: int = setting(
        integer(0, 200),
        "milliseconds of an answer that a caller is given ahead of real time, in frames of 20: what is late"
        " by less leaves no gap; who does not follow Clear hears so much more of an answer that was cut",
        40,
    )
    session_input_burst: float = setting(
        seconds(0.1, 600), "seconds that a caller's audio may be ahead of real time", 10.0
    )
    session_replay_events: int = setting(
        integer(0, 100_000), "conversation events kept for a caller that comes back", 512
    )
    session_replay_bytes: int = setting(
        integer(4096, 1 << 30), "bytes of conversation events kept for a caller that comes back", 1 << 20
    )
    session_frame_bytes: int = setting(
        integer(64 << 10, 64 << 20), "bytes of one provider's message; a longer one ends the session", 4 << 20
    )
    session_cpu_share: float = setting(
        number(0.01, 1.0, "a share of a core"),
        f"share of a core that a session's events may take over {CPU_WINDOW:g} s; more ends it",
        _LIMITS.cpu_share,
    )
    session_queue_bytes: int = setting(
        integer(1 << 20, 1 << 30),
        "bytes that may wait for a session's caller and provider, its replay included; more ends it",
        _LIMITS.queue_bytes,
    )
    session_provider_events: float = setting(
        number(1, 1_000_000), f"events a second from a provider; {_BURST}", _LIMITS.provider_events
    )
    session_provider_audio_bytes: float = setting(
        number(1 << 16, 1 << 30),
        f"bytes of audio a second from a provider; {_BURST}",
        _LIMITS.provider_audio_bytes,
    )
    session_caller_messages: float = setting(
        number(10, 1_000_000),
        f"messages a second from a caller, audio aside; {_BURST}",
        _LIMITS.caller_messages,
    )
    session_caller_frames: float = setting(
        number(50, 1_000_000), f"frames of audio a second from a caller; {_BURST}", _LIMITS.caller_frames
    )
    setup_connect_rate: float = setting(
        number(1, 10_000), "provider connections begun a second at most; more wait for their turn", 30.0
    )
    setup_connects: int = setting(
        integer(1, 10_000), "provider connections being set up at once; half of them for one host", 64
    )
    setup_attach_rate: float = setting(
        number(1, 10_000), "callers attached a second at most; more wait for their turn", 100.0
    )
    setup_wait: float = setting(
        seconds(0.1, 600), "seconds that a session may wait for its turn to connect; more ends it", 30.0
    )

    @property
    def budget(self) -> BudgetLimits:
        """What a session may take."""
        return BudgetLimits(
            cpu_share=self.session_cpu_share,
            queue_bytes=self.session_queue_bytes,
            provider_events=self.session_provider_events,
            provider_audio_bytes=self.session_provider_audio_bytes,
            caller_messages=self.session_caller_messages,
            caller_frames=self.session_caller_frames,
        )
