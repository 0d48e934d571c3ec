"""Services as people run them, object by object as the API shows them, to vary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slipway.core.service import Router, RouterKind, ServiceSpec
from slipway.manifests.adoption.live import Live, Obstacle, find_live
from tests.examples import service

Manifest = dict[str, Any]
GATEWAY = "istio-ingress/slipway-gateway"
API = RouterKind.GATEWAY_API


def spec_of(kind: RouterKind = RouterKind.ISTIO) -> ServiceSpec:
    return replace(service(), router=Router(kind=kind))


def made(kind: str, name: str, spec: Manifest, *, namespace: str = "serving") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 3},
        "spec": spec,
    }


def users_service(**changed: Any) -> Manifest:
    port = {"port": 80, "targetPort": "api"}
    return made("Service", "chat", {"selector": {"app": "chat"}, "ports": [port], **changed})


def workload(name: str = "chat-ha", **changed: Any) -> Manifest:
    container = {"name": "m", "ports": [{"name": "api", "containerPort": 8000}]}
    template = {
        "metadata": {"labels": {"app": "chat"}},
        "spec": {"containers": [{"name": "sidecar"}, container]},
    }
    found = made("Deployment", name, {"replicas": 2, "template": template, **changed})
    figures = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 2)
    return {**found, "status": {"observedGeneration": 3, **figures}}


def to_chat(**changed: Any) -> Manifest:
    destination = {"host": "chat", "port": {"number": 80}}
    match = {"uri": {"prefix": "/v1"}}
    return {"match": [match], "route": [{"destination": destination}], **changed}


def to_docs(path: str = "/docs") -> Manifest:
    return {
        "match": [{"uri": {"prefix": path}}],
        "route": [{"destination": {"host": "docs"}}],
    }


def virtual_service(*rules: Manifest, name: str = "by-hand", **changed: Any) -> Manifest:
    return made(
        "VirtualService",
        name,
        {
            "hosts": ["chat.localhost"],
            "gateways": [GATEWAY],
            "http": list(rules) or [to_chat()],
            **changed,
        },
    )


def http_route(*rules: Manifest, name: str = "by-hand", **changed: Any) -> Manifest:
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "backendRefs": [{"name": "chat", "port": 80}],
    }
    parent = {"namespace": "istio-ingress", "name": "slipway-gateway"}
    return made(
        "HTTPRoute",
        name,
        {
            "parentRefs": [parent],
            "hostnames": ["chat.localhost"],
            "rules": list(rules) or [rule],
            **changed,
        },
    )


def rule_of(name: str = "by-hand", **changed: Any) -> Manifest:
    return made("DestinationRule", name, {"host": "chat", **changed})


def scaler(**changed: Any) -> Manifest:
    target = {"kind": "Deployment", "name": "chat-ha"}
    return made("HorizontalPodAutoscaler", "by-hand", {"scaleTargetRef": target, **changed})


def living(
    *more: Manifest,
    spec: ServiceSpec | None = None,
    service: Manifest | None = None,
    deployment: Manifest | None = None,
) -> Live:
    """Return what is found among a Service, a Deployment and more."""
    base = [service or users_service(), deployment or workload()]
    found, why = find_live(spec or spec_of(), [*base, *more])
    assert why == ()
    assert found is not None
    return found


def said(found: tuple[Obstacle, ...]) -> str:
    return "\n".join(str(item) for item in found)
