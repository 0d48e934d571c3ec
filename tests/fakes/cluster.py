"""One fake cluster: the state that the fakes of Workloads, Traffic and Releases share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.routing import Route, Slot
from slipway.core.traffic import AccessRow
from slipway.manifests.names import SERVES_LABEL, SLOT_LABEL, WEIGHTS_ANNOTATION
from slipway.ports.records import Lease
from tests.fakes.clock import FakeClock
from tests.fakes.journal import Journal

Key = tuple[str, str]
"""Namespace and name."""


class Fault(StrEnum):
    """What can go wrong with pods; the values are the codes their release then fails with."""

    NONE = ""
    QUOTA = "quota-exceeded"
    REFUSED = "pods-refused"
    IMAGE_PULL = "image-pull-failed"
    START = "start-failed"
    CRASH_LOOP = "crash-loop"
    UNSCHEDULABLE = "unschedulable"
    WEIGHTS = "weights-not-placed"
    DEADLINE = "progress-deadline"
    NEVER_READY = "not-in-time"


NO_PODS = frozenset({Fault.QUOTA, Fault.REFUSED})
"""Faults that keep pods from being made at all."""


@dataclass
class FakePod:
    """A pod; it counts the looks at it, and is ready after enough of them."""

    name: str
    uid: str
    image: str
    address: str
    fault: Fault
    looks_left: int
    terminating: bool = False
    weights: str | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether it can serve now."""
        return self.looks_left <= 0 and self.fault is Fault.NONE and not self.terminating


@dataclass
class FakeDeployment:
    """A Deployment with its pods; `number_applied`: its replicas are owned by who applies it."""

    uid: str
    manifest: dict[str, Any]
    resource_version: int
    generation: int = 1
    fault: Fault = Fault.NONE
    pods: list[FakePod] = field(default_factory=list)
    number_applied: bool = True

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.manifest["metadata"]["name"])

    @property
    def replicas(self) -> int:
        """The replicas asked for."""
        return int(self.manifest["spec"]["replicas"])

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the pod template."""
        labels: Mapping[str, str] = self.manifest["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def weights(self) -> str | None:
        """Digest of the weights on a volume that the pod template asks for."""
        annotations = self.manifest["spec"]["template"]["metadata"]["annotations"]
        found: str | None = annotations.get(WEIGHTS_ANNOTATION)
        return found

    @property
    def image(self) -> str:
        """Image of the pod template."""
        return str(self.manifest["spec"]["template"]["spec"]["containers"][0]["image"])


@dataclass
class FakeAutoscaler:
    """What scales a Deployment."""

    uid: str
    manifest: dict[str, Any]
    resource_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeEvent:
    """An event about a service's record."""

    service: str
    reason: str
    message: str
    warning: bool


