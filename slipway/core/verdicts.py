"""From evidence to verdicts: pure, so every verdict can be computed again from what was stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a gate says. Only PASS moves a release forward."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One measured figure.

    Args:
        name: for example `ttft_p95_ms`; carries its unit's suffix.
        value: the figure; NaN when it could not be formed.
        n: how many observations stand behind it.
        window_s: length of the measurement.
        source: what measured it, for example `benchmark` or `gateway access log`.
        taken_at_ns: end of the measurement, Unix time.
        digest: sha256 of the stored table it was computed from.
    """

    name: str
    value: float
    unit: str
    n: int
    window_s: float
    source: str
    taken_at_ns: int
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the figures of one measurement have in common; see `Evidence`."""

    window_s: float
    source: str
    taken_at_ns: int
    digest: str = ""

    def figure(self, name: str, value: float, unit: str, n: int) -> Evidence:
        """Return one figure of this measurement."""
        return Evidence(
            name=name,
            value=value,
            unit=unit,
            n=n,
            window_s=self.window_s,
            source=self.source,
            taken_at_ns=self.taken_at_ns,
            digest=self.digest,
        )


class Bound(StrEnum):
    """Which side of the threshold is good."""

    AT_MOST = "at_most"
    AT_LEAST = "at_least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A named rule with a threshold.

    Args:
        evidence: name of the evidence it reads.
        n_min: fewer observations are too little data.
    """

    name: str
    evidence: str
    bound: Bound
    threshold: float
    n_min: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What one gate said, and why."""

    gate: Gate
    verdict: Verdict
    value: float
    n: int
    reason: str


def judge(gate: Gate, evidence: tuple[Evidence, ...]) -> GateResult:
    """Return the gate's verdict on `evidence`.

    No evidence of its name, two of them, or a value that is not finite is ERROR (never 0); fewer
    observations than `n_min` is INCONCLUSIVE.
    """
    found = [item for item in evidence if item.name == gate.evidence]
    if len(found) != 1:
        what = "no evidence" if not found else f"{len(found)} figures where one is expected"
        return _result(gate, Verdict.ERROR, math.nan, 0, f"{gate.name}: {what} of {gate.evidence}")
    item = found[0]
    if not math.isfinite(item.value):
        reason = f"{gate.name}: {gate.evidence} is {item.value}"
        return _result(gate, Verdict.ERROR, item.value, item.n, reason)
    if item.n < gate.n_min:
        reason = f"{gate.name}: {item.n} observations, {gate.n_min} are needed"
        return _result(gate, Verdict.INCONCLUSIVE, item.value, item.n, reason)
    good = (
        item.value <= gate.threshold
        if gate.bound is Bound.AT_MOST
        else item.value >= gate.threshold
    )
    word = "at most" if gate.bound is Bound.AT_MOST else "at least"
    figure = f"{item.value:.4g} {item.unit}".rstrip()
    reason = f"{gate.name} {figure}, {word} {gate.threshold:.4g} asked (n = {item.n})"
    return _result(gate, Verdict.PASS if good else Verdict.FAIL, item.value, item.n, reason)


def overall(results: tuple[GateResult, ...]) -> Verdict:
    """Return the verdict of several gates: the worst one; no gate at all is ERROR."""
    verdicts = {result.verdict for result in results}
    for verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.ERROR


def _result(gate: Gate, verdict: Verdict, value: float, n: int, reason: str) -> GateResult:
    return GateResult(gate=gate, verdict=verdict, value=value, n=n, reason=reason)
