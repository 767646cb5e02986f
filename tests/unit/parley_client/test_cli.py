"""The command line: help, exit codes, output of machines and people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parley_client import __version__, errors, session_events
from parley_client.cli.app import app
from parley_client.cli.console import JsonOutput, PlainOutput
from parley_client.cli.exits import Exit, exit_of
from parley_client.events import Transcript
from parley_client.session_events import parse_event
from typer.testing import CliRunner

COMMANDS = ("demo", "run", "call", "sessions", "events", "version", "provider")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-such-kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("PARLEY_TICKET", raising=False)
    monkeypatch.delenv("PARLEY_DEBUG", raising=False)
    monkeypatch.setattr(session_events, "CONNECT_TIMEOUT", 0.2)
    return CliRunner()


def test_the_help_lists_every_command_and_every_exit_code(cli: CliRunner) -> None:
    result = cli.invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in (*COMMANDS, "Examples", "Exit codes", "130"):
        assert word in result.stdout


@pytest.mark.parametrize("command", ["demo", "run", "call", "sessions", "events"])
def test_every_command_explains_itself_with_an_example(cli: CliRunner, command: str) -> None:
    result = cli.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"parley {command}" in result.stdout
    assert "--json" in result.stdout


def test_version(cli: CliRunner) -> None:
    assert cli.invoke(app, ["version"]).stdout == f"parley {__version__}\n"
    facts = json.loads(cli.invoke(app, ["version", "--json"]).stdout)
    assert (facts["kind"], facts["version"]) == ("result", __version__)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["frobnicate"], 2, "frobnicate"),
        (["call"], 2, "--audio"),
        (["call", "--audio", "a.wav", "--out", "b.wav"], 2, "name a VoiceSession"),
        (["sessions", "end", "a"], 2, "PARLEY_SESSIONS"),
        (["sessions", "end", "a", "--server", "x:1"], 2, "kubectl create token"),
        (["sessions", "create", "-f", "none.yaml", "--server", "x:1"], 2, "none.yaml"),
        (["call", "x", "--audio", "a", "--out", "b", "--format", "mp3"], 2, "mp3"),
        (["call", "--address", "127.0.0.1:1", "--audio", "a", "--out", "b"], 2, "ticket is empty"),
        (
            [
                "call",
                "--address",
                "10.0.0.1:9",
                "--ticket",
                "t",
                "--insecure",
                "--audio",
                "no.wav",
                "--out",
                "b",
            ],
            2,
            "no.wav: no such file",
        ),
        (["call", "x", "--audio", "a", "--out", "b"], 4, "no cluster is configured"),
        (["call", "x", "--kubeconfig", "nowhere", "--audio", "a", "--out", "b"], 2, "kubeconfig nowhere"),
        (["sessions"], 4, "no cluster is configured"),
        (["events", "x", "--uid", "u", "--nats", "nats://me:hunter2@127.0.0.1:1"], 4, "cannot be reached"),
        (["run", "-f", "no.yaml", "--audio", "a", "--out", "b"], 2, "no.yaml: No such file"),
        (["run", "-f", "x", "--audio", "a", "--out", "b", "--local-provider", "maybe"], 2, "maybe"),
        (["run", "-f", "x", "--audio", "a"], 2, "--audio and --out belong together"),
        (["demo", "--format", "mp3"], 2, "mp3"),
    ],
)
def test_users_errors_are_one_line_with_a_code_and_no_stack(
    cli: CliRunner, arguments: list[str], code: int, words: str
) -> None:
    result = cli.invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output
    assert "hunter2" not in result.output


def test_errors_are_json_where_that_was_asked_for(cli: CliRunner) -> None:
    result = cli.invoke(app, ["sessions", "--json"])
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["exit_code"]) == ("error", 4)


def test_a_missing_program_is_named_with_its_remedy(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PARLEY_CACHE", "/nowhere")
    result = cli.invoke(app, ["demo"])
    assert result.exit_code == 5
    assert "nats-server is not installed" in result.stderr
    assert "build.sh nats-server" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), Exit.USAGE),
        (errors.AudioError("x"), Exit.USAGE),
        (errors.SessionNotFound("x"), Exit.NOT_FOUND),
        (errors.SessionNotReady("x"), Exit.CANNOT_CONNECT),
        (errors.TlsError("x"), Exit.CANNOT_CONNECT),
        (errors.AttachRefused("UNAUTHENTICATED", "x"), Exit.CANNOT_CONNECT),
        (errors.CallLost("x"), Exit.CANNOT_CONNECT),
        (errors.MissingProgram("x", "y"), Exit.MISSING_PROGRAM),
        (errors.ProcessDied("x", -9, ""), Exit.FAILED),
        (errors.SlowConsumer("x"), Exit.FAILED),
    ],
)
def test_every_error_has_its_code(error: errors.ParleyError, code: Exit) -> None:
    assert exit_of(error) is code


def test_plain_lines_hold_no_control_characters_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output = PlainOutput()
    output.transcript(Transcript("user", "say [bold]this[/bold]", True))
    output.transcript(Transcript("assistant", "half", False))
    output.note("a [note]")
    event = parse_event(
        "parley.events.default.u.first-audio",
        b'{"sequence":"7","occurTime":"2026-11-23T01:02:03.456789Z","firstAudio":{"latencyMs":"12","responseId":"r"}}',
    )
    assert event is not None
    output.session_event(event)
    printed = capsys.readouterr().out
    assert "caller: say [bold]this[/bold]" in printed
    assert "half" not in printed
    assert "a [note]" in printed
    assert "01:02:03.456" in printed
    assert "latencyMs=12 responseId=r" in printed
    assert "\x1b" not in printed


def test_json_lines_parse(capsys: pytest.CaptureFixture[str]) -> None:
    output = JsonOutput()
    with output.step("try"):
        output.transcript(Transcript("assistant", "Grüße\nund mehr", True))
    output.rows("session", ("name", "end reason"), [("a", "CallerHangup")])
    output.levels(-1, -2, 3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ["step", "transcript", "step", "session"]
    assert lines[1]["text"] == "Grüße\nund mehr"
    assert lines[3]["end_reason"] == "CallerHangup"


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"sequence":"x"}', b"\xff\xff"])
def test_what_is_no_event_is_passed_over(payload: bytes) -> None:
    assert parse_event("parley.events.a.b.c", payload) is None
