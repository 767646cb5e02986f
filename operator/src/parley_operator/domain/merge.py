"""Agent and session become what a worker runs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from parley_operator.api.conduct import RESUME
from parley_operator.api.v1alpha1 import AgentSpec, ProviderSpec, SessionSpec, check_provider

from .hosts import OPENAI_URL

DEFAULT_MODEL = "gpt-realtime"
# What is asked for where a conversation must be restorable and nobody said how it is to be transcribed.
DEFAULT_TRANSCRIPTION = "whisper-1"


def deep_merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """`over` wins; objects merge, lists and scalars replace, null removes."""
    merged = dict(base)
    for key, value in over.items():
        present = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = deep_merge(present if isinstance(present, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def merge_provider(agent: ProviderSpec, session: ProviderSpec) -> ProviderSpec:
    """The session's words win one by one; another type or URL drops the agent's credentials and account.

    Raises `FieldError` when the result is not complete.
    """
    moved = bool(session.url and session.url != agent.url) or bool(
        session.type and session.type != agent.type
    )
    kind = session.type or agent.type
    merged = ProviderSpec(
        type=kind,
        url=session.url or ("" if moved and kind == "openai" else agent.url),
        api_version=session.api_version or agent.api_version or "ga",
        model=session.model or agent.model or DEFAULT_MODEL,
        credentials=session.credentials or (None if moved else agent.credentials),
        organization=session.organization or ("" if moved else agent.organization),
        project=session.project or ("" if moved else agent.project),
        safety_identifier=session.safety_identifier or agent.safety_identifier,
    )
    check_provider(merged, "spec.provider")
    return merged


def provider_headers(provider: ProviderSpec) -> dict[str, str]:
    """Whom the provider bills and watches, by the names of its headers."""
    named = {
        "OpenAI-Organization": provider.organization,
        "OpenAI-Project": provider.project,
        "OpenAI-Safety-Identifier": provider.safety_identifier,
    }
    return {name: value for name, value in named.items() if value}


def provider_url(provider: ProviderSpec) -> str:
    return OPENAI_URL if provider.type == "openai" else provider.url


def session_object(agent: AgentSpec, session: SessionSpec, api_version: str) -> dict[str, object]:
    """The Realtime session object in the provider's protocol shape."""
    base: dict[str, object] = {}
    if agent.instructions:
        base["instructions"] = agent.instructions
    if agent.tools:
        base["tools"] = [dict(tool.definition) for tool in agent.tools]
    if api_version == "ga":
        base["type"] = "realtime"
        if agent.voice:
            base["audio"] = {"output": {"voice": agent.voice}}
    elif agent.voice:
        base["voice"] = agent.voice
    if session.recovery.policy == RESUME:
        # A conversation is restored from words: what the caller says must become some.
        words: dict[str, object] = {"model": DEFAULT_TRANSCRIPTION}
        heard: dict[str, object] = {"audio": {"input": {"transcription": words}}}
        base = deep_merge(base, heard if api_version == "ga" else {"input_audio_transcription": words})
    return deep_merge(deep_merge(base, agent.session), session.session)


def session_json(agent: AgentSpec, session: SessionSpec, api_version: str) -> str:
    return json.dumps(session_object(agent, session, api_version), separators=(",", ":"), ensure_ascii=False)
