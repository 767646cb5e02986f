"""The WebSocket address of a provider."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from parley_realtime.protocol.shape import ClientType

DEFAULT_BASE_URL = "https://api.openai.com/"
_SCHEMES = {"https": "wss", "http": "ws", "wss": "wss", "ws": "ws"}
_MODEL_NAMED_BY = frozenset({"model", "deployment", "call_id", "intent"})


def realtime_url(base_url: str, model: str, kind: ClientType) -> str:
    """`<base>/v1/realtime?model=<model>`, or `?intent=transcription`; ValueError names what is wrong.

    A path that ends in `/realtime` is taken as it is, one that ends in `/v1` gets `/realtime`. A query that
    names the model already (`model`, `deployment`, `call_id` or `intent`) is left alone.
    """
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"base_url is not a URL: {exc}") from exc
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None:
        raise ValueError(f"base_url must start with https://, http://, wss:// or ws://, got {parts.scheme!r}")
    if not parts.hostname:
        raise ValueError("base_url names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not hold credentials: give api_key or headers")
    if parts.fragment:
        raise ValueError("base_url must not have a #fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port is None else f"{host}:{port}"
    query = parts.query
    if not _MODEL_NAMED_BY & {name for name, _ in parse_qsl(query, keep_blank_values=True)}:
        named = (
            "intent=transcription" if kind is ClientType.TRANSCRIPTION else f"model={quote(model, safe='')}"
        )
        query = f"{query}&{named}" if query else named
    return urlunsplit((scheme, netloc, _path(parts.path), query, ""))


def _path(path: str) -> str:
    trimmed = path.rstrip("/")
    if trimmed.endswith("/realtime"):
        return trimmed
    if trimmed.endswith("/v1"):
        return f"{trimmed}/realtime"
    return f"{trimmed}/v1/realtime"
