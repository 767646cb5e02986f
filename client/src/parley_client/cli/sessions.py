"""`parley sessions`: list them from the API server, or make, end and watch them through the session
service."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

import typer

from parley_client.errors import SessionNotFound
from parley_client.resolve import list_sessions
from parley_client.sessions import SessionView

from .console import Output, make_output
from .exits import Exit
from .run import execute
from .service import ServerCaOption, ServerNameOption, ServerOption, Service, TokenFileOption, read_session

NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; the kubeconfig's own when not given.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="File; KUBECONFIG, then ~/.kube/config when not given.")
]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
AllOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Speak plain text outside loopback.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]

sessions_app = typer.Typer(
    help="List the sessions of a cluster; make, end and watch them through the session service.",
    invoke_without_command=True,
    epilog="[bold]Examples[/]\n\n  parley sessions --all-namespaces\n\n"
    "  parley sessions create -f session.yaml --server parley-sessions.parley.svc:8443 --server-ca ca.crt",
)
COLUMNS = ("namespace", "name", "phase", "worker", "endpoint", "end reason", "created")


@sessions_app.callback()
def sessions(
    context: typer.Context,
    namespace: NamespaceOption = None,
    all_namespaces: AllOption = False,
    kubeconfig: KubeconfigOption = None,
    kube_context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the sessions of a cluster: phase, worker, endpoint, end reason."""
    if context.invoked_subcommand is not None:
        return
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        found = await list_sessions(
            namespace=namespace, all_namespaces=all_namespaces, kubeconfig=kubeconfig, context=kube_context
        )
        rows = [(s.namespace, s.name, s.phase, s.worker, s.endpoint, s.end_reason, s.created) for s in found]
        output.rows("session", COLUMNS, rows)
        return Exit.OK

    execute(output, work)


@sessions_app.command(
    epilog="[bold]Example[/]\n\n  parley sessions create -f session.yaml --ticket-out ticket --server ...\n\n"
    "Without --ticket-out the ticket is not shown: with --request-id the same command gives it later."
)
def create(
    file: Annotated[Path, typer.Option("-f", "--file", help="YAML with one VoiceSession.")],
    server: ServerOption = "",
    namespace: NamespaceOption = None,
    request_id: Annotated[str, typer.Option(help="The same one gives the same session again.")] = "",
    wait: Annotated[float, typer.Option(help="Seconds to wait for a place.", min=0, max=60)] = 10.0,
    ready: Annotated[bool, typer.Option("--ready", help="Wait for the provider too.")] = False,
    ticket_out: Annotated[
        Path | None, typer.Option(help="File to write the ticket to, readable by you alone.")
    ] = None,
    ca_out: Annotated[Path | None, typer.Option(help="File to write the worker's CA to.")] = None,
    token_file: TokenFileOption = None,
    server_ca: ServerCaOption = None,
    server_name: ServerNameOption = "",
    insecure: InsecureOption = False,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a session and say where it can be called."""
    output = make_output(as_json=as_json)
    service = Service(server, token_file, server_ca, server_name, insecure, kubeconfig, context)

    async def work() -> Exit:
        wanted = read_session(file, namespace)
        async with service.client() as client:
            made = await wanted.create(client, request_id=request_id, wait=wait, ready=ready)
        if ticket_out is not None and made.ticket:
            _write_secret(ticket_out, made.ticket)
        if ca_out is not None and made.endpoint is not None:
            ca_out.write_text(made.ca_pem, encoding="utf-8")
        seen = made.session
        address = made.endpoint.address if made.endpoint else ""
        name = made.endpoint.tls_server_name if made.endpoint else ""
        facts = {**_facts(seen), "endpoint": address, "tls_server_name": name, "repeated": made.repeated}
        place = f"at {address}" if address else f"number {seen.position or '?'} in the queue"
        words = f"VoiceSession {seen.namespace}/{seen.name} is {seen.phase}, {place}"
        over = bool(seen.end_reason)
        if over:
            words = f"VoiceSession {seen.namespace}/{seen.name} is over: {seen.end_reason}"
        output.result(f"{words}: {seen.message}" if seen.message else words, good=not over, **facts)
        return Exit.FAILED if over else Exit.OK

    execute(output, work)


@sessions_app.command(epilog="[bold]Example[/]\n\n  parley sessions end first-call -n phones --server ...")
def end(
    session: Annotated[str, typer.Argument(help="Name of the VoiceSession.")],
    server: ServerOption = "",
    namespace: NamespaceOption = None,
    uid: Annotated[str, typer.Option(help="Leave another session of the same name alone.")] = "",
    token_file: TokenFileOption = None,
    server_ca: ServerCaOption = None,
    server_name: ServerNameOption = "",
    insecure: InsecureOption = False,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a session: its call ends with `Terminated`, its VoiceSession is deleted."""
    output = make_output(as_json=as_json)
    service = Service(server, token_file, server_ca, server_name, insecure, kubeconfig, context)
    space = namespace or "default"

    async def work() -> Exit:
        async with service.client() as client:
            if not await client.end(space, session, uid):
                raise SessionNotFound(
                    f"there is no VoiceSession {space}/{session}{f' of uid {uid}' if uid else ''}"
                )
        output.result(f"VoiceSession {space}/{session} ended", good=True, namespace=space, name=session)
        return Exit.OK

    execute(output, work)


@sessions_app.command(epilog="[bold]Example[/]\n\n  parley sessions watch -n phones --json --server ...")
def watch(
    session: Annotated[str, typer.Argument(help="Name of one VoiceSession; all when not given.")] = "",
    server: ServerOption = "",
    namespace: NamespaceOption = None,
    all_namespaces: AllOption = False,
    token_file: TokenFileOption = None,
    server_ca: ServerCaOption = None,
    server_name: ServerNameOption = "",
    insecure: InsecureOption = False,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print sessions as they are, then every change, until Ctrl-C."""
    output = make_output(as_json=as_json)
    service = Service(server, token_file, server_ca, server_name, insecure, kubeconfig, context)
    space = "" if all_namespaces else namespace or "default"

    async def work() -> Exit:
        async with service.client() as client:
            async for change in client.watch(space, name=session):
                if change.session is not None:
                    _say(output, change.session, gone=change.gone)
        return Exit.OK

    execute(output, work)


def _say(output: Output, seen: SessionView, *, gone: bool) -> None:
    state = "deleted" if gone else seen.phase + (f", {seen.end_reason}" if seen.end_reason else "")
    place = f", number {seen.position} in the queue" if seen.position and not gone else ""
    output.note(f"{seen.namespace}/{seen.name}  {state}{place}  {seen.endpoint}", **_facts(seen), gone=gone)


def _facts(seen: SessionView) -> dict[str, object]:
    return {
        "namespace": seen.namespace,
        "name": seen.name,
        "uid": seen.uid,
        "phase": seen.phase,
        "attempt": seen.attempt,
        "position": seen.position,
        "end_reason": seen.end_reason,
        "message": seen.message,
    }


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            # A file that was there before keeps its mode otherwise.
            os.fchmod(descriptor, 0o600)
        file.write(text)
