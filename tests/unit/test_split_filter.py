from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.adapters.routers.split_filter import filter_in_force
from slipway.core.service import Router, RouterKind, Wish
from slipway.manifests.routes.splitting import split_filter


class Holding(KubernetesApi):
    """An API server that holds one object, or none."""

    def __init__(self, found: dict[str, Any] | None) -> None:
        self._found = found
        self.asked: list[str] = []

    def get(self, path: str, query: object = None) -> dict[str, Any] | None:
        """Return it, whatever is asked for."""
        self.asked.append(path)
        return self._found


def test_filter_of_this_version_beside_the_gateway_is_in_force() -> None:
    api = Holding(split_filter("edge"))
    assert filter_in_force(api, Router(gateway="edge/models"))
    assert api.asked == [
        "/apis/networking.istio.io/v1alpha3/namespaces/edge/envoyfilters/slipway-split"
    ]


def test_filter_that_is_missing_is_not_in_force() -> None:
    assert not filter_in_force(Holding(None), Router())


def test_filter_of_another_version_is_not_in_force() -> None:
    old = deepcopy(split_filter("istio-ingress"))
    del old["spec"]["configPatches"][0]
    assert not filter_in_force(Holding(old), Router())


@pytest.mark.parametrize(
    "router",
    [
        Router(kind=RouterKind.SERVICE),
        Router(sticky=Wish.OFF, fall_back=Wish.OFF),
        Router(sticky=Wish.OFF),  # Istio's own rule says how a request falls back
    ],
)
def test_router_that_needs_no_filter_is_not_asked_for_one(router: Router) -> None:
    api = Holding(None)
    assert filter_in_force(api, router)
    assert api.asked == []
