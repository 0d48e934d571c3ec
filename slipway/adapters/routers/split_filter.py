"""Whether what makes splits sticky stands in the gateway's namespace, as this version writes it."""

from __future__ import annotations

from slipway.adapters.kubernetes_api import KubernetesApi, path_of
from slipway.core.service import Router
from slipway.manifests.routes.splitting import needs_filter, split_filter


def filter_in_force(api: KubernetesApi, router: Router) -> bool:
    """Compare the EnvoyFilter with the one of an installation; see `slipway.ports.Traffic`."""
    if not needs_filter(router):
        return True
    wanted = split_filter(router.gateway.partition("/")[0])
    found = api.get(path_of(wanted))
    return found is not None and found.get("spec") == wanted["spec"]
