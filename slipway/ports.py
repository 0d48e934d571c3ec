"""The doors to the outside: what a release needs of the world, in few verbs each.

Every verb says whether it may be repeated and which errors it raises. Adapters map every client
error to `slipway.core.errors`; `slipway/adapters/retries.py` has the retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slipway.core.feasibility.values import Certificate, Right, Unseen
from slipway.core.release.orders import Order
from slipway.core.release.record import ReleaseRecord
from slipway.core.release.scaling import Autoscaler
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Preview, Route, Slot
from slipway.core.service import ServerKind
from slipway.core.traffic import AccessTail, LogPosition

Manifest = Mapping[str, Any]
"""One Kubernetes object, as `slipway.manifests` builds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A record as stored, with the resourceVersion that guards the next write."""

    record: ReleaseRecord
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The lock of one service, held.

    Args:
        fence: grows with every change of holder.
        version: resourceVersion that guards the renewal.
        renewed_at_ns: Unix time of the last renewal, by the holder's clock; for people.
    """

    service: str
    holder: str
    fence: int
    duration_s: float
    version: str
    renewed_at_ns: int


class Releases(Protocol):
    """Records and locks of releases."""

    def load(self, service: str) -> StoredRecord | None:
        """Return the service's record, None when it has never been released.

        Raises:
            PermanentError: the stored record cannot be read; it is never overwritten.
        """

    def save(self, record: ReleaseRecord, *, version: str | None) -> StoredRecord:
        """Write the record if it is still at `version` (None: it must not exist).

        Raises:
            ConflictError: somebody wrote first; `lock-lost`, the record's `fence` is too small.
        """

    def lock(self, service: str) -> Lease:
        """Return the service's lock as it stands; `holder` is empty when it is free.

        Raises:
            PermanentError: the service is not installed.
        """

    def take(self, found: Lease, *, holder: str, duration_s: float) -> Lease:
        """Make `holder` the holder of the lock, unless it changed since it was `found`.

        Whether a former holder is gone is the caller's to know (`tasks.lock.take_lock`): no clock
        of ours may be compared with the times that another machine wrote.

        Raises:
            ConflictError: somebody wrote it meanwhile.
        """

    def renew(self, lease: Lease) -> Lease:
        """Prolong a held lock, even if the answer to its last renewal was lost.

        Raises:
            ConflictError: it is not ours any more.
        """

    def release(self, lease: Lease) -> None:
        """Give the lock back, even if the answer to its last renewal was lost; may be repeated.

        A lock that is not ours any more is left alone.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrders:
    """The orders of one service, as stored.

    Args:
        orders: by their ids, sorted.
        unreadable: key of what cannot be read → why; it is left where it is.
    """

    orders: tuple[Order, ...]
    unreadable: Mapping[str, str]


class Orders(Protocol):
    """What people and newer requests say to the process that holds a service's lock."""

    def read(self, service: str) -> StoredOrders:
        """Return every order.

        Raises:
            PermanentError: the service is not installed.
        """

    def post(self, service: str, order: Order) -> None:
        """Store an order beside the others; may be repeated.

        Raises:
            PermanentError: the service is not installed.
        """

    def remove(self, service: str, order_id: str) -> None:
        """Remove an order, whatever it says; may be repeated, a missing one is no error.

        Raises:
            PermanentError: the service is not installed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the API server answered to an apply."""

    kind: str
    name: str
    uid: str
    generation: int
    resource_version: str


class Workloads(Protocol):
    """Deployments, pods and other objects of a service.

    Whoever writes under a lock writes the lock's number, its `fence`, too. A number smaller than
    the one that stands there is refused: ConflictError `lock-lost`.
    """

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Applied:
        """Server-side apply, strict validation; may be repeated.

        Raises:
            ConflictError: `lock-lost`, the manifest's fencing number is too small.
            PermanentError: refused (403, 422, quota, admission), with the server's message.
        """

    def stamp(self, namespace: str, deployment: str, *, fence: int) -> None:
        """Put a fencing number on a Deployment; may be repeated, a missing one is no error.

        Raises:
            ConflictError: `lock-lost`, a higher number stands there.
        """

    def observe(self, namespace: str, deployment: str) -> RolloutObservation | None:
        """Return the Deployment with its pods as they are now; None when it does not exist."""

    def pod(self, namespace: str, name: str) -> PodObservation | None:
        """Return one bare pod as it is now; None when it does not exist."""

    def log_tail(self, namespace: str, pod: str, *, lines: int) -> str:
        """Return the last lines of a pod's log; empty when there is none to be had."""

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
        """Set the replicas of a Deployment that is as it was observed; a missing one is no error.

        Raises:
            ConflictError: it changed, or was replaced by another of its name; `lock-lost`.
        """

    def delete(self, kind: str, namespace: str, name: str, *, uid: str, wait: bool = True) -> None:
        """Delete an object and, unless told otherwise, wait until it is gone.

        A missing one is no error. It is bound to the `uid` and not to the resourceVersion: only
        bare pods are deleted, whose status changes with each probe, and whose uid is new with each
        release that makes one.

        Raises:
            ConflictError: it was replaced by another one of the same name.
        """

    def event(
        self, namespace: str, service: str, *, reason: str, message: str, warning: bool
    ) -> None:
        """Write a Kubernetes event about the service's record; best effort."""


