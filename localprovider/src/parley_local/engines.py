"""Builds the speech parts a configuration names, and runs long recognition off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from .brains import Brain, load_brain
from .brains.chat import ChatSettings
from .config import ConfigError, LocalProviderConfig
from .core.effects import BrainRequest, Reply
from .core.input_buffer import VadFactory
from .core.mcp import McpServer
from .speech import whisper
from .speech.flite import Flite
from .speech.interfaces import SpeechError, SpeechToText, TextToSpeech
from .speech.tones import TonesRecognizer, TonesVoice
from .speech.vad import EnergyVad, SileroVad
from .speech.wire import WireFormat, decode, encode

MAX_WAITING = 64


def _chat(config: LocalProviderConfig) -> ChatSettings | None:
    if not config.chat_url:
        return None
    return ChatSettings(config.chat_url, config.chat_model, config.chat_key, config.chat_timeout_s)


class Engines:
    """What all connections of one server share. Close it when the server is gone."""

    def __init__(self, config: LocalProviderConfig) -> None:
        """Raises SpeechError (something is not installed) or ConfigError (the brain)."""
        self._timeout_s = config.speech_timeout_s
        self.vad: VadFactory = SileroVad if config.detector == "silero" else EnergyVad
        self.vad(WireFormat.PCM16)
        self._voice: TextToSpeech = Flite() if config.voice == "flite" else TonesVoice()
        self._recognizer: SpeechToText = (
            whisper.shared(config.threads) if config.recognizer == "whisper" else TonesRecognizer()
        )
        try:
            self.brain: Brain = load_brain(config.brain, _chat(config))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._pool = ThreadPoolExecutor(max_workers=config.threads, thread_name_prefix="speech")
        self._waiting = 0

    @property
    def mcp_servers(self) -> Mapping[str, McpServer]:
        """What the brain says of MCP servers; most brains know none."""
        servers: Mapping[str, McpServer] = getattr(self.brain, "mcp_servers", {})
        return servers

    async def close_brain(self) -> None:
        """Let the brain end what it holds open; at most five seconds."""
        close = getattr(self.brain, "close", None)
        if close is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await close()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def off_loop(self, work: Callable[[], bytes | str]) -> bytes | str:
        """Run `work` on the pool. Raises SpeechError when 64 are waiting already or the deadline passes."""
        if self._waiting >= MAX_WAITING:
            raise SpeechError(f"{MAX_WAITING} pieces of speech are waiting already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError as error:
            raise SpeechError(f"speech took longer than {self._timeout_s:g} s") from error
        finally:
            self._waiting -= 1

    async def think(self, request: BrainRequest) -> Reply:
        """The brain's answer. Raises TimeoutError and whatever the brain raises."""
        async with asyncio.timeout(self._timeout_s):
            return await self.brain.reply(request)

    async def transcribe(self, audio: bytes, wire: WireFormat) -> str:
        """Words of `audio`. Raises SpeechError."""
        return str(await self.off_loop(lambda: self._recognizer.transcribe(decode(audio, wire), wire.rate)))

    async def speak(self, text: str, voice: str, speed: float, wire: WireFormat) -> bytes:
        """Speech in the wire format. Raises SpeechError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                samples, rate = await self._voice.synthesize(text, voice, speed)
        except TimeoutError as error:
            raise SpeechError(f"speech took longer than {self._timeout_s:g} s") from error
        made = await self.off_loop(lambda: encode(samples, rate, wire))
        return made if isinstance(made, bytes) else made.encode()
