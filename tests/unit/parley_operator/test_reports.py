"""What workers report is clipped to what a status can hold."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from parley.control.v1 import control_pb2 as pb
from parley_operator.domain.phases import EndReason
from parley_operator.domain.status import end_status, report_status, timestamp
from parley_operator.workers import codec


def test_a_report_beyond_all_bounds_fits_into_a_status() -> None:
    for seconds in (2**62, -(2**62)):
        report = codec.session_report(
            pb.SessionReport(
                state=pb.SESSION_STATE_ENDED,
                client_id="c" * 1000,
                web_socket_id="w" * 1000,
                endpoint="e" * 1000,
                tls_server_name="t" * 1000,
                shard=-1,
                end_message="m" * 9000,
                start_time=Timestamp(seconds=seconds),
                end_time=Timestamp(seconds=seconds),
                journal=pb.JournalPosition(stream="s" * 1000),
            )
        )
        status = report_status(report)
        assert len(str(status["clientId"])) == len(str(status["webSocketId"])) == 253
        assert len(report.endpoint) == len(report.tls_server_name) == len(report.journal_stream) == 253
        assert report.shard == 0
        assert timestamp(report.end_time)[:4] in ("9999", "1970")
        assert (
            len(str(end_status(EndReason.INTERNAL, report.end_message, report.end_time)["endMessage"]))
            == 1024
        )


def test_a_state_of_tomorrow_counts_as_not_ready() -> None:
    assert codec.session_report(pb.SessionReport(state=99)).live  # type: ignore[arg-type]
    assert codec.worker_state(99) is codec.worker_state(pb.WORKER_STATE_STARTING)
