"""Rules between objects: what a schema cannot see and what breaks production.

An object that a rule refers to must be among the objects given; what is elsewhere counts as
missing. Rule numbers are stable: they name a fault in messages and documents.
"""

from __future__ import annotations

from collections.abc import Iterable

from slipway.manifests.lint.finding import Finding
from slipway.manifests.lint.quotas import (
    limits_of_extended,
    too_small_quotas,
    unstated_requests,
)
from slipway.manifests.lint.routes import split_bindings, undefined_subsets, wrong_subsets
from slipway.manifests.lint.workloads import overlaps, two_who_scale
from slipway.ports.workloads import Manifest

__all__ = ["Finding", "lint"]


def lint(objects: Iterable[Manifest]) -> tuple[Finding, ...]:
    """Return every fault between `objects`, in the order of the rules; none is an empty tuple."""
    given = tuple(objects)
    return (
        *undefined_subsets(given),
        *wrong_subsets(given),
        *split_bindings(given),
        *overlaps(given),
        *too_small_quotas(given),
        *limits_of_extended(given),
        *unstated_requests(given),
        *two_who_scale(given),
    )
