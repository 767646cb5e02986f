"""One API server for the module's tests, with the chart's CRDs in it."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver import CRDS, TOKEN, ApiServer, missing_binaries, run_apiserver

Call = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    missing = missing_binaries()
    if missing:
        words = f"{', '.join(missing)} not found; `make cluster-up` builds them"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    with run_apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        call = caller(server)
        for path in sorted(CRDS.glob("*.yaml")):
            crd = yaml.safe_load(path.read_text())
            code, answer = call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
            assert code == 201, answer
        deadline = time.monotonic() + 60
        while call("GET", "/apis/parley.dev/v1alpha1/namespaces/default/voicesessions")[0] != 200:
            assert time.monotonic() < deadline, "the CRDs are not served"
            time.sleep(0.2)
        for plural in ("voiceagents", "voiceworkerpools"):
            while call("GET", f"/apis/parley.dev/v1alpha1/{plural}")[0] != 200:
                assert time.monotonic() < deadline, "the CRDs are not served"
                time.sleep(0.2)
        yield server


def caller(server: ApiServer) -> Call:
    """A plain HTTP client: (verb, path, body) -> (code, answer)."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def call(verb: str, path: str, body: Any = None, media: str = "application/json") -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": media}
        request = urllib.request.Request(server.url + path, data, headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    return call


@pytest.fixture
def call(apiserver: ApiServer) -> Call:
    return caller(apiserver)


@pytest.fixture
def examples() -> Path:
    return CRDS.parents[3] / "examples"
