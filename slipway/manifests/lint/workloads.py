"""Workloads: L4 and L8."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

from slipway.manifests.autoscaling import HPA, SCALED_OBJECT
from slipway.manifests.label_selectors import matches
from slipway.manifests.lint.finding import (
    Finding,
    namespace,
    of_kind,
    pod_labels,
    scales,
    subject,
)
from slipway.ports.workloads import Manifest


def overlaps(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L4: a workload's selector also matches pods of another one; each counts foreign pods."""
    workloads = of_kind(objects, "Deployment")
    pairs = (
        *combinations(workloads, 2),
        *product(workloads, of_kind(objects, "Pod")),
    )
    for first, second in pairs:
        if namespace(first) != namespace(second):
            continue
        for one, other in ((first, second), (second, first)):
            if "selector" in one["spec"] and matches(one["spec"]["selector"], pod_labels(other)):
                yield Finding(
                    rule="L4",
                    subject=subject(one),
                    message=f"its selector also matches the pods of {subject(other)}",
                    hint="add a label that only one of them carries to the selector; a Deployment's"
                    " selector is immutable, so it must be made anew",
                )


def two_who_scale(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L8: two decide how many pods a Deployment has, and undo each other's work."""
    scalers = [item for kind in (HPA, SCALED_OBJECT) for item in of_kind(objects, kind)]
    for workload in of_kind(objects, "Deployment"):
        mine = [item for item in scalers if scales(item, workload)]
        said = [subject(item) for item in mine]
        if mine and "replicas" in workload["spec"]:
            said.append("its own replicas")
        if len(said) > 1:
            yield Finding(
                rule="L8",
                subject=subject(workload),
                message=f"its number of pods is decided by {' and by '.join(said)}",
                hint="leave one: a scaled Deployment states no replicas",
            )
