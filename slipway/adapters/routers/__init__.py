"""The Traffic port on each router, and what the gateway itself says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.adapters.routers.gateway import GatewayAccess
from slipway.adapters.routers.gateway_api import GatewayApiTraffic
from slipway.adapters.routers.istio import IstioTraffic
from slipway.adapters.routers.plain_service import PlainServiceTraffic
from slipway.core.service import RouterKind, ServiceSpec
from slipway.ports.traffic import HandOver, Traffic


class RouterTraffic(Traffic, HandOver, Protocol):
    """Both ports of a router."""


_Connect = Callable[[KubernetesApi, ServiceSpec, GatewayAccess], RouterTraffic]
_ROUTERS: Mapping[RouterKind, _Connect] = {
    RouterKind.ISTIO: IstioTraffic,
    RouterKind.GATEWAY_API: GatewayApiTraffic,
    RouterKind.SERVICE: PlainServiceTraffic,
}


def router(api: KubernetesApi, spec: ServiceSpec, access: GatewayAccess) -> RouterTraffic:
    """Return the Traffic and HandOver ports of a service on the router that its file names."""
    return _ROUTERS[spec.router.kind](api, spec, access)
