"""What is in the way of a release and has nothing to do with room."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from slipway.core.feasibility.quantity import Unit, duration, shown
from slipway.core.feasibility.values import (
    Budget,
    Certificate,
    ClusterSeen,
    Code,
    Needs,
    Shortfall,
    one_missing,
)

_MARGIN_S = 7 * 86_400
"""A certificate that is renewed at all is renewed earlier; short-lived ones at a third of it."""


def standing_shortfalls(needs: Needs, seen: ClusterSeen, *, now_s: int) -> Iterator[Shortfall]:
    """Yield every reason that no free room could mend.

    Args:
        needs: of the release.
        seen: of the cluster.
        now_s: Unix seconds.
    """
    yield from _missing(needs, seen)
    yield from _in_the_way(needs, seen)
    for certificate in seen.certificates:
        yield from _expiring(certificate, needs, now_s=now_s)
    yield from _blocked(needs, seen.budgets)


def _missing(needs: Needs, seen: ClusterSeen) -> Iterator[Shortfall]:
    for right in seen.missing_rights:
        yield one_missing(
            code=Code.PERMISSION,
            subject=str(right),
            unit=Unit.PERMISSION,
            text="is not allowed; 1 permission more",
            hint=f"an administrator grants it: slipway install {needs.service}",
        )
    for image in seen.missing_images:
        yield one_missing(
            code=Code.IMAGE,
            subject=f"image {image.what}",
            unit=Unit.IMAGE,
            text=f"{image.why}; 1 image more",
            hint="push it, or correct server.image (volume.fetcher) in the service file",
        )


def _in_the_way(needs: Needs, seen: ClusterSeen) -> Iterator[Shortfall]:
    for taken in seen.taken:
        yield one_missing(
            code=Code.NAME,
            subject=f"{taken.kind}/{needs.namespace}/{taken.name}",
            text=f"the name is taken, by what belongs to {taken.owner}; 1 name more",
            hint="delete or rename it: no release wrote it, so none will",
        )
    if seen.foreign_route:
        yield one_missing(
            code=Code.ROUTE,
            subject=f"routes of {needs.service}",
            text=f"{seen.foreign_route}; 1 route more that a release can carry on",
            hint="put them back as the last release wrote them: the next one would undo the edit",
        )
    for fault in seen.contradictions:
        yield one_missing(
            code=Code.CONTRADICTION,
            subject=fault.subject,
            text=f"{fault.message} ({fault.rule}); 1 correction more",
            hint=fault.hint,
        )


def _expiring(certificate: Certificate, needs: Needs, *, now_s: int) -> Iterator[Shortfall]:
    lifetime_s = certificate.ends_s - certificate.begins_s
    # Whoever renews in time renews before this; and it must outlast the release itself.
    asked_s = max(math.ceil(needs.longest_s), min(_MARGIN_S, lifetime_s // 3))
    left_s = max(certificate.ends_s - now_s, 0)
    if left_s >= asked_s:
        return
    yield Shortfall(
        code=Code.CERTIFICATE,
        subject=f"certificate for {certificate.host}",
        needs=asked_s,
        free=left_s,
        unit=Unit.SECOND,
        text=f"must be valid for {shown(asked_s, Unit.SECOND)}, {shown(left_s, Unit.SECOND)} are"
        f" left; {duration(asked_s - left_s)} more",
        hint="renew it (cert-manager: look at the Certificate's conditions)",
    )


def _blocked(needs: Needs, budgets: Iterable[Budget]) -> Iterator[Shortfall]:
    given = tuple(budgets)
    pods = needs.at_full
    for budget in given:
        allowed = _disruptions(budget, pods)
        if allowed > 0:
            continue
        yield Shortfall(
            code=Code.BUDGET,
            subject=f"PodDisruptionBudget/{needs.namespace}/{budget.name}",
            needs=1,
            free=allowed,
            unit=Unit.POD,
            text=f"lets none of the candidate's {shown(pods, Unit.POD)} be evicted, so that none of"
            f" their nodes could be drained; {shown(1 - allowed, Unit.POD)} more",
            hint="lower its minAvailable, or raise replicas",
        )
    if len(given) > 1:
        names = " and ".join(budget.name for budget in given)
        yield Shortfall(
            code=Code.BUDGET,
            subject=f"PodDisruptionBudget/{needs.namespace}/{given[-1].name}",
            needs=1,
            free=2 - len(given),
            unit=Unit.PIECE,
            text=f"{names} select the same pods, and no pod of {len(given)} budgets can be evicted;"
            f" {len(given) - 1} less",
            hint="leave one of them",
        )


def _disruptions(budget: Budget, pods: int) -> int:
    """Return how many pods may be evicted when all are healthy (pkg/controller/disruption)."""
    if budget.max_unavailable is not None:
        return min(_scaled(budget.max_unavailable, pods), pods)
    if budget.min_available is None:
        return pods
    return pods - _scaled(budget.min_available, pods)


def _scaled(value: int | str, pods: int) -> int:
    """Return a number of pods, a percentage rounded up as Kubernetes does."""
    if isinstance(value, int):
        return value
    return -(-int(value.removesuffix("%")) * pods // 100)
