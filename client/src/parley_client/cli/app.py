"""The command's entry: what is local. `cluster` adds the commands that speak to a cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from parley_client import __version__
from parley_client.audio import read_wav
from parley_client.errors import MissingProgram, UsageError
from parley_client.formats import AudioFormat

from . import bench, cluster
from .console import Output, make_output
from .exits import GOOD_ENDS, Exit, exit_of, table
from .run import execute

EXAMPLES: Final = """
[bold]Examples[/]

  parley demo

  parley run -f examples/receptionist.yaml --audio question.wav --out answer.wav

  kubectl apply -f examples/receptionist.yaml && parley call first-call --audio question.wav --out answer.wav
"""

app = typer.Typer(
    name="parley",
    help="Talk to voice agents: on this machine alone, or on a Kubernetes cluster that runs Parley.",
    epilog=EXAMPLES + "\n\n" + table(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
provider_app = typer.Typer(
    help="The local provider: an offline speech-to-speech service.", no_args_is_help=True
)
app.add_typer(provider_app, name="provider")
app.add_typer(bench.bench_app, name="bench")
cluster.register(app)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
KeepOption = Annotated[bool, typer.Option("--keep", help="Keep the run directory with logs and objects.")]
DirectoryOption = Annotated[
    Path | None, typer.Option("--run-dir", help="Keep state there instead of in a temporary folder.")
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format", help="Audio of the call: pcm16@ or opus@8000/16000/24000/48000, g711_ulaw, g711_alaw."
    ),
]


@app.command(
    epilog="[bold]Example[/]\n\n  parley demo --out ./parley-demo\n\n"
    "Needs nats-server and flite; what is missing is named with the command that installs it."
)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for question.wav and answer.wav.")] = Path("parley-demo"),
    format: FormatOption = "pcm16@24000",
    keep: KeepOption = False,
    run_dir: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hear an agent answer a spoken question, on this machine alone.

    Starts nats-server, the local provider, a media worker and the control plane; applies the example session;
    speaks six random digits to the agent; ends well only when they come back in the answer's audio.
    """
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        from parley_client.embedded.programs import check_packages

        check_packages()
        from parley_client.embedded.demo import run_demo
        from parley_client.embedded.stack import EmbeddedStack, StackOptions

        audio = AudioFormat.parse(format)
        options = StackOptions(local_provider="always", keep=keep, run_directory=run_dir)
        output.heading("Parley, the whole path on this machine")
        async with EmbeddedStack(options, output.step) as stack:
            result = await run_demo(stack, out, output, format=audio)
            if keep or run_dir:
                output.note(f"state and logs: {stack.run_directory}")
        reason = result.run.outcome.ended.reason if result.run.outcome.ended else "unknown"
        facts = {
            "code": result.code,
            "digits": result.digits,
            "heard": result.heard,
            "answer": str(result.run.outcome.recording),
            "end_reason": reason,
        }
        output.note(f"recognised in {result.run.outcome.recording}: {result.heard!r}")
        if result.passed and reason in GOOD_ENDS:
            output.result(
                f"The agent said {' '.join(result.code)}: the code was spoken in and came back.",
                good=True,
                **facts,
            )
            return Exit.OK
        output.result(
            f"The code {result.code} did not come back: {result.digits or 'no digits'} heard,"
            f" the session ended with {reason}.",
            good=False,
            **facts,
        )
        return Exit.FAILED

    execute(output, work)


