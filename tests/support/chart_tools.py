"""helm and kubeconform for the tests of the chart, built or found, with schemas made on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "parley"
SUPPORT = Path(__file__).parent
CLUSTER = SUPPORT / "cluster"
SCHEMAS = SUPPORT / "chart" / "schemas"


@dataclass(frozen=True)
class Tools:
    """Where the programs are; `schemas` has Kubernetes' own schemas and those of the chart's kinds."""

    bin: Path
    schemas: Path

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Raises `CalledProcessError` with stderr when helm refuses."""
        return run([str(self.bin / "helm"), *arguments])

    def kubeconform(self, manifests: str) -> None:
        """Raises `CalledProcessError`, its stdout naming the object and the field, unless all are valid."""
        file = "{{.ResourceKind}}{{.KindSuffix}}.json"
        locations = [f"{self.schemas}/{file}", f"{SCHEMAS}/{file}"]
        arguments = [part for place in locations for part in ("-schema-location", place)]
        run([str(self.bin / "kubeconform"), "-strict", "-summary", *arguments, "-"], stdin=manifests)


def run(command: list[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=600)
    except subprocess.CalledProcessError as error:
        error.add_note(f"{error.stdout}\n{error.stderr}")
        raise


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def find_tools() -> Tools:
    """Build what is missing and make the schemas. Quick when all is there."""
    build = str(CLUSTER / "build.sh")
    subprocess.run([build, "helm", "kubeconform"], check=True, timeout=800)
    binaries = Path(run([build, "--bin"]).stdout.strip())
    version = kubernetes_version()
    schemas = Path(os.environ.get("PARLEY_CACHE", Path.home() / ".cache" / "parley")) / "schemas" / version
    if not (schemas / "pod-v1.json").exists():
        make_schemas("kubernetes", kubernetes_openapi(version), schemas)
    rendered = run([str(binaries / "helm"), "template", "crds", str(CHART)]).stdout
    definitions = ROOT / "build" / "chart"
    definitions.mkdir(parents=True, exist_ok=True)
    (definitions / "rendered.yaml").write_text(rendered)
    make_schemas("crds", definitions / "rendered.yaml", schemas)
    return Tools(binaries, schemas)


def make_schemas(kind: str, source: Path, target: Path) -> None:
    run([sys.executable, str(SUPPORT / "chart" / "schemas.py"), kind, str(source), str(target)])


def kubernetes_version() -> str:
    """The version that the test cluster is built from."""
    for line in (CLUSTER / "build.sh").read_text().splitlines():
        if line.startswith("KUBERNETES="):
            return line.split()[0].removeprefix("KUBERNETES=")
    raise LookupError("build.sh names no KUBERNETES version")


def kubernetes_openapi(version: str) -> Path:
    """The API server's OpenAPI document: it comes with the Go module that the cluster is built from."""
    go = shutil.which("go") or "/usr/local/go/bin/go"
    found = json.loads(run([go, "mod", "download", "-json", f"k8s.io/kubernetes@v{version}"]).stdout)
    return Path(found["Dir"]) / "api" / "openapi-spec" / "swagger.json"
