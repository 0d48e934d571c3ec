"""What was seen of a cluster, what a release needs of it, and what is short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from slipway.core.feasibility.quantity import Amounts, Unit
from slipway.core.service import WhenFull


class Code(StrEnum):
    """Names of what can make a release infeasible; stable, programs match on them."""

    PERMISSION = "permission-missing"
    IMAGE = "image-missing"
    NAME = "name-taken"
    ROUTE = "route-foreign"
    CERTIFICATE = "certificate-expires"
    BUDGET = "disruption-blocked"
    CONTRADICTION = "objects-contradict"
    QUOTA = "quota-short"
    UNSTATED = "quota-unstated"
    LIMIT = "limit-range"
    LABELS = "node-labels"
    TAINTS = "node-taints"
    NODE_SIZE = "node-too-small"
    GPU = "gpu-short"
    NODE_ROOM = "node-room-short"
    ZONES = "zone-spread"
    COST = "overlap-too-dear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """One reason why a release cannot be carried out.

    Args:
        subject: what is too small, missing or in the way.
        needs: how much the release needs, in `unit`.
        free: how much of it there is.
        text: the same for people, exact.
        hint: what to do.
    """

    code: Code
    subject: str
    needs: int
    free: int
    unit: Unit
    text: str
    hint: str

    @property
    def short(self) -> int:
        """How much is missing, in `unit`."""
        return self.needs - self.free

    def __str__(self) -> str:
        return f"{self.subject}: {self.text} [{self.code}]"


def one_missing(
    *, code: Code, subject: str, text: str, hint: str, unit: Unit = Unit.PIECE
) -> Shortfall:
    """Return the reason that one of something is asked for, and there is none."""
    return Shortfall(code=code, subject=subject, needs=1, free=0, unit=unit, text=text, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What one container asks for.

    Args:
        init: it ends before the others start.
        sidecar: it is started before the others, and stays.
    """

    name: str
    requests: Amounts
    limits: Amounts
    init: bool = False
    sidecar: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """What keeps pods away from a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """What lets a pod onto a node nevertheless; an empty key or effect stands for every one."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Return whether it does (k8s.io/component-helpers, `ToleratesTaint`)."""
        if self.effect not in {"", taint.effect} or self.key not in {"", taint.key}:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Pods must be spread over the values of a node label, at most `max_skew` apart."""

    topology_key: str
    max_skew: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDemand:
    """What one pod asks for.

    Args:
        node_selector: labels that its node must carry.
        spreads: those that are conditions; a wish is none.
        overhead: of its runtime class.
        has_deadline: quotas of scope `Terminating` count it.
    """

    containers: tuple[Container, ...]
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    spreads: tuple[Spread, ...] = ()
    overhead: Amounts = field(default_factory=dict)
    has_deadline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """A node."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    allocatable: Amounts


