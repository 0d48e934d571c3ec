"""Rights as single verbs on single objects, for asking the API server about each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from slipway.core.feasibility.values import Right
from slipway.core.service import ServiceSpec
from slipway.manifests.accounts import gateway_rules, release_rules
from slipway.manifests.names import Object


def release_rights(spec: ServiceSpec, *, adopted: str = "") -> tuple[Right, ...]:
    """Return every right that a release of the service needs, each once.

    Args:
        spec: the service.
        adopted: name of a Deployment that the service was live with before; "" without one.
    """
    gateway, _, _ = spec.router.gateway.partition("/")
    rights = (
        *rights_of(release_rules(spec, adopted=adopted), spec.namespace),
        *rights_of(gateway_rules(spec), gateway),
    )
    return tuple(dict.fromkeys(rights))


def rights_of(rules: Iterable[Mapping[str, Any]], namespace: str) -> Iterator[Right]:
    """Yield what the rules of a Role grant in a namespace, verb by verb and name by name."""
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames") or ("",):
                    for verb in rule["verbs"]:
                        yield Right(
                            verb=verb,
                            group=group,
                            resource=resource,
                            namespace=namespace,
                            name=name,
                        )


def access_review(right: Right) -> Object:
    """Return the question whether whoever asks has a right; nothing of it is stored."""
    resource, _, subresource = right.resource.partition("/")
    asked = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": right.namespace,
        "name": right.name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }
