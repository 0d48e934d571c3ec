"""What an adoption works with: a service's ports, and any object of its cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from slipway.bootstrap.releases import (
    Ports,
    administration,
    adopted_with,
    put_in_place,
    stored_originals,
)
from slipway.core.errors import PermanentError
from slipway.core.service import ServiceSpec
from slipway.manifests.adoption.originals import Originals, identity
from slipway.manifests.install import platform_objects, service_objects
from slipway.ports.objects import Objects
from slipway.ports.traffic import HandOver
from slipway.ports.workloads import Manifest
from tasks.lock import LockKeeper, take_lock
from tasks.progress import Progress
from tasks.session import installation, new_holder


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopting:
    """A service in the hands of an administrator.

    Args:
        ports: of the service.
        objects: of its cluster.
        hand_over: what its gateway says while routes change hands.
        progress: what a person sees meanwhile.
    """

    ports: Ports
    objects: Objects
    hand_over: HandOver
    progress: Progress

    @property
    def spec(self) -> ServiceSpec:
        """The service as its file states it."""
        return self.ports.spec


class GuardedObjects:
    """Objects that are written only while the service's lock is surely ours."""

    def __init__(self, objects: Objects, check: Callable[[], None]) -> None:
        self._objects = objects
        self._check = check

    def get(self, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Read one; see `slipway.ports.Objects`."""
        return self._objects.get(kind, namespace, name)

    def list(self, kind: str, namespace: str | None) -> tuple[Manifest, ...]:
        """List them; see `slipway.ports.Objects`."""
        return self._objects.list(kind, namespace)

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply; see `slipway.ports.Objects`."""
        self._check()
        return self._objects.apply(manifest, dry_run=dry_run)

    def put(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create or replace; see `slipway.ports.Objects`."""
        self._check()
        return self._objects.put(manifest, dry_run=dry_run)

    def patch(
        self, found: Manifest, changes: Mapping[str, Any], *, dry_run: bool = False
    ) -> Manifest:
        """Merge; see `slipway.ports.Objects`."""
        self._check()
        return self._objects.patch(found, changes, dry_run=dry_run)

    def delete(self, found: Manifest) -> None:
        """Delete; see `slipway.ports.Objects`."""
        self._check()
        self._objects.delete(found)


def opened(service: str) -> Adopting:
    """Return what an adoption of a service works with.

    Raises:
        InputError: unknown service.
    """
    ports, objects, hand_over = administration(service, installation())
    return Adopting(
        ports=ports,
        objects=objects,
        hand_over=hand_over,
        progress=Progress(f"{service} adopt"),
    )


@contextmanager
def locked(work: Adopting) -> Iterator[tuple[Adopting, LockKeeper]]:
    """Hold the service's lock meanwhile; nothing is written once it is lost.

    Raises:
        ConflictError: a release of the service runs.
    """
    releases, say = work.ports.releases, work.progress.say
    lease = take_lock(releases, work.spec.name, holder=new_holder(), report=say)
    keeper = LockKeeper(releases, lease, report=say)
    try:
        yield replace(work, objects=GuardedObjects(work.objects, keeper.check)), keeper
    finally:
        keeper.close()


def originals_of(work: Adopting) -> Originals | None:
    """Return what was there before an adoption; None without one.

    Raises:
        PermanentError: `originals-damaged`.
    """
    return stored_originals(work.objects, work.spec)


def install_base(work: Adopting) -> None:
    """Put in place what every service needs beside its routes."""
    spec, objects = work.spec, work.objects
    own = service_objects(spec, adopted=adopted_with(objects, spec))
    put_in_place(objects, (*platform_objects(work.ports.settings.pod_registries), *own))


def standing(work: Adopting, original: Manifest) -> Manifest:
    """Return an object as it is now.

    Raises:
        PermanentError: it is gone.
    """
    kind, namespace, name = identity(original)
    found = work.objects.get(kind, namespace, name)
    if found is None:
        raise changed_meanwhile(
            f"{kind} {namespace}/{name} is gone", "restore it, then run the command again"
        )
    return found


def changed_meanwhile(what: str, hint: str) -> PermanentError:
    """Return the error of an adoption that meets what it did not expect."""
    return PermanentError(what, code="adoption-changed", hint=hint)
