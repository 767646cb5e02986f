"""What callers of the session service ask for, checked, and the VoiceSession that comes of it.

A request that is repeated finds its own work by the object alone: name and annotation are made of the caller,
the `request_id` and a key that only the operator has, so that nobody can make an object that passes for
another's.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, cast

from parley_operator.api.constants import API_VERSION, GROUP, SESSION, Body
from parley_operator.api.v1alpha1 import map_at, text_at

from .faults import Fault, FaultCode, invalid

ANNOTATION_CREATED_BY: Final = f"{GROUP}/created-by"
ANNOTATION_REQUEST: Final = f"{GROUP}/request"
MAX_SPEC_BYTES: Final = 256 * 1024
MAX_LABELS: Final = 64
MAX_WAIT: Final = 60.0
DEFAULT_WAIT: Final = 10.0
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000
# The Secret `<name>-ticket` must have a valid name too.
MAX_NAME: Final = 246
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the API server knows them."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class CreateSession:
    """A checked request. `wait` is seconds; `ready` waits for the provider too."""

    namespace: str
    spec: Mapping[str, object]
    request_id: str = ""
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    wait: float = DEFAULT_WAIT
    ready: bool = False

    @property
    def fingerprint(self) -> str:
        """Two requests of one fingerprint ask for the same session."""
        text = json.dumps([self.spec, dict(self.labels)], sort_keys=True, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:32]


def check_create(
    namespace: str,
    name: str,
    request_id: str,
    spec_json: str,
    labels: Mapping[str, str],
    wait: float,
    ready: bool,
) -> CreateSession:
    """Raises `Fault` naming the field. What the definition of the VoiceSession says is the API server's to
    judge."""
    check_namespace(namespace)
    if name:
        check_name(name)
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise invalid(
            "request_id", f"{request_id[:40]!r}: give 1 to 128 visible ASCII characters, such as a UUID"
        )
    check_labels(labels)
    if wait > MAX_WAIT or wait < 0:
        raise invalid("wait", f"{wait:g} s: give 0 to {MAX_WAIT:g} seconds")
    return CreateSession(namespace, _read_spec(spec_json), request_id, name, dict(labels), wait, ready)


def check_namespace(namespace: str, *, may_be_empty: bool = False) -> None:
    if may_be_empty and not namespace:
        return
    if not _NAMESPACE.fullmatch(namespace):
        raise invalid(
            "namespace", f"{namespace[:80]!r} is no name of a namespace; give the one of the VoiceSession"
        )


def check_name(name: str) -> None:
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise invalid(
            "name",
            f"{name[:80]!r}: give at most {MAX_NAME} lower case letters, digits, "
            "- and ., a letter or digit at both ends",
        )


def check_labels(labels: Mapping[str, str], field: str = "labels", *, own: bool = True) -> None:
    """`own`: they are to be written on an object, where those of the group are the operator's."""
    if len(labels) > MAX_LABELS:
        raise invalid(field, f"{len(labels)} labels: at most {MAX_LABELS} are taken")
    for key, value in labels.items():
        prefix, _, name = key.rpartition("/")
        if own and (prefix == GROUP or prefix.endswith(f".{GROUP}")):
            raise invalid(
                f"{field}[{key[:80]}]", f"labels of {GROUP}/ are the operator's own; take another prefix"
            )
        if not _LABEL_NAME.fullmatch(name) or (prefix and (len(prefix) > 253 or not _NAME.fullmatch(prefix))):
            raise invalid(
                f"{field}[{key[:80]}]", "is no name of a label: [prefix/]name, name of 1 to 63 characters"
            )
        if not _LABEL_VALUE.fullmatch(value):
            raise invalid(f"{field}[{key}]", f"{value[:80]!r}: give at most 63 letters, digits, -, _ and .")


def _read_spec(spec_json: str) -> Mapping[str, object]:
    size = len(spec_json.encode(errors="replace"))
    if size > MAX_SPEC_BYTES:
        raise invalid("spec_json", f"is {size} bytes long; at most {MAX_SPEC_BYTES} are taken")
    try:
        found = json.loads(spec_json)
    except (ValueError, RecursionError) as error:
        where = (
            f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise invalid(
            "spec_json", f"is no JSON{where}; give the spec of a VoiceSession as a JSON object"
        ) from None
    if not isinstance(found, dict):
        raise invalid(
            "spec_json", f"is a JSON {type(found).__name__}; give the spec of a VoiceSession as an object"
        )
    return cast("Mapping[str, object]", found)


# -- idempotence


def _mac(key: bytes, *parts: str) -> bytes:
    # Lengths keep parts apart: ("ab", "c") is not ("a", "bc").
    text = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(key, text, sha256).digest()


def derived_name(key: bytes, caller: Caller, request: CreateSession) -> str:
    """The name of the VoiceSession of a request: the same one for the same caller, namespace and
    request_id."""
    if request.name:
        return request.name
    mac = _mac(key, "name", caller.username, caller.uid, request.namespace, request.request_id)
    return "call-" + b32encode(mac[:15]).decode().lower()


def request_stamp(key: bytes, caller: Caller, request: CreateSession, name: str) -> str:
    """What marks an object as the work of this request."""
    mac = _mac(key, "request", caller.username, caller.uid, request.namespace, name, request.request_id)
    return f"{mac.hex()[:40]}.{request.fingerprint}"


def check_repeated(stamp: str, request: CreateSession, body: Mapping[str, object]) -> None:
    """Whether the object that has the name already is the work of this very request; else raises `Fault`."""
    name = text_at(body, "metadata", "name")
    present = text_at(body, "metadata", "annotations", ANNOTATION_REQUEST)
    ours, _, print_now = stamp.partition(".")
    theirs, _, print_then = present.partition(".")
    if not request.request_id or not hmac.compare_digest(ours.encode(), theirs.encode(errors="replace")):
        raise Fault(
            FaultCode.EXISTS,
            "name-taken",
            f"name: VoiceSession {name!r} exists and is not of this request; "
            "take another name or leave it out",
            "name",
        )
    if print_now != print_then:
        raise Fault(
            FaultCode.EXISTS,
            "request-id-reused",
            "request_id: a session with another spec or other labels was made with it; take a new one",
            "request_id",
        )


def session_body(request: CreateSession, caller: Caller, name: str, stamp: str) -> Body:
    """The VoiceSession to be written."""
    annotations = {ANNOTATION_CREATED_BY: caller.username}
    if request.request_id:
        annotations[ANNOTATION_REQUEST] = stamp
    metadata: Body = {"name": name, "namespace": request.namespace, "annotations": annotations}
    if request.labels:
        metadata["labels"] = dict(request.labels)
    return {"apiVersion": API_VERSION, "kind": SESSION, "metadata": metadata, "spec": dict(request.spec)}


def fits_labels(body: Mapping[str, object], wanted: Mapping[str, str]) -> bool:
    """Whether the object carries all these labels."""
    if not wanted:
        return True
    labels = map_at(body, "metadata", "labels")
    return all(labels.get(key) == value for key, value in wanted.items())
