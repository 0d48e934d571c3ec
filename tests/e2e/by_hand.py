"""Services as people run them without Slipway, each of another shape, on the sandbox."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e.support import World, said

Object = dict[str, Any]

GATEWAY = "istio-ingress/slipway-gateway"
_KINDS = (
    *("service", "deployment", "replicaset", "configmap", "lease", "role", "rolebinding"),
    *("horizontalpodautoscaler", "virtualservice", "destinationrule", "httproute"),
)
_SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
_REVISION = "deployment.kubernetes.io/revision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One way to run a service by hand.

    Args:
        name: of the service.
        port: that its pods serve on.
        objects: beside its Deployment.
        file: what its service file says beyond the examples'.
        deployment: name of the Deployment.
        selector: of its pods; fixed for ever.
        labels: of its pods beside these.
        namespace: where it lives.
    """

    name: str
    port: int
    objects: tuple[Object, ...]
    file: Mapping[str, Any]
    deployment: str
    selector: Mapping[str, str]
    labels: Mapping[str, str]
    namespace: str = "serving"


def shapes() -> tuple[Shape, ...]:
    """Return every shape."""
    return (helm_like(), same_names(), gateway_api(), plain())


def helm_like() -> Shape:
    """Customary labels, a named port, a route of two services, a time limit, an autoscaler."""
    name = "hand-istio"
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": "queue_length"},
            "target": {"type": "AverageValue", "averageValue": "4"},
        },
    }
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-ha"}
    scaled = {"minReplicas": 2, "maxReplicas": 4, "scaleTargetRef": target, "metrics": [metric]}
    selector = {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": "prod"}
    rules: list[Object] = [
        {"match": [{"uri": {"prefix": "/docs"}}], "route": [_to("hand-docs", 80)]},
        {
            "match": [{"uri": {"prefix": "/v1"}}],
            "route": [_to(name, 8080)],
            "timeout": "120s",
        },
    ]
    return Shape(
        name=name,
        port=9000,
        deployment=f"{name}-ha",
        selector=selector,
        labels={"team": "models"},
        file={
            "server__port": 9000,
            "router": {"kind": "istio", "port": 8080},
            "autoscaling": {
                "kind": "hpa",
                "metric": "queue_length",
                "min_replicas": 2,
                "max_replicas": 4,
                "target_average": 4,
                "settle_s": 0,
            },
        },
        objects=(
            _service(name, selector, {"name": "web", "port": 8080, "targetPort": "api"}),
            _object("autoscaling/v2", "HorizontalPodAutoscaler", f"{name}-scaler", scaled),
            _istio("VirtualService", f"{name}-public", _virtual_service(name, rules)),
        ),
    )


def same_names(name: str = "hand-subset") -> Shape:
    """A route and a rule of the service's own name, with a subset; a port without a name."""
    rule = {
        "host": name,
        "trafficPolicy": {"connectionPool": {"http": {"http1MaxPendingRequests": 512}}},
        "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
    }
    route = _to(name, 80)
    route["destination"]["subset"] = "v1"
    rules = [{"match": [{"uri": {"prefix": "/v1"}}], "route": [route]}]
    return Shape(
        name=name,
        port=8000,
        deployment=f"{name}-server",
        selector={"app": name},
        labels={"version": "v1"},
        file={},
        objects=(
            _service(name, {"app": name}, {"port": 80, "targetPort": 8000}),
            _istio("DestinationRule", name, rule),
            _istio("VirtualService", name, _virtual_service(name, rules)),
        ),
    )


def gateway_api() -> Shape:
    """An HTTPRoute of another name over a Service of port 8000, in a namespace of its own."""
    name = "hand-gateway"
    namespace, _, gateway = GATEWAY.partition("/")
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "backendRefs": [{"name": name, "port": 8000}],
    }
    route = {
        "parentRefs": [{"namespace": namespace, "name": gateway}],
        "hostnames": [f"{name}.localhost"],
        "rules": [rule],
    }
    return Shape(
        name=name,
        port=8000,
        deployment="gateway-server",
        selector={"app": name},
        labels={},
        namespace="shop",
        file={"namespace": "shop", "router": {"kind": "gateway_api", "port": 8000}},
        objects=(
            _service(name, {"app": name}, {"port": 8000, "targetPort": 8000}),
            _object("gateway.networking.k8s.io/v1", "HTTPRoute", f"{name}-web", route),
        ),
    )


def plain() -> Shape:
    """A Service that a gateway of its cluster brings users to by a route of its own."""
    name = "hand-plain"
    front = {
        "hosts": [f"{name}.localhost"],
        "gateways": [GATEWAY],
        "http": [{"route": [_to(name, 80)]}],
    }
    idle = {"host": name, "trafficPolicy": {"connectionPool": {"http": {"idleTimeout": "3s"}}}}
    return Shape(
        name=name,
        port=8000,
        deployment="plain-server",
        selector={"app": name},
        labels={},
        file={"router": {"kind": "service", "propagation_s": 2}},
        objects=(
            _service(name, {"app": name}, {"name": "web", "port": 80, "targetPort": 8000}),
            _istio("VirtualService", f"{name}-front", front),
            _istio("DestinationRule", f"{name}-front", idle),
        ),
    )


