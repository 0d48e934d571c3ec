"""Holds the faults in force: the doors, the file, the time they end, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import ConflictError, InputError, SlipwayError, TransientError
from slipway.sandbox.faults import disks
from slipway.sandbox.faults.answers import Dialect
from slipway.sandbox.faults.door import Door, Way
from slipway.sandbox.faults.link import Tls
from slipway.sandbox.faults.model import Fault, Kind, Place, Target, checked
from slipway.sandbox.faults.plan import Chances
from slipway.sandbox.faults.pods import PodPort, faulted_pods, is_gateway_fault, namespaces
from slipway.sandbox.faults.settings import Settings
from slipway.sandbox.faults.store import Faults, read_faults, write_faults

if TYPE_CHECKING:
    import httpx

_LOOK_S = 1.0  # how often the pods of a faulted service are looked up
_NS_PER_S = 1_000_000_000
_MOST_PER_TARGET = 20


@dataclass(slots=True)
class Routes:
    """The pods that the gateway reaches through doors; waiters hear of every change."""

    addresses: tuple[str, ...] = ()
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def publish(self, addresses: tuple[str, ...]) -> None:
        """Tell everybody, when it is news."""
        async with self.changed:
            if addresses != self.addresses:
                self.addresses = addresses
                self.changed.notify_all()


class FaultService:
    """All doors of a sandbox, and the faults on them.

    Args:
        settings: where everything is.
    """

    def __init__(self, settings: Settings) -> None:
        """Read the faults that a former process left in force."""
        self.routes = Routes()
        self._settings = settings
        self._faults = read_faults(settings.store)
        self._chances = Chances()
        self._doors = {
            name: Door(way, self._chances, _tls(settings.pki) if _is_tls(way) else None)
            for name, way in settings.ways.items()
        }
        self._pod_doors: dict[PodPort, Door] = {}
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()

    @property
    def active(self) -> tuple[Fault, ...]:
        """The faults in force."""
        return self._faults.active

    @property
    def hits(self) -> dict[str, int]:
        """How many requests each fault has hit since this process began, by id."""
        return {fault.id: self._chances.hits.get(fault.id, 0) for fault in self.active}

    async def start(self) -> None:
        """Open the doors, with the faults that were in force.

        Raises:
            OSError: a port cannot be opened.
        """
        async with self._lock:
            self._faults = replace(self._faults, active=_lasting(self._faults.active))
            await self._apply_doors()
            disks.mark_nodes(self._settings.run, disks.full_nodes(self.active))

    async def add(self, fault: Fault, lasts_s: float) -> Fault:
        """Put a fault in force; it is so when this returns.

        Args:
            fault: without id and times.
            lasts_s: how long, 0 for until it is removed.

        Raises:
            InputError: it makes no sense.
            ConflictError: the target carries too many.
            TransientError: it cannot be applied now; it is not in force then.
        """
        checked(fault)
        async with self._lock:
            if sum(one.target == fault.target for one in self.active) >= _MOST_PER_TARGET:
                raise ConflictError(
                    f"{fault.target} has {_MOST_PER_TARGET} faults already",
                    code="faults-too-many",
                    hint="slipway sandbox fault remove --all",
                )
            now_ns = time.time_ns()
            new = replace(
                checked(fault),
                id=f"f{self._faults.added + 1}",
                since_ns=now_ns,
                until_ns=now_ns + int(lasts_s * _NS_PER_S) if lasts_s > 0 else 0,
            )
            before = self._faults
            await self._set(Faults((*self.active, new), self._faults.added + 1))
            try:
                await self._apply_all()
            except (SlipwayError, OSError):
                await self._set(replace(before, added=before.added + 1))
                raise
            return new

    async def remove(self, names: tuple[str, ...]) -> tuple[Fault, ...]:
        """Take faults back; all of them without names.

        Raises:
            InputError: there is no such fault.
            TransientError: the object store could not be told; it is tried again.
        """
        async with self._lock:
            unknown = sorted(set(names) - {fault.id for fault in self.active})
            if unknown:
                raise InputError(
                    f"there is no fault {', '.join(unknown)}",
                    code="fault-unknown",
                    hint="slipway sandbox fault list",
                )
            gone = tuple(fault for fault in self.active if not names or fault.id in names)
            kept = tuple(fault for fault in self.active if fault not in gone)
            await self._set(replace(self._faults, active=kept))
            await self._apply_all()
            return gone

    async def keep(self) -> None:
        """End faults whose time is up, follow the pods of services, repeat what failed; forever."""
        while True:
            async with self._lock:
                lasting = _lasting(self.active)
                if lasting != self.active:
                    await self._set(replace(self._faults, active=lasting))
                try:
                    await self._apply_all()
                    failed = False
                except (SlipwayError, OSError) as error:
                    failed = True
                    sys.stderr.write(f"{error}\n")
                    sys.stderr.flush()
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._pause_s(failed))

    async def stop(self) -> None:
        """Let the object store take writes again, and close the doors."""
        with contextlib.suppress(TransientError):
            await disks.set_s3(self._settings.run, self._settings.filer, full=False)
        for door in (*self._doors.values(), *self._pod_doors.values()):
            door.close()

    def _pause_s(self, failed: bool) -> float | None:
        if failed or any(is_gateway_fault(fault) for fault in self.active):
            return _LOOK_S
        ends_ns = [fault.until_ns for fault in self.active if fault.until_ns]
        return max(0.0, (min(ends_ns) - time.time_ns()) / _NS_PER_S) if ends_ns else None

    async def _set(self, faults: Faults) -> None:
        write_faults(self._settings.store, faults)
        self._faults = faults
        self._news.set()

    async def _apply_all(self) -> None:
        await self._apply_doors()
        disks.mark_nodes(self._settings.run, disks.full_nodes(self.active))
        await self._apply_pods()
        await disks.set_s3(
            self._settings.run, self._settings.filer, full=disks.is_s3_full(self.active)
        )

    async def _apply_doors(self) -> None:
        for name, door in self._doors.items():
            target = Target(Place.PORT, name)
            mine = tuple(one for one in self.active if one.target == target)
            await door.apply(tuple(one for one in mine if one.kind is not Kind.DISK_FULL))

    async def _apply_pods(self) -> None:
        gateway_faults = tuple(fault for fault in self.active if is_gateway_fault(fault))
        slices = await self._slices(namespaces(gateway_faults))
        wanted = faulted_pods(gateway_faults, slices)
        for pod_port in wanted:
            if pod_port not in self._pod_doors:
                way = _way_to(pod_port)
                self._pod_doors[pod_port] = Door(way, self._chances)
        # A door without faults stays: connections of the gateway may still use it.
        for pod_port, door in self._pod_doors.items():
            await door.apply(wanted.get(pod_port, ()))
        await self.routes.publish(tuple(sorted({pod_port.address for pod_port in wanted})))

    async def _slices(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        if not names:
            return []
        # Heavy, and only needed while a pod is faulted.
        import httpx

        from slipway.sandbox.network.services import read_client

        try:
            async with read_client(self._settings.kubeconfig) as client:
                return [item for name in names for item in await _list(client, name)]
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise TransientError(
                f"the API server does not tell the pods of a service: {error!r}",
                code="fault-not-applied",
                hint="slipway sandbox logs apiserver",
            ) from error


async def _list(client: httpx.AsyncClient, namespace: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
    answer.raise_for_status()
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def _lasting(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    now_ns = time.time_ns()
    return tuple(fault for fault in faults if not fault.is_over(now_ns))


def _way_to(pod_port: PodPort) -> Way:
    return Way(pod_port.door_address, pod_port.port, pod_port.address, pod_port.port, Dialect.MODEL)


def _is_tls(way: Way) -> bool:
    return way.dialect is Dialect.KUBERNETES


def _tls(pki: Path) -> Tls:
    """Return what looking into the API server's TLS takes.

    Who calls it proves itself by a bearer token, which passes through; a client certificate would
    not. Both sides speak HTTP/1.1 only, so that requests can be told apart.
    """
    inwards = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inwards.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    outwards = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    for context in (inwards, outwards):
        context.set_alpn_protocols(["http/1.1"])
    return Tls(inwards, outwards)
