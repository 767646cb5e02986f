"""Between control.v1 messages and the domain's values."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from parley.control.v1 import control_pb2 as pb

from parley_operator.api.v1alpha1 import LimitsSpec
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    LastWord,
    MigrateOutcome,
    Origin,
    Restore,
    RestoreMode,
    SessionReport,
    SessionState,
    UpdateRequest,
    Usage,
    WorkerState,
)

from .conduct import duration as duration
from .conduct import fill_config, tool_route

# The end of the year 9999.
_LAST_SECOND = 253402300799.0
# The maxLength of words in the CRD's status.
_LONGEST = 253
_LONGEST_URL = 512
_LONGEST_WORDS = 1024
_WORKER_STATES = {
    pb.WORKER_STATE_READY: WorkerState.READY,
    pb.WORKER_STATE_DRAINING: WorkerState.DRAINING,
    pb.WORKER_STATE_STOPPED: WorkerState.STOPPED,
}
_SESSION_STATES = {
    pb.SESSION_STATE_READY: SessionState.READY,
    pb.SESSION_STATE_ACTIVE: SessionState.ACTIVE,
    pb.SESSION_STATE_DETACHED: SessionState.DETACHED,
    pb.SESSION_STATE_ENDED: SessionState.ENDED,
}
_MODES = {
    RestoreMode.RESUME: pb.Restore.MODE_RESUME,
    RestoreMode.RESTART: pb.Restore.MODE_RESTART,
}
_VERDICTS = {
    pb.REFUSAL_REASON_FULL: AdmitVerdict.FULL,
    pb.REFUSAL_REASON_DRAINING: AdmitVerdict.DRAINING,
    pb.REFUSAL_REASON_INVALID: AdmitVerdict.INVALID,
    pb.REFUSAL_REASON_STALE_LEADER: AdmitVerdict.STALE_LEADER,
    pb.REFUSAL_REASON_STALE_ATTEMPT: AdmitVerdict.STALE_ATTEMPT,
    pb.REFUSAL_REASON_WRONG_INSTANCE: AdmitVerdict.WRONG_INSTANCE,
    pb.REFUSAL_REASON_ENDED: AdmitVerdict.ENDED,
    pb.REFUSAL_REASON_OVERLOADED: AdmitVerdict.OVERLOADED,
}


def seconds_of(stamp: Timestamp) -> float:
    """Unix seconds, kept within what a calendar can show."""
    return min(max(0.0, stamp.seconds + stamp.nanos / 1e9), _LAST_SECOND)


def _word(text: str) -> str:
    """What goes into a status is short: a longer one would be refused with everything beside it."""
    return text[:_LONGEST]


def url(text: str) -> str:
    """A URL cut short would lead elsewhere: one too long for the status is left out."""
    return text if len(text) <= _LONGEST_URL else ""


def worker_state(value: int) -> WorkerState:
    return _WORKER_STATES.get(value, WorkerState.STARTING)  # type: ignore[call-overload,no-any-return]


def session_report(message: pb.SessionReport) -> SessionReport:
    usage, journal = message.usage, message.journal
    return SessionReport(
        uid=message.session.session_uid,
        attempt=message.session.attempt,
        namespace=message.session.namespace,
        name=message.session.name,
        state=_SESSION_STATES.get(message.state, SessionState.CONNECTING),
        end_reason=message.end_reason,
        end_message=message.end_message,
        client_id=_word(message.client_id),
        web_socket_id=_word(message.web_socket_id),
        shard=max(0, message.shard),
        endpoint=_word(message.endpoint),
        tls_server_name=_word(message.tls_server_name),
        telephony_endpoint=url(message.telephony_endpoint),
        ready_time=seconds_of(message.ready_time),
        start_time=seconds_of(message.start_time),
        end_time=seconds_of(message.end_time),
        usage=Usage(
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
            usage.input_audio_seconds,
            usage.output_audio_seconds,
        ),
        journal_stream=_word(journal.stream),
        journal_first=journal.first,
        journal_last=journal.last,
        origin=Origin(
            max(0, message.origin.generation),
            _word(message.origin.agent),
            _word(message.origin.agent_revision),
            max(0, message.origin.agent_generation),
        ),
        update_refused=message.update_refused[:_LONGEST_WORDS],
        recovery_degraded=message.recovery_degraded,
        migratable=message.migratable,
        end_untold=message.end_untold,
    )


def _limits(limits: LimitsSpec) -> pb.Limits:
    wanted = {
        "max_duration": limits.max_duration,
        "idle_timeout": limits.idle_timeout,
        "attach_timeout": limits.attach_timeout,
        "reattach_timeout": limits.reattach_timeout,
    }
    return pb.Limits(**{key: duration(value) for key, value in wanted.items() if value})


def _session_ref(request: AdmitRequest | UpdateRequest | LastWord) -> pb.SessionRef:
    return pb.SessionRef(
        namespace=request.namespace, name=request.name, session_uid=request.uid, attempt=request.attempt
    )


def _fence(request: AdmitRequest | UpdateRequest, leader_epoch: int) -> pb.Fence:
    return pb.Fence(leader_epoch=leader_epoch, worker_instance_id=request.instance_id)


def update_message(request: UpdateRequest, leader_epoch: int) -> pb.CommandRequest:
    return pb.CommandRequest(
        session=_session_ref(request),
        fence=_fence(request, leader_epoch),
        reconfigure=pb.Reconfigure(
            session_json=request.session_json,
            tools=[tool_route(target) for target in request.conduct.tools],
            limits=_limits(request.limits),
            generation=request.generation,
        ),
    )


def record_end_message(word: LastWord, leader_epoch: int, instance_id: str) -> pb.RecordEndRequest:
    usage, ended = word.usage, Timestamp()
    ended.FromMicroseconds(round(word.ended * 1e6))
    return pb.RecordEndRequest(
        session=_session_ref(word),
        fence=pb.Fence(leader_epoch=leader_epoch, worker_instance_id=instance_id),
        reason=word.reason,
        message=word.message,
        privacy=word.private,
        end_time=ended,
        usage=pb.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            input_audio_seconds=usage.input_audio_seconds,
            output_audio_seconds=usage.output_audio_seconds,
        ),
    )


def admit_message(request: AdmitRequest, leader_epoch: int) -> pb.AdmitRequest:
    message = pb.AdmitRequest(
        session=_session_ref(request),
        fence=_fence(request, leader_epoch),
        config=pb.SessionConfig(
            provider=pb.Provider(
                url=request.provider.url,
                api_version=request.provider.api_version,
                model=request.provider.model,
                api_key=request.provider.api_key.reveal(),
                type=request.provider.type,
                headers=request.provider.headers,
            ),
            session_json=request.session_json,
            greet=request.greet,
            limits=_limits(request.limits),
            access=pb.Access(ticket_sha256=request.ticket_sha256),
            privacy=request.privacy,
            provider_audio=request.provider_audio,
            origin=pb.Origin(
                generation=request.origin.generation,
                agent=request.origin.agent,
                agent_revision=request.origin.agent_revision,
                agent_generation=request.origin.agent_generation,
            ),
        ),
    )
    fill_config(message.config, request.conduct)
    if request.restore is not None:
        message.config.restore.CopyFrom(_restore(request.restore))
    return message


def _restore(wanted: Restore) -> pb.Restore:
    message = pb.Restore(
        mode=_MODES[wanted.mode],
        journal_stream=wanted.journal_stream,
        journal_first=wanted.journal_first,
        journal_last=wanted.journal_last,
    )
    if wanted.hand_over is not None:
        message.hand_over.state_json = wanted.hand_over
    return message


def migrate_outcome(response: pb.MigrateResponse) -> MigrateOutcome:
    journal = response.journal
    return MigrateOutcome(
        response.found,
        response.ready,
        response.hand_over.state_json,
        _word(journal.stream),
        journal.first,
        journal.last,
        response.message,
    )


def admit_outcome(response: pb.AdmitResponse) -> AdmitOutcome:
    if response.HasField("admitted"):
        admitted = response.admitted
        return AdmitOutcome(
            AdmitVerdict.ADMITTED,
            shard=admitted.shard,
            endpoint=admitted.endpoint,
            tls_server_name=admitted.tls_server_name,
            telephony_endpoint=url(admitted.telephony_endpoint),
        )
    if response.HasField("refused"):
        refused = response.refused
        return AdmitOutcome(_VERDICTS.get(refused.reason, AdmitVerdict.FULL), refused.message)
    return AdmitOutcome(AdmitVerdict.UNKNOWN, "the worker answered neither yes nor no")
