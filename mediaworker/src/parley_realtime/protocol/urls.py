"""The WebSocket address of a provider, by flavour, and how the flavour takes the key."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit, urlunsplit

from parley_realtime.protocol.shape import ClientType

DEFAULT_BASE_URL = "https://api.openai.com/"
DEFAULT_PREVIEW_VERSION = "2025-04-01-preview"
_SCHEMES = {"https": "wss", "http": "ws", "wss": "wss", "ws": "ws"}
_MODEL_NAMED_BY = frozenset({"model", "deployment", "call_id", "intent"})
_AZURE_HOSTS = (".openai.azure.com", ".openai.azure.us", ".cognitiveservices.azure.com", ".ai.azure.com")


class ProviderFlavour(StrEnum):
    """Whose addresses and headers are used.

    OPENAI: `<base_url>/v1/realtime`, the key as `Authorization: Bearer`; most servers of others speak so too.
    AZURE: GA `<base_url>/openai/v1/realtime?model=<deployment>`; beta the preview address
    `<base_url>/openai/realtime?api-version=...&deployment=...`; the key as `api-key`.
    CUSTOM: `base_url` as it is.
    """

    OPENAI = "openai"
    AZURE = "azure"
    CUSTOM = "custom"


class Authentication(StrEnum):
    """How `api_key` is shown to the provider."""

    BEARER = "bearer"
    """`Authorization: Bearer <api_key>`"""
    API_KEY = "api-key"
    """`api-key: <api_key>`"""


def flavour_of(base_url: str) -> ProviderFlavour:
    """AZURE for a host of Azure, else OPENAI."""
    host = _split(base_url).hostname or ""
    return ProviderFlavour.AZURE if host.endswith(_AZURE_HOSTS) else ProviderFlavour.OPENAI


def authentication_of(flavour: ProviderFlavour, api_key: str) -> Authentication:
    """What the flavour expects. Azure takes keys as `api-key` and Entra tokens (JWTs) as bearer."""
    is_jwt = api_key.startswith("eyJ") and api_key.count(".") == 2
    azure_key = flavour is ProviderFlavour.AZURE and not is_jwt
    return Authentication.API_KEY if azure_key else Authentication.BEARER


def realtime_url(base_url: str, model: str, kind: ClientType) -> str:
    """`<base>/v1/realtime?model=<model>`, or `?intent=transcription`; ValueError names what is wrong.

    A path that ends in `/realtime` is taken as it is, one that ends in `/v1` gets `/realtime`. A query that
    names the model already (`model`, `deployment`, `call_id` or `intent`) is left alone.
    """
    parts = _split(base_url)
    return _joined(parts, _openai_path(parts.path), _with(parts.query, _named(model, kind)))


def custom_url(base_url: str, model: str | None, kind: ClientType) -> str:
    """The address as it is; a `model` that was given, or the intent to transcribe, is added to the query."""
    parts = _split(base_url)
    wanted = _named(model or "", kind) if model or kind is ClientType.TRANSCRIPTION else ""
    return _joined(parts, parts.path or "/", _with(parts.query, wanted))


def azure_url(
    base_url: str, deployment: str | None, kind: ClientType, *, beta: bool, api_version: str | None
) -> str:
    """The GA address, or the preview's when `beta`; ValueError names what does not go together."""
    parts = _split(base_url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if beta:
        return _azure_preview(parts, given, deployment, kind, api_version)
    if api_version is not None or "api-version" in given:
        raise ValueError(
            "api_version: the GA address of Azure has none (it answers 401): leave it out, or use the beta "
            "client for the preview"
        )
    if "deployment" in given:
        raise ValueError("base_url: the GA address of Azure names the deployment as model: give deployment")
    path = _azure_path(parts.path, "/openai/v1", "the GA client", "the beta client")
    if kind is ClientType.TRANSCRIPTION:
        return _joined(parts, path, _with(parts.query, "intent=transcription"))
    if "model" not in given and not deployment:
        raise ValueError("deployment: name the Azure deployment of the model")
    return _joined(parts, path, _with(parts.query, f"model={quote(deployment or '', safe='')}"))


def _azure_preview(
    parts: SplitResult,
    given: dict[str, str],
    deployment: str | None,
    kind: ClientType,
    api_version: str | None,
) -> str:
    if api_version is not None and given.get("api-version", api_version) != api_version:
        raise ValueError(
            f"api_version: base_url says {given['api-version']!r} and api_version {api_version!r}: keep one"
        )
    query = parts.query
    if "api-version" not in given:
        query = _and(query, f"api-version={quote(api_version or DEFAULT_PREVIEW_VERSION, safe='')}")
    if "deployment" not in given:
        if not deployment:
            raise ValueError("deployment: name the Azure deployment of the model")
        query = _and(query, f"deployment={quote(deployment, safe='')}")
    if kind is ClientType.TRANSCRIPTION and "intent" not in given:
        query = _and(query, "intent=transcription")
    return _joined(parts, _azure_path(parts.path, "/openai", "the beta client", "the GA client"), query)


def _azure_path(path: str, root: str, this: str, other: str) -> str:
    trimmed = path.rstrip("/")
    if trimmed in ("", "/openai", root, f"{root}/realtime"):
        return f"{root}/realtime"
    raise ValueError(
        f"base_url: the path {path!r} is not Azure's for {this} ({root}/realtime): leave the path out, use "
        f"{other}, or take the flavour custom"
    )


def _split(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url.strip())
        _ = parts.port
    except ValueError as exc:
        raise ValueError(f"base_url is not a URL: {exc}") from exc
    if parts.scheme.lower() not in _SCHEMES:
        raise ValueError(f"base_url must start with https://, http://, wss:// or ws://, got {parts.scheme!r}")
    if not parts.hostname:
        raise ValueError("base_url names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not hold credentials: give api_key or headers")
    if {"api-key", "api_key"} & {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}:
        raise ValueError("base_url must not hold a key: give api_key")
    if parts.fragment:
        raise ValueError("base_url must not have a #fragment")
    return parts


def _joined(parts: SplitResult, path: str, query: str) -> str:
    assert parts.hostname is not None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    return urlunsplit((_SCHEMES[parts.scheme.lower()], netloc, path, query, ""))


def _named(model: str, kind: ClientType) -> str:
    return "intent=transcription" if kind is ClientType.TRANSCRIPTION else f"model={quote(model, safe='')}"


def _with(query: str, wanted: str) -> str:
    """The query with what is wanted, unless it names a model already."""
    names = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    return query if not wanted or _MODEL_NAMED_BY & names else _and(query, wanted)


def _and(query: str, more: str) -> str:
    return f"{query}&{more}" if query else more


def _openai_path(path: str) -> str:
    trimmed = path.rstrip("/")
    if trimmed.endswith("/realtime"):
        return trimmed
    if trimmed.endswith("/v1"):
        return f"{trimmed}/realtime"
    return f"{trimmed}/v1/realtime"