class Autoscalers(Protocol):
    """The objects that decide how many pods a Deployment has.

    Whoever writes under a lock writes its number too, as with `Workloads`.
    """

    def find(self, namespace: str, deployments: Sequence[str]) -> tuple[Autoscaler, ...]:
        """Return whatever scales one of these Deployments, whoever made it."""

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """Server-side apply, strict validation; may be repeated.

        Raises:
            ConflictError: `lock-lost`, the manifest's fencing number is too small.
            PermanentError: refused, with the server's message; `autoscaler-unknown`, the cluster
                has no objects of its kind.
        """

    def stamp(self, namespace: str, found: Autoscaler, *, fence: int) -> None:
        """Put a fencing number on an object; may be repeated, a missing one is no error.

        Raises:
            ConflictError: `lock-lost`, a higher number stands there.
        """

    def set_floor(
        self, namespace: str, found: Autoscaler, floor: int, *, fence: int | None = None
    ) -> None:
        """Set the least number of pods, and nothing else; may be repeated.

        A missing one is no error.

        Raises:
            ConflictError: it was replaced by another of its name; `lock-lost`.
        """

    def remove(self, namespace: str, found: Autoscaler) -> None:
        """Have an object that is as it was found deleted; a missing one is no error.

        It may still be there for a while, until its own controller lets it go.

        Raises:
            ConflictError: it changed: another process may have taken over, look again.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Objects as the API server shows them, with `kind` each; `unseen` may not be read."""

    objects: tuple[Manifest, ...]
    unseen: tuple[Unseen, ...] = ()


