from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from slipway.cli.plan_view import print_plan
from slipway.core.feasibility.quantity import Unit
from slipway.core.feasibility.values import (
    Code,
    Feasibility,
    Overlap,
    Shortfall,
    Unseen,
    Way,
)
from slipway.core.release.plan import ReleasePlan

PLAN = ReleasePlan(release_id="chat-v2-2", begins="x", steps=(), on_failure="y", users_moved_s=1.0)
FOUND = Feasibility(
    way=Way.BLUE_GREEN,
    shortfalls=(),
    would_fit=(),
    settles=False,
    notes=("a remark",),
    unseen=(Unseen(what="Nodes in all namespaces", why="not allowed to read them"),),
    overlap=Overlap(
        pods=2,
        shortest_s=60.0,
        longest_s=90.0,
        shortest_usd=Decimal("0.10"),
        longest_usd=Decimal("0.15"),
    ),
)
SHORT = Shortfall(
    code=Code.GPU,
    subject="4 pods of chat-green",
    needs=4,
    free=2,
    unit=Unit.GPU,
    text="needs 4 GPUs, 2 GPUs free in zone-b; 2 GPUs more",
    hint="free GPUs",
)


def printed(
    found: Feasibility | None, capsys: pytest.CaptureFixture[str], *, unfinished: bool = False
) -> str:
    print_plan(replace(PLAN, feasibility=found, unfinished=unfinished))
    return capsys.readouterr().out


def test_plan_shows_way_price_and_what_was_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(FOUND, capsys)
    assert "can be carried out now, beside the stable slot (blue_green)" in text
    assert "overlap: 2 pods beside the stable slot's for 60 s to 90 s: 0.10 to 0.15 USD" in text
    assert "note: a remark" in text
    assert "not seen: Nodes in all namespaces (not allowed to read them)" in text


@pytest.mark.parametrize(
    ("way", "said"),
    [(None, "cannot be carried out now"), (Way.QUEUE, "waits for room first (queue)")],
)
def test_plan_shows_what_is_short_and_what_would_fit(
    way: Way | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replace(FOUND, way=way, shortfalls=(SHORT,), would_fit=(Way.IN_PLACE,))
    text = printed(found, capsys)
    assert said in text
    assert f"  {SHORT}\n" in text
    assert "[gpu-short]" in text, "brackets are no markup"
    assert "in_place would fit" in text


def test_plan_of_an_unfinished_release_says_that_it_is_not_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = replace(FOUND, way=None, shortfalls=(SHORT,))
    assert "it goes on all the same" in printed(found, capsys, unfinished=True)
    assert replace(PLAN, feasibility=found).refused
    assert not replace(PLAN, feasibility=found, unfinished=True).refused
    assert not PLAN.refused


def test_plan_of_nothing_to_do_says_nothing_of_room(capsys: pytest.CaptureFixture[str]) -> None:
    assert "overlap" not in printed(None, capsys)
