"""`parley.control.v1` to and from the core's types, with every check that an Admit needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from parley.control.v1 import control_pb2 as pb

from parley_worker.codec import agent_pb
from parley_worker.codec.checks import MAX_SECONDS as MAX_SECONDS
from parley_worker.codec.checks import InvalidRequest as InvalidRequest
from parley_worker.codec.checks import json_object, require, require_pem, require_url, seconds_within
from parley_worker.codec.checks import seconds as seconds
from parley_worker.codec.events_pb import JOURNAL_STREAM, timestamp
from parley_worker.core.admission import Fence, Refusal, RefusalReason, WorkerState
from parley_worker.core.agent import Behaviour, RecoveryConfig
from parley_worker.core.events import MovedAway
from parley_worker.core.lost import Closing, LostSession
from parley_worker.core.model import (
    PROVIDER_AUDIO,
    AccessConfig,
    EndReason,
    LimitsConfig,
    Origin,
    ProviderConfig,
    RestoreConfig,
    RestoreMode,
    Secret,
    SessionConfig,
    SessionKey,
    SessionReport,
    SessionState,
    Usage,
)
from parley_worker.core.saved import HandOver

_MODES = {pb.Restore.MODE_RESUME: RestoreMode.RESUME, pb.Restore.MODE_RESTART: RestoreMode.RESTART}

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
MAX_SESSION_JSON = 256 * 1024
PROVIDER_TYPES = ("openai", "azure", "custom")

_STATES = {
    SessionState.CONNECTING: pb.SESSION_STATE_CONNECTING,
    SessionState.READY: pb.SESSION_STATE_READY,
    SessionState.ACTIVE: pb.SESSION_STATE_ACTIVE,
    SessionState.DETACHED: pb.SESSION_STATE_DETACHED,
    SessionState.ENDED: pb.SESSION_STATE_ENDED,
}
_WORKER_STATES = {
    WorkerState.STARTING: pb.WORKER_STATE_STARTING,
    WorkerState.READY: pb.WORKER_STATE_READY,
    WorkerState.DRAINING: pb.WORKER_STATE_DRAINING,
    WorkerState.STOPPED: pb.WORKER_STATE_STOPPED,
}
_REASONS = {
    RefusalReason.FULL: pb.REFUSAL_REASON_FULL,
    RefusalReason.DRAINING: pb.REFUSAL_REASON_DRAINING,
    RefusalReason.INVALID: pb.REFUSAL_REASON_INVALID,
    RefusalReason.STALE_LEADER: pb.REFUSAL_REASON_STALE_LEADER,
    RefusalReason.STALE_ATTEMPT: pb.REFUSAL_REASON_STALE_ATTEMPT,
    RefusalReason.WRONG_INSTANCE: pb.REFUSAL_REASON_WRONG_INSTANCE,
    RefusalReason.ENDED: pb.REFUSAL_REASON_ENDED,
    RefusalReason.OVERLOADED: pb.REFUSAL_REASON_OVERLOADED,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where callers attach, and the name that they verify (empty without TLS).

    `telephony` is the URL for telephony streams, empty where the worker has none.
    """

    address: str
    tls_server_name: str = ""
    telephony: str = ""


def fence(message: pb.Fence) -> Fence:
    return Fence(message.leader_epoch, message.worker_instance_id)


def session_key(ref: pb.SessionRef) -> SessionKey:
    """The key in a SessionRef; InvalidRequest names the field that is wrong."""
    require(_LABEL.fullmatch(ref.namespace), "session.namespace", ref.namespace, "a Kubernetes namespace")
    require(_NAME.fullmatch(ref.name), "session.name", ref.name, "the name of the VoiceSession")
    require(_UID.fullmatch(ref.session_uid), "session.session_uid", ref.session_uid, "the uid")
    require(ref.attempt >= 1, "session.attempt", ref.attempt, "1 or more")
    return SessionKey(ref.namespace, ref.name, ref.session_uid, ref.attempt)


def session_config(request: pb.AdmitRequest, defaults: LimitsConfig) -> SessionConfig:
    """What an Admit asks for; zero limits become `defaults`. InvalidRequest names the field that is wrong."""
    config = request.config
    require(
        not config.provider_audio or config.provider_audio in PROVIDER_AUDIO,
        "config.provider_audio",
        config.provider_audio,
        f"one of {', '.join(PROVIDER_AUDIO)}, or empty",
    )
    if config.trace and config.privacy:
        raise InvalidRequest("config.trace is given together with config.privacy: give one of them")
    has_scenario = config.HasField("scenario")
    return SessionConfig(
        key=session_key(request.session),
        provider=_provider(config.provider),
        session=session_object(config.session_json, "config.session_json"),
        greet=config.greet,
        limits=limits_config(config.limits, defaults, "config.limits"),
        access=_access(config.access),
        privacy=config.privacy,
        provider_audio=config.provider_audio,
        behaviour=agent_pb.behaviour(config.behaviour) if config.HasField("behaviour") else Behaviour(),
        tools=agent_pb.tools(config.tools, scenario=has_scenario),
        scenario=agent_pb.scenario(config.scenario) if has_scenario else None,
        recording=agent_pb.recording(config.recording, privacy=config.privacy)
        if config.HasField("recording")
        else None,
        recovery=agent_pb.recovery(config.recovery) if config.HasField("recovery") else RecoveryConfig(),
        media_access=agent_pb.media_access(config.media_access),
        trace=config.trace,
        origin=_origin(config.origin),
        restore=_restore(config.restore, request.session.attempt) if config.HasField("restore") else None,
    )