class Preflight(Protocol):
    """Looks at a cluster before the first write; nothing is written, and all may be repeated."""

    def missing_rights(self, rights: Sequence[Right]) -> tuple[Right, ...]:
        """Return those of the rights that we do not have, in their order."""

    def namespace(self, namespace: str) -> Look:
        """Return Deployments, pods, what scales, disruption budgets, quotas and limit ranges."""

    def routes(self, namespace: str, names: Sequence[tuple[str, str]]) -> Look:
        """Return the objects of a route, as far as there are.

        Args:
            namespace: where they live.
            names: `(kind, name)` of each.
        """

    def nodes(self) -> Look:
        """Return the nodes of the cluster."""

    def pods(self) -> Look:
        """Return the pods of all namespaces that have not ended."""

    def certificate(self, host: str) -> Certificate | None:
        """Return what the gateway proves itself with to users of a host; None without TLS.

        Raises:
            TransientError: it does not answer.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteProof:
    """What showed that a route is in force.

    Args:
        revision: of the route, as the gateway reported it.
        requests: consecutive answers through the gateway that carried the revision.
        waited_ms: from the write to the proof.
    """

    revision: str
    requests: int
    waited_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WayIn:
    """How a request of our own reaches a slot.

    Args:
        url: base URL.
        headers: that bring it there.
        proxy: HTTP proxy to go through; None goes straight.
        names_slot: an answer says in `SLOT_HEADER` which slot it came from.
    """

    url: str
    headers: Mapping[str, str]
    proxy: str | None
    names_slot: bool


class Metrics(Protocol):
    """What model servers say of themselves."""

    def running_requests(self, kind: ServerKind, addresses: Sequence[str]) -> int:
        """Return how many requests the servers at `addresses` (pod IPs) have open now.

        Raises:
            TransientError: a server does not answer; no data is not zero.
            PermanentError: it does not say how many (`metric-missing`).
        """


class Traffic(Protocol):
    """Who gets the users' requests of a service."""

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """Write the route, make before break; may be repeated.

        Args:
            fence: number of the lock it is written under; a guarded port puts its own here.

        Raises:
            ConflictError: `lock-lost`, a higher number stands on the route objects.
            InputError: `route-unsupported`, the router cannot say that.
            PermanentError: the route objects are missing (the service is not installed), or the
                router refuses them (`route-refused`).
        """

    def stamp(self, service: str, *, fence: int) -> None:
        """Put a fencing number on the route objects; may be repeated.

        Raises:
            ConflictError: `lock-lost`, a higher number stands there.
            PermanentError: they are missing (the service is not installed).
        """

    def refuses(self, service: str, *, fence: int) -> bool:
        """Return whether this number would be refused as too small; nothing is written.

        Raises:
            PermanentError: the route objects are missing (the service is not installed).
        """

    def read(self, service: str) -> Route:
        """Return the route as the cluster's objects state it."""

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Wait until the gateway itself serves by `route`.

        Raises:
            TransientError: it did not in time; says what it served by instead.
        """

    def open_streams(self, service: str, slot: Slot) -> int | None:
        """Return how many requests the gateway has open towards `slot`.

        None where no gateway tells the slots apart: then only the servers themselves know.
        """

    def way_in(self, preview: Preview | None) -> WayIn:
        """Return how a request reaches the previewed slot; None is the way of the users."""

    def split_filter_in_force(self) -> bool:
        """Return whether the gateway divides users as `router.sticky` and `fall_back` ask for.

        True where nothing beyond the route is needed for it.
        """

    def access_end(self, service: str) -> LogPosition:
        """Return the end of the gateway's access log as it is now.

        Raises:
            TransientError: the log cannot be read.
        """

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """Return the gateway's rows of the service since a position, as logged.

        Of a log that was begun anew since then all rows are returned; those that its forerunner got
        after the last look are lost.

        Raises:
            TransientError: the log cannot be read.
            PermanentError: it is none.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model version, with what it must be."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A version as the registry states it.

    Args:
        files: every file, sorted by path.
        chat_template_sha256: of the chat template, empty when there is none.
        config_sha256: of the configuration file (`simulated.json`), empty when there is none.
    """

    model: str
    version: str
    source: str
    files: tuple[ModelFile, ...]
    chat_template_sha256: str = ""
    config_sha256: str = ""


class Registry(Protocol):
    """Model versions and their aliases."""

    def register(self, model: str, folder: Path, *, description: str = "") -> ModelVersion:
        """Upload `folder` as a new version with checksums and chat template."""

    def version(self, model: str, version: str) -> ModelVersion:
        """Return a version.

        Raises:
            InputError: unknown model or version, or a version without checksums.
        """

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Bring the version's files into `folder`, each checked against its checksum.

        Raises:
            PermanentError: a file's bytes differ from its checksum (`checksum-mismatch`).
        """

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version an alias points at."""

    def set_alias(self, model: str, alias: str, version: str | None) -> None:
        """Point an alias at a version; None removes it. May be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in the registry of the installation.

    Args:
        reference: `HOST/REPOSITORY@sha256:…`, what a pod's `image` field says.
        digest: `sha256:…` of the manifest.
        pushed: False when it was already there and nothing was sent.
    """

    reference: str
    digest: str
    pushed: bool = False


class ImageStore(Protocol):
    """Container images."""

    def resolve(self, reference: str) -> Image:
        """Return `repository:tag` or `repository@digest` as an image by digest.

        Raises:
            InputError: it is not in the registry.
        """

    def append(
        self,
        base: Image,
        *,
        repository: str,
        files: Mapping[str, Path],
        labels: Mapping[str, str],
    ) -> Image:
        """Push `base` plus one layer holding `files` (path in the image → local file).

        The same inputs give the same digest; what is already there is not sent again.
        """

    def verify(self, image: Image) -> None:
        """Read every blob of the image and check its digest.

        Raises:
            PermanentError: a blob is missing or its bytes differ (`image-damaged`).
        """


class ObjectStore(Protocol):
    """Evidence and backups."""

    def put(self, key: str, body: bytes, *, content_type: str) -> str:
        """Store `body` under `key`; may be repeated. Returns its sha256."""

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`.

        Raises:
            PermanentError: there is no such key.
        """

    def list(self, prefix: str) -> Sequence[str]:
        """Return the keys that start with `prefix`, sorted."""

    def url(self, key: str) -> str:
        """Return where a person finds `key`."""
