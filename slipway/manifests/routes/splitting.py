"""How a gateway of Istio divides users so that nobody changes sides, and nobody meets a dead slot.

A sticky split cuts one line of hash values in two at the weight, the stable slot's part first:
while the weight rises, sessions move to the candidate and none comes back. Neither a VirtualService
nor an HTTPRoute can say it; an EnvoyFilter that goes by the name of the rule can, and it names no
service, so it is installed once and never written by a release.

A slot that falls back is a set of endpoints in two priorities: its own pods, and behind them those
of the other slot. Envoy goes to the second when the first has none that is healthy; a request
whose connection is refused is sent again, after the second refusal to the other priority.

Sources: Istio, `DestinationRule` (`failoverPriority` with a value), `HTTPRetry`
(`retryRemoteLocalities`), `EnvoyFilter`; Envoy, `previous_priorities`, `use_hash_policy`.
"""

from __future__ import annotations

from slipway.core.routing import SESSION_HEADER, USERS_RULE, Slot
from slipway.core.service import Router, RouterKind, ServerKind, falls_back, keeps_sessions
from slipway.manifests.names import MANAGED_BY_LABEL, SLOT_LABEL, Object, metadata
from slipway.manifests.routes.traffic_policy import traffic_policy

FILTER_NAME = "slipway-split"
"""The EnvoyFilter in the namespace of the gateway."""

RETRIES = 3
"""Two on the candidate's own pods, and one that goes to the other slot."""

RETRY_ON = "connect-failure,refused-stream,reset-before-request,503"
"""No server has begun to answer such a request, so nothing is generated twice."""

_STICKY, _FALLS_BACK = "sticky", "falls-back"


def needs_filter(router: Router) -> bool:
    """Return whether a service asks for what only the EnvoyFilter can do."""
    return split_rule_name(router) != USERS_RULE


def split_rule_name(router: Router) -> str:
    """Return the name of the rule of users who are divided; the filter goes by it."""
    marks = [
        *((_STICKY,) if keeps_sessions(router) else ()),
        # Istio's own rule says itself how often a request is sent again.
        *((_FALLS_BACK,) if falls_back(router) and router.kind is RouterKind.GATEWAY_API else ()),
    ]
    return ".".join((USERS_RULE, *marks))


def is_users_rule(name: str) -> bool:
    """Return whether a rule of that name is the one of the users."""
    return name.split(".", maxsplit=1)[0] == USERS_RULE


def falling_back(slot: Slot) -> str:
    """Return the name of `slot` with the other slot behind it."""
    return f"{slot}-or-{slot.other}"


def slot_meant(name: str) -> Slot:
    """Return the slot that a name of `falling_back`, or a slot's own, means.

    Raises:
        ValueError: it is neither.
    """
    meant = Slot(name.partition("-or-")[0])
    if name not in {meant.value, falling_back(meant)}:
        raise ValueError(f"{name} names no slot")
    return meant


def falling_back_policy(kind: ServerKind, slot: Slot) -> Object:
    """Return the `trafficPolicy` of endpoints of both slots, those of `slot` first."""
    policy = traffic_policy(kind)
    http = policy["connectionPool"]["http"]
    return {
        **policy,
        "loadBalancer": {
            **policy["loadBalancer"],
            "localityLbSetting": {
                "enabled": True,
                "failoverPriority": [f"{SLOT_LABEL}={slot}"],
            },
        },
        "connectionPool": {
            **policy["connectionPool"],
            # Of a dead slot every request is sent again, all at once.
            "http": {**http, "maxRetries": 4096},
        },
        "outlierDetection": {
            **policy["outlierDetection"],
            "interval": "1s",
            # All of a slot's pods may go: the other slot's are behind them.
            "maxEjectionPercent": 100,
        },
    }


def split_filter(namespace: str) -> Object:
    """Return the EnvoyFilter that makes splits sticky, and HTTPRoutes fall back.

    Args:
        namespace: of the gateway.
    """
    names = {
        f"{USERS_RULE}.{_STICKY}": _sticky(),
        f"{USERS_RULE}.{_FALLS_BACK}": _retried(),
        f"{USERS_RULE}.{_STICKY}.{_FALLS_BACK}": {**_sticky(), **_retried()},
    }
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata(FILTER_NAME, namespace, labels={MANAGED_BY_LABEL: "slipway"}),
        "spec": {"configPatches": [_patch(name, value) for name, value in names.items()]},
    }


def _patch(rule: str, value: Object) -> Object:
    return {
        "applyTo": "HTTP_ROUTE",
        "match": {
            "context": "GATEWAY",
            "routeConfiguration": {"vhost": {"route": {"name": rule}}},
        },
        "patch": {"operation": "MERGE", "value": {"route": value}},
    }


def _sticky() -> Object:
    return {
        "hash_policy": [{"header": {"header_name": SESSION_HEADER}, "terminal": True}],
        "weighted_clusters": {"use_hash_policy": True},
    }


def _retried() -> Object:
    priorities = "envoy.retry_priorities.previous_priorities"
    config = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    return {
        "retry_policy": {
            "num_retries": RETRIES,
            "retry_on": RETRY_ON.replace("503", "retriable-status-codes"),
            "retriable_status_codes": [503],
            "retry_priority": {
                "name": priorities,
                "typed_config": {"@type": f"type.googleapis.com/{config}", "update_frequency": 2},
            },
        }
    }