def end_reason(word: str) -> EndReason:
    """The endReason of a Terminate; empty means Terminated."""
    try:
        return EndReason(word or "Terminated")
    except ValueError:
        raise InvalidRequest(f"reason is {word!r}: give one of {', '.join(EndReason)}") from None


def refused(refusal: Refusal) -> pb.Refused:
    return pb.Refused(reason=_REASONS[refusal.reason], message=refusal.message)


def parse_refusal(message: pb.Refused) -> Refusal:
    """What `refused` was made of; a reason of another version counts as OVERLOADED."""
    reasons = {number: reason for reason, number in _REASONS.items()}
    return Refusal(reasons.get(message.reason, RefusalReason.OVERLOADED), message.message)


def session_report(report: SessionReport, endpoint: Endpoint, degraded: bool = False) -> pb.SessionReport:
    """`degraded`: records of the whole worker are late or lost."""
    key, usage = report.key, report.usage
    return pb.SessionReport(
        session=pb.SessionRef(
            namespace=key.namespace, name=key.name, session_uid=key.uid, attempt=key.attempt
        ),
        state=_STATES[report.state],
        end_reason=report.end_reason or "",
        end_message=report.end_message,
        client_id=report.client_id,
        web_socket_id=report.web_socket_id,
        shard=report.shard,
        endpoint=endpoint.address,
        tls_server_name=endpoint.tls_server_name,
        telephony_endpoint=endpoint.telephony,
        ready_time=_time(report.ready_at),
        start_time=_time(report.started_at),
        end_time=_time(report.ended_at),
        usage=pb.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            input_audio_seconds=usage.input_audio_seconds,
            output_audio_seconds=usage.output_audio_seconds,
        ),
        origin=pb.Origin(
            generation=report.origin.generation,
            agent=report.origin.agent,
            agent_revision=report.origin.agent_revision,
            agent_generation=report.origin.agent_generation,
        ),
        update_refused=report.update_refused,
        journal=journal_position(report.journal_last),
        recovery_degraded=report.recovery_degraded or degraded,
        migratable=report.migratable,
        end_untold=report.untold,
    )


def read_session_report(body: bytes) -> SessionReport:
    """What a serialized `session_report` was made of, the endpoint apart."""
    message = pb.SessionReport.FromString(body)
    ref, usage = message.session, message.usage
    states = {number: state for state, number in _STATES.items()}
    return SessionReport(
        key=SessionKey(ref.namespace, ref.name, ref.session_uid, ref.attempt),
        state=states[message.state],
        end_reason=EndReason(message.end_reason) if message.end_reason else None,
        end_message=message.end_message,
        client_id=message.client_id,
        web_socket_id=message.web_socket_id,
        shard=message.shard,
        ready_at=_unix(message.ready_time) if message.HasField("ready_time") else None,
        started_at=_unix(message.start_time) if message.HasField("start_time") else None,
        ended_at=_unix(message.end_time) if message.HasField("end_time") else None,
        usage=_usage(usage),
        journal_first=message.journal.first,
        journal_last=message.journal.last,
        origin=_origin(message.origin),
        update_refused=message.update_refused,
        recovery_degraded=message.recovery_degraded,
        migratable=message.migratable,
        untold=message.end_untold,
    )


def last_word(request: pb.RecordEndRequest) -> LostSession:
    """How a session ended that no worker has; InvalidRequest for a request that cannot be read."""
    require(request.HasField("end_time"), "end_time", "missing", "when the session ended")
    report = SessionReport(
        key=session_key(request.session),
        state=SessionState.ENDED,
        end_reason=end_reason(request.reason),
        end_message=request.message,
        ended_at=_unix(request.end_time),
        usage=_usage(request.usage),
    )
    return LostSession(report, request.privacy, closing=Closing.LAST_WORD)


def _usage(usage: pb.Usage) -> Usage:
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.input_audio_seconds,
        usage.output_audio_seconds,
    )


def worker_report(
    *,
    name: str,
    pod_uid: str,
    version: str,
    state: WorkerState,
    capacity: int,
    sessions: int,
    journal_degraded: bool,
    telephony: str = "",
    revision: str = "",
    started: float | None = None,
    sessions_total: int = 0,
    memory: int = 0,
    drain_deadline: float | None = None,
) -> pb.WorkerReport:
    return pb.WorkerReport(
        worker=name,
        pod_uid=pod_uid,
        version=version,
        state=_WORKER_STATES[state],
        capacity=capacity,
        sessions=sessions,
        journal_degraded=journal_degraded,
        telephony_endpoint=telephony,
        memory_bytes=memory,
        start_time=_time(started),
        sessions_total=sessions_total,
        revision=revision,
        drain_deadline_time=_time(drain_deadline),
    )


