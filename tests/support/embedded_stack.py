"""The embedded stack without speech models: tones are spoken and understood."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from parley_client.embedded.manifests import Manifests, parse_manifests
from parley_client.embedded.stack import EmbeddedStack, StackOptions

SESSION = """
apiVersion: parley.dev/v1alpha1
kind: VoiceSession
metadata: {name: toned}
spec:
  agent:
    provider: {type: custom, url: "ws://127.0.0.1:1/v1/realtime", apiVersion: ga, model: gpt-realtime}
    session:
      audio: {input: {turn_detection: {type: server_vad, silence_duration_ms: 300}}}
  limits: {maxDuration: 2m, reattachTimeout: 15s}
"""


@contextmanager
def quiet(_: str) -> Iterator[None]:
    yield


def manifests(text: str = SESSION) -> Manifests:
    return parse_manifests(text, "the test")


@asynccontextmanager
async def tones_stack(directory: Path, **options: object) -> AsyncIterator[EmbeddedStack]:
    """A stack whose provider needs no models; state and logs lie in `directory`."""
    chosen = StackOptions(
        voice="tones",
        recognizer="tones",
        detector="energy",
        run_directory=directory,
        **options,  # type: ignore[arg-type]
    )
    async with EmbeddedStack(chosen, quiet, environ={}) as stack:
        yield stack
