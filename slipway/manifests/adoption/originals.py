"""What was there before a service was taken over, kept in the cluster until it is given back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.core.errors import PermanentError
from slipway.core.routing import Slot
from slipway.manifests.adoption.live import Live
from slipway.manifests.names import Object, common_labels, metadata
from slipway.ports.workloads import Manifest

_KEY = "originals.json"
_FORMAT = 1
_SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "selfLink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """What an adoption began with.

    Args:
        live: the objects as they were.
        version: of the model that they serve.
        alias_before: version that the registry's alias named, empty when none.
    """

    live: Live
    version: str
    alias_before: str


def originals_name(service: str) -> str:
    """Return the name of the ConfigMap with what was there before."""
    return f"slipway-{service}-adopted"


def originals_config_map(service: str, namespace: str, originals: Originals) -> Object:
    """Return the ConfigMap that keeps what was there before."""
    live = originals.live
    kept = {
        "format": _FORMAT,
        "slot": live.slot.value,
        "version": originals.version,
        "alias_before": originals.alias_before,
        "service": live.service,
        "deployment": live.deployment,
        "routes": live.routes,
        "rules": live.rules,
        "scalers": live.scalers,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(originals_name(service), namespace, labels=common_labels(service)),
        "data": {_KEY: json.dumps(kept, sort_keys=True, separators=(",", ":"))},
    }


def read_originals(config_map: Mapping[str, Any]) -> Originals:
    """Return what a ConfigMap keeps.

    Raises:
        PermanentError: `originals-damaged`, it cannot be read; nothing is guessed.
    """
    try:
        return _read(json.loads(config_map["data"][_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        name = config_map["metadata"]["name"]
        raise PermanentError(
            f"ConfigMap {name} does not say what was there before the adoption: {error!r}",
            code="originals-damaged",
            hint="restore it from a backup of the cluster; it is never overwritten",
        ) from error


def _read(kept: Mapping[str, Any]) -> Originals:
    if kept["format"] != _FORMAT:
        raise ValueError(f"its format is {kept['format']}, this Slipway reads {_FORMAT}")
    return Originals(
        live=Live(
            slot=Slot(kept["slot"]),
            service=kept["service"],
            deployment=kept["deployment"],
            routes=tuple(kept["routes"]),
            rules=tuple(kept["rules"]),
            scalers=tuple(kept["scalers"]),
        ),
        version=kept["version"],
        alias_before=kept["alias_before"],
    )


def as_it_was(original: Manifest) -> Object:
    """Return an object to be written again, without what the API server alone decides."""
    meta = {k: v for k, v in original["metadata"].items() if k not in _SERVERS_OWN}
    return {**{k: v for k, v in original.items() if k != "status"}, "metadata": meta}


def says_the_same(found: Manifest, original: Manifest) -> bool:
    """Return whether an object's content is still what it was."""
    return bool(found["spec"] == original["spec"])


def same_object(one: Manifest, other: Manifest) -> bool:
    """Return whether two manifests are of one name."""
    return identity(one) == identity(other)


def identity(item: Manifest) -> tuple[str, str, str]:
    """Return kind, namespace and name of an object."""
    meta = item["metadata"]
    return item["kind"], meta["namespace"], meta["name"]


def others_than(originals: Sequence[Manifest], ours: Sequence[Manifest]) -> tuple[Manifest, ...]:
    """Return the originals in whose place none of ours stands."""
    names = {identity(item) for item in ours}
    return tuple(item for item in originals if identity(item) not in names)
