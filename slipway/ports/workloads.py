"""What runs in the cluster, what scales it, and what a release would run into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from slipway.core.feasibility.values import Certificate, Right, Unseen
from slipway.core.release.scaling import Autoscaler
from slipway.core.rollout import PodObservation, RolloutObservation

Manifest = Mapping[str, Any]
"""One Kubernetes object, as `slipway.manifests` builds it."""


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

    def unlabel(
        self, namespace: str, deployment: str, labels: Sequence[str], *, fence: int | None = None
    ) -> None:
        """Have a Deployment make pods without these labels; may be repeated.

        It must have no pods: it would replace them. A missing one is no error.

        Raises:
            ConflictError: `lock-lost`.
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
