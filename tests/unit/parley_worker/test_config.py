"""Settings from the environment."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from parley_worker.config import Address, ConfigError, Settings, help_text, redact_url


def problems(**environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ({f"PARLEY_WORKER_{k}": v for k, v in environ.items()})
    return caught.value.problems


def test_nothing_set_gives_a_worker_on_loopback() -> None:
    settings = Settings.from_environ({})
    assert settings.media_address == Address("127.0.0.1", 7070)
    assert settings.name


def test_every_variable_is_in_the_help() -> None:
    text = help_text()
    for field in fields(Settings):
        assert f"PARLEY_WORKER_{field.name.upper()}\n" in text


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("CAPACITY", "0", "whole number from 1 to 10000"),
        ("CAPACITY", "many", "whole number from 1 to 10000"),
        ("DRAIN_TIMEOUT", "-1", "seconds from 0"),
        ("DRAIN_TIMEOUT", "nan", "seconds from 0"),
        ("MEDIA_ADDRESS", "localhost", "host:port"),
        ("MEDIA_ADDRESS", "127.0.0.1:99999", "host:port"),
        ("MEDIA_ADDRESS", "unix:/tmp/x", "host:port"),
        ("CONTROL_ADDRESS", "unix:", "unix:/path"),
        ("NATS_URL", "http://nats:4222", "nats://host:port"),
        ("NATS_CREDS", "/does/not/exist", "a file"),
        ("CONTROL_TLS_DIR", "/does/not/exist", "directory"),
        ("LOG_FORMAT", "xml", "json, plain"),
        ("UVLOOP", "maybe", "true or false"),
        ("CAPACTIY", "3", "no such setting"),
    ],
)
def test_wrong_values_are_named_with_a_remedy(name: str, value: str, remedy: str) -> None:
    (problem,) = problems(**{name: value})
    assert problem.startswith(f"PARLEY_WORKER_{name}")
    assert remedy in problem


def test_all_problems_come_at_once() -> None:
    assert len(problems(CAPACITY="0", LOG_LEVEL="loud", IDLE_TIMEOUT="x")) == 3


def test_outside_loopback_tls_is_required() -> None:
    found = problems(
        CONTROL_ADDRESS="0.0.0.0:7071", MEDIA_ADDRESS="10.0.0.1:7070", TELEPHONY_ADDRESS="10.0.0.1:7073"
    )
    assert [p.split("=")[0] for p in found] == [
        "PARLEY_WORKER_CONTROL_ADDRESS",
        "PARLEY_WORKER_MEDIA_ADDRESS",
        "PARLEY_WORKER_TELEPHONY_ADDRESS",
    ]
    assert all("_TLS_DIR" in p for p in found)


def test_a_unix_socket_needs_no_tls() -> None:
    settings = Settings.from_environ({"PARLEY_WORKER_CONTROL_ADDRESS": "unix:/run/x.sock"})
    assert settings.control_address.grpc == "unix:/run/x.sock"


def test_missing_certificate_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").touch()
    found = problems(CONTROL_TLS_DIR=str(tmp_path))
    assert len(found) == 2
    assert "ca.crt is missing" in found[0]
    assert "tls.key is missing" in found[1]


def test_callers_are_never_told_a_wildcard_address(tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).touch()
    (found,) = problems(MEDIA_ADDRESS="0.0.0.0:7070", MEDIA_TLS_DIR=str(tmp_path))
    assert found.startswith("PARLEY_WORKER_ADVERTISED_HOST")


def test_variables_of_kubernetes_services_are_left_alone() -> None:
    Settings.from_environ(
        {
            "PARLEY_WORKER_SERVICE_HOST": "10.0.0.1",
            "PARLEY_WORKER_SERVICE_PORT_MEDIA": "7070",
            "PARLEY_WORKER_PORT": "tcp://10.0.0.1:7070",
            "PARLEY_WORKER_PORT_7070_TCP_ADDR": "10.0.0.1",
        }
    )


def test_passwords_in_urls_are_never_shown() -> None:
    settings = Settings.from_environ({"PARLEY_WORKER_NATS_URL": "nats://u:hunter2@a:1,nats://b:2"})
    assert "hunter2" not in repr(settings)
    assert settings.shown()["nats_url"] == "nats://***@a:1,nats://b:2"
    assert "hunter2" not in str(problems(NATS_URL="ftp://u:hunter2@a"))
    assert redact_url("nats://plain:1") == "nats://plain:1"


def test_a_token_is_never_shown_and_telephony_needs_tls_outside_loopback() -> None:
    settings = Settings.from_environ({"PARLEY_WORKER_TWILIO_AUTH_TOKEN": "hunter2"})
    assert "hunter2" not in repr(settings) + str(settings.shown())
    assert settings.shown()["twilio_auth_token"] == "***"
    assert Settings.from_environ({}).shown()["twilio_auth_token"] == ""
    (found,) = problems(TELEPHONY_ADDRESS="0.0.0.0:50200")
    assert found.startswith("PARLEY_WORKER_TELEPHONY_ADDRESS")


def test_addresses_with_ipv6() -> None:
    settings = Settings.from_environ({"PARLEY_WORKER_MEDIA_ADDRESS": "[::1]:0"})
    assert settings.media_address.with_port(5) == "[::1]:5"
    assert settings.media_address.private
