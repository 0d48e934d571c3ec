"""Which request is hit by which fault: drawn from the faults' own seeds, so it can be repeated."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from slipway.sandbox.faults.model import Fault, Kind

_MS_PER_S = 1000
_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE|PATCH|OPTIONS) [/*h]")
_ENDINGS = frozenset({Kind.ERROR, Kind.RESET, Kind.CUT})


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to one request.

    Args:
        delay_s: how long it is held back.
        ending: the fault that ends it badly, None when it is served.
    """

    delay_s: float = 0.0
    ending: Fault | None = None


SERVED = Plan()


def begins_request(data: bytes) -> bool:
    """Whether the bytes that a client sends after an answer begin an HTTP/1.1 request.

    Source: RFC 9112 §3 (request line). A client waits for its answer before it asks again, so the
    first bytes after an answer are either a new request or the rest of an upload.
    """
    return _REQUEST.match(data) is not None


class Chances:
    """The random numbers of every fault: the n-th request draws the same whenever it is run.

    `hits` counts the requests that each fault hit, by its id.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._generators: dict[tuple[str, int, int], random.Random] = {}
        self.hits: dict[str, int] = {}

    def plan(self, faults: Iterable[Fault], *, only_latency: bool = False) -> Plan:
        """Return what happens to the next request.

        Args:
            faults: those of the door; each draws on its own, and the first ending that hits counts.
            only_latency: the connection was asked about already, this is a further turn of it.
        """
        delay_s, ending = 0.0, None
        for fault in faults:
            if only_latency and fault.kind is not Kind.LATENCY:
                continue
            generator = self._generator(fault)
            hit, more = generator.random() < fault.share, generator.random()
            if hit:
                self.hits[fault.id] = self.hits.get(fault.id, 0) + 1
            if hit and fault.kind is Kind.LATENCY:
                delay_s += (fault.latency_ms + more * fault.jitter_ms) / _MS_PER_S
            if hit and ending is None and fault.kind in _ENDINGS:
                ending = fault
        return Plan(delay_s, ending)

    def _generator(self, fault: Fault) -> random.Random:
        key = (fault.id, fault.since_ns, fault.seed)
        if key not in self._generators:
            self._generators[key] = random.Random(fault.seed)  # noqa: S311  # repeatable, no secret
        return self._generators[key]
