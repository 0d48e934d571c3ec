"""The ports of a release behind its lock: no write outside once the lock cannot be trusted.

A process that is stopped between this check and its write cannot know that it was. So each write
carries the lock's number too, and the API server refuses one that is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from slipway.core.release.scaling import Autoscaler
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Preview, Route, Slot
from slipway.core.traffic import AccessTail, LogPosition
from slipway.manifests.names import with_fence
from slipway.ports.models import ModelVersion, Registry
from slipway.ports.traffic import RouteProof, Traffic, WayIn
from slipway.ports.workloads import Applied, Autoscalers, Manifest, Workloads

Check = Callable[[], None]
"""Raises ConflictError `lock-lost` unless the lock is surely ours for the next seconds."""


class GuardedWorkloads:
    """Workloads whose writes ask the lock first and carry its number.

    Args:
        fence: the lock's number.
    """

    def __init__(self, port: Workloads, check: Check, *, fence: int) -> None:
        self._port = port
        self._check = check
        self._fence = fence

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Applied:
        """See `slipway.ports.Workloads`; whatever is applied carries the number."""
        self._check()
        return self._port.apply(with_fence(manifest, self._fence), dry_run=dry_run)

    def stamp(self, namespace: str, deployment: str, *, fence: int) -> None:
        """See `slipway.ports.Workloads`."""
        self._check()
        self._port.stamp(namespace, deployment, fence=fence)

    def observe(self, namespace: str, deployment: str) -> RolloutObservation | None:
        """See `slipway.ports.Workloads`."""
        return self._port.observe(namespace, deployment)

    def pod(self, namespace: str, name: str) -> PodObservation | None:
        """See `slipway.ports.Workloads`."""
        return self._port.pod(namespace, name)

    def log_tail(self, namespace: str, pod: str, *, lines: int) -> str:
        """See `slipway.ports.Workloads`."""
        return self._port.log_tail(namespace, pod, lines=lines)

    def scale(
        self,
        namespace: str,
        deployment: str,
        replicas: int,
        *,
        uid: str,
        resource_version: str,
        fence: int | None = None,
    ) -> None:
        """See `slipway.ports.Workloads`; under the lock's number unless told another one."""
        self._check()
        self._port.scale(
            namespace,
            deployment,
            replicas,
            uid=uid,
            resource_version=resource_version,
            fence=self._fence if fence is None else fence,
        )

    def unlabel(
        self, namespace: str, deployment: str, labels: Sequence[str], *, fence: int | None = None
    ) -> None:
        """See `slipway.ports.Workloads`; under the lock's number unless told another one."""
        self._check()
        number = self._fence if fence is None else fence
        self._port.unlabel(namespace, deployment, labels, fence=number)

    def delete(self, kind: str, namespace: str, name: str, *, uid: str, wait: bool = True) -> None:
        """See `slipway.ports.Workloads`."""
        self._check()
        self._port.delete(kind, namespace, name, uid=uid, wait=wait)

    def event(
        self, namespace: str, service: str, *, reason: str, message: str, warning: bool
    ) -> None:
        """See `slipway.ports.Workloads`; an event changes nothing, so it needs no lock."""
        self._port.event(namespace, service, reason=reason, message=message, warning=warning)


class GuardedAutoscalers:
    """Autoscalers whose writes ask the lock first and carry its number.

    Args:
        fence: the lock's number.
    """

    def __init__(self, port: Autoscalers, check: Check, *, fence: int) -> None:
        self._port = port
        self._check = check
        self._fence = fence

    def find(self, namespace: str, deployments: Sequence[str]) -> tuple[Autoscaler, ...]:
        """See `slipway.ports.Autoscalers`."""
        return self._port.find(namespace, deployments)

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """See `slipway.ports.Autoscalers`; whatever is applied carries the number."""
        self._check()
        self._port.apply(with_fence(manifest, self._fence), dry_run=dry_run)

    def stamp(self, namespace: str, found: Autoscaler, *, fence: int) -> None:
        """See `slipway.ports.Autoscalers`."""
        self._check()
        self._port.stamp(namespace, found, fence=fence)

    def set_floor(
        self, namespace: str, found: Autoscaler, floor: int, *, fence: int | None = None
    ) -> None:
        """See `slipway.ports.Autoscalers`; under the lock's number unless told another one."""
        self._check()
        number = self._fence if fence is None else fence
        self._port.set_floor(namespace, found, floor, fence=number)

    def remove(self, namespace: str, found: Autoscaler) -> None:
        """See `slipway.ports.Autoscalers`."""
        self._check()
        self._port.remove(namespace, found)


class GuardedTraffic:
    """Traffic whose writes ask the lock first and carry its number.

    Args:
        fence: the lock's number.
    """

    def __init__(self, port: Traffic, check: Check, *, fence: int) -> None:
        self._port = port
        self._check = check
        self._fence = fence

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """See `slipway.ports.Traffic`; under the lock's number unless told another one."""
        self._check()
        self._port.apply(route, fence=self._fence if fence is None else fence)

    def stamp(self, service: str, *, fence: int) -> None:
        """See `slipway.ports.Traffic`."""
        self._check()
        self._port.stamp(service, fence=fence)

    def refuses(self, service: str, *, fence: int) -> bool:
        """See `slipway.ports.Traffic`."""
        return self._port.refuses(service, fence=fence)

    def read(self, service: str) -> Route:
        """See `slipway.ports.Traffic`."""
        return self._port.read(service)

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """See `slipway.ports.Traffic`."""
        return self._port.confirm(route, timeout_s=timeout_s)

    def open_streams(self, service: str, slot: Slot) -> int | None:
        """See `slipway.ports.Traffic`."""
        return self._port.open_streams(service, slot)

    def split_filter_in_force(self) -> bool:
        """See `slipway.ports.Traffic`."""
        return self._port.split_filter_in_force()

    def way_in(self, preview: Preview | None) -> WayIn:
        """See `slipway.ports.Traffic`."""
        return self._port.way_in(preview)

    def access_end(self, service: str) -> LogPosition:
        """See `slipway.ports.Traffic`."""
        return self._port.access_end(service)

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """See `slipway.ports.Traffic`."""
        return self._port.access_rows(service, after=after)


class GuardedRegistry:
    """A registry whose alias moves only under the lock."""

    def __init__(self, port: Registry, check: Check) -> None:
        self._port = port
        self._check = check

    def register(self, model: str, folder: Path, *, description: str = "") -> ModelVersion:
        """See `slipway.ports.Registry`."""
        return self._port.register(model, folder, description=description)

    def version(self, model: str, version: str) -> ModelVersion:
        """See `slipway.ports.Registry`."""
        return self._port.version(model, version)

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """See `slipway.ports.Registry`."""
        return self._port.fetch(version, folder)

    def alias(self, model: str, alias: str) -> str | None:
        """See `slipway.ports.Registry`."""
        return self._port.alias(model, alias)

    def set_alias(self, model: str, alias: str, version: str | None) -> None:
        """See `slipway.ports.Registry`."""
        self._check()
        self._port.set_alias(model, alias, version)
