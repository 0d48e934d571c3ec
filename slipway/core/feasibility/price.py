"""What it costs that two slots have pods at once."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from slipway.core.feasibility.quantity import Unit, duration, shown
from slipway.core.feasibility.values import Code, Needs, Overlap, Shortfall, one_missing

_CENT = Decimal("0.01")
_HOUR_S = 3_600


def overlap(needs: Needs) -> Overlap:
    """Return the price of the candidate's pods while the stable slot keeps its own."""
    return Overlap(
        pods=needs.at_full,
        shortest_s=needs.shortest_s,
        longest_s=needs.longest_s,
        shortest_usd=_price(needs, needs.shortest_s),
        longest_usd=_price(needs, needs.longest_s),
    )


def _price(needs: Needs, seconds: float) -> Decimal | None:
    if needs.price_usd_per_hour is None:
        return None
    exact = needs.price_usd_per_hour * needs.at_full * Decimal(seconds) / _HOUR_S
    return exact.quantize(_CENT, rounding=ROUND_CEILING)


def price_shortfall(needs: Needs) -> Shortfall | None:
    """Return by how much the overlap may cost too much; None when it may not.

    A limit without a price is refused too: what is not known is not cheap.
    """
    budget, priced = needs.budget_usd, overlap(needs)
    if budget is None:
        return None
    subject = f"overlap of {shown(priced.pods, Unit.POD)}"
    allowed = _cents(budget)
    if priced.longest_usd is None:
        return one_missing(
            code=Code.COST,
            subject=subject,
            text=f"is not priced, and may cost {shown(allowed, Unit.US_CENT)}; 1 price more",
            hint="state resources.price_usd_per_hour in the service file",
        )
    asked = _cents(priced.longest_usd)
    if asked <= allowed:
        return None
    return Shortfall(
        code=Code.COST,
        subject=subject,
        needs=asked,
        free=allowed,
        unit=Unit.US_CENT,
        text=f"costs up to {shown(asked, Unit.US_CENT)} ({duration(priced.longest_s)} at"
        f" {needs.price_usd_per_hour} USD an hour and pod), {shown(allowed, Unit.US_CENT)} are"
        f" allowed; {shown(asked - allowed, Unit.US_CENT)} more",
        hint="raise policy.overlap_budget_usd, or shorten bakes and policy.rollback_window_s",
    )


def _cents(usd: Decimal) -> int:
    return int(usd.quantize(_CENT, rounding=ROUND_CEILING) * 100)


def price_text(found: Overlap) -> str:
    """Return an overlap and its price for people."""
    if not found.longest_s:
        return "none: no other slot has pods"
    said = (
        f"{shown(found.pods, Unit.POD)} beside the stable slot's for"
        f" {duration(found.shortest_s)} to {duration(found.longest_s)}"
    )
    if found.shortest_usd is None:
        return f"{said}: not priced (resources.price_usd_per_hour)"
    return f"{said}: {found.shortest_usd} to {found.longest_usd} USD"
