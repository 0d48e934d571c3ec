"""What a fault is, as a value: its target, its kind, how often and for how long. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from slipway.core.errors import InputError

DEFAULT_NAMESPACE = "serving"
PORTS = ("s3", "registry", "mlflow", "apiserver")
"""Servers with a port of their own that a fault can stand in front of."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # RFC 1123
_SHARE_DIGITS = 4


class Kind(StrEnum):
    """What goes wrong."""

    LATENCY = "latency"
    RESET = "reset"
    ERROR = "error"
    CUT = "cut"
    AWAY = "away"
    DISK_FULL = "disk-full"


class Place(StrEnum):
    """What sort of thing a target is."""

    PORT = "port"
    NODE = "node"
    SERVICE = "service"
    POD = "pod"


@dataclass(frozen=True, slots=True)
class Target:
    """Where it goes wrong.

    Args:
        place: its sort.
        name: of the port, node, Kubernetes Service or pod.
        namespace: of the Service or pod; "" for the others.
    """

    place: Place
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        """Return it as people write it."""
        if self.place is Place.PORT:
            return self.name
        tail = "" if self.namespace in {"", DEFAULT_NAMESPACE} else f"/{self.namespace}"
        return f"{self.place}/{self.name}{tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Args:
        id: how `fault list` and `fault remove` name it.
        target: where.
        kind: what.
        share: of the requests that it hits, above 0 and up to 1.
        latency_ms: added to a hit request.
        jitter_ms: up to this much more, evenly spread.
        after_bytes: of the answer, head included, that pass before a reset or a cut.
        status: HTTP status of an error, 500 to 599, or 429.
        seed: of the random numbers that say which requests are hit.
        since_ns: begin, Unix time.
        until_ns: end, Unix time; 0 for "until it is removed".
    """

    id: str
    target: Target
    kind: Kind
    share: float = 1.0
    latency_ms: int = 0
    jitter_ms: int = 0
    after_bytes: int = 0
    status: int = 503
    seed: int = 0
    since_ns: int = 0
    until_ns: int = 0

    def is_over(self, now_ns: int) -> bool:
        """Whether its time is up."""
        return 0 < self.until_ns <= now_ns

    @property
    def meaning(self) -> str:
        """What it does, in a few words."""
        often = "" if self.share >= 1 else f" for {round(100 * self.share, _SHARE_DIGITS):g} %"
        after = f" after {self.after_bytes} bytes" if self.after_bytes else ""
        jitter = f" + 0..{self.jitter_ms} ms" if self.jitter_ms else ""
        return {
            Kind.LATENCY: f"{self.latency_ms} ms{jitter} later{often}",
            Kind.RESET: f"connection reset{after}{often}",
            Kind.ERROR: f"HTTP {self.status}{often}",
            Kind.CUT: f"answer ends{after or ' before it begins'}{often}",
            Kind.AWAY: "refuses connections",
            Kind.DISK_FULL: "refuses writes",
        }[self.kind]


def parse_target(text: str) -> Target:
    """Return the target that a person named.

    Args:
        text: `s3`, `registry`, `mlflow`, `apiserver`, `node/NAME`, `service/NAME[/NAMESPACE]` or
            `pod/NAME[/NAMESPACE]`.

    Raises:
        InputError: it is none of these.
    """
    if text in PORTS:
        return Target(Place.PORT, text)
    place, _, rest = text.partition("/")
    name, _, namespace = rest.partition("/")
    if place == Place.NODE and _NAME.fullmatch(name) and not namespace:
        return Target(Place.NODE, name)
    if place in {Place.SERVICE, Place.POD} and _NAME.fullmatch(name):
        namespace = namespace or DEFAULT_NAMESPACE
        if _NAME.fullmatch(namespace):
            return Target(Place(place), name, namespace)
    raise InputError(
        f"{text} is nothing that a fault can be put on",
        code="fault-target-unknown",
        hint=f"one of {', '.join(PORTS)}, node/NAME, service/NAME or pod/NAME"
        f" (namespace {DEFAULT_NAMESPACE}, or NAME/NAMESPACE)",
    )


def checked(fault: Fault) -> Fault:
    """Return the fault when it makes sense.

    Raises:
        InputError: a value is out of bounds, or the target cannot have such a fault.
    """
    wrong = _wrong_place(fault) or _wrong_value(fault)
    if wrong:
        raise InputError(wrong, code="fault-invalid", hint="see: slipway sandbox fault add --help")
    if fault.kind in {Kind.AWAY, Kind.DISK_FULL}:
        return replace(fault, share=1.0)
    return fault


def _wrong_place(fault: Fault) -> str:
    may_fill = fault.target.place is Place.NODE or fault.target.name == "s3"
    if fault.kind is Kind.DISK_FULL and not may_fill:
        return f"{fault.target} has no disk to be filled: s3 and nodes have"
    if fault.target.place is Place.NODE and fault.kind is not Kind.DISK_FULL:
        return f"a node can only have a full disk; put {fault.kind} on its pods or services"
    return ""


def _wrong_value(fault: Fault) -> str:
    if not 0 < fault.share <= 1:
        return f"share {fault.share:g} is not above 0 and up to 1"
    if min(fault.latency_ms, fault.jitter_ms, fault.after_bytes) < 0:
        return "milliseconds and bytes are not negative"
    if fault.kind is Kind.LATENCY and fault.latency_ms + fault.jitter_ms == 0:
        return "a latency needs --latency-ms or --jitter-ms"
    if not (500 <= fault.status <= 599 or fault.status == 429):
        return f"status {fault.status} is neither 429 nor 500 to 599"
    return ""
