"""`slipway release --dry-run`: what it says is what a release does, and it writes nothing."""

from __future__ import annotations

import pytest

from slipway.core.errors import InputError
from slipway.core.release.stages import OF_RELEASE
from slipway.core.service import RampStep
from tasks.plan import planned_release
from tests.flow.world import SERVICE, World

STEPS = (RampStep(weight_percent=10, bake_s=5.0), RampStep(weight_percent=50, bake_s=5.0))


@pytest.mark.parametrize("steps", [(), STEPS])
def test_plan_names_the_stages_that_the_release_then_takes(
    world: World, steps: tuple[RampStep, ...]
) -> None:
    if steps:
        world.set_canary(*steps)
        world.let_users_stream(per_s=50)
    world.journal.next_process()
    before = world.final_state()
    planned = planned_release(SERVICE, "2")
    assert world.journal.writes == []
    assert world.final_state() == before
    taken = [item["stage"] for item in world.release("2")["stages"]]
    named = [step.stage for step in planned.steps if not step.skipped]
    assert list(dict.fromkeys(named)) == taken
    assert planned.release_id == world.record.release_id
    assert named.count("ramp") == len(steps)


def test_plan_of_a_release_that_died_leaves_out_what_is_proved(world: World) -> None:
    world.die_at_write("record smoked")
    world.die_in_release("2")
    world.journal.next_process()
    planned = planned_release(SERVICE, "2")
    skipped = [step.stage for step in planned.steps if step.skipped]
    assert skipped == ["image", "test", "deploy", "smoke", "ramp"]
    assert planned.steps[0].stage == "turn", "its process may still live, for all a look can tell"
    outcome = world.release_after_death("2")
    stages = [item["stage"] for item in outcome["stages"]]
    assert stages == [
        step.stage for step in planned.steps if not step.skipped and step.stage != "turn"
    ]


def test_plan_of_an_unknown_version_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="99"):
        planned_release(SERVICE, "99")


def test_stages_of_the_flow_have_different_names() -> None:
    assert len({stage.name for stage in OF_RELEASE}) == len(OF_RELEASE)
