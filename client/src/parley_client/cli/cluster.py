"""Commands that speak to a cluster: `call`, `sessions`, `events`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from parley_client import session_events
from parley_client.conversation import ConversationOptions, Outcome, hold
from parley_client.errors import ConnectError, SessionNotFound, TlsError, UsageError
from parley_client.formats import AudioFormat
from parley_client.kubernetes_resolver import KubernetesResolver
from parley_client.options import Playout
from parley_client.portforward import port_forward
from parley_client.resolve import get_session, pod_namespace, resolve_address, resolve_cluster
from parley_client.resolving import Resolver
from parley_client.target import Target

from .console import Output, make_output
from .exits import GOOD_ENDS, Exit
from .run import execute
from .service import ServerCaOption, ServerNameOption, ServerOption, Service, TokenFileOption, called_session
from .sessions import sessions_app

NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; the kubeconfig's own when not given.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="File; KUBECONFIG, then ~/.kube/config when not given.")
]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog="[bold]Examples[/]\n\n  parley call first-call --audio question.wav --out answer.wav\n\n"
        "  parley call first-call -n phones --port-forward --format g711_ulaw --audio q.wav --out a.wav\n\n"
        "  parley call --address 10.0.0.7:7070 --ticket-file ticket --ca ca.crt --tls-name worker.pool.svc"
        " --audio q.wav --out a.wav\n\n"
        "  parley call -f session.yaml --server parley-sessions.parley.svc:8443 --server-ca ca.crt"
        " --audio q.wav --out a.wav"
    )(call)
    app.add_typer(sessions_app, name="sessions")
    app.command(
        epilog="[bold]Examples[/]\n\n  parley events first-call --from-start --nats nats://127.0.0.1:4222\n\n"
        "  parley events first-call --from-start --port-forward svc/parley-nats -n phones"
    )(events)


def call(
    audio: Annotated[Path, typer.Option(help="WAV to speak, any rate.")],
    out: Annotated[Path, typer.Option(help="WAV to record what the caller hears in.")],
    session: Annotated[str, typer.Argument(help="Name of the VoiceSession; not needed with --address.")] = "",
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the session to be Ready.", min=0)] = 30.0,
    forward: Annotated[
        bool, typer.Option("--port-forward", help="Reach the worker through the API server (kubectl).")
    ] = False,
    worker_namespace: Annotated[
        str, typer.Option(help="Namespace of the worker's pod for --port-forward; looked up when not given.")
    ] = "",
    address: Annotated[str, typer.Option(help="host:port of the worker instead of a lookup.")] = "",
    ticket: Annotated[
        str, typer.Option(help="With --address.", envvar="PARLEY_TICKET", show_envvar=True)
    ] = "",
    ticket_file: Annotated[
        Path | None, typer.Option(help="File that holds the ticket, with --address.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="CA file of the worker's certificate, with --address.")
    ] = None,
    tls_name: Annotated[str, typer.Option(help="Name in the worker's certificate, with --address.")] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="Speak plain text outside loopback.")] = False,
    format: Annotated[
        str, typer.Option(help="pcm16@ or opus@8000/16000/24000/48000, g711_ulaw, g711_alaw.")
    ] = "pcm16@24000",
    burst: Annotated[
        bool, typer.Option("--burst", help="Take the agent's audio as fast as it is made.")
    ] = False,
    answer_timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 30.0,
    linger: Annotated[float, typer.Option(help="Seconds of silence before hanging up.", min=0)] = 1.5,
    listen_first: Annotated[
        bool, typer.Option("--listen-first", help="Speak when the agent's greeting was heard.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f", "--file", help="YAML with a VoiceSession: made through --server, called, and ended."
        ),
    ] = None,
    server: ServerOption = "",
    server_ca: ServerCaOption = None,
    server_name: ServerNameOption = "",
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a session: speak a WAV, record the answer, print what is said.

    The session is found through the API server, with the address and the ticket in its Secret, or given by an
    address and a ticket, or made through the session service from a file. A worker in a pod network that
    cannot be reached from here is called with --port-forward.
    """
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        options = ConversationOptions(
            format=AudioFormat.parse(format),
            playout=Playout.BURST if burst else Playout.REALTIME,
            answer_timeout=answer_timeout,
            linger=linger,
            listen_first=listen_first,
        )
        resolver: Resolver | None = None
        async with AsyncExitStack() as stack:
            if address:
                secret = ticket or _read(ticket_file, "--ticket-file")
                pem = _read(ca, "--ca")
                target = resolve_address(
                    address, secret, ca_pem=pem, tls_server_name=tls_name, insecure=insecure
                )
            elif file is not None:
                service = Service(server, token_file, server_ca, server_name, insecure, kubeconfig, context)
                with output.step("make the session"):
                    target, resolver = await stack.enter_async_context(
                        called_session(service, file, namespace, wait=wait, insecure=insecure)
                    )
            else:
                target = await _find(output, session, namespace, kubeconfig, context, wait, insecure)
                if forward:
                    # Only this worker is reached: nobody is asked for another one.
                    target = await _forwarded(stack, output, target, worker_namespace, kubeconfig, context)
                else:
                    resolver = KubernetesResolver(session, namespace, kubeconfig, context)
            output.heading(f"Calling {target.session or target.address}")
            try:
                outcome = await hold(target, audio, out, output, options, resolver=resolver)
            except ConnectError as error:
                if address or forward or isinstance(error, TlsError):
                    raise
                raise ConnectError(f"{error}; try --port-forward") from error
        return report(output, outcome)

    execute(output, work)