class FakeCluster:
    """Deployments, pods, routes, records and locks, with settable trouble.

    Attributes:
        fault: what happens to Deployments' pods that are made from now on.
        test_pod_fault: the same for bare pods.
        looks_until_ready: observations until a new pod is ready.
        looks_until_gone: observations until a pod that ends is gone.
        refusal: raised by every apply, as the API server's answer.
        gateway_looks_behind: looks until the gateway serves by a route just written.
        gateway_stuck: the gateway never takes a route over.
        streams: open requests per slot at the gateway, one figure per look; the last one stays.
        server_requests: open requests at the model servers, likewise.
        missing_images: references that no registry has.
        unknown_kinds: of objects that the cluster has no API for.
        swept: what each sweep pod was told to keep, in the order they were made.
        sweep_fault: sweep pods end with an error.
        rows: the gateway's access log.
        fences: the fencing number on an object, by kind and name; none for one never fenced.
        edited_route: what somebody else did to the route objects, empty when nobody did.
        split_filter: the gateway can divide users by sessions.
        enforced: the admission policies are in force, as far as a dry run tells.
        violations: moments at which a route pointed at a slot that could not serve.
    """

    def __init__(self, *, clock: FakeClock | None = None, journal: Journal | None = None) -> None:
        self.clock = clock or FakeClock()
        self.journal = journal or Journal()
        self.deployments: dict[Key, FakeDeployment] = {}
        self.autoscalers: dict[tuple[str, str, str], FakeAutoscaler] = {}
        self.pods: dict[Key, FakePod] = {}
        self.leases: dict[str, Lease] = {}
        self.orders: dict[str, dict[str, str]] = {}
        self.records: dict[str, tuple[str, str]] = {}
        self.routes: dict[str, Route] = {}
        self.gateway_routes: dict[str, Route] = {}
        self.events: list[FakeEvent] = []
        self.missing_images: set[str] = set()
        self.unknown_kinds: set[str] = set()
        self.swept: list[tuple[str, ...]] = []
        self.sweep_fault = False
        self.rows: list[AccessRow] = []
        self.streams: dict[Slot, list[int]] = {}
        self.server_requests: list[int] = []
        self.fences: dict[tuple[str, str], int] = {}
        self.enforced = True
        self.edited_route = ""
        self.split_filter = True
        self.violations: list[str] = []
        self.fault = Fault.NONE
        self.test_pod_fault = Fault.NONE
        self.looks_until_ready = 0
        self.looks_until_gone = 0
        self.refusal: PermanentError | None = None
        self.gateway_looks_behind = 0
        self.gateway_stuck = False
        self._gateway_looks_left: dict[str, int] = {}
        self._last_number = 0

    @classmethod
    def serving(cls, *services: str) -> FakeCluster:
        """Return a cluster under a clock of its own in which these services are installed."""
        cluster = cls(clock=FakeClock())
        for service in services:
            cluster.install(service)
        return cluster

    def install(self, service: str) -> None:
        """Put lock, orders and the empty route of a service in place, as an administrator does."""
        self.leases[service] = Lease(
            service=service, holder="", fence=0, duration_s=0, version="0", renewed_at_ns=0
        )
        self.orders[service] = {}
        self.routes[service] = self.gateway_routes[service] = Route(service=service)

    def fence_off(self, kind: str, name: str, fence: int | None, *, service: str) -> None:
        """Refuse a stale fencing number, as the admission policies do; keep it otherwise.

        A write without a number leaves the one that stands there.

        Raises:
            ConflictError: `lock-lost`.
        """
        now = self.fences.get((kind, name))
        if fence is None or fence == now:
            return
        lock = self.leases.get(service)
        least = now if now is not None else lock.fence if lock else 0
        if fence < least:
            raise ConflictError(
                f"{kind} {name}: stale fencing number {fence}",
                code="lock-lost",
                hint="another release has taken over",
            )
        self.fences[kind, name] = fence

    def number(self) -> int:
        """Return a number that was never returned before."""
        self._last_number += 1
        return self._last_number

    def make_pods(self, deployment: FakeDeployment) -> None:
        """Replace a Deployment's pods by fresh ones, as strategy Recreate does."""
        deployment.fault = self.fault
        wanted = 0 if deployment.fault in NO_PODS else deployment.replicas
        deployment.pods = [
            self.make_pod(f"{deployment.name}-{index}", deployment.image, deployment.fault)
            for index in range(wanted)
        ]
        for pod in deployment.pods:
            pod.weights = deployment.weights

    def resize(self, deployment: FakeDeployment, replicas: int) -> None:
        """Add pods to a Deployment, or end those made last, as its controller does."""
        deployment.manifest["spec"]["replicas"] = replicas
        deployment.number_applied = False
        deployment.generation += 1
        deployment.resource_version = self.number()
        staying = [pod for pod in deployment.pods if not pod.terminating]
        for pod in staying[replicas:]:
            if self.looks_until_gone:
                pod.terminating, pod.looks_left = True, self.looks_until_gone
            else:
                deployment.pods.remove(pod)
        allowed = 0 if deployment.fault in NO_PODS else replicas
        for index in range(len(staying), allowed):
            pod = self.make_pod(f"{deployment.name}-{index}", deployment.image, deployment.fault)
            pod.weights = deployment.weights
            deployment.pods.append(pod)

    def make_pod(self, prefix: str, image: str, fault: Fault) -> FakePod:
        """Return a fresh pod."""
        number = self.number()
        return FakePod(
            name=f"{prefix}-{number}",
            uid=f"uid-{number}",
            image=image,
            address=f"100.100.1.{number % 250 + 2}",
            fault=Fault.IMAGE_PULL if image in self.missing_images else fault,
            looks_left=self.looks_until_ready,
        )

    def replace_pods(self, service: str, slot: Slot) -> None:
        """Let every pod of a slot die and come back as another one, as after a node's failure."""
        for deployment in self.slot_deployments(service, slot):
            self.make_pods(deployment)

    def break_pods(self, service: str, slot: Slot) -> None:
        """Let every pod of a slot fail its probes from now on."""
        for deployment in self.slot_deployments(service, slot):
            for pod in deployment.pods:
                pod.fault = Fault.NEVER_READY

    def slot_deployments(self, service: str, slot: Slot) -> Iterator[FakeDeployment]:
        """Yield the Deployments whose pods belong to a slot."""
        for deployment in self.deployments.values():
            labels = deployment.labels
            if labels.get(SERVES_LABEL) == service and labels.get(SLOT_LABEL) == slot.value:
                yield deployment

    def pods_of(self, service: str, slot: Slot) -> list[FakePod]:
        """Return every pod of a slot."""
        return [
            pod for deployment in self.slot_deployments(service, slot) for pod in deployment.pods
        ]

    def ready_count(self, service: str, slot: Slot) -> int:
        """Return how many pods of a slot can serve now, without counting as a look."""
        return sum(
            pod.ready
            for deployment in self.slot_deployments(service, slot)
            for pod in deployment.pods
        )

    def look_at_gateway(self, service: str) -> Route:
        """Return the route the gateway serves by; it learns of a new one after some looks."""
        wanted = self.routes[service]
        if self.gateway_routes[service] == wanted or self.gateway_stuck:
            return self.gateway_routes[service]
        left = self._gateway_looks_left.pop(service, self.gateway_looks_behind)
        if left > 0:
            self._gateway_looks_left[service] = left - 1
        else:
            self.gateway_routes[service] = wanted
        return self.gateway_routes[service]


def next_figure(figures: list[int]) -> int:
    """Return the next figure of a series, whose last one stays; 0 for an empty series."""
    if len(figures) > 1:
        return figures.pop(0)
    return figures[0] if figures else 0