class Role(StrEnum):
    """Whose a pod is, as the release sees it."""

    OTHER = "other"
    STABLE = "stable"
    CANDIDATE = "candidate"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSeen:
    """A pod that has not ended.

    Args:
        node: that it runs on; empty while it waits for one.
        ours: its role in this release.
        ending: it is being deleted; its room will be free soon.
    """

    namespace: str
    name: str
    node: str
    demand: PodDemand
    ours: Role = Role.OTHER
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A ResourceQuota.

    Args:
        scopes: `Terminating`, `NotTerminating`, `BestEffort` or `NotBestEffort`.
    """

    name: str
    hard: Amounts
    used: Amounts
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One item of a LimitRange.

    Args:
        kind: `Container` or `Pod`.
        ratios: of a limit to its request, at most.
    """

    name: str
    kind: str
    least: Amounts = field(default_factory=dict)
    most: Amounts = field(default_factory=dict)
    default_limits: Amounts = field(default_factory=dict)
    default_requests: Amounts = field(default_factory=dict)
    ratios: Mapping[str, Fraction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A PodDisruptionBudget that selects the candidate's pods; a text is a percentage."""

    name: str
    min_available: int | str | None = None
    max_unavailable: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An object that has a name which the release needs, and is not the service's.

    Args:
        owner: who seems to own it, for people.
    """

    kind: str
    name: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One verb on one resource."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        named = f"/{self.name}" if self.name else ""
        where = f"in {self.namespace}" if self.namespace else "in all namespaces"
        return f"{self.verb} {self.resource}{named} {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What the gateway showed for a host; Unix seconds."""

    host: str
    begins_s: int
    ends_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """What could not be looked at, and so is not known to be good."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A fault between objects, as the linter found it."""

    rule: str
    subject: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSeen:
    """What was seen of a cluster just now.

    Args:
        nodes: None when they may not be listed.
        pods: those that have not ended, as far as they may be listed.
        every_pod: pods of all namespaces were listed.
        missing_rights: of those that a release needs.
        missing_images: references that the registry cannot serve, and why.
        foreign_route: what of the service's routes no release wrote; empty when nothing.
        notes: what is no reason to refuse it and worth knowing.
    """

    nodes: tuple[NodeSeen, ...] | None = ()
    pods: tuple[PodSeen, ...] = ()
    every_pod: bool = True
    quotas: tuple[Quota, ...] = ()
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    taken: tuple[Taken, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    missing_rights: tuple[Right, ...] = ()
    missing_images: tuple[Unseen, ...] = ()
    foreign_route: str = ""
    notes: tuple[str, ...] = ()
    unseen: tuple[Unseen, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a release needs of a cluster.

    Args:
        namespace: of the service.
        workload: the candidate's Deployment.
        pod: one of the candidate's.
        test_pod: the one that the model is tested in.
        test_pods: that are still to be made; 0 once the model has been tested.
        at_first: pods that the candidate begins with.
        at_full: pods that carry all users.
        most: pods that its autoscaler may make of it; 0 without one.
        creates: objects that are made, by their name in a quota (`count/deployments.apps`).
        shortest_s: how long both slots have pods, when nothing is waited for.
        longest_s: the same with every wait at its limit; a held canary is not counted.
        price_usd_per_hour: of one pod; None when the service file has no price.
        budget_usd: most that the overlap may cost; None when there is no limit.
        when_full: what becomes of a release that has no room now.
    """

    service: str
    namespace: str
    workload: str
    pod: PodDemand
    test_pod: PodDemand
    at_first: int
    at_full: int
    test_pods: int = 1
    most: int = 0
    creates: Amounts = field(default_factory=dict)
    shortest_s: float = 0.0
    longest_s: float = 0.0
    price_usd_per_hour: Decimal | None = None
    budget_usd: Decimal | None = None
    when_full: WhenFull = WhenFull.REFUSE


class Way(StrEnum):
    """How a candidate could get its pods.

    BLUE_GREEN: beside the stable slot's, all of them. QUEUE: the same, once there is room. SURGE: a
    pod at a time, while the stable slot shrinks. IN_PLACE: instead of the stable slot's.
    """

    BLUE_GREEN = "blue_green"
    QUEUE = "queue"
    SURGE = "surge"
    IN_PLACE = "in_place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What it costs that both slots have pods.

    Args:
        pods: of the candidate, at full.
        shortest_usd: None when the service file has no price; rounded up to cents.
    """

    pods: int
    shortest_s: float
    longest_s: float
    shortest_usd: Decimal | None
    longest_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasibility:
    """Whether a release could be carried out now.

    Args:
        way: that is taken; None when it is refused.
        shortfalls: why it is not carried out now; with way `queue`, what is waited for.
        would_fit: other ways that there would be room for.
        settles: there is room as soon as the pods are gone that end already.
        notes: what is no reason to refuse it and worth knowing.
        unseen: what could not be looked at.
    """

    way: Way | None
    shortfalls: tuple[Shortfall, ...]
    would_fit: tuple[Way, ...]
    settles: bool
    notes: tuple[str, ...]
    unseen: tuple[Unseen, ...]
    overlap: Overlap
