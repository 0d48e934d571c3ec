"""The two plain Services of a service that no router divides, from a `Route` and back again.

One selects the pods of the slot that has the users, the other those of the candidate. A selector
names one slot or the other: there are no weights. What a client does between two endpoints is its
own affair: kube-proxy chooses one for each connection, and a connection lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.core.errors import InputError
from slipway.core.routing import Preview, Route, Share, Slot
from slipway.core.service import ServiceSpec
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    PREVIEW_ANNOTATION,
    ROUTE_ANNOTATION,
    SERVES_LABEL,
    SLOT_LABEL,
    SLOTS_ANNOTATION,
    Object,
    preview_service,
)
from slipway.manifests.routes.reading import read_back, slots_of, slots_text
from slipway.manifests.routes.services import cluster_service

_NOBODY = "none"
"""Value of the slot label that no pod carries."""


def plain_services(
    spec: ServiceSpec, route: Route, *, fence: int | None = None
) -> tuple[Object, Object]:
    """Return the users' Service and the preview Service that say what `route` says.

    `fence` is the number of the lock that they are written under, None for an installation.

    Raises:
        InputError: the route divides the users.
    """
    if len(route.shares) > 1:
        raise InputError(
            f"service {spec.name} is routed by a plain Service, which cannot divide its users",
            code="route-unsupported",
            hint="set router.kind to istio or gateway_api, or leave the steps of the canary out",
        )
    written = {} if fence is None else {FENCE_ANNOTATION: str(fence)}
    users = cluster_service(
        spec,
        spec.name,
        _selector(spec, route.shares[0].slot if route.shares else None),
        annotations={
            ROUTE_ANNOTATION: route.revision,
            SLOTS_ANNOTATION: slots_text(route.subsets),
            **written,
        },
    )
    preview = cluster_service(
        spec,
        preview_service(spec.name),
        _selector(spec, None if route.preview is None else route.preview.slot),
        annotations={
            PREVIEW_ANNOTATION: "" if route.preview is None else route.preview.token,
            **written,
        },
    )
    return users, preview


def read_plain_services(users: Mapping[str, Any], preview: Mapping[str, Any]) -> Route:
    """Return the route that both Services state; the inverse of `plain_services`.

    Raises:
        PermanentError: somebody else changed them into something Slipway does not write.
    """
    service = str(users["metadata"]["name"])
    return read_back(service, "service", lambda: _read(service, users, preview))


def _selector(spec: ServiceSpec, slot: Slot | None) -> dict[str, str]:
    return {SERVES_LABEL: spec.name, SLOT_LABEL: _NOBODY if slot is None else slot.value}


def _read(service: str, users: Mapping[str, Any], preview: Mapping[str, Any]) -> Route:
    serves, tried = _selected(service, users), _selected(service, preview)
    token = preview["metadata"]["annotations"][PREVIEW_ANNOTATION]
    return Route(
        service=service,
        shares=() if serves is None else (Share(slot=serves, percent=100),),
        preview=None if tried is None else Preview(slot=tried, token=token),
        subsets=slots_of(users["metadata"]),
    )


def _selected(service: str, found: Mapping[str, Any]) -> Slot | None:
    selector = found["spec"]["selector"]
    if selector.keys() != {SERVES_LABEL, SLOT_LABEL} or selector[SERVES_LABEL] != service:
        raise ValueError(f"{found['metadata']['name']} selects {selector}")
    value = selector[SLOT_LABEL]
    return None if value == _NOBODY else Slot(value)