def events(
    session: Annotated[str, typer.Argument(help="Name of the VoiceSession.")],
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the first event, not with the next.")
    ] = False,
    nats: Annotated[
        str, typer.Option(help="NATS server.", envvar="PARLEY_NATS_URL", show_envvar=True)
    ] = "nats://127.0.0.1:4222",
    uid: Annotated[str, typer.Option(help="Uid of the session, when no cluster can be asked for it.")] = "",
    follow: Annotated[bool, typer.Option(help="Wait for more until the session has ended.")] = True,
    forward: Annotated[
        str,
        typer.Option("--port-forward", help="Reach NATS through the API server, such as svc/parley-nats."),
    ] = "",
    nats_namespace: Annotated[str, typer.Option(help="Namespace of NATS for --port-forward.")] = "",
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a session's events from NATS, in order; ends with the session."""
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        space, key = namespace or "default", uid
        if not key:
            info = await get_session(session, namespace=namespace, kubeconfig=kubeconfig, context=context)
            space, key = info.namespace, info.uid
        count = 0
        async with AsyncExitStack() as stack:
            url = nats
            if forward:
                where = port_forward(
                    forward, 4222, namespace=nats_namespace or space, kubeconfig=kubeconfig, context=context
                )
                url = f"nats://{await stack.enter_async_context(where)}"
            reader = session_events.read_events(url, space, key, from_start=from_start, follow=follow)
            async for event in reader:
                output.session_event(event)
                count += 1
        if not count and from_start:
            raise SessionNotFound(f"no events of session {session} ({key}) in {session_events.STREAM}")
        return Exit.OK

    execute(output, work)


def report(output: Output, outcome: Outcome) -> Exit:
    """Print what came of a call; return the exit code for it."""
    stats = outcome.call.stats
    reason = outcome.ended.reason if outcome.ended else ""
    facts = {
        "end_reason": reason,
        "message": outcome.ended.message if outcome.ended else "",
        "answered": outcome.answered,
        "seconds": round(outcome.seconds, 3),
        "recording": str(outcome.recording),
        "frames_sent": stats.frames_sent,
        "frames_received": stats.frames_received,
        "resumes": stats.resumes,
        "session_uid": outcome.call.started.session_uid if outcome.call.started else "",
    }
    good = reason in GOOD_ENDS
    answered = "the agent answered" if outcome.answered else "no answer came"
    words = f"{answered}; {reason or 'the end was not confirmed'}; recorded in {outcome.recording}"
    if outcome.ended and outcome.ended.message and not good:
        words += f" ({outcome.ended.message})"
    output.result(words, good=good, **facts)
    return Exit.OK if good else Exit.FAILED


async def _find(
    output: Output,
    session: str,
    namespace: str | None,
    kubeconfig: Path | None,
    context: str | None,
    wait: float,
    insecure: bool,
) -> Target:
    if not session:
        raise UsageError("name a VoiceSession, or give --address and a ticket")
    with output.step(f"look for VoiceSession {session}"):
        return await resolve_cluster(
            session,
            namespace=namespace,
            kubeconfig=kubeconfig,
            context=context,
            wait=wait,
            insecure=insecure,
        )


async def _forwarded(
    stack: AsyncExitStack,
    output: Output,
    target: Target,
    worker_namespace: str,
    kubeconfig: Path | None,
    context: str | None,
) -> Target:
    if not target.worker:
        raise UsageError("the session's status names no worker to forward to")
    with output.step(f"forward a port to pod {target.worker}"):
        where = worker_namespace or await pod_namespace(
            target.worker, target.namespace, kubeconfig=kubeconfig, context=context
        )
        local = await stack.enter_async_context(
            port_forward(
                f"pod/{target.worker}",
                target.port,
                namespace=where,
                kubeconfig=kubeconfig,
                context=context,
            )
        )
    return target.moved_to(local)


def _read(path: Path | None, option: str) -> str:
    if path is None:
        return ""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{option} {path}: {why}") from error