def run_by_hand(world: World, shape: Shape) -> str:
    """Bring a service of that shape to life; returns its version in the registry."""
    world.given_file(shape.name, **shape.file)
    version = world.given_version(shape.name)
    ports = world.ports(shape.name)
    folder = world.folder / f"files-{shape.name}"
    folder.mkdir()
    files = ports.registry.fetch(ports.registry.version(shape.name, version), folder)
    image = ports.images.append(
        ports.images.resolve("slipway/simulated:base"),
        repository=f"by-hand/{shape.name}",
        files={"/model/simulated.json": files / "simulated.json"},
        labels={},
    )
    given = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [_deployment(shape, image.reference), *shape.objects],
    }
    if shape.namespace != "serving":
        world.sandbox.kubectl("create", "namespace", shape.namespace)  # or it is there
    # As people do: their own words stay in an annotation.
    applied = world.sandbox.kubectl(
        "-n", shape.namespace, "apply", "-f", "-", stdin=json.dumps(given)
    )
    assert applied.returncode == 0, said(applied)
    ready = world.sandbox.kubectl(
        *("-n", shape.namespace, "rollout", "status", f"deployment/{shape.deployment}"),
        "--timeout=120s",
    )
    assert ready.returncode == 0, said(ready)
    return version


def remove_by_hand(world: World, shape: Shape) -> None:
    """Remove a service of that shape."""
    items = [_deployment(shape, "gone"), *shape.objects]
    given = {"apiVersion": "v1", "kind": "List", "items": items}
    removed = world.sandbox.kubectl(
        *("-n", shape.namespace, "delete", "-f", "-", "--wait"), stdin=json.dumps(given)
    )
    assert removed.returncode == 0, said(removed)


def state(world: World, shape: Shape) -> dict[str, Object]:
    """Return all that is there of a service, without what the API server alone decides."""
    listed = world.sandbox.kubectl("-n", shape.namespace, "get", ",".join(_KINDS), "-o", "json")
    assert listed.returncode == 0, said(listed)
    items = json.loads(listed.stdout)["items"]
    wanted = (shape.name, shape.deployment)
    return {
        f"{item['kind']}/{item['metadata']['name']}": _content(item)
        for item in items
        if any(name in item["metadata"]["name"] for name in wanted)
    }


def differences(before: Mapping[str, Object], after: Mapping[str, Object]) -> list[str]:
    """Return what is there now that was not before, or is no more, line by line."""
    return [
        line
        for name in sorted({*before, *after})
        for line in difflib.ndiff(_lines(before.get(name)), _lines(after.get(name)))
        if line[0] in "+-"
    ]


def _lines(item: Object | None) -> list[str]:
    return [] if item is None else json.dumps(item, indent=1, sort_keys=True).splitlines()


def pods(world: World, shape: Shape) -> dict[str, str]:
    """Return uid → name of the pods of the hand-made Deployment."""
    selector = ",".join(f"{key}={value}" for key, value in shape.selector.items())
    listed = world.sandbox.kubectl(
        "-n", shape.namespace, "get", "pods", "-l", selector, "-o", "json"
    )
    items = json.loads(listed.stdout)["items"]
    return {item["metadata"]["uid"]: item["metadata"]["name"] for item in items}


def _content(item: Object) -> Object:
    meta = {k: v for k, v in item["metadata"].items() if k not in _SERVERS_OWN}
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k != _REVISION}
    meta["annotations"] = notes
    for field in ("annotations", "labels", "ownerReferences"):
        if field == "ownerReferences" or not meta.get(field):
            meta.pop(field, None)
    return {**{k: v for k, v in item.items() if k != "status"}, "metadata": meta}


def managers(world: World, shape: Shape, kind: str, name: str) -> set[str]:
    """Return who owns fields of an object."""
    found = world.sandbox.kubectl(
        *("-n", shape.namespace, "get", kind, name, "--show-managed-fields", "-o", "json")
    )
    fields: Sequence[Object] = json.loads(found.stdout)["metadata"].get("managedFields") or []
    return {str(item["manager"]) for item in fields}


def _deployment(shape: Shape, image: str) -> Object:
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    words = ["--host", "$(POD_IP)", "--port", str(shape.port), "--model-dir", "/model"]
    container = {
        "name": "model",
        "image": image,
        "args": [*words, "--model-name", shape.name],
        "env": [address],
        "ports": [{"name": "api", "containerPort": shape.port}],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"memory": "64Mi"},
        },
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": "api"},
            # Kubernetes' second and three tries take every pod away when a machine stalls.
            **{"periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 6},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
    }
    labels = {**shape.selector, **shape.labels}
    return _object(
        "apps/v1",
        "Deployment",
        shape.deployment,
        {
            "replicas": 2,
            "selector": {"matchLabels": dict(shape.selector)},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    )


def _service(name: str, selector: Mapping[str, str], port: Object) -> Object:
    return _object("v1", "Service", name, {"selector": dict(selector), "ports": [port]})


def _virtual_service(name: str, rules: list[Object]) -> Object:
    return {"hosts": [f"{name}.localhost"], "gateways": [GATEWAY], "http": rules}


def _to(name: str, port: int) -> Object:
    return {"destination": {"host": name, "port": {"number": port}}}


def _istio(kind: str, name: str, spec: Object) -> Object:
    return _object("networking.istio.io/v1", kind, name, spec)


def _object(api_version: str, kind: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
