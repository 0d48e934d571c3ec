from __future__ import annotations

from fractions import Fraction

import pytest

from slipway.core.feasibility.quantity import (
    Unit,
    amount,
    amounts,
    duration,
    largest,
    parse_quantity,
    plus,
    shown,
    unit_of,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1500m", Fraction(3, 2)),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("+2", 2),
        ("-1.5", Fraction(-3, 2)),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12E-1", Fraction(6, 5)),
        ("1E", 10**18),
        ("3k", 3000),
        ("2M", 2 * 10**6),
        ("128Mi", 128 * 1024**2),
        ("1.5Gi", 3 * 1024**3 // 2),
        ("1Ei", 1024**6),
        ("100u", Fraction(1, 10_000)),
        ("7n", Fraction(7, 10**9)),
        (3, 3),
    ],
)
def test_quantity_is_read_exactly(text: str | int, value: Fraction) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", "Mi", "1 Gi", "1mi", "1KI", "0x10", "1e", "1e3Mi", "--1", "."]
)
def test_text_that_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no Kubernetes quantity"):
        parse_quantity(text)


def test_amounts_are_thousandths_of_a_cpu_and_whole_units_rounded_up() -> None:
    assert amounts({"cpu": "250m", "memory": "0.5", "nvidia.com/gpu": 4}) == {
        "cpu": 250,
        "memory": 1,
        "nvidia.com/gpu": 4,
    }
    assert amount("requests.cpu", "1u") == 1
    assert amounts(None) == {}


def test_amounts_add_up_resource_by_resource() -> None:
    assert plus({"cpu": 1}, {"cpu": 2, "memory": 3}) == {"cpu": 3, "memory": 3}
    assert largest({"cpu": 1, "memory": 5}, {"cpu": 2}) == {"cpu": 2, "memory": 5}


@pytest.mark.parametrize(
    ("resource", "unit"),
    [
        ("cpu", Unit.CPU_MILLI),
        ("limits.cpu", Unit.CPU_MILLI),
        ("requests.memory", Unit.BYTE),
        ("ephemeral-storage", Unit.BYTE),
        ("requests.nvidia.com/gpu", Unit.GPU),
        ("pods", Unit.POD),
        ("count/deployments.apps", Unit.PIECE),
    ],
)
def test_unit_is_that_of_the_resource(resource: str, unit: Unit) -> None:
    assert unit_of(resource) is unit


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1, Unit.GPU, "1 GPU"),
        (4, Unit.GPU, "4 GPUs"),
        (1000, Unit.CPU_MILLI, "1 CPU"),
        (1500, Unit.CPU_MILLI, "1.5 CPUs"),
        (3 * 1024**3, Unit.BYTE, "3 GiB"),
        (1536 * 1024**2, Unit.BYTE, "1536 MiB"),
        (1, Unit.BYTE, "1 byte"),
        (0, Unit.BYTE, "0 bytes"),
        (1205, Unit.US_CENT, "12.05 USD"),
        (5, Unit.SECOND, "5 s"),
    ],
)
def test_amount_is_shown_without_rounding(value: int, unit: Unit, text: str) -> None:
    assert shown(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(7199.9, "7199 s"), (7200, "2 hours"), (172_800, "2 days"), (0, "0 s")]
)
def test_time_is_shown_in_whole_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
