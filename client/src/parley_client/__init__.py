"""Parley's client: attach to a voice session, stream audio both ways, receive what happens.

    from parley_client import WavRecorder, connect, paced_wav, resolve_cluster

    target = await resolve_cluster("first-call", namespace="default")
    async with connect(target, player=WavRecorder("answer.wav")) as call:
        async for frame in paced_wav("question.wav", call.options.input_format, tail_ms=1000):
            await call.send_audio(frame)

`python -m parley_client` is the `parley` command.
"""

from parley_opus import OpusSettings

from .audio import BufferedPlayer, LevelMeter, WavRecorder, paced_silence, paced_wav, read_wav, write_wav
from .call import Call, connect
from .errors import (
    AttachRefused,
    AudioError,
    CallLost,
    ConnectError,
    InvalidRequest,
    MissingProgram,
    ParleyError,
    ProcessDied,
    ProtocolError,
    ServiceError,
    SessionNotFound,
    SessionNotReady,
    SlowConsumer,
    StreamError,
    TlsError,
    UsageError,
)
from .events import (
    AgentAudio,
    Clear,
    ClearReason,
    ConversationEvent,
    Draining,
    Ended,
    Event,
    Heard,
    Mark,
    Moved,
    Reconnecting,
    Started,
    Transcript,
    Transfer,
    transcript_of,
)
from .formats import AudioFormat, Encoding
from .kubernetes_resolver import KubernetesResolver
from .many import MediaGateway
from .options import CallOptions, CallState, CallStats, Playout
from .resolve import resolve_address, resolve_cluster
from .resolving import Endpoint, Resolver, StaticResolver
from .sessions import CreatedSession, SessionChange, SessionsClient, SessionView
from .target import Target

__version__ = "0.1.0"

__all__ = [
    "AgentAudio",
    "AttachRefused",
    "AudioError",
    "AudioFormat",
    "BufferedPlayer",
    "Call",
    "CallLost",
    "CallOptions",
    "CallState",
    "CallStats",
    "Clear",
    "ClearReason",
    "ConnectError",
    "ConversationEvent",
    "CreatedSession",
    "Draining",
    "Encoding",
    "Ended",
    "Endpoint",
    "Event",
    "Heard",
    "InvalidRequest",
    "KubernetesResolver",
    "LevelMeter",
    "Mark",
    "MediaGateway",
    "MissingProgram",
    "Moved",
    "OpusSettings",
    "ParleyError",
    "Playout",
    "ProcessDied",
    "ProtocolError",
    "Reconnecting",
    "Resolver",
    "ServiceError",
    "SessionChange",
    "SessionNotFound",
    "SessionNotReady",
    "SessionView",
    "SessionsClient",
    "SlowConsumer",
    "Started",
    "StaticResolver",
    "StreamError",
    "Target",
    "TlsError",
    "Transcript",
    "Transfer",
    "UsageError",
    "WavRecorder",
    "connect",
    "paced_silence",
    "paced_wav",
    "read_wav",
    "resolve_address",
    "resolve_cluster",
    "transcript_of",
    "write_wav",
]
