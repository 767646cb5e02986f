"""`python -m parley_local`: every option has an environment variable `PARLEY_LOCAL_<OPTION>`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .config import DETECTORS, RECOGNIZERS, VOICES, ConfigError, LocalProviderConfig
from .server import run
from .speech.interfaces import SpeechError


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parley-local",
        description="A small OpenAI-Realtime-compatible server with offline speech.",
        epilog="Each option can be given as PARLEY_LOCAL_<OPTION>, e.g. PARLEY_LOCAL_API_KEY.",
    )
    defaults = LocalProviderConfig()

    def add(name: str, default: object, text: str, **kwargs: object) -> None:
        variable = "PARLEY_LOCAL_" + name.upper().replace("-", "_")
        parser.add_argument(f"--{name}", default=env.get(variable, default), help=text, **kwargs)  # type: ignore[arg-type]

    add("host", defaults.host, "address to listen on (default %(default)s)")
    add("port", defaults.port, "port to listen on, 0 for a free one (default %(default)s)", type=int)
    add("voice", "flite", "text to speech (default %(default)s)", choices=VOICES)
    add("recognizer", "whisper", "speech to text (default %(default)s)", choices=RECOGNIZERS)
    add("vad", "silero", "voice activity detection (default %(default)s)", choices=DETECTORS)
    add("brain", defaults.brain, "echo, script:FILE, chat or module:Class (default %(default)s)")
    add("chat-url", "", "address of the brain 'chat', up to and without /chat/completions", metavar="URL")
    add("chat-model", defaults.chat_model, "model the brain 'chat' asks for (default %(default)s)")
    add("chat-key", "", "its API key (prefer the variable: arguments are visible)", metavar="KEY")
    add(
        "chat-timeout",
        defaults.chat_timeout_s,
        "longest wait for one answer of it in seconds (default %(default)s)",
        type=float,
    )
    add(
        "api-key",
        "",
        "accepted API keys; none: every caller is accepted (prefer the variable)",
        metavar="KEY[,KEY]",
    )
    add("models", "", "accepted model names; none: every name", metavar="NAME[,NAME]")
    add("tls-cert", "", "certificate chain, PEM", metavar="FILE")
    add("tls-key", "", "private key, PEM", metavar="FILE")
    add("max-session", defaults.max_session_s, "longest session in seconds (default %(default)s)", type=float)
    add(
        "audio-speed",
        defaults.audio_speed,
        "answers' pace over real time, 0: at once (default %(default)s)",
        type=float,
    )
    add("max-connections", defaults.max_connections, "most clients at once (default %(default)s)", type=int)
    add("threads", defaults.threads, "threads for recognition (default %(default)s)", type=int)
    refuse = env.get("PARLEY_LOCAL_REFUSE_BETA", "").lower() in ("1", "true", "yes")
    parser.add_argument(
        "--refuse-beta", action="store_true", default=refuse, help="refuse the beta protocol as OpenAI does"
    )
    return parser


def configure(arguments: Sequence[str], env: Mapping[str, str]) -> LocalProviderConfig:
    """Options over environment over defaults. Raises ConfigError; ends the process on wrong options."""
    options = _parser(env).parse_args(arguments)

    def names(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    return LocalProviderConfig(
        host=options.host,
        port=options.port,
        voice=options.voice,
        recognizer=options.recognizer,
        detector=options.vad,
        brain=options.brain,
        chat_url=options.chat_url,
        chat_model=options.chat_model,
        chat_key=options.chat_key,
        chat_timeout_s=options.chat_timeout,
        api_keys=names(options.api_key),
        models=names(options.models),
        refuse_beta=options.refuse_beta,
        tls_cert=Path(options.tls_cert) if options.tls_cert else None,
        tls_key=Path(options.tls_key) if options.tls_key else None,
        max_session_s=options.max_session,
        audio_speed=options.audio_speed,
        max_connections=options.max_connections,
        threads=options.threads,
    )


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(configure(sys.argv[1:], os.environ)))
    except (ConfigError, SpeechError) as error:
        sys.exit(f"parley-local: {error}")
    except OSError as error:
        sys.exit(f"parley-local: cannot listen: {error}")


if __name__ == "__main__":
    main()
