"""How requests of our own come in: through the gateway, or by a Service's in-cluster name."""

from __future__ import annotations

from slipway.adapters.routers.gateway import GatewayAccess
from slipway.core.routing import PREVIEW_HEADER, Preview
from slipway.core.service import ServiceSpec
from slipway.manifests.names import host_of, preview_service
from slipway.ports.traffic import WayIn


def through_gateway(access: GatewayAccess, spec: ServiceSpec, preview: Preview | None) -> WayIn:
    """Return the way through the gateway, which tells the candidate's requests by a header."""
    headers = {"Host": spec.hosts[0]}
    if preview is not None:
        headers[PREVIEW_HEADER] = preview.token
    return WayIn(url=access.url, headers=headers, proxy=None, names_slot=True)


def by_service(access: GatewayAccess, spec: ServiceSpec, preview: Preview | None) -> WayIn:
    """Return the way to the users' Service, or to the one that previews the candidate."""
    name = spec.name if preview is None else preview_service(spec.name)
    return WayIn(
        url=f"http://{host_of(name, spec.namespace)}:{spec.router.port}",
        headers={},
        proxy=access.cluster_proxy,
        names_slot=False,
    )
