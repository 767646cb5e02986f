"""What the session service is served under, and how it words sessions and faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from parley.sessions.v1 import sessions_pb2 as pb
from parley_operator import pki
from parley_operator.domain.faults import Fault, invalid
from parley_operator.serving import session_codec as codec
from parley_operator.serving.session_tls import from_folder, issued
from reconcile_plane import CA, NOW, Time

DAY = 86_400.0


def test_a_certificate_is_renewed_when_it_is_due_and_when_the_ca_is_another() -> None:
    clock, authority = Time(), [CA]
    served = issued(lambda: authority[0], ["a.svc", "b.svc"], clock)
    assert served._fetch() is None
    clock.at = NOW + 61 * DAY
    assert served._fetch() is not None
    assert served._fetch() is None
    authority[0] = pki.make_ca(clock.at)
    assert served._fetch() is not None
    assert served._fetch() is None


def test_files_of_a_folder_are_followed_and_kept_while_they_do_not_fit(tmp_path: Path) -> None:
    def write(certificate: bytes, key: bytes) -> None:
        (tmp_path / "tls.crt").write_bytes(certificate)
        (tmp_path / "tls.key").write_bytes(key)

    first, second = (pki.issue_server(CA, name, NOW) for name in ("one.svc", "two.svc"))
    write(first.certificate, first.key)
    served = from_folder(tmp_path)
    assert served._fetch() is None
    write(second.certificate, first.key)
    assert served._fetch() is None
    write(second.certificate, second.key)
    assert served._fetch() is not None
    (tmp_path / "tls.key").unlink()
    assert served._fetch() is None
    write(second.certificate, first.key)
    with pytest.raises(ValueError, match="not that of the certificate"):
        from_folder(tmp_path)


def session(phase: str = "", **status: Any) -> Any:
    metadata = {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2027-01-15T08:00:00Z"}
    return {"metadata": metadata, "status": {"phase": phase, **status} if phase or status else {}}


def condition(kind: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": "False", "reason": reason, "message": message}


def test_sessions_say_what_they_wait_for() -> None:
    fresh = codec.session(session())
    assert (fresh.phase, fresh.queue.position, fresh.queue.reason) == (pb.PHASE_PENDING, 0, "Queued")
    assert fresh.create_time.seconds == 1_800_000_000
    queued = condition("Placed", "Queued", "waits for a free place")
    waiting = codec.session(session("Pending", queue={"position": 3}, conditions=[queued]))
    assert (waiting.queue.position, waiting.queue.message) == (3, "waits for a free place")
    missing = condition("Accepted", "AgentNotFound", "spec.agentRef.name: create it")
    held = codec.session(session("Pending", conditions=[queued, missing]))
    assert (held.queue.reason, held.queue.message) == ("AgentNotFound", "spec.agentRef.name: create it")
    over = codec.session(session("Failed", endReason="NoCapacity", endMessage="none", conditions=[queued]))
    assert (over.phase, over.end_reason, over.message) == (pb.PHASE_FAILED, "NoCapacity", "none")
    assert not over.HasField("queue")
    worker = {"name": "w", "endpoint": "1.2.3.4:5", "tlsServerName": "p.n"}
    ready = codec.session(session("Ready", worker=worker, attempt=2))
    assert (ready.phase, ready.attempt, ready.endpoint) == (pb.PHASE_READY, 2, "1.2.3.4:5")
    assert not ready.HasField("queue")


def test_faults_become_statuses_with_metadata_that_grpc_can_carry() -> None:
    code, words, metadata = codec.status_details(invalid("labels[é\n]", "no"))
    assert (code.name, words) == ("INVALID_ARGUMENT", "labels[é\n]: no")
    assert metadata == (("parley-reason", "field-invalid"), ("parley-field", "labels[]"))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CreateSessionRequest(namespace="n", spec_json="{}", wait_for=9), "wait_for"),
        (pb.CreateSessionRequest(namespace="n", spec_json="{}", wait=Duration(seconds=-1)), "wait"),
        (pb.CreateSessionRequest(namespace="n"), "spec_json"),
    ],
)
def test_what_the_contract_does_not_know_is_named(request_: Any, field: str) -> None:
    with pytest.raises(Fault) as caught:
        codec.create_request(request_)
    assert caught.value.field == field


def test_waits_default_to_ten_seconds_and_watches_of_one_session_need_its_namespace() -> None:
    request = pb.CreateSessionRequest(namespace="n", spec_json="{}")
    assert (codec.create_request(request).wait, codec.create_request(request).ready) == (10.0, False)
    request.wait.CopyFrom(Duration(nanos=500_000_000))
    request.wait_for = pb.WAIT_FOR_READY
    assert (codec.create_request(request).wait, codec.create_request(request).ready) == (0.5, True)
    with pytest.raises(Fault) as caught:
        codec.watcher(pb.WatchSessionsRequest(name="a"))
    assert caught.value.field == "name"
    with pytest.raises(Fault) as caught:
        codec.phases(pb.ListSessionsRequest(phases=[0]))
    assert caught.value.field == "phases"
