from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.errors import ConflictError
from slipway.core.release.record import (
    FORWARD,
    Approval,
    Phase,
    begin,
    go_on,
    hold,
    with_approval,
    with_weight,
)
from slipway.core.service import RampStep
from tests.examples import advanced, record

RAMPING = advanced(record(), *FORWARD[1 : FORWARD.index(Phase.RAMPING) + 1])


def test_held_release_goes_on_in_the_phase_that_it_was_held_from() -> None:
    held = hold(RAMPING, reason="too few users", timeout_s=9.0, now_ns=1)
    assert (held.phase, held.proved) == (Phase.HELD, Phase.RAMPING)
    gone_on = go_on(held, reason="data came", now_ns=2)
    assert (gone_on.phase, gone_on.hold, gone_on.reason) == (Phase.RAMPING, None, "data came")


@pytest.mark.parametrize("phases", [(Phase.ROLLING_BACK,), FORWARD[1:]], ids=["back", "done"])
def test_release_that_is_over_or_taken_back_is_not_held(phases: tuple[Phase, ...]) -> None:
    with pytest.raises(ConflictError, match="held cannot follow"):
        hold(advanced(record(), *phases), reason="", timeout_s=1.0, now_ns=1)


def test_release_that_is_not_held_does_not_go_on() -> None:
    with pytest.raises(ConflictError, match="going on cannot follow"):
        go_on(RAMPING, reason="", now_ns=1)


def test_weight_seen_at_the_gateway_ends_the_intent() -> None:
    found = with_weight(begin(RAMPING, "25 %"), 25)
    assert (found.weight_percent, found.intent) == (25, "")


def test_step_that_asks_is_approved_once_somebody_said_yes() -> None:
    step, given = (
        RampStep(weight_percent=25, bake_s=1.0, approval=True),
        Approval(weight_percent=25, by="pat", at_ns=1),
    )
    approved = with_approval(RAMPING, given)
    assert (RAMPING.is_approved(step), approved.is_approved(step)) == (False, True)
    assert RAMPING.is_approved(replace(step, approval=False))
    assert with_approval(approved, replace(given, by="kim")) == approved