@app.command(
    epilog="[bold]Examples[/]\n\n  parley run -f session.yaml --audio question.wav --out answer.wav\n\n"
    "  OPENAI_API_KEY=... parley run -f openai.yaml --audio question.wav --out answer.wav\n\n"
    "  parley run -f session.yaml      (others call: programs by gRPC, telephony by its stream)\n\n"
    "A Secret in the file may say stringData: {apiKey: $(OPENAI_API_KEY)}: the variable's value is put in."
)
def run(
    file: Annotated[
        Path, typer.Option("-f", "--file", help="YAML with a VoiceSession and what it refers to.")
    ],
    audio: Annotated[Path | None, typer.Option(help="WAV to speak, any rate. None: others call.")] = None,
    out: Annotated[Path | None, typer.Option(help="WAV to record the answer in.")] = None,
    session: Annotated[str, typer.Option(help="Which VoiceSession, when the file has several.")] = "",
    local_provider: Annotated[
        str,
        typer.Option(
            help="auto: where a loopback URL is in the file and nobody listens there; always; never."
        ),
    ] = "auto",
    brain: Annotated[
        str, typer.Option(help="Of the local provider: echo, script:FILE, chat or module:Class.")
    ] = "echo",
    format: FormatOption = "pcm16@24000",
    answer_timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 30.0,
    linger: Annotated[float, typer.Option(help="Seconds of silence before hanging up.", min=0)] = 1.5,
    listen_first: Annotated[
        bool, typer.Option("--listen-first", help="Speak when the agent's greeting was heard.")
    ] = False,
    volumes: Annotated[
        Path | None,
        typer.Option(help="Folder below which volumes stand: /recordings is DIR/recordings. Default: here."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Host that scenarios may play from and call, beside this machine's; repeatable."),
    ] = None,
    nats_port: Annotated[
        int, typer.Option(help="Port of NATS on 127.0.0.1, for tools; 0: any free one.", min=0, max=65535)
    ] = 0,
    scenario_path: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with modules of scenarios, beside the file's and this one; repeatable."),
    ] = None,
    keep: KeepOption = False,
    run_dir: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run your session from a YAML file on this machine, without a cluster.

    The words and files are those of a cluster. Where the provider's URL is on loopback and nobody listens
    there, the local provider is started and answers in its place. Without --audio the session waits for
    callers and telephony streams from outside, until it has ended.
    """
    output = make_output(as_json=as_json)

    async def work() -> Exit:
        from parley_client.conversation import ConversationOptions
        from parley_client.embedded.programs import check_packages

        check_packages()
        from parley_client.embedded.demo import run_session
        from parley_client.embedded.manifests import read_manifests
        from parley_client.embedded.serve import serve_session
        from parley_client.embedded.stack import EmbeddedStack, StackOptions

        if local_provider not in ("auto", "always", "never"):
            raise UsageError(f"--local-provider {local_provider!r}: auto, always or never")
        if (audio is None) != (out is None):
            raise UsageError("--audio and --out belong together: give both, or none to let others call")
        manifests = read_manifests(file, session)
        if audio is not None:
            await asyncio.to_thread(read_wav, audio, 8000)  # refused before anything is started
        conversation = ConversationOptions(
            format=AudioFormat.parse(format),
            answer_timeout=answer_timeout,
            linger=linger,
            listen_first=listen_first,
        )
        options = StackOptions(
            local_provider=local_provider,
            brain=brain,
            keep=keep,
            run_directory=run_dir,
            volumes=volumes,
            allowed_hosts=tuple(allow_host or ()),
            scenario_paths=(*(scenario_path or ()), file.parent),
            nats_port=nats_port,
        )
        async with EmbeddedStack(options, output.step) as stack:
            if audio is None or out is None:
                served = await serve_session(stack, manifests, output)
            else:
                result = await run_session(stack, manifests, audio, out, output, conversation)
            if keep or run_dir:
                output.note(f"state and logs: {stack.run_directory}")
        if audio is not None:
            return cluster.report(output, result.outcome)
        good = served.reason in GOOD_ENDS
        words = f"The session ended with {served.reason or 'no reason'}: {served.message}".rstrip(": ")
        output.result(words, good=good, end_reason=served.reason)
        return Exit.OK if good else Exit.FAILED

    execute(output, work)


@provider_app.command(
    "serve",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="[bold]Examples[/]\n\n  parley provider serve --port 8765\n\n"
    "  parley provider serve --brain script:dialogue.yaml --voice tones\n\n"
    "Prints one line of JSON when it listens. All options: python -m parley_local --help",
)
def provider_serve(context: typer.Context) -> None:
    """Serve the OpenAI-Realtime-compatible local provider until Ctrl-C; options go to it unchanged."""
    output = make_output(as_json=False)
    if "--voice" not in context.args and shutil.which("flite") is None:
        from parley_client.embedded.programs import REMEDIES

        missing = MissingProgram("flite", REMEDIES["flite"] + ", or give --voice tones")
        output.error(str(missing), exit_of(missing))
        raise typer.Exit(Exit.MISSING_PROGRAM)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "parley_local", *context.args])


@app.command()
def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    if as_json:
        make_output(as_json=True).result("parley", good=True, version=__version__)
    else:
        typer.echo(f"parley {__version__}")


def main() -> None:
    """Entry point of the `parley` command."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


__all__ = ["Output", "app", "main"]
