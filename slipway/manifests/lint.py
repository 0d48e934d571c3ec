"""Rules between objects: what a schema cannot see and what breaks production.

An object that a rule refers to must be among the objects given; what is elsewhere counts as
missing. Rule numbers are stable: they name a fault in messages and documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from slipway.manifests.autoscaling import HPA, SCALED_OBJECT
from slipway.ports import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault between objects.

    Args:
        rule: number in the catalogue, for example `L1`.
        subject: the object to change, `KIND/NAMESPACE/NAME`.
        message: what is wrong.
        hint: what to do.
    """

    rule: str
    subject: str
    message: str
    hint: str


def lint(objects: Iterable[Manifest]) -> tuple[Finding, ...]:
    """Return every fault between `objects`, in the order of the rules; none is an empty tuple."""
    given = tuple(objects)
    return (
        *_undefined_subsets(given),
        *_wrong_subsets(given),
        *_overlaps(given),
        *_two_who_scale(given),
    )


def _undefined_subsets(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L1: a route names a subset that no DestinationRule defines; Envoy answers 503 NC."""
    defined = {
        (_host(rule["spec"]["host"], rule), subset["name"])
        for rule in _of_kind(objects, "DestinationRule")
        for subset in _subsets(rule)
    }
    for service in _of_kind(objects, "VirtualService"):
        for rule in service["spec"].get("http") or ():
            for host, subset in _destinations(rule, service):
                if (host, subset) not in defined:
                    yield Finding(
                        rule="L1",
                        subject=_subject(service),
                        message=f"rule {rule.get('name', 'without name')} routes to subset {subset}"
                        f" of {host}, which no DestinationRule defines: such requests get 503",
                        hint="write the DestinationRule with this subset before the route",
                    )


def _destinations(rule: Mapping[str, Any], owner: Manifest) -> Iterator[tuple[str, str]]:
    mirrors = [
        *(rule.get("mirrors") or ()),
        *([{"destination": rule["mirror"]}] if "mirror" in rule else ()),
    ]
    for item in (*(rule.get("route") or ()), *mirrors):
        destination = item["destination"]
        if "subset" in destination:
            yield _host(destination["host"], owner), destination["subset"]


def _wrong_subsets(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L2: a subset's labels select the pods of no workload, or of several."""
    services = {
        _host(service["metadata"]["name"], service): service
        for service in _of_kind(objects, "Service")
    }
    for rule in _of_kind(objects, "DestinationRule"):
        service = services.get(_host(rule["spec"]["host"], rule))
        behind = (service["spec"].get("selector") or {}) if service else {}
        for subset in _subsets(rule):
            if _has_another_behind(subset):
                continue  # on purpose the pods of both
            wanted = {**behind, **(subset.get("labels") or {})}
            found = [
                workload
                for workload in _of_kind(objects, "Deployment")
                if _namespace(workload) == _namespace(rule)
                and wanted.items() <= _pod_labels(workload).items()
            ]
            if len(found) != 1:
                names = ", ".join(_subject(item) for item in found) or "no Deployment"
                yield Finding(
                    rule="L2",
                    subject=_subject(rule),
                    message=f"subset {subset['name']} selects the pods of {names}",
                    hint="give each slot's pods a label value of their own and select by it",
                )


def _has_another_behind(subset: Mapping[str, Any]) -> bool:
    balance = (subset.get("trafficPolicy") or {}).get("loadBalancer") or {}
    return bool((balance.get("localityLbSetting") or {}).get("failoverPriority"))


def _overlaps(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L4: a workload's selector also matches pods of another one; each counts foreign pods."""
    workloads = _of_kind(objects, "Deployment")
    pairs = (
        *combinations(workloads, 2),
        *product(workloads, _of_kind(objects, "Pod")),
    )
    for first, second in pairs:
        if _namespace(first) != _namespace(second):
            continue
        for one, other in ((first, second), (second, first)):
            if "selector" in one["spec"] and _matches(one["spec"]["selector"], _pod_labels(other)):
                yield Finding(
                    rule="L4",
                    subject=_subject(one),
                    message=f"its selector also matches the pods of {_subject(other)}",
                    hint="add a label that only one of them carries to the selector; a Deployment's"
                    " selector is immutable, so it must be made anew",
                )


def _two_who_scale(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L8: two decide how many pods a Deployment has, and undo each other's work."""
    scalers = [item for kind in (HPA, SCALED_OBJECT) for item in _of_kind(objects, kind)]
    for workload in _of_kind(objects, "Deployment"):
        mine = [item for item in scalers if _scales(item, workload)]
        said = [_subject(item) for item in mine]
        if mine and "replicas" in workload["spec"]:
            said.append("its own replicas")
        if len(said) > 1:
            yield Finding(
                rule="L8",
                subject=_subject(workload),
                message=f"its number of pods is decided by {' and by '.join(said)}",
                hint="leave one: a scaled Deployment states no replicas",
            )


def _scales(scaler: Manifest, workload: Manifest) -> bool:
    target = scaler["spec"]["scaleTargetRef"]
    return (
        _namespace(scaler) == _namespace(workload)
        and target.get("kind", "Deployment") == "Deployment"
        and target["name"] == workload["metadata"]["name"]
    )


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector matches, as apimachinery's `LabelSelector` defines it."""
    equal = selector.get("matchLabels") or {}
    return equal.items() <= labels.items() and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions") or ()
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:  # DoesNotExist, the only other operator that the API knows
            return value is None


def _of_kind(objects: tuple[Manifest, ...], kind: str) -> tuple[Manifest, ...]:
    return tuple(item for item in objects if item["kind"] == kind)


def _subsets(rule: Manifest) -> Iterable[Mapping[str, Any]]:
    return rule["spec"].get("subsets") or ()


def _pod_labels(workload: Manifest) -> Mapping[str, str]:
    owner = workload if workload["kind"] == "Pod" else workload["spec"]["template"]
    labels: Mapping[str, str] = owner["metadata"].get("labels") or {}
    return labels


def _namespace(item: Manifest) -> str:
    return str(item["metadata"].get("namespace", "default"))


def _host(name: str, owner: Manifest) -> str:
    """Return a host in full: Istio reads a short name in the namespace of the object naming it."""
    return name if "." in name else f"{name}.{_namespace(owner)}.svc.cluster.local"


def _subject(item: Manifest) -> str:
    return f"{item['kind']}/{_namespace(item)}/{item['metadata']['name']}"
