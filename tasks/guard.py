"""The ports of a release behind its lock: no write outside once the lock cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Route, Slot
from slipway.core.traffic import AccessTail, LogPosition
from slipway.ports import (
    Applied,
    Manifest,
    ModelVersion,
    Registry,
    RouteProof,
    Traffic,
    Workloads,
)

Check = Callable[[], None]
"""Raises ConflictError `lock-lost` unless the lock is surely ours for the next seconds."""


class GuardedWorkloads:
    """Workloads whose writes ask the lock first."""

    def __init__(self, port: Workloads, check: Check) -> None:
        self._port = port
        self._check = check

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Applied:
        """See `slipway.ports.Workloads`."""
        self._check()
        return self._port.apply(manifest, dry_run=dry_run)

    def observe(self, namespace: str, deployment: str) -> RolloutObservation | None:
        """See `slipway.ports.Workloads`."""
        return self._port.observe(namespace, deployment)

    def pod(self, namespace: str, name: str) -> PodObservation | None:
        """See `slipway.ports.Workloads`."""
        return self._port.pod(namespace, name)

    def log_tail(self, namespace: str, pod: str, *, lines: int) -> str:
        """See `slipway.ports.Workloads`."""
        return self._port.log_tail(namespace, pod, lines=lines)

    def scale(self, namespace: str, deployment: str, replicas: int, *, uid: str) -> None:
        """See `slipway.ports.Workloads`."""
        self._check()
        self._port.scale(namespace, deployment, replicas, uid=uid)

    def delete(
        self, kind: str, namespace: str, name: str, *, uid: str | None = None, wait: bool = True
    ) -> None:
        """See `slipway.ports.Workloads`."""
        self._check()
        self._port.delete(kind, namespace, name, uid=uid, wait=wait)

    def event(
        self, namespace: str, service: str, *, reason: str, message: str, warning: bool
    ) -> None:
        """See `slipway.ports.Workloads`; an event changes nothing, so it needs no lock."""
        self._port.event(namespace, service, reason=reason, message=message, warning=warning)


class GuardedTraffic:
    """Traffic whose writes ask the lock first."""

    def __init__(self, port: Traffic, check: Check) -> None:
        self._port = port
        self._check = check

    def apply(self, route: Route) -> None:
        """See `slipway.ports.Traffic`."""
        self._check()
        self._port.apply(route)

    def read(self, service: str) -> Route:
        """See `slipway.ports.Traffic`."""
        return self._port.read(service)

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """See `slipway.ports.Traffic`."""
        return self._port.confirm(route, timeout_s=timeout_s)

    def open_streams(self, service: str, slot: Slot) -> int:
        """See `slipway.ports.Traffic`."""
        return self._port.open_streams(service, slot)

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