def _time(at: float | None) -> Timestamp | None:
    return None if at is None else timestamp(at)


def _unix(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9


def _provider(provider: pb.Provider) -> ProviderConfig:
    require_url(provider.url, "config.provider.url", ("ws", "wss", "http", "https"))
    kind = provider.type
    require(
        not kind or kind in PROVIDER_TYPES,
        "config.provider.type",
        kind,
        f"one of {', '.join(PROVIDER_TYPES)}, or empty",
    )
    version = provider.api_version
    require(version in ("ga", "beta"), "config.provider.api_version", version, "ga or beta")
    require(provider.model, "config.provider.model", "empty", "the model's name")
    key = provider.api_key
    require(
        _goes_into_a_header(key),
        "config.provider.api_key",
        "not usable",
        "a key of ASCII characters without line ends and control characters",
    )
    for name, value in provider.headers.items():
        good = _HEADER.fullmatch(name) and _goes_into_a_header(value)
        require(good, "config.provider.headers", name, "names and values of ASCII without control characters")
    require_pem(provider.ca_pem, "config.provider.ca_pem")
    return ProviderConfig(
        url=provider.url,
        api_version=version,
        model=provider.model,
        api_key=Secret(key),
        headers=dict(provider.headers),
        ca_pem=provider.ca_pem,
        type=kind or "custom",
    )


def _goes_into_a_header(value: str) -> bool:
    return value.isascii() and not any(ord(c) < 32 or ord(c) == 127 for c in value)


def session_object(text: str, field: str) -> dict[str, object]:
    """The Realtime session object in `field`; InvalidRequest when it is none or too long."""
    require(
        len(text.encode()) <= MAX_SESSION_JSON,
        field,
        f"{len(text)} characters",
        f"at most {MAX_SESSION_JSON} bytes",
    )
    return json_object(text, field) if text else {}


def limits_config(limits: pb.Limits, defaults: LimitsConfig, field: str) -> LimitsConfig:
    """The limits in `field`, with `defaults` for those that are zero."""

    def pick(name: str) -> float:
        duration: Duration = getattr(limits, name)
        default: float = getattr(defaults, name)
        return seconds_within(duration, f"{field}.{name}") or default

    return LimitsConfig(
        pick("max_duration"), pick("idle_timeout"), pick("attach_timeout"), pick("reattach_timeout")
    )


def _origin(message: pb.Origin) -> Origin:
    return Origin(
        message.generation, message.agent[:253], message.agent_revision[:253], message.agent_generation
    )


def _restore(restore: pb.Restore, attempt: int) -> RestoreConfig:
    require(attempt > 1, "session.attempt", attempt, "2 or more, or no config.restore")
    mode = _MODES.get(restore.mode)
    if mode is None:
        raise InvalidRequest(f"config.restore.mode is {restore.mode}: give MODE_RESUME or MODE_RESTART")
    stream = restore.journal_stream
    require(
        stream in ("", JOURNAL_STREAM), "config.restore.journal_stream", stream, f"{JOURNAL_STREAM}, or none"
    )
    given = None
    if restore.HasField("hand_over"):
        try:
            given = HandOver.read(restore.hand_over.state_json)
        except ValueError as error:
            raise InvalidRequest(f"config.restore.hand_over.{error}: admit without it") from None
        require(given.attempt < attempt, "config.restore.hand_over", given.attempt, "an earlier attempt")
        # What was handed over is there for nothing but to go on with.
        mode = RestoreMode.RESUME
    return RestoreConfig(mode, max(0, restore.journal_last), given)


def journal_position(last: int) -> pb.JournalPosition:
    """Where a journal stands; empty for none."""
    return pb.JournalPosition(stream=JOURNAL_STREAM if last else "", first=min(last, 1), last=last)


def moved(request: pb.MovedRequest) -> MovedAway:
    """Where a Moved sends callers."""
    require(
        request.attempt > request.session.attempt,
        "attempt",
        request.attempt,
        f"more than {request.session.attempt}",
    )
    host, _, port = request.endpoint.rpartition(":")
    require(host and port.isdecimal(), "endpoint", request.endpoint, "host:port of the new worker")
    return MovedAway(request.endpoint, request.tls_server_name, request.attempt)


def _access(access: pb.Access) -> AccessConfig:
    digest = access.ticket_sha256
    require(
        len(digest) in (0, 32), "config.access.ticket_sha256", f"{len(digest)} bytes", "32 bytes, or none"
    )
    expires = None
    if access.HasField("ticket_expire_time"):
        expires = _unix(access.ticket_expire_time)
    return AccessConfig(digest, expires)
