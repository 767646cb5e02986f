"""The provider's settings: one frozen record, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

VOICES = ("flite", "tones")
RECOGNIZERS = ("whisper", "tones")
DETECTORS = ("silero", "energy")
DEFAULT_MODELS = ("gpt-realtime", "gpt-realtime-mini", "gpt-4o-realtime-preview", "local")


class ConfigError(ValueError):
    """A setting that cannot be; the text names it, its value and the remedy."""


@dataclass(frozen=True, slots=True)
class LocalProviderConfig:
    """Settings of one server. `port` 0 takes a free one; empty `api_keys` accepts every caller.

    Empty `models` accepts every model name. `audio_speed` is how much faster than real time answers are
    sent (0: at once). Times are in seconds.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    voice: str = "tones"
    recognizer: str = "tones"
    detector: str = "energy"
    brain: str = "echo"
    chat_url: str = ""
    chat_model: str = "local"
    chat_key: str = field(default="", repr=False)
    chat_timeout_s: float = 30.0
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    models: tuple[str, ...] = ()
    refuse_beta: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_session_s: float = 3600.0
    audio_speed: float = 4.0
    max_connections: int = 200
    threads: int = 2
    speech_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("voice", self.voice, VOICES),
            ("recognizer", self.recognizer, RECOGNIZERS),
            ("detector", self.detector, DETECTORS),
        ):
            if value not in choices:
                raise ConfigError(f"{name} {value!r} is unknown: use one of {', '.join(choices)}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is out of range: use 0 to 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both a certificate and a key: give tls_cert and tls_key")
        for name, number in (
            ("max_session_s", self.max_session_s),
            ("speech_timeout_s", self.speech_timeout_s),
            ("chat_timeout_s", self.chat_timeout_s),
        ):
            if number <= 0:
                raise ConfigError(f"{name} {number:g} must be above 0")
        if self.brain == "chat" and not self.chat_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"chat_url {self.chat_url!r} is no address: the brain 'chat' needs an http:// or https:// one"
            )
        if self.audio_speed < 0:
            raise ConfigError(f"audio_speed {self.audio_speed:g} must be 0 or above")
        if self.threads < 1 or self.max_connections < 1:
            raise ConfigError("threads and max_connections must be 1 or above")
