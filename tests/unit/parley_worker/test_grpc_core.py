"""What gRPC's core is told in the environment before it is imported."""

from __future__ import annotations

from parley_worker import grpc_core


def test_grpc_is_told_before_it_is_imported() -> None:
    environ = {"PATH": "/bin"}
    grpc_core.prepare(environ)
    assert environ == {
        "PATH": "/bin",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    }


def test_what_somebody_chose_stays() -> None:
    chosen = {"GRPC_ENABLE_FORK_SUPPORT": "1", "GRPC_EXPERIMENTS": "tcp_frame_size_tuning"}
    environ = dict(chosen)
    grpc_core.prepare(environ)
    assert environ == chosen
