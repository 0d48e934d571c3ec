"""The stages of a release in their order, and which of them a record still needs.

The flow asks here before each stage, and so does the plan that `slipway release --dry-run` prints:
what is said beforehand and what is done cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway.core.release.record import Phase, ReleaseRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage.

    Args:
        name: as people see it.
        proves: the phase that it ends in; None when it is repeated by every run.
        ramp: it belongs to canaries only.
    """

    name: str
    proves: Phase | None = None
    ramp: bool = False


INTEGRITY = Stage(name="integrity")
IMAGE = Stage(name="image", proves=Phase.BUILT)
TEST = Stage(name="test", proves=Phase.TESTED)
DEPLOY = Stage(name="deploy", proves=Phase.DEPLOYED)
SMOKE = Stage(name="smoke", proves=Phase.SMOKED)
BENCHMARK = Stage(name="benchmark", proves=Phase.BENCHMARKED)
RAMP = Stage(name="ramp", proves=Phase.PROMOTED, ramp=True)
PROMOTE = Stage(name="promote", proves=Phase.PROMOTED)
ALIAS = Stage(name="alias")
BAKE = Stage(name="bake", proves=Phase.DONE)
RETIRE = Stage(name="retire", proves=Phase.DONE)

FORMER = Stage(name="former", proves=Phase.TESTED)
WARM_SLOT = Stage(name="warm slot", proves=Phase.DEPLOYED)
WARM_UP = Stage(name="warm-up", proves=Phase.BENCHMARKED)
"""Stages of a rollback alone, in place of those that the version passed when it was released."""

OF_RELEASE = (
    INTEGRITY,
    IMAGE,
    TEST,
    DEPLOY,
    SMOKE,
    BENCHMARK,
    RAMP,
    PROMOTE,
    ALIAS,
    BAKE,
    RETIRE,
)
"""The order in which `flows/release.py` runs them."""


def why_skipped(stage: Stage, record: ReleaseRecord) -> str | None:
    """Return why the release of `record` does not need `stage`; None when it does."""
    if stage.proves is not None and record.has_reached(stage.proves):
        return f"{stage.proves} was proved by an earlier run"
    if stage.ramp and not record.steps:
        return "not part of this release"
    return None
