"""Copy the custom resource definitions of the very modules the control plane is built from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from slipway.core.errors import PermanentError

# Module → the files, relative to its folder. Gateway API: the standard channel.
_FILES = {
    "istio.io/istio": "manifests/charts/base/files/crd-all.gen.yaml",
    "sigs.k8s.io/gateway-api": "config/crd/standard/gateway.networking.k8s.io_*.yaml",
}


def copy_crds(modules: Mapping[str, Path], target: Path) -> None:
    """Write one JSON file a custom resource definition, named by it, into `target`.

    JSON, because reading these files as YAML takes seconds at every start.

    Args:
        modules: module path → its folder in Go's module cache.
        target: made here.

    Raises:
        PermanentError: a module has no such files.
    """
    target.mkdir()
    for module, pattern in _FILES.items():
        found = tuple(_definitions(modules[module], pattern))
        if not found:
            raise PermanentError(
                f"the Go module {module} holds no custom resources at {pattern}",
                code="controlplane-broken",
                hint="restore slipway/sandbox/controlplane/go.mod and go.sum",
            )
        for definition in found:
            name = definition["metadata"]["name"]
            (target / f"{name}.json").write_text(json.dumps(definition))


def _definitions(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted(folder.glob(pattern)):
        for document in yaml.load_all(file.read_text(), Loader=loader):
            if document and document.get("kind") == "CustomResourceDefinition":
                yield document
