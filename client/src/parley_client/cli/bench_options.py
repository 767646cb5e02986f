"""Options that the commands of `parley bench` share, added to each command's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from parley_client.bench.given import Given
from parley_client.bench.runner import Options

SHARED: Final[dict[str, tuple[Any, Any]]] = {
    "scenario": (
        Annotated[Path | None, typer.Option(help="YAML with what differs from the built-in scenario.")],
        None,
    ),
    "slo": (
        Annotated[Path | None, typer.Option(help="YAML with thresholds: added_p99_ms, underruns, drops.")],
        None,
    ),
    "quick": (Annotated[bool, typer.Option("--quick", help="Fewer, shorter windows: a look.")], False),
    "transport": (
        Annotated[str, typer.Option(help="converse, conversemany or twilio; several with commas.")],
        "converse",
    ),
    "tls": (
        Annotated[bool | None, typer.Option("--tls/--no-tls", help="TLS on both sides, or on neither.")],
        None,
    ),
    "out": (Annotated[Path, typer.Option(help="Folder for NAME.json and plots.")], Path("build/bench")),
    "loadgen": (
        Annotated[
            Path | None, typer.Option(help="The load program; build/bin or PATH is searched when not given.")
        ],
        None,
    ),
    "keep": (Annotated[bool, typer.Option("--keep", help="Keep the folder with state and logs.")], False),
}
ELSEWHERE: Final[dict[str, tuple[Any, Any]]] = {
    "worker": (
        Annotated[str, typer.Option(help="host:port of the control service of a worker that runs already.")],
        "",
    ),
    "worker_tls": (
        Annotated[
            Path | None, typer.Option(help="Folder with ca.crt, tls.crt, tls.key of a client that it trusts.")
        ],
        None,
    ),
    "worker_tls_name": (
        Annotated[str, typer.Option(help="Name in the certificate of its control service.")],
        "",
    ),
    "worker_admin": (Annotated[str, typer.Option(help="host:port of its metrics, for CPU time.")], ""),
    "media_ca": (
        Annotated[Path | None, typer.Option(help="Authority of its media certificate, where it is another.")],
        None,
    ),
    "session": (
        Annotated[Path | None, typer.Option(help="YAML with a VoiceSession that a cluster gets copies of.")],
        None,
    ),
    "kubeconfig": (
        Annotated[Path | None, typer.Option(help="Of the cluster; KUBECONFIG when not given.")],
        None,
    ),
    "context": (Annotated[str | None, typer.Option(help="Context of the kubeconfig.")], None),
    "provider_listen": (
        Annotated[str, typer.Option(help="host:port where the provider half listens.")],
        "127.0.0.1:0",
    ),
    "provider_url": (
        Annotated[str, typer.Option(help="ws:// or wss:// URL at which workers reach it.")],
        "",
    ),
}


def words(text: str) -> tuple[str, ...]:
    """What stands between commas, once each."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def shared(
    *, both: bool = False, elsewhere: bool = True, transport: str = "converse"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `options: Options` from the shared options, which stand before its own.

    Args:
        both: without --tls or --no-tls, both are run.
        elsewhere: True where a worker that runs already may be measured.
        transport: the default.
    """
    more = {**SHARED, **(ELSEWHERE if elsewhere else {})}
    more["transport"] = (SHARED["transport"][0], transport)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"
        ]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in more.items()
        ]

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            taken = {name: given.pop(name) for name in more}
            command(options=_options(taken, both=both), **given)

        parameters = [*added, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
        wrapped.__dict__["__signature__"] = inspect.Signature(parameters)
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        del wrapped.__dict__["__wrapped__"]
        return wrapped

    return decorate


def _options(taken: dict[str, Any], *, both: bool) -> Options:
    chosen = taken["tls"]
    given = Given(
        control=taken.get("worker", ""),
        tls=taken.get("worker_tls"),
        tls_name=taken.get("worker_tls_name", ""),
        media_ca=taken.get("media_ca"),
        admin=taken.get("worker_admin", ""),
        session=taken.get("session"),
        kubeconfig=taken.get("kubeconfig"),
        context=taken.get("context"),
        provider_listen=taken.get("provider_listen", "127.0.0.1:0"),
        provider_url=taken.get("provider_url", ""),
    )
    return Options(
        scenario=taken["scenario"],
        slo=taken["slo"],
        quick=taken["quick"],
        out=taken["out"],
        loadgen=taken["loadgen"],
        transports=words(taken["transport"]),
        tls=((True, False) if both else (True,)) if chosen is None else (chosen,),
        keep=taken["keep"],
        given=given,
    )
