"""Kubernetes quantities, exactly: CPU in thousandths, everything else in whole units.

Grammar and rounding: apimachinery/pkg/api/resource/quantity.go (`MilliValue` and `Value` round up).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction

Amounts = Mapping[str, int]
"""Resource → amount: thousandths of a CPU for `cpu`, bytes for memory, pieces for the rest."""

_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<number>\d+\.?\d*|\.\d+)"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE](?P<exponent>[+-]?\d+))?"
)
_BINARY = {f"{sign}i": 1024**power for power, sign in enumerate("KMGTPE", start=1)}
_DECIMAL = {sign: Fraction(10) ** power for sign, power in zip("num", (-9, -6, -3), strict=True)}
_SCALES: Mapping[str, Fraction] = {
    "": Fraction(1),
    **{suffix: Fraction(scale) for suffix, scale in _BINARY.items()},
    **_DECIMAL,
    **{sign: Fraction(1000) ** power for power, sign in enumerate("kMGTPE", start=1)},
}
_CPU = frozenset({"cpu", "requests.cpu", "limits.cpu"})
_IN_BYTES = ("memory", "storage")
_DAY_S = 86_400
_HOUR_S = 3_600


class Unit(StrEnum):
    """What an amount counts."""

    GPU = "GPU"
    CPU_MILLI = "thousandth of a CPU"
    BYTE = "byte"
    POD = "pod"
    NODE = "node"
    PIECE = "piece"
    PERMISSION = "permission"
    IMAGE = "image"
    SECOND = "second"
    US_CENT = "US cent"


def parse_quantity(text: str | int) -> Fraction:
    """Return a quantity as an exact number, for example `1500m` as 3/2.

    Raises:
        ValueError: it is no quantity.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    number = Fraction(match["number"].rstrip("."))
    exponent = match["exponent"]
    scale = _SCALES[match["suffix"] or ""] if exponent is None else Fraction(10) ** int(exponent)
    return (-number if match["sign"] == "-" else number) * scale


def amount(resource: str, text: str | int) -> int:
    """Return how much of a resource a quantity is: thousandths of a CPU, else whole units."""
    exact = parse_quantity(text)
    return math.ceil(exact * 1000) if resource in _CPU else math.ceil(exact)


def amounts(found: Mapping[str, str | int] | None) -> dict[str, int]:
    """Return the amounts of a map of quantities; none is an empty one."""
    return {resource: amount(resource, text) for resource, text in (found or {}).items()}


def plus(*several: Amounts) -> dict[str, int]:
    """Return the sum of amounts, resource by resource."""
    total: dict[str, int] = {}
    for one in several:
        for resource, value in one.items():
            total[resource] = total.get(resource, 0) + value
    return total


def largest(*several: Amounts) -> dict[str, int]:
    """Return the largest amount of each resource."""
    found: dict[str, int] = {}
    for one in several:
        for resource, value in one.items():
            found[resource] = max(found.get(resource, 0), value)
    return found


def unit_of(resource: str) -> Unit:
    """Return what amounts of a resource count; a quota's names (`requests.cpu`) are known too."""
    if resource in _CPU:
        return Unit.CPU_MILLI
    if resource.endswith(_IN_BYTES):
        return Unit.BYTE
    if resource.endswith("/gpu"):
        return Unit.GPU
    return Unit.POD if resource in {"pods", "count/pods"} else Unit.PIECE


def shown(value: int, unit: Unit) -> str:
    """Return an amount for people, without rounding: `4 GPUs`, `1.5 CPUs`, `3 GiB`."""
    match unit:
        case Unit.CPU_MILLI:
            return f"{value / 1000:g} CPU" + ("" if value == 1000 else "s")
        case Unit.BYTE:
            return _bytes(value)
        case Unit.US_CENT:
            return f"{value // 100}.{value % 100:02} USD"
        case Unit.SECOND:
            return duration(value)
        case _:
            return f"{value} {unit}" + ("" if value == 1 else "s")


def duration(seconds: float) -> str:
    """Return a time for people: whole days from two days on, whole hours from two hours on."""
    for name, length in (("days", _DAY_S), ("hours", _HOUR_S)):
        if seconds >= 2 * length:
            return f"{math.floor(seconds / length)} {name}"
    return f"{math.floor(seconds)} s"


def _bytes(value: int) -> str:
    for suffix, scale in reversed(_BINARY.items()):
        if value and value % scale == 0:
            return f"{value // scale} {suffix}B"
    return f"{value} byte" + ("" if value == 1 else "s")
